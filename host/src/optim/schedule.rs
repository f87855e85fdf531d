//! Learning rates by update, as transformers' `get_scheduler` gives them.

use crate::config::LrScheduler;

/// A schedule over a known number of updates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Shape.
    pub kind: LrScheduler,
    /// Peak.
    pub learning_rate: f64,
    /// Updates of warm-up.
    pub warmup_steps: u64,
    /// All updates.
    pub total_steps: u64,
}

impl Schedule {
    /// The rate of the update after `step` finished ones.
    pub fn at(&self, step: u64) -> f64 {
        let (warmup, total) = (self.warmup_steps as f64, self.total_steps as f64);
        let t = step as f64;
        let factor = if self.kind == LrScheduler::Constant {
            1.0
        } else if t < warmup {
            t / warmup.max(1.0)
        } else {
            match self.kind {
                LrScheduler::Linear => ((total - t) / (total - warmup).max(1.0)).max(0.0),
                LrScheduler::Cosine => {
                    let progress = (t - warmup) / (total - warmup).max(1.0);
                    (0.5 * (1.0 + (std::f64::consts::PI * progress).cos())).max(0.0)
                }
                LrScheduler::Constant | LrScheduler::ConstantWithWarmup => 1.0,
            }
        };
        self.learning_rate * factor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(kind: LrScheduler) -> Vec<f64> {
        let schedule = Schedule { kind, learning_rate: 1.0, warmup_steps: 2, total_steps: 6 };
        (0..6).map(|s| (schedule.at(s) * 1e4).round() / 1e4).collect()
    }

    #[test]
    fn rates_are_those_of_transformers() {
        assert_eq!(rates(LrScheduler::Linear), [0.0, 0.5, 1.0, 0.75, 0.5, 0.25]);
        assert_eq!(rates(LrScheduler::Cosine), [0.0, 0.5, 1.0, 0.8536, 0.5, 0.1464]);
        assert_eq!(rates(LrScheduler::Constant), [1.0; 6]);
        assert_eq!(rates(LrScheduler::ConstantWithWarmup), [0.0, 0.5, 1.0, 1.0, 1.0, 1.0]);
    }
}
