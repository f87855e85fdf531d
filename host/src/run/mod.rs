//! The training loop, checkpoint and resume, metrics sinks. Knows no stage.

use std::path::PathBuf;

pub mod card;
pub mod checkpoint;
pub mod exchange;
pub mod learner;
pub mod manifest;
pub mod memory;
pub mod progress;
pub mod reduce;
pub mod results;
pub mod shards;
pub mod state;
pub mod task;
pub mod tensorboard;
pub mod trainer;
pub mod tree;

pub use learner::{EpochPlanner, Learner, Persist};
pub use task::{EvalSums, MicroStep, Task};
pub use trainer::{Outcome, Trainer};

/// The training loop can't go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A loss or gradient that is not a number; the parameters were not touched.
    #[error(
        "{what} is {value} at step {step} (rows {rows}); the parameters are those of the step before: look at these rows, or lower --learning_rate"
    )]
    NotFinite {
        /// `loss` or `grad_norm`.
        what: &'static str,
        /// The value.
        value: f64,
        /// The update that would have been made.
        step: u64,
        /// Where its examples came from.
        rows: String,
    },
    /// More memory than there is.
    #[error(
        "this run needs about {} MB of memory and {} MB are free; lower --per_device_train_batch_size or --model_max_length, or use --gradient_checkpointing True, --load_in_8bit True or --load_in_4bit True (`trainer estimate` says what each takes)", .needed / 1_000_000, .available / 1_000_000
    )]
    DoesNotFit {
        /// Bytes estimated.
        needed: u64,
        /// Bytes that are free.
        available: u64,
    },
    /// A token that the model does not have, in a row that was tokenized elsewhere.
    #[error(
        "{row} has token {token}, and the model knows {known}; tokenize the data with the model's own tokenizer"
    )]
    UnknownToken {
        /// `file:row`.
        row: String,
        /// Its number.
        token: u32,
        /// Rows of the model's embedding.
        known: usize,
    },
    /// Nothing to train on.
    #[error("there is nothing to train on: {0}")]
    NothingToTrain(String),
    /// A checkpoint whose contents are not what was written.
    #[error("checkpoint {} can't be used: {reason}; resume from another one", path.display())]
    Checkpoint {
        /// Its folder.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A checkpoint of a run with other settings.
    #[error("checkpoint {} belongs to a run with {}; start with the same settings, or leave --resume_from_checkpoint out and use another --output_dir", path.display(), differences.join(", "))]
    OtherRun {
        /// Its folder.
        path: PathBuf,
        /// `name = theirs, now ours`.
        differences: Vec<String>,
    },
    /// The metric that should choose the best checkpoint is not among the evaluation's.
    #[error("`--metric_for_best_model {name}` is none of the evaluation's figures; it gives {}", known.join(", "))]
    NoSuchMetric {
        /// The metric asked for.
        name: String,
        /// Those there are.
        known: Vec<String>,
    },
    /// Rewards that fail too often.
    #[error(
        "reward `{name}` failed on {failed} of {total} completions, more than 5 %; the first: {first}"
    )]
    RewardFails {
        /// The reward.
        name: String,
        /// Completions it failed on.
        failed: usize,
        /// Completions it was asked about.
        total: usize,
        /// What went wrong first.
        first: String,
    },
    /// `--resume_from_checkpoint True` without a checkpoint.
    #[error("{} holds no checkpoint to resume from; leave --resume_from_checkpoint out to start", .0.display())]
    NoCheckpoint(PathBuf),
    /// Another process works in the same folder.
    #[error("{} is in use by another run ({holder}); wait for it or choose another --output_dir", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
        /// What the lock file says.
        holder: String,
    },
}

impl RunError {
    /// 2: settings; 5: diverged; 6: checkpoint storage.
    pub fn exit_code(&self) -> u8 {
        match self {
            RunError::NotFinite { .. } => 5,
            RunError::NothingToTrain(_) | RunError::UnknownToken { .. } => 3,
            RunError::RewardFails { .. } => 4,
            RunError::NoSuchMetric { .. } | RunError::DoesNotFit { .. } => 2,
            RunError::Checkpoint { .. } => 6,
            RunError::OtherRun { .. } | RunError::NoCheckpoint(_) | RunError::Locked { .. } => 2,
        }
    }
}
