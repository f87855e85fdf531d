//! Preference optimisation: the loss on a pair of answers, or on a single one, from summed
//! log-probabilities of policy and reference.

use super::{log_sigmoid, sigmoid};
use crate::config::{PreferenceLoss, Preferences};

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

impl Pair {
    /// Means of both answers' log-probabilities over their tokens. A certain answer's is held
    /// below zero, where its odds are still finite.
    fn means(&self) -> (f64, f64) {
        let mean = |sum: f64, tokens: usize| (sum / tokens.max(1) as f64).min(-1e-9);
        (mean(self.chosen, self.chosen_tokens), mean(self.rejected, self.rejected_tokens))
    }

    /// The log-probabilities that a loss works on: sums, or means where the loss has no reference.
    pub fn logps(&self, kind: PreferenceLoss) -> (f64, f64) {
        if kind.has_reference() { (self.chosen, self.rejected) } else { self.means() }
    }

    /// Implicit rewards of both answers: how much more the policy likes each than the reference
    /// does, times `beta`; without a reference its own mean log-probabilities, times `beta`.
    pub fn rewards(&self, kind: PreferenceLoss, beta: f64) -> (f64, f64) {
        let (chosen, rejected) = self.logps(kind);
        match kind.has_reference() {
            true => (beta * (chosen - self.ref_chosen), beta * (rejected - self.ref_rejected)),
            false => (beta * chosen, beta * rejected),
        }
    }

    /// Logarithm of the ratio of both answers' odds (Hong et al. 2024, equation 6, on means).
    pub fn log_odds(&self) -> f64 {
        let (chosen, rejected) = self.means();
        let log_odds = |logp: f64| logp - (-logp.exp_m1()).ln();
        log_odds(chosen) - log_odds(rejected)
    }

    /// The loss, as [`PreferenceLoss`] says. That of ORPO is the part with the odds alone; the
    /// likelihood of the better answer is the caller's to add.
    pub fn loss(&self, settings: &Preferences) -> PairLoss {
        let Preferences { loss: kind, beta, label_smoothing: smoothing, .. } = *settings;
        let (better, worse) = self.rewards(kind, beta);
        let margin = better - worse;
        // Derivatives by the margin become derivatives by the log-probabilities: ± beta.
        let by_margin =
            |loss: f64, d: f64| PairLoss { loss, dchosen: d * beta, drejected: -d * beta };
        let smoothed = |margin: f64| {
            let (right, wrong) = (log_sigmoid(margin), log_sigmoid(-margin));
            (
                -(1.0 - smoothing) * right - smoothing * wrong,
                -(1.0 - smoothing) * sigmoid(-margin) + smoothing * sigmoid(margin),
            )
        };
        let (c, r) = (self.chosen_tokens.max(1) as f64, self.rejected_tokens.max(1) as f64);
        let over_tokens = |l: PairLoss| PairLoss {
            loss: l.loss,
            dchosen: l.dchosen / c,
            drejected: l.drejected / r,
        };
        match kind {
            PreferenceLoss::Sigmoid => {
                let (loss, d) = smoothed(margin);
                by_margin(loss, d)
            }
            PreferenceLoss::Robust => {
                let scale = 1.0 - 2.0 * smoothing;
                let (right, wrong) = (log_sigmoid(margin), log_sigmoid(-margin));
                by_margin(
                    (-(1.0 - smoothing) * right + smoothing * wrong) / scale,
                    (-(1.0 - smoothing) * sigmoid(-margin) - smoothing * sigmoid(margin)) / scale,
                )
            }
            PreferenceLoss::Hinge if margin < 1.0 => by_margin(1.0 - margin, -1.0),
            PreferenceLoss::Hinge => by_margin(0.0, 0.0),
            PreferenceLoss::Ipo => {
                let gap = (self.chosen - self.ref_chosen) / c
                    - (self.rejected - self.ref_rejected) / r
                    - 1.0 / (2.0 * beta);
                PairLoss { loss: gap * gap, dchosen: 2.0 * gap / c, drejected: -2.0 * gap / r }
            }
            PreferenceLoss::Orpo => {
                let (chosen, rejected) = self.means();
                let odds = self.log_odds();
                let d = -beta * sigmoid(-odds);
                // d log_odds(p) / d log p = 1 / (1 - p)
                over_tokens(PairLoss {
                    loss: -beta * log_sigmoid(odds),
                    dchosen: d / -chosen.exp_m1(),
                    drejected: -d / -rejected.exp_m1(),
                })
            }
            PreferenceLoss::Simpo => {
                let (loss, d) = smoothed(margin - settings.simpo_gamma);
                over_tokens(by_margin(loss, d))
            }
            PreferenceLoss::Kto | PreferenceLoss::ApoZeroUnpaired => {
                let good = Single { logp: self.chosen, ref_logp: self.ref_chosen, good: true };
                let bad = Single { logp: self.rejected, ref_logp: self.ref_rejected, good: false };
                let ((a, dchosen), (b, drejected)) =
                    (good.loss(settings, 0.0), bad.loss(settings, 0.0));
                PairLoss { loss: a + b, dchosen, drejected }
            }
        }
    }
}

