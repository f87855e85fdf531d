//! Learning rates by update, as transformers' `get_scheduler` and DeepSpeed's `lr_schedules.py` give
//! them.

use crate::config::{LrScheduler, WarmupKind, WarmupSchedule};

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
    /// A schedule of DeepSpeed's in place of `kind`.
    pub deepspeed: Option<WarmupSchedule>,
}

impl Schedule {
    /// The rate of the update after `step` finished ones.
    pub fn at(&self, step: u64) -> f64 {
        if let Some(schedule) = &self.deepspeed {
            return self.warmup(schedule, step);
        }
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

    /// DeepSpeed moves its schedules after each update, from -1 on: the first two updates are both
    /// made at the start of the warm-up.
    fn warmup(&self, s: &WarmupSchedule, step: u64) -> f64 {
        let peak = s.max.unwrap_or(self.learning_rate);
        let cosine = s.kind == WarmupKind::WarmupCosineLR;
        let Some(at) = step.checked_sub(1).map(|i| i as f64) else {
            return if cosine { 0.0 } else { s.min };
        };
        let warmup = s.warmup_steps.unwrap_or(self.warmup_steps).max(2) as f64;
        let total = s.total_steps.unwrap_or(self.total_steps) as f64;
        let rising = match s.linear {
            true => at / warmup,
            false => (at + 1.0).ln() / warmup.ln(),
        };
        let warming = at < warmup;
        if cosine {
            let share = if warming {
                s.min + rising * (1.0 - s.min)
            } else {
                let progress = ((at - warmup + 1.0) / (total - warmup).max(1.0)).min(1.0);
                let half = (1.0 + (std::f64::consts::PI * progress).cos()) / 2.0;
                (s.cos_min_ratio + (1.0 - s.cos_min_ratio) * half).max(0.0)
            };
            return peak * share;
        }
        let share = match s.kind {
            _ if warming => rising,
            WarmupKind::WarmupDecayLR => ((total - at) / (total - warmup).max(1.0)).max(0.0),
            _ => 1.0,
        };
        s.min + (peak - s.min) * share
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn rates(kind: LrScheduler) -> Vec<f64> {
        let schedule =
            Schedule { kind, learning_rate: 1.0, warmup_steps: 2, total_steps: 6, deepspeed: None };
        (0..6).map(|s| (schedule.at(s) * 1e4).round() / 1e4).collect()
    }

    #[test]
    fn rates_are_those_of_deepspeed() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/deepspeed/schedules.json");
        let text = std::fs::read_to_string(path).unwrap();
        let cases: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
        assert!(cases.len() >= 7);
        for case in &cases {
            let params = &case["params"];
            let number = |name: &str| params[name].as_f64();
            let kind: WarmupKind = serde_json::from_value(case["type"].clone()).unwrap();
            let schedule = WarmupSchedule {
                kind,
                min: number("warmup_min_lr").or(number("warmup_min_ratio")).unwrap_or(0.0),
                max: number("warmup_max_lr"),
                warmup_steps: params["warmup_num_steps"].as_u64(),
                total_steps: params["total_num_steps"].as_u64(),
                linear: params["warmup_type"] == "linear",
                cos_min_ratio: number("cos_min_ratio").unwrap_or(1e-4),
            };
            let schedule = Schedule {
                kind: LrScheduler::Linear,
                learning_rate: case["lr"].as_f64().unwrap(),
                warmup_steps: 99,
                total_steps: 99,
                deepspeed: Some(schedule),
            };
            for (step, want) in case["rates"].as_array().unwrap().iter().enumerate() {
                let (got, want) = (schedule.at(step as u64), want.as_f64().unwrap());
                assert!((got - want).abs() <= 1e-15 + 1e-12 * want, "{case}: {step}: {got} {want}");
            }
        }
    }

    #[test]
    fn rates_are_those_of_transformers() {
        assert_eq!(rates(LrScheduler::Linear), [0.0, 0.5, 1.0, 0.75, 0.5, 0.25]);
        assert_eq!(rates(LrScheduler::Cosine), [0.0, 0.5, 1.0, 0.8536, 0.5, 0.1464]);
        assert_eq!(rates(LrScheduler::Constant), [1.0; 6]);
        assert_eq!(rates(LrScheduler::ConstantWithWarmup), [0.0, 0.5, 1.0, 1.0, 1.0, 1.0]);
    }
}
