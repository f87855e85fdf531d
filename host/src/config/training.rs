//! The training arguments every stage shares, named as the Hugging Face trainer names them.

use serde::{Deserialize, Serialize};

use super::DeepSpeed;

/// Learning rate over the steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LrScheduler {
    /// Warm-up, then linearly to zero.
    Linear,
    /// Warm-up, then half a cosine to zero.
    Cosine,
    /// Constant from the first step; warm-up is ignored.
    Constant,
    /// Warm-up, then constant.
    ConstantWithWarmup,
}

/// When something periodic happens (`save_strategy`, `eval_strategy`, `logging_strategy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SaveStrategy {
    /// Never.
    No,
    /// Every `*_steps` updates.
    Steps,
    /// At the end of every epoch.
    Epoch,
}

/// How far runs on different numbers of processes agree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reproducible {
    /// To rounding: sums of gradients are taken in the order that is fastest on this number of
    /// processes. Runs on the same number agree to the bit.
    #[default]
    Standard,
    /// To the bit: examples go through the model one by one, and are added up in one order.
    Strict,
}

/// Everything the training loop needs to know. Defaults are the Hugging Face trainer's
/// unless the stage sets its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainingArguments {
    /// Where results go.
    pub output_dir: std::path::PathBuf,
    /// Examples per micro-batch.
    pub per_device_train_batch_size: usize,
    /// Examples per evaluation batch.
    pub per_device_eval_batch_size: usize,
    /// Micro-batches per update.
    pub gradient_accumulation_steps: usize,
    /// Passes over the data; may be fractional.
    pub num_train_epochs: f64,
    /// Updates; overrides the epochs when positive.
    pub max_steps: i64,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Schedule.
    pub lr_scheduler_type: LrScheduler,
    /// Warm-up updates; wins over the ratio when positive.
    pub warmup_steps: u64,
    /// Warm-up as a share of all updates.
    pub warmup_ratio: f64,
    /// AdamW's decoupled weight decay.
    pub weight_decay: f64,
    /// AdamW beta1.
    pub adam_beta1: f64,
    /// AdamW beta2.
    pub adam_beta2: f64,
    /// AdamW epsilon.
    pub adam_epsilon: f64,
    /// Largest global gradient norm; 0: no clipping.
    pub max_grad_norm: f64,
    /// Seed of every random stream.
    pub seed: u64,
    /// Updates between log rows.
    pub logging_steps: u64,
    /// Log the first update too.
    pub logging_first_step: bool,
    /// When to evaluate.
    pub eval_strategy: SaveStrategy,
    /// Updates between evaluations.
    pub eval_steps: u64,
    /// When to save checkpoints.
    pub save_strategy: SaveStrategy,
    /// Updates between checkpoints.
    pub save_steps: u64,
    /// Checkpoints kept besides the best; `None`: all.
    pub save_total_limit: Option<usize>,
    /// Checkpoint folder, or `True` for the newest in `output_dir`.
    pub resume_from_checkpoint: Option<String>,
    /// Load the best checkpoint when training ends.
    pub load_best_model_at_end: bool,
    /// Metric that names the best checkpoint (`eval_` may be left out).
    pub metric_for_best_model: String,
    /// Whether a greater value of it is better.
    pub greater_is_better: bool,
    /// Evaluations without improvement before stopping; `None`: never.
    pub early_stopping_patience: Option<u32>,
    /// Improvement that counts.
    pub early_stopping_threshold: f64,
    /// Shuffle the training rows each epoch.
    pub shuffle: bool,
    /// How far runs on different numbers of processes agree.
    pub reproducible: Reproducible,
    /// What is sharded over the processes: nothing (0), the optimiser's state (1), gradients too (2).
    pub zero_stage: u8,
    /// Longest that an operation over all processes may take, seconds.
    pub ddp_timeout: u64,
    /// What a DeepSpeed configuration says beyond the settings above.
    pub deepspeed: Option<DeepSpeed>,
}