/// A single answer that is known to be good or bad, with summed log-probabilities, nats.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Single {
    /// By the policy.
    pub logp: f64,
    /// By the reference.
    pub ref_logp: f64,
    /// Whether the answer is good.
    pub good: bool,
}

impl Single {
    /// How much more the policy likes the answer than the reference does, times `beta`.
    pub fn reward(&self, beta: f64) -> f64 {
        beta * (self.logp - self.ref_logp)
    }

    /// The weighted loss and its derivative by the policy's log-probability. `kl`, the batch's
    /// estimate of the divergence from the reference, is a constant, and used by KTO alone.
    pub fn loss(&self, settings: &Preferences, kl: f64) -> (f64, f64) {
        let beta = settings.beta;
        let anchor = if settings.loss == PreferenceLoss::Kto { beta * kl } else { 0.0 };
        let gap = self.reward(beta) - anchor;
        let slope = beta * sigmoid(gap) * sigmoid(-gap);
        match self.good {
            true => {
                let weight = settings.desirable_weight;
                (weight * sigmoid(-gap), -weight * slope)
            }
            false => {
                let weight = settings.undesirable_weight;
                (weight * sigmoid(gap), weight * slope)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [(PreferenceLoss, f64); 9] = [
        (PreferenceLoss::Sigmoid, 0.0),
        (PreferenceLoss::Sigmoid, 0.2),
        (PreferenceLoss::Robust, 0.1),
        (PreferenceLoss::Hinge, 0.0),
        (PreferenceLoss::Ipo, 0.0),
        (PreferenceLoss::Robust, 0.0),
        (PreferenceLoss::Orpo, 0.0),
        (PreferenceLoss::Simpo, 0.0),
        (PreferenceLoss::ApoZeroUnpaired, 0.0),
    ];

    fn settings(loss: PreferenceLoss, beta: f64, label_smoothing: f64) -> Preferences {
        Preferences {
            loss,
            beta,
            label_smoothing,
            simpo_gamma: 0.4,
            desirable_weight: 1.5,
            undesirable_weight: 0.5,
            ref_model_name_or_path: None,
            precompute_ref_log_probs: false,
        }
    }

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
            let settings = settings(kind, 0.3, smoothing);
            for (c, r) in [(-12.0, -9.0), (-3.0, -20.0), (-40.0, -1.0), (-12.5, -9.25)] {
                let loss = |c, r| pair(c, r).loss(&settings).loss;
                let got = pair(c, r).loss(&settings);
                let h = 1e-5;
                let dc = (loss(c + h, r) - loss(c - h, r)) / (2.0 * h);
                let dr = (loss(c, r + h) - loss(c, r - h)) / (2.0 * h);
                assert!((got.dchosen - dc).abs() < 1e-7 * dc.abs().max(1.0), "{kind:?} {c} {r}");
                assert!((got.drejected - dr).abs() < 1e-7 * dr.abs().max(1.0), "{kind:?} {c} {r}");
            }
        }
    }

    #[test]
    fn a_single_answers_derivative_matches_finite_differences() {
        let settings = settings(PreferenceLoss::Kto, 0.3, 0.0);
        for good in [true, false] {
            for (logp, kl) in [(-12.0, 0.0), (-8.0, 1.5), (-30.0, 0.2)] {
                let single = |logp| Single { logp, ref_logp: -10.0, good };
                let h = 1e-5;
                let (up, down) = (
                    single(logp + h).loss(&settings, kl).0,
                    single(logp - h).loss(&settings, kl).0,
                );
                let got = single(logp).loss(&settings, kl).1;
                assert!((got - (up - down) / (2.0 * h)).abs() < 1e-8, "{good} {logp} {kl}");
                assert!(got == 0.0 || (got < 0.0) == good);
            }
        }
    }

    #[test]
    fn an_untrained_policy_has_the_loss_of_a_coin() {
        let equal = pair(-12.5, -9.25);
        let of = |kind| equal.loss(&settings(kind, 0.1, 0.0));
        let loss = of(PreferenceLoss::Sigmoid);
        assert!((loss.loss - std::f64::consts::LN_2).abs() < 1e-12);
        assert!((loss.dchosen + 0.05).abs() < 1e-12 && (loss.drejected - 0.05).abs() < 1e-12);
        assert_eq!(of(PreferenceLoss::Hinge).loss, 1.0);
        assert_eq!(of(PreferenceLoss::Ipo).loss, 25.0);
        assert_eq!(of(PreferenceLoss::ApoZeroUnpaired).loss, 0.75 + 0.25);
        assert_eq!(equal.rewards(PreferenceLoss::Sigmoid, 0.1), (0.0, 0.0));
    }

    #[test]
    fn extreme_margins_stay_finite() {
        for (kind, smoothing) in KINDS {
            for (c, r) in [(-1e6, 0.0), (0.0, -1e6)] {
                let loss = pair(c, r).loss(&settings(kind, 1.0, smoothing));
                let all = [loss.loss, loss.dchosen, loss.drejected];
                assert!(all.iter().all(|v| v.is_finite()), "{kind:?} {loss:?}");
            }
        }
    }
}
