//! Keys and values of the positions generated so far.

use candle_core::{DType, Device, Result, Tensor};

use super::block::{BlockContext, Qkv, attention_config, output_and_mlp, qkv};
use super::decoder::Decoder;
use super::params::ParamSet;
use crate::ops::{attention, rms_norm};

/// Keys and values of one sequence, for every layer: `[capacity, num_kv_heads · head_dim]`.
pub struct KvCache {
    layers: Vec<(Tensor, Tensor)>,
    len: usize,
    capacity: usize,
}

impl KvCache {
    /// Room for `capacity` positions of `decoder`.
    ///
    /// # Errors
    /// When the memory can't be had.
    pub fn new(decoder: &Decoder, capacity: usize) -> Result<Self> {
        let spec = &decoder.spec;
        let device: &Device = decoder.device();
        let shape = (capacity, spec.num_kv_heads * spec.head_dim);
        let layers = (0..spec.num_layers)
            .map(|_| {
                let k = Tensor::zeros(shape, DType::F32, device)?;
                Ok((k, Tensor::zeros(shape, DType::F32, device)?))
            })
            .collect::<Result<_>>()?;
        Ok(Self { layers, len: 0, capacity })
    }

    /// Positions held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Positions there is room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }
}

impl Decoder {
    /// Runs the next `ids` of one sequence; returns the last block's output for them,
    /// `[ids, hidden]`, before the final norm.
    ///
    /// # Errors
    /// When the cache or the decoder has no room for them.
    pub fn extend(&self, params: &ParamSet, cache: &mut KvCache, ids: &[u32]) -> Result<Tensor> {
        let (start, end) = (cache.len, cache.len + ids.len());
        if end > cache.capacity || end > self.max_positions() {
            candle_core::bail!(
                "{end} positions don't fit a cache of {} and a decoder made for {}",
                cache.capacity,
                self.max_positions()
            );
        }
        if let Some(id) = ids.iter().find(|&&id| id as usize >= self.spec.vocab_size) {
            let rows = self.spec.vocab_size;
            candle_core::bail!("token id {id} is beyond the embedding's {rows} rows");
        }
        let position_ids: Vec<u32> = (start as u32..end as u32).collect();
        let bounds = [0, ids.len()];
        let mut x = self.embed(ids)?;
        for (layer, weights) in self.weights.layers.iter().enumerate() {
            let b: BlockContext<'_> =
                self.block_context(params, layer, &position_ids, &bounds, None);
            let (n1, _) =
                rms_norm::forward(self.exec(), &x, &weights.input_norm, self.spec.rms_norm_eps)?;
            let Qkv { q, k, v, .. } = qkv(&b, weights, &n1)?;
            let (keys, values) = &cache.layers[layer];
            keys.slice_set(&k, 0, start)?;
            values.slice_set(&v, 0, start)?;
            let out = attention::forward_cached(
                self.exec(),
                &q,
                &keys.narrow(0, 0, end)?,
                &values.narrow(0, 0, end)?,
                attention_config(&self.spec, layer),
            )?;
            x = output_and_mlp(&b, weights, &x, &out)?.y;
        }
        cache.len = end;
        Ok(x)
    }
}
