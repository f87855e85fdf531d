//! Reward modelling: the loss on the rewards of a better and a worse answer.

use super::{log_sigmoid, sigmoid};

/// Rewards of a pair.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RewardPair {
    /// Of the better answer.
    pub chosen: f64,
    /// Of the worse answer.
    pub rejected: f64,
    /// How much better the better answer is said to be; 0: just better.
    pub margin: f64,
}

impl RewardPair {
    /// `-ln sigmoid(chosen - rejected - margin) + centring · (chosen + rejected)²` and its
    /// derivatives by both rewards (Ouyang et al. 2022, arXiv 2203.02155, equation 1; the margin
    /// from Touvron et al. 2023, arXiv 2307.09288, equation 2; centring from Eisenstein et al.
    /// 2023, arXiv 2312.09244).
    pub fn loss(&self, centring: f64) -> (f64, f64, f64) {
        let gap = self.chosen - self.rejected - self.margin;
        let sum = self.chosen + self.rejected;
        let (d, centre) = (-sigmoid(-gap), 2.0 * centring * sum);
        (-log_sigmoid(gap) + centring * sum * sum, d + centre, -d + centre)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derivatives_match_finite_differences() {
        for (chosen, rejected, margin) in [(0.3, -0.2, 0.0), (-1.0, 2.0, 0.5), (5.0, 1.0, 1.0)] {
            let loss = |chosen, rejected| RewardPair { chosen, rejected, margin }.loss(0.01).0;
            let (_, dc, dr) = RewardPair { chosen, rejected, margin }.loss(0.01);
            let h = 1e-5;
            let numeric_c = (loss(chosen + h, rejected) - loss(chosen - h, rejected)) / (2.0 * h);
            let numeric_r = (loss(chosen, rejected + h) - loss(chosen, rejected - h)) / (2.0 * h);
            assert!((dc - numeric_c).abs() < 1e-8 && (dr - numeric_r).abs() < 1e-8);
        }
        let far = RewardPair { chosen: -1e4, rejected: 1e4, margin: 0.0 }.loss(0.0);
        assert!(far.0.is_finite() && far.1 == -1.0 && far.2 == 1.0);
    }
}
