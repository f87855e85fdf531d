//! Flags and files → one resolved, validated configuration. Knows no tensors, no wasmtime.

pub mod training;

pub use training::{LrScheduler, SaveStrategy, TrainingArguments};

/// A flag, key or combination that can't be used. All faults of one command are reported together.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Every fault found, one line each.
    #[error("{}", .0.join("\n"))]
    Faults(Vec<String>),
}
