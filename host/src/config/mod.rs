//! Flags and files → one resolved, validated configuration. Knows no tensors, no wasmtime.
//!
//! One table of settings per command (`table`) gives flags, file keys, help and validation.
//! Values keep where they came from (`values`), so that every fault names its place, and all
//! faults of a command are reported at once.

pub mod adapter;
pub mod deepspeed;
pub mod distillation;
pub mod file;
pub mod precision;
pub mod reinforcement;
pub mod run;
pub mod sampling;
pub mod sources;
pub mod stage;
pub mod table;
pub mod training;
pub mod values;

pub use adapter::AdapterSettings;
pub use deepspeed::{DeepSpeed, LossScaling, WarmupKind, WarmupSchedule};
pub use distillation::Distillation;
pub use precision::Precision;
pub use reinforcement::{
    AdvantageScale, KlControl, PolicyLoss, Ppo, RatioLevel, Reinforcement, RewardFailure,
};
pub use run::RunConfig;
pub use sampling::Sampling;
pub use sources::{DataSources, MixStrategy, Mixing, PreprocessingCache};
pub use stage::{Packing, PreferenceLoss, Preferences, Pretraining, RewardModelling, Stage};
pub use training::{LrScheduler, Reproducible, SaveStrategy, TrainingArguments};

/// A flag, key or combination that can't be used. All faults of one command are reported together.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Every fault found, one line each.
    #[error("{}", .0.join("\n       "))]
    Faults(Vec<String>),
}

impl ConfigError {
    /// A single fault.
    pub fn one(fault: impl Into<String>) -> Self {
        ConfigError::Faults(vec![fault.into()])
    }
}
