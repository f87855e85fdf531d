//! Generation from one prompt or many at a time, with a cache of keys and values.

use candle_core::{DType, Result, Tensor};
use candle_transformers::generation::{LogitsProcessor, Sampling};
use candle_transformers::utils::apply_repeat_penalty;
use rayon::prelude::*;

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
    /// The new tokens, without what ended them.
    pub ids: Vec<u32>,
    /// The stop token that ended them.
    pub stop_token: Option<u32>,
    /// Why it ended.
    pub stop_reason: StopReason,
}

/// Something to continue.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Its tokens, at least one.
    pub prompt: &'a [u32],
    /// Keys the random choice: rows of one seed never share theirs.
    pub row: u64,
}

/// Most tokens of prompts that are run at a time.
const PREFILL_TOKENS: usize = 4096;

/// A sequence that is being continued.
struct Active {
    request: usize,
    slot: usize,
    /// Prompt and new tokens.
    seen: Vec<u32>,
    prompt_len: usize,
}

/// Slots, and the requests that wait for them.
struct Batch<'a> {
    requests: &'a [Request<'a>],
    /// The next request to begin.
    next: usize,
    cache: KvCache,
    free: Vec<usize>,
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
        let requests = [Request { prompt, row }];
        let mut done =
            self.generate_batch(params, &requests, options, 1, |_, id| on_token(id), &|| false)?;
        match done.as_mut().and_then(Vec::pop) {
            Some(generation) => Ok(generation),
            None => candle_core::bail!("a generation was not made"),
        }
    }

    /// Continues every request, up to `slots` at a time; a finished one makes room for the next.
    /// Equal prompts that follow each other are run once. The tokens are a pure function of the
    /// requests, the options and `slots`. `on_token` gets the request's index; `interrupted` is
    /// polled at every token, and answering true abandons everything with `None`.
    ///
    /// # Errors
    /// As [`Decoder::generate`].
    pub fn generate_batch(
        &self,
        params: &ParamSet,
        requests: &[Request<'_>],
        options: &SamplingOptions,
        slots: usize,
        mut on_token: impl FnMut(usize, u32) -> bool,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<Option<Vec<Generation>>> {
        let longest = requests.iter().map(|r| r.prompt.len()).max().unwrap_or(0);
        let capacity = (longest + options.max_new_tokens).min(self.max_positions());
        let slots = slots.clamp(1, requests.len().max(1));
        let cache = KvCache::new(self, slots, capacity)?;
        let mut batch = Batch { requests, next: 0, cache, free: (0..slots).rev().collect() };
        let mut done: Vec<Option<Generation>> = requests.iter().map(|_| None).collect();
        let (mut active, mut hidden) = self.admit(params, &mut batch)?;
        while !active.is_empty() {
            if interrupted() {
                return Ok(None);
            }
            let logits = self.logits(&hidden)?;
            let chosen: Vec<Result<u32>> = active
                .par_iter()
                .enumerate()
                .map(|(i, a)| {
                    let row = requests[a.request].row;
                    choose(&logits.get(i)?, &a.seen, options, row, a.seen.len() - a.prompt_len)
                })
                .collect();
            let mut going = Vec::with_capacity(active.len());
            for (mut a, id) in active.into_iter().zip(chosen) {
                let id = id?;
                let stops = options.stop_ids.contains(&id);
                let mut reason = stops.then_some(StopReason::StopToken);
                if !stops {
                    a.seen.push(id);
                    if !on_token(a.request, id) {
                        reason = Some(StopReason::Caller);
                    } else if a.seen.len() - a.prompt_len == options.max_new_tokens {
                        reason = Some(StopReason::Length);
                    } else if batch.cache.len_of(a.slot) == capacity {
                        reason = Some(StopReason::Context);
                    }
                }
                match reason {
                    None => going.push(a),
                    Some(stop_reason) => {
                        done[a.request] = Some(Generation {
                            ids: a.seen.split_off(a.prompt_len),
                            stop_token: stops.then_some(id),
                            stop_reason,
                        });
                        batch.free.push(a.slot);
                    }
                }
            }
            let mut parts = Vec::with_capacity(2);
            if !going.is_empty() {
                let slots: Vec<usize> = going.iter().map(|a| a.slot).collect();
                let ids: Vec<u32> = going.iter().filter_map(|a| a.seen.last().copied()).collect();
                parts.push(self.step(params, &mut batch.cache, &slots, &ids)?);
            }
            let (fresh, states) = self.admit(params, &mut batch)?;
            if !fresh.is_empty() {
                parts.push(states);
            }
            going.extend(fresh);
            active = going;
            if let Some(first) = parts.first() {
                hidden = if parts.len() == 1 { first.clone() } else { Tensor::cat(&parts, 0)? };
            }
        }
        Ok(Some(done.into_iter().flatten().collect()))
    }

    /// Begins as many requests as there are free slots; their states, `[requests, hidden]`.
    fn admit(&self, params: &ParamSet, batch: &mut Batch<'_>) -> Result<(Vec<Active>, Tensor)> {
        let mut fresh: Vec<Active> = Vec::new();
        let mut states: Vec<Tensor> = Vec::new();
        while !batch.free.is_empty() && batch.next < batch.requests.len() {
            // Prompts that are run together, and for each new sequence which of them it continues.
            let (mut prompts, mut slots, mut tokens) = (Vec::new(), Vec::new(), 0);
            let mut continues: Vec<u32> = Vec::new();
            while let (Some(request), Some(&slot)) =
                (batch.requests.get(batch.next), batch.free.last())
            {
                let known = prompts.last() == Some(&request.prompt);
                if !known {
                    if !prompts.is_empty() && tokens + request.prompt.len() > PREFILL_TOKENS {
                        break;
                    }
                    tokens += request.prompt.len();
                    prompts.push(request.prompt);
                    slots.push(slot);
                }
                batch.free.pop();
                continues.push(prompts.len() as u32 - 1);
                let (seen, prompt_len) = (request.prompt.to_vec(), request.prompt.len());
                fresh.push(Active { request: batch.next, slot, seen, prompt_len });
                batch.next += 1;
            }
            let last = self.prefill(params, &mut batch.cache, &slots, &prompts)?;
            let of_this_run = &fresh[fresh.len() - continues.len()..];
            for (active, &prompt) in of_this_run.iter().zip(&continues) {
                let source = slots[prompt as usize];
                if active.slot != source {
                    batch.cache.copy(source, active.slot)?;
                }
            }
            let n = continues.len();
            states.push(last.index_select(&Tensor::from_vec(continues, n, self.device())?, 0)?);
        }
        match states.is_empty() {
            true => Ok((fresh, Tensor::zeros((0, 1), DType::F32, self.device())?)),
            false => Ok((fresh, Tensor::cat(&states, 0)?)),
        }
    }
}
