//! Generation from one prompt with a cache of keys and values.

use candle_core::{Result, Tensor};
use candle_transformers::generation::{LogitsProcessor, Sampling};
use candle_transformers::utils::apply_repeat_penalty;

use super::cache::KvCache;
use super::decoder::Decoder;
use super::params::ParamSet;
use crate::rng::{Purpose, Stream};

/// How the next token is chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingOptions {
    /// 0: always the most likely token.
    pub temperature: f64,
    /// Keep the smallest set of tokens whose probabilities reach this sum; 1: all.
    pub top_p: f64,
    /// Keep this many most likely tokens; 0: all.
    pub top_k: usize,
    /// Divides the positive logits of tokens seen so far (Keskar et al. 2019, arXiv 1909.05858); 1: off.
    pub repetition_penalty: f32,
    /// Most tokens to generate.
    pub max_new_tokens: usize,
    /// Tokens that end the generation.
    pub stop_ids: Vec<u32>,
    /// Seed of the choice.
    pub seed: u64,
}

impl Default for SamplingOptions {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            repetition_penalty: 1.0,
            max_new_tokens: 256,
            stop_ids: Vec::new(),
            seed: 42,
        }
    }
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// A stop token was chosen (it is not among the tokens).
    StopToken,
    /// `max_new_tokens` were generated.
    Length,
    /// The model or the cache has no room for another position.
    Context,
    /// The caller's `on_token` answered false.
    Caller,
}

/// A finished generation.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// The new tokens.
    pub ids: Vec<u32>,
    /// Why it ended.
    pub stop_reason: StopReason,
}

/// The token after `logits [vocab]`. The choice at position `step` of row `row` is a pure
/// function of `(seed, row, step)`.
fn choose(
    logits: &Tensor,
    seen: &[u32],
    options: &SamplingOptions,
    row: u64,
    step: usize,
) -> Result<u32> {
    let logits = if options.repetition_penalty == 1.0 {
        logits.clone()
    } else {
        apply_repeat_penalty(logits, options.repetition_penalty, seen)?
    };
    let temperature = options.temperature;
    let sampling = match (temperature > 0.0, options.top_k, options.top_p < 1.0) {
        (false, _, _) => Sampling::ArgMax,
        (true, 0, false) => Sampling::All { temperature },
        (true, 0, true) => Sampling::TopP { p: options.top_p, temperature },
        (true, k, false) => Sampling::TopK { k, temperature },
        (true, k, true) => Sampling::TopKThenTopP { k, p: options.top_p, temperature },
    };
    let seed = Stream::new(options.seed, Purpose::Sample, row).at(step as u64);
    LogitsProcessor::from_sampling(seed, sampling).sample(&logits)
}

impl Decoder {
    /// Continues `prompt` (row number `row` of its file or batch, which keys the random choice).
    /// Each token is handed to `on_token` as it is chosen; answering false ends the generation
    /// after it.
    ///
    /// # Errors
    /// For an empty prompt, one longer than the decoder's reach, or a failing tensor operation.
    pub fn generate(
        &self,
        params: &ParamSet,
        prompt: &[u32],
        options: &SamplingOptions,
        row: u64,
        mut on_token: impl FnMut(u32) -> bool,
    ) -> Result<Generation> {
        if prompt.is_empty() {
            candle_core::bail!("an empty prompt has nothing to continue; give at least one token");
        }
        let capacity = (prompt.len() + options.max_new_tokens).min(self.max_positions());
        let mut cache = KvCache::new(self, capacity)?;
        let mut seen = prompt.to_vec();
        let mut ids = Vec::new();
        let mut hidden = self.extend(params, &mut cache, prompt)?;
        let stop_reason = loop {
            if ids.len() == options.max_new_tokens {
                break StopReason::Length;
            }
            let last = hidden.narrow(0, hidden.dim(0)? - 1, 1)?.contiguous()?;
            let logits = self.logits(&last)?.squeeze(0)?;
            let next = choose(&logits, &seen, options, row, ids.len())?;
            if options.stop_ids.contains(&next) {
                break StopReason::StopToken;
            }
            seen.push(next);
            ids.push(next);
            if !on_token(next) {
                break StopReason::Caller;
            }
            if cache.len() == capacity {
                break if ids.len() == options.max_new_tokens {
                    StopReason::Length
                } else {
                    StopReason::Context
                };
            }
            if ids.len() < options.max_new_tokens {
                hidden = self.extend(params, &mut cache, &[next])?;
            }
        };
        Ok(Generation { ids, stop_reason })
    }
}
