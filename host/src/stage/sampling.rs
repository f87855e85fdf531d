//! From settings to the sampler's options.

use crate::config::Sampling;
use crate::model::generate::SamplingOptions;

/// Options of a generation; `greedy`: always the most likely token.
pub fn options(s: &Sampling, stop_ids: Vec<u32>, seed: u64, greedy: bool) -> SamplingOptions {
    SamplingOptions {
        temperature: if greedy { 0.0 } else { s.temperature },
        top_p: s.top_p,
        top_k: s.top_k,
        repetition_penalty: s.repetition_penalty as f32,
        max_new_tokens: s.max_completion_length,
        stop_ids,
        seed,
    }
}
