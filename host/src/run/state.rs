//! `trainer_state.json`, key for key as the Hugging Face trainer writes it.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::config::{SaveStrategy, TrainingArguments};
use crate::error::Result;
use crate::model::save::write_json;

/// What the loop remembers and dashboards read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainerState {
    /// Step of the best evaluation.
    pub best_global_step: Option<u64>,
    /// Its metric.
    pub best_metric: Option<f64>,
    /// Its checkpoint.
    pub best_model_checkpoint: Option<String>,
    /// Passes over the data.
    pub epoch: f64,
    /// Updates made.
    pub global_step: u64,
    /// Rows of training and evaluation metrics.
    pub log_history: Vec<Map<String, Value>>,
    /// All updates planned.
    pub max_steps: u64,
    /// Epochs planned.
    pub num_train_epochs: u64,
    /// Tokens that went through the model.
    pub num_input_tokens_seen: u64,
    /// Evaluations without improvement.
    pub early_stopping_patience_counter: u32,
    /// Floating-point operations, estimated.
    pub total_flos: f64,
}

impl TrainerState {
    /// The file's contents.
    pub fn to_json(&self, args: &TrainingArguments, stopped: bool) -> Value {
        let mut callbacks = Map::new();
        if let Some(patience) = args.early_stopping_patience {
            callbacks.insert(
                "EarlyStoppingCallback".into(),
                json!({
                    "args": {
                        "early_stopping_patience": patience,
                        "early_stopping_threshold": args.early_stopping_threshold,
                    },
                    "attributes": {
                        "early_stopping_patience_counter": self.early_stopping_patience_counter,
                    },
                }),
            );
        }
        callbacks.insert(
            "TrainerControl".into(),
            json!({
                "args": {
                    "should_epoch_stop": false,
                    "should_evaluate": false,
                    "should_log": false,
                    "should_save": true,
                    "should_training_stop": stopped,
                },
                "attributes": {},
            }),
        );
        let every = |strategy: SaveStrategy, steps: u64| match strategy {
            SaveStrategy::Steps => steps,
            _ => 500,
        };
        // Alphabetical, as the original sorts its keys.
        json!({
            "best_global_step": self.best_global_step,
            "best_metric": self.best_metric,
            "best_model_checkpoint": self.best_model_checkpoint,
            "epoch": self.epoch,
            "eval_steps": every(args.eval_strategy, args.eval_steps),
            "global_step": self.global_step,
            "is_hyper_param_search": false,
            "is_local_process_zero": true,
            "is_world_process_zero": true,
            "log_history": self.log_history,
            "logging_steps": args.logging_steps,
            "max_steps": self.max_steps,
            "num_input_tokens_seen": self.num_input_tokens_seen,
            "num_train_epochs": self.num_train_epochs,
            "save_steps": every(args.save_strategy, args.save_steps),
            "stateful_callbacks": callbacks,
            "total_flos": self.total_flos,
            "train_batch_size": args.per_device_train_batch_size,
            "trial_name": null,
            "trial_params": null,
        })
    }

    /// Writes `trainer_state.json` into `dir`.
    ///
    /// # Errors
    /// A full disk and the like.
    pub fn write(&self, dir: &Path, args: &TrainingArguments, stopped: bool) -> Result<()> {
        Ok(write_json(&dir.join("trainer_state.json"), &self.to_json(args, stopped), 2)?)
    }
}

/// A row of metrics with sorted keys.
pub fn row(entries: &[(&str, Value)]) -> Map<String, Value> {
    let sorted: std::collections::BTreeMap<&str, &Value> =
        entries.iter().map(|(k, v)| (*k, v)).collect();
    sorted.into_iter().map(|(k, v)| (k.to_string(), v.clone())).collect()
}
