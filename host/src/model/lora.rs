//! Which linear layers carry a LoRA pair, and where its two matrices are among the trained
//! parameters.

use std::collections::BTreeMap;

use candle_core::Tensor;

use super::params::ParamSet;
use super::projection::Projection;

/// One LoRA pair.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LoraPair {
    /// Index of A `[rank, in]` among the trained parameters.
    pub a: usize,
    /// Index of B `[out, rank]`.
    pub b: usize,
    /// Factor on the update: `alpha / rank`, or `alpha / sqrt(rank)` for rsLoRA.
    pub scale: f32,
}

impl LoraPair {
    /// A and B.
    pub fn tensors<'a>(&self, params: &'a ParamSet) -> (&'a Tensor, &'a Tensor) {
        (&params.params[self.a].tensor, &params.params[self.b].tensor)
    }
}

/// The LoRA pairs of a decoder.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoraTable {
    /// Probability of dropping an element of a pair's input during training.
    pub dropout: f32,
    pairs: BTreeMap<(usize, Projection), LoraPair>,
}

impl LoraTable {
    /// No pairs yet.
    pub fn new(dropout: f32) -> Self {
        Self { dropout, pairs: BTreeMap::new() }
    }

    /// Puts a pair on a projection.
    pub fn insert(&mut self, layer: usize, projection: Projection, pair: LoraPair) {
        self.pairs.insert((layer, projection), pair);
    }

    /// The pair of a projection.
    pub fn get(&self, layer: usize, projection: Projection) -> Option<LoraPair> {
        self.pairs.get(&(layer, projection)).copied()
    }

    /// Whether no projection carries a pair.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// The lowest layer that carries a pair.
    pub fn lowest_layer(&self) -> Option<usize> {
        self.pairs.keys().next().map(|&(layer, _)| layer)
    }
}
