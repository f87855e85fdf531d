//! Direct preference optimisation: the loss on a pair of answers, from summed log-probabilities of
//! policy and reference.

use crate::config::DpoLoss;

/// Sums of the answers' log-probabilities, nats.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pair {
    /// Better answer by the policy.
    pub chosen: f64,
    /// Worse answer by the policy.
    pub rejected: f64,
    /// Better answer by the reference.
    pub ref_chosen: f64,
    /// Worse answer by the reference.
    pub ref_rejected: f64,
    /// Tokens of the better answer.
    pub chosen_tokens: usize,
    /// Tokens of the worse answer.
    pub rejected_tokens: usize,
}

/// A pair's loss and its derivatives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairLoss {
    /// The loss.
    pub loss: f64,
    /// By [`Pair::chosen`].
    pub dchosen: f64,
    /// By [`Pair::rejected`].
    pub drejected: f64,
}

fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 {
        1.0 / (1.0 + (-x).exp())
    } else {
        let e = x.exp();
        e / (1.0 + e)
    }
}

fn log_sigmoid(x: f64) -> f64 {
    x.min(0.0) - (-x.abs()).exp().ln_1p()
}

impl Pair {
    /// How much more the policy likes the better answer than the reference does, times `beta`.
    pub fn chosen_reward(&self, beta: f64) -> f64 {
        beta * (self.chosen - self.ref_chosen)
    }

    /// The same of the worse answer.
    pub fn rejected_reward(&self, beta: f64) -> f64 {
        beta * (self.rejected - self.ref_rejected)
    }

    /// The loss, as [`DpoLoss`] says. `smoothing` is the share of labels expected to be swapped.
    pub fn loss(&self, kind: DpoLoss, beta: f64, smoothing: f64) -> PairLoss {
        let margin = self.chosen_reward(beta) - self.rejected_reward(beta);
        // Derivatives by the margin become derivatives by the log-probabilities: ± beta.
        let by_margin =
            |loss: f64, d: f64| PairLoss { loss, dchosen: d * beta, drejected: -d * beta };
        let (right, wrong) = (log_sigmoid(margin), log_sigmoid(-margin));
        match kind {
            DpoLoss::Sigmoid => by_margin(
                -(1.0 - smoothing) * right - smoothing * wrong,
                -(1.0 - smoothing) * sigmoid(-margin) + smoothing * sigmoid(margin),
            ),
            DpoLoss::Robust => {
                let scale = 1.0 - 2.0 * smoothing;
                by_margin(
                    (-(1.0 - smoothing) * right + smoothing * wrong) / scale,
                    (-(1.0 - smoothing) * sigmoid(-margin) - smoothing * sigmoid(margin)) / scale,
                )
            }
            DpoLoss::Hinge if margin < 1.0 => by_margin(1.0 - margin, -1.0),
            DpoLoss::Hinge => by_margin(0.0, 0.0),
            DpoLoss::Ipo => {
                let (c, r) = (self.chosen_tokens.max(1) as f64, self.rejected_tokens.max(1) as f64);
                let gap = (self.chosen - self.ref_chosen) / c
                    - (self.rejected - self.ref_rejected) / r
                    - 1.0 / (2.0 * beta);
                PairLoss { loss: gap * gap, dchosen: 2.0 * gap / c, drejected: -2.0 * gap / r }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [(DpoLoss, f64); 6] = [
        (DpoLoss::Sigmoid, 0.0),
        (DpoLoss::Sigmoid, 0.2),
        (DpoLoss::Robust, 0.1),
        (DpoLoss::Hinge, 0.0),
        (DpoLoss::Ipo, 0.0),
        (DpoLoss::Robust, 0.0),
    ];

    fn pair(chosen: f64, rejected: f64) -> Pair {
        Pair {
            chosen,
            rejected,
            ref_chosen: -12.5,
            ref_rejected: -9.25,
            chosen_tokens: 7,
            rejected_tokens: 4,
        }
    }

    #[test]
    fn derivatives_match_finite_differences() {
        for (kind, smoothing) in KINDS {
            for (c, r) in [(-12.0, -9.0), (-3.0, -20.0), (-40.0, -1.0), (-12.5, -9.25)] {
                let loss = |c, r| pair(c, r).loss(kind, 0.3, smoothing).loss;
                let got = pair(c, r).loss(kind, 0.3, smoothing);
                let h = 1e-5;
                let dc = (loss(c + h, r) - loss(c - h, r)) / (2.0 * h);
                let dr = (loss(c, r + h) - loss(c, r - h)) / (2.0 * h);
                assert!((got.dchosen - dc).abs() < 1e-7 * dc.abs().max(1.0), "{kind:?} {c} {r}");
                assert!((got.drejected - dr).abs() < 1e-7 * dr.abs().max(1.0), "{kind:?} {c} {r}");
            }
        }
    }

    #[test]
    fn an_untrained_policy_has_the_loss_of_a_coin() {
        let equal = pair(-12.5, -9.25);
        let loss = equal.loss(DpoLoss::Sigmoid, 0.1, 0.0);
        assert!((loss.loss - std::f64::consts::LN_2).abs() < 1e-12);
        assert!((loss.dchosen + 0.05).abs() < 1e-12 && (loss.drejected - 0.05).abs() < 1e-12);
        assert_eq!(equal.loss(DpoLoss::Hinge, 0.1, 0.0).loss, 1.0);
        assert_eq!(equal.loss(DpoLoss::Ipo, 0.1, 0.0).loss, 25.0);
        assert_eq!(equal.chosen_reward(0.1), 0.0);
    }

    #[test]
    fn extreme_margins_stay_finite() {
        for (kind, smoothing) in KINDS {
            for (c, r) in [(-1e6, 0.0), (0.0, -1e6)] {
                let loss = pair(c, r).loss(kind, 1.0, smoothing);
                assert!(loss.loss.is_finite() && loss.dchosen.is_finite(), "{kind:?}");
            }
        }
    }
}
