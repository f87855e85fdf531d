//! What an adapter trains: which linear layers carry a LoRA pair, which modules are trained whole,
//! and where all of it is among the trained parameters.

use std::collections::BTreeMap;

use candle_core::Tensor;

use super::decoder::{TokenRows, TrainedWeights};
use super::params::ParamSet;
use super::projection::Projection;
use super::slots::Slot;

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

/// What makes a pair a decomposed one (DoRA).
#[derive(Clone, Debug)]
pub struct Decomposed {
    /// Index of the magnitudes `[out]` among the trained parameters.
    pub magnitude: usize,
    /// Sums of squares of the frozen matrix's rows, `[out]`.
    pub squares: Tensor,
    /// Lengths of the rows of the adapted matrix, `[out]`, by the parameters as they are.
    pub norm: Tensor,
}

/// Modules trained whole beside the pairs (PEFT's `modules_to_save`). While the adapter is on, the
/// decoder's weights are the trained ones.
#[derive(Clone, Debug, Default)]
pub struct SavedModules {
    /// Where their gradients go.
    pub gradients: TrainedWeights,
    /// Each with its parameter, and with what stands there without the adapter.
    pub slots: Vec<(Slot, usize, Option<Tensor>)>,
    /// Rows of tables that are trained alone, each set with its parameter and with what stands there
    /// without the adapter.
    pub rows: Vec<(Slot, TokenRows, Tensor)>,
    /// The head with rows of length 1 without the adapter, where the family has one.
    pub normalized_head: Option<Tensor>,
}

impl SavedModules {
    /// The lowest block that the backward must enter for them.
    fn lowest_layer(&self) -> Option<usize> {
        let layer = |&(slot, ..): &(Slot, usize, Option<Tensor>)| match slot {
            Slot::Norm(l, _)
            | Slot::NormBias(l, _)
            | Slot::Weight(l, _)
            | Slot::Bias(l, _)
            | Slot::Router(l)
            | Slot::Expert(l, ..) => Some(l),
            Slot::Embed | Slot::Positions | Slot::EmbedNorm | Slot::EmbedNormBias => Some(0),
            Slot::FinalNorm | Slot::FinalNormBias | Slot::LmHead => None,
        };
        let of_rows = self.rows.iter().any(|(slot, ..)| *slot == Slot::Embed).then_some(0);
        self.slots.iter().filter_map(layer).chain(of_rows).min()
    }
}

/// The LoRA pairs of a decoder, and what is trained beside them.
#[derive(Clone, Debug, Default)]
pub struct LoraTable {
    /// Probability of dropping an element of a pair's input during training.
    pub dropout: f32,
    /// Modules trained whole.
    pub saved: SavedModules,
    pairs: BTreeMap<(usize, Projection), LoraPair>,
    decomposed: BTreeMap<(usize, Projection), Decomposed>,
}

impl LoraTable {
    /// No pairs yet.
    pub fn new(dropout: f32) -> Self {
        Self { dropout, ..Self::default() }
    }

    /// Puts a pair on a projection.
    pub fn insert(&mut self, layer: usize, projection: Projection, pair: LoraPair) {
        self.pairs.insert((layer, projection), pair);
    }

    /// The pair of a projection.
    pub fn get(&self, layer: usize, projection: Projection) -> Option<LoraPair> {
        self.pairs.get(&(layer, projection)).copied()
    }

    /// Makes the pair of a projection a decomposed one.
    pub fn decompose(&mut self, layer: usize, projection: Projection, by: Decomposed) {
        self.decomposed.insert((layer, projection), by);
    }

    /// What makes the pair of a projection a decomposed one, if it is.
    pub fn decomposed(&self, layer: usize, projection: Projection) -> Option<&Decomposed> {
        self.decomposed.get(&(layer, projection))
    }

    /// All decomposed pairs.
    pub fn all_decomposed(
        &mut self,
    ) -> impl Iterator<Item = ((usize, Projection), LoraPair, &mut Decomposed)> {
        let pairs = &self.pairs;
        self.decomposed.iter_mut().filter_map(|(at, by)| Some((*at, *pairs.get(at)?, by)))
    }

    /// Indices of the parameters of a layer's pairs, in order.
    pub fn indices(&self, layer: usize) -> Vec<usize> {
        let own = self.pairs.iter().filter(|((l, _), _)| *l == layer);
        own.flat_map(|(_, pair)| [pair.a, pair.b]).collect()
    }

    /// Whether no projection carries a pair.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// The lowest layer that the backward must enter.
    pub fn lowest_layer(&self) -> Option<usize> {
        let of_pairs = self.pairs.keys().next().map(|&(layer, _)| layer);
        of_pairs.into_iter().chain(self.saved.lowest_layer()).min()
    }
}
