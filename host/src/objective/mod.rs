//! Objectives: pure functions of per-token log-probabilities and weights. They know neither
//! models nor files.

use std::collections::BTreeMap;

pub mod causal;
pub mod policy;
pub mod preference;
pub mod reward;

/// Sums over the trained positions of one micro-batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepSums {
    /// Sum of weighted negative log-likelihoods, not yet divided.
    pub loss_sum: f64,
    /// Sum of the weights.
    pub weight_sum: f64,
    /// Positions whose most likely token was the target.
    pub num_correct: u64,
    /// Trained positions.
    pub num_targets: u64,
    /// Sum of the entropies of the predicted distributions, nats.
    pub entropy_sum: f64,
    /// All tokens that went through the model.
    pub num_tokens: u64,
    /// Further metrics by name, each a sum and the number of its parts; means are logged.
    pub metrics: BTreeMap<String, (f64, f64)>,
}

/// Adds sums of metrics to others.
pub fn add_metrics(into: &mut BTreeMap<String, (f64, f64)>, from: &BTreeMap<String, (f64, f64)>) {
    for (name, (sum, count)) in from {
        let entry = into.entry(name.clone()).or_default();
        *entry = (entry.0 + sum, entry.1 + count);
    }
}

impl StepSums {
    /// Adds a value to a named metric's mean.
    pub fn metric(&mut self, name: &str, value: f64) {
        let entry = self.metrics.entry(name.to_string()).or_default();
        *entry = (entry.0 + value, entry.1 + 1.0);
    }

    /// Adds another micro-batch's sums.
    pub fn add(&mut self, other: &StepSums) {
        self.loss_sum += other.loss_sum;
        self.weight_sum += other.weight_sum;
        self.num_correct += other.num_correct;
        self.num_targets += other.num_targets;
        self.entropy_sum += other.entropy_sum;
        self.num_tokens += other.num_tokens;
        add_metrics(&mut self.metrics, &other.metrics);
    }
}

/// `1 / (1 + e⁻ˣ)` without overflow.
pub fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 {
        1.0 / (1.0 + (-x).exp())
    } else {
        let e = x.exp();
        e / (1.0 + e)
    }
}

/// `ln sigmoid(x)` without overflow.
pub fn log_sigmoid(x: f64) -> f64 {
    x.min(0.0) - (-x.abs()).exp().ln_1p()
}
