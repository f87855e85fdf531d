//! A loss that is scaled up before the backward and down before the update, as DeepSpeed does for
//! float16 (`deepspeed/runtime/fp16/loss_scaler.py`, 0.19).

use serde::{Deserialize, Serialize};

use crate::config::LossScaling;

/// The scale, and what it follows from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LossScale {
    /// Factor on the loss.
    pub scale: f64,
    updates: u64,
    /// Number of the newest update that overflowed, plus one; 0: none did.
    overflowed: u64,
    hysteresis: u64,
}

impl LossScale {
    /// Before the first update.
    pub fn new(settings: &LossScaling) -> Self {
        let scale = settings.fixed.unwrap_or(2f64.powi(settings.initial_scale_power));
        Self { scale, updates: 0, overflowed: 0, hysteresis: settings.hysteresis }
    }

    /// After an update's gradients were seen; `None` when they overflowed at the least scale, or at
    /// one that stays: then the run can't go on.
    pub fn follow(&mut self, settings: &LossScaling, overflow: bool) -> Option<()> {
        if overflow {
            if settings.fixed.is_some() {
                return None;
            }
            if settings.hysteresis == 1 || self.hysteresis == 1 {
                if self.scale <= settings.min {
                    return None;
                }
                self.scale = (self.scale / 2.0).max(settings.min);
            } else {
                self.hysteresis -= 1;
            }
            self.overflowed = self.updates + 1;
        } else if settings.fixed.is_none() {
            if settings.consecutive_hysteresis {
                self.hysteresis = settings.hysteresis;
            }
            let stable = self.updates.saturating_sub(self.overflowed);
            if stable > 0 && stable.is_multiple_of(settings.window) {
                self.hysteresis = settings.hysteresis;
                self.scale *= 2.0;
            }
        }
        self.updates += 1;
        Some(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const SETTINGS: LossScaling = LossScaling {
        fixed: None,
        initial_scale_power: 4,
        window: 3,
        hysteresis: 2,
        consecutive_hysteresis: false,
        min: 1.0,
    };

    fn scales(settings: &LossScaling, overflows: &[u8]) -> Vec<f64> {
        let mut scale = LossScale::new(settings);
        let each = overflows.iter().map(|&o| {
            scale.follow(settings, o == 1).unwrap();
            scale.scale
        });
        each.collect()
    }

    #[test]
    fn the_scale_follows_overflows_as_deepspeeds_does() {
        // Made by DeepSpeed's DynamicLossScaler with the same settings.
        let overflows = [1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0];
        let want =
            [16.0, 8.0, 4.0, 4.0, 4.0, 4.0, 8.0, 8.0, 8.0, 16.0, 16.0, 8.0, 8.0, 8.0, 8.0, 16.0];
        assert_eq!(scales(&SETTINGS, &overflows), want);
        assert_eq!(scales(&SETTINGS, &[0; 7]), [16.0, 16.0, 16.0, 32.0, 32.0, 32.0, 64.0]);
    }

    #[test]
    fn the_least_scale_ends_the_run_and_a_fixed_one_stays() {
        let settings = LossScaling { hysteresis: 1, min: 4.0, ..SETTINGS };
        let mut scale = LossScale::new(&settings);
        assert_eq!(
            (scale.follow(&settings, true), scale.follow(&settings, true)),
            (Some(()), Some(()))
        );
        assert_eq!((scale.scale, scale.follow(&settings, true)), (4.0, None));
        let fixed = LossScaling { fixed: Some(128.0), ..SETTINGS };
        assert_eq!(scales(&fixed, &[0; 8]), [128.0; 8]);
        assert_eq!(LossScale::new(&fixed).follow(&fixed, true), None);
    }
}
