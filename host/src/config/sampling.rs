//! How completions are sampled: shared by all stages that train on what a model says.

use serde::Serialize;

use super::values::Values;

/// See the module.
#[derive(Clone, Debug, Serialize)]
pub struct Sampling {
    /// Most tokens of a prompt.
    pub max_prompt_length: usize,
    /// Most tokens of a completion.
    pub max_completion_length: usize,
    /// Temperature.
    pub temperature: f64,
    /// Keep the likeliest tokens up to this probability.
    pub top_p: f64,
    /// Keep so many likeliest tokens; 0: all.
    pub top_k: usize,
    /// Above 1: less repetition.
    pub repetition_penalty: f64,
    /// Completions generated at a time.
    pub generation_batch_size: usize,
}

impl Sampling {
    pub(super) fn resolve(v: &mut Values) -> Self {
        Self {
            max_prompt_length: v.size("max_source_length"),
            max_completion_length: v.size("max_completion_length"),
            temperature: v.float("temperature"),
            top_p: v.float("top_p"),
            top_k: v.size("top_k"),
            repetition_penalty: v.float("repetition_penalty"),
            generation_batch_size: v.size("generation_batch_size"),
        }
    }
}
