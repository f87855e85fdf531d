//! The training loop, checkpoint and resume, metrics sinks. Knows no stage.

pub mod task;

pub use task::{EvalSums, MicroStep, Task};

/// The training loop can't go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Placeholder until the loop exists.
    #[error("{0}")]
    Other(String),
}

impl RunError {
    /// 5: diverged; 6: checkpoint storage.
    pub fn exit_code(&self) -> u8 {
        5
    }
}
