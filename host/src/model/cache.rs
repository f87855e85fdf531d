//! Keys and values of the positions that several sequences have generated so far.

use candle_core::{DType, Result, Tensor};

use super::batch::TokenBatch;
use super::block::{BlockContext, Qkv, attention_config, output_and_mlp, qkv};
use super::decoder::Decoder;
use super::params::ParamSet;
use crate::ops::{attention, rms_norm};

/// Keys and values of every layer in slots, one a sequence: `[slots · capacity, num_kv_heads ·
/// head_dim]`.
pub struct KvCache {
    layers: Vec<(Tensor, Tensor)>,
    /// Positions held by each slot.
    lens: Vec<usize>,
    capacity: usize,
}

/// Bytes of a cache of `slots` sequences of `capacity` positions.
pub fn bytes(decoder: &Decoder, slots: usize, capacity: usize) -> usize {
    let spec = &decoder.spec;
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
        Ok(Self { layers, lens: vec![0; slots], capacity })
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
        let mut x = self.embed(&batch.input_ids)?;
        for (layer, weights) in self.weights.layers.iter().enumerate() {
            let b = self.block_context(params, layer, &batch.position_ids, &batch.bounds, None);
            let eps = self.spec.rms_norm_eps;
            let (n1, _) = rms_norm::forward(self.exec(), &x, &weights.input_norm, eps)?;
            let Qkv { q, k, v, .. } = qkv(&b, weights, &n1)?;
            let (keys, values) = &cache.layers[layer];
            for (&slot, bound) in slots.iter().zip(batch.bounds.windows(2)) {
                let n = bound[1] - bound[0];
                keys.slice_set(&k.narrow(0, bound[0], n)?, 0, slot * cache.capacity)?;
                values.slice_set(&v.narrow(0, bound[0], n)?, 0, slot * cache.capacity)?;
            }
            let config = attention_config(&self.spec, layer);
            let (out, _) = attention::forward(self.exec(), &q, &k, &v, &batch.bounds, config)?;
            x = output_and_mlp(&b, weights, &x, &out)?.y;
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
        };
        self.check(&batch)?;
        let spans: Vec<(usize, usize)> =
            slots.iter().map(|&s| (s * cache.capacity, cache.lens[s] + 1)).collect();
        let mut x = self.embed(ids)?;
        for (layer, weights) in self.weights.layers.iter().enumerate() {
            let b: BlockContext<'_> =
                self.block_context(params, layer, &batch.position_ids, &batch.bounds, None);
            let eps = self.spec.rms_norm_eps;
            let (n1, _) = rms_norm::forward(self.exec(), &x, &weights.input_norm, eps)?;
            let Qkv { q, k, v, .. } = qkv(&b, weights, &n1)?;
            let (keys, values) = &cache.layers[layer];
            for (i, (first, len)) in spans.iter().enumerate() {
                keys.slice_set(&k.narrow(0, i, 1)?, 0, first + len - 1)?;
                values.slice_set(&v.narrow(0, i, 1)?, 0, first + len - 1)?;
            }
            let config = attention_config(&self.spec, layer);
            let out = attention::decode(self.exec(), &q, keys, values, &spans, config)?;
            x = output_and_mlp(&b, weights, &x, &out)?.y;
        }
        for &slot in slots {
            cache.lens[slot] += 1;
        }
        Ok(x)
    }
}
