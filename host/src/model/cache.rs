//! Keys and values of the positions that several sequences have generated so far.

use candle_core::{DType, Result, Tensor};

use super::batch::TokenBatch;
use super::block::{attention_config, forward_with};
use super::decoder::Decoder;
use super::params::ParamSet;
use super::places::Context;
use super::spec::DecoderSpec;
use crate::ops::attention;

/// Keys and values of every layer in slots, one a sequence: `[slots · capacity, num_kv_heads ·
/// head_dim]`.
pub struct KvCache {
    layers: Vec<(Tensor, Tensor)>,
    /// Positions held by each slot.
    lens: Vec<usize>,
    /// The context in each slot, for families that have one.
    contexts: Vec<Context>,
    capacity: usize,
}

/// Bytes of a cache of `slots` sequences of `capacity` positions.
pub fn bytes(spec: &DecoderSpec, slots: usize, capacity: usize) -> usize {
    2 * 4 * spec.num_layers * slots * capacity * spec.num_kv_heads * spec.head_dim
}

impl KvCache {
    /// Room for `slots` sequences of `capacity` positions.
    ///
    /// # Errors
    /// When the memory can't be had.
    pub fn new(decoder: &Decoder, slots: usize, capacity: usize) -> Result<Self> {
        let spec = &decoder.spec;
        let shape = (slots * capacity, spec.num_kv_heads * spec.head_dim);
        let zeros = || Tensor::zeros(shape, DType::F32, decoder.device());
        let layers =
            (0..spec.num_layers).map(|_| Ok((zeros()?, zeros()?))).collect::<Result<_>>()?;
        let contexts = vec![Context::default(); slots];
        Ok(Self { layers, lens: vec![0; slots], contexts, capacity })
    }

    /// Positions that a slot holds.
    pub fn len_of(&self, slot: usize) -> usize {
        self.lens[slot]
    }

    /// Positions there is room for in a slot.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Makes slot `to` hold what slot `from` holds.
    ///
    /// # Errors
    /// When a copy fails.
    pub fn copy(&mut self, from: usize, to: usize) -> Result<()> {
        let len = self.lens[from];
        for (k, v) in &self.layers {
            for cache in [k, v] {
                let rows = cache.narrow(0, from * self.capacity, len)?.copy()?;
                cache.slice_set(&rows, 0, to * self.capacity)?;
            }
        }
        self.lens[to] = len;
        self.contexts[to] = self.contexts[from];
        Ok(())
    }

    fn check(&self, slot: usize, more: usize) -> Result<()> {
        if self.lens[slot] + more > self.capacity {
            candle_core::bail!(
                "{} positions don't fit a cache of {}",
                self.lens[slot] + more,
                self.capacity
            );
        }
        Ok(())
    }
}

impl Decoder {
    /// Fills `slots` with `prompts`, whatever they held; the last block's output at each prompt's
    /// last token, `[prompts, hidden]`, before the final norm.
    ///
    /// # Errors
    /// When a prompt is empty or does not fit.
    pub fn prefill(
        &self,
        params: &ParamSet,
        cache: &mut KvCache,
        slots: &[usize],
        prompts: &[&[u32]],
    ) -> Result<Tensor> {
        for (&slot, prompt) in slots.iter().zip(prompts) {
            if prompt.is_empty() {
                candle_core::bail!(
                    "an empty prompt has nothing to continue; give at least one token"
                );
            }
            cache.lens[slot] = 0;
            cache.check(slot, prompt.len())?;
        }
        let batch = TokenBatch::from_ids(prompts);
        self.check(&batch)?;
        for (&slot, context) in slots.iter().zip(self.contexts(&batch)) {
            cache.contexts[slot] = context;
        }
        let places = self.places(&batch)?;
        let mut x = self.embed(&batch)?;
        for (layer, weights) in self.weights.layers.iter().enumerate() {
            let b = self.block_context(params, layer, &places, None);
            let (keys, values) = &cache.layers[layer];
            x = forward_with(&b, weights, &x, |made| {
                for (&slot, bound) in slots.iter().zip(batch.bounds.windows(2)) {
                    let n = bound[1] - bound[0];
                    let at = slot * cache.capacity;
                    keys.slice_set(&made.k.narrow(0, bound[0], n)?, 0, at)?;
                    values.slice_set(&made.v.narrow(0, bound[0], n)?, 0, at)?;
                }
                let config = attention_config(&self.spec, layer);
                let sequences = places.sequences();
                Ok(attention::forward(self.exec(), &made.q, &made.k, &made.v, sequences, config)?.0)
            })?;
        }
        for (&slot, prompt) in slots.iter().zip(prompts) {
            cache.lens[slot] = prompt.len();
        }
        let last: Vec<u32> = batch.bounds[1..].iter().map(|&end| end as u32 - 1).collect();
        x.index_select(&Tensor::from_vec(last, prompts.len(), self.device())?, 0)
    }

    /// Appends one token to each of `slots`; the last block's output for them, `[slots, hidden]`,
    /// before the final norm.
    ///
    /// # Errors
    /// When the cache or the decoder has no room for them.
    pub fn step(
        &self,
        params: &ParamSet,
        cache: &mut KvCache,
        slots: &[usize],
        ids: &[u32],
    ) -> Result<Tensor> {
        for &slot in slots {
            cache.check(slot, 1)?;
        }
        let position_ids: Vec<u32> = slots.iter().map(|&s| cache.lens[s] as u32).collect();
        let bounds: Vec<usize> = (0..=ids.len()).collect();
        let batch = TokenBatch {
            input_ids: ids.to_vec(),
            position_ids,
            labels: Vec::new(),
            loss_weights: Vec::new(),
            bounds,
            names: Vec::new(),
        };
        self.check(&batch)?;
        let spans: Vec<(usize, usize)> =
            slots.iter().map(|&s| (s * cache.capacity, cache.lens[s] + 1)).collect();
        let contexts: Vec<Context> = match self.spec.prefix {
            Some(_) => slots.iter().map(|&s| cache.contexts[s]).collect(),
            None => Vec::new(),
        };
        let places = self.places_of_next(&batch, &contexts)?;
        let mut x = self.embed(&batch)?;
        for (layer, weights) in self.weights.layers.iter().enumerate() {
            let b = self.block_context(params, layer, &places, None);
            let (keys, values) = &cache.layers[layer];
            x = forward_with(&b, weights, &x, |made| {
                for (i, (first, len)) in spans.iter().enumerate() {
                    keys.slice_set(&made.k.narrow(0, i, 1)?, 0, first + len - 1)?;
                    values.slice_set(&made.v.narrow(0, i, 1)?, 0, first + len - 1)?;
                }
                let config = attention_config(&self.spec, layer);
                attention::decode(self.exec(), &made.q, keys, values, &spans, config)
            })?;
        }
        for &slot in slots {
            cache.lens[slot] += 1;
        }
        Ok(x)
    }
}
