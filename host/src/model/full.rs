//! Full fine-tuning: every weight becomes a trained parameter.

use super::block::BlockParams;
use super::decoder::{Decoder, Trained, TrainedWeights};
use super::params::{NamedTensor, ParamSet};
use super::slots::Slot;

impl Decoder {
    /// Makes every weight a trained parameter, named as in Hugging Face files. Weight decay
    /// applies to matrices only.
    pub fn train_all(&mut self) -> ParamSet {
        let mut params = ParamSet::default();
        let mut trained = TrainedWeights {
            blocks: vec![BlockParams::default(); self.spec.num_layers],
            ..TrainedWeights::default()
        };
        for slot in Slot::all(&self.spec) {
            let Some(tensor) = self.weights.get(slot) else { continue };
            let index = Some(params.params.len());
            params.params.push(NamedTensor {
                name: slot.name(&self.spec),
                tensor: tensor.clone(),
                decay: slot.is_matrix(),
                transposed: slot.is_transposed(&self.spec),
            });
            match slot {
                Slot::Embed => trained.embed = index,
                Slot::Positions => trained.positions = index,
                Slot::EmbedNorm => trained.embed_norm.weight = index,
                Slot::EmbedNormBias => trained.embed_norm.bias = index,
                Slot::FinalNorm => trained.final_norm.weight = index,
                Slot::FinalNormBias => trained.final_norm.bias = index,
                Slot::LmHead => trained.lm_head = index,
                Slot::Norm(l, place) => trained.blocks[l].norms[place as usize].weight = index,
                Slot::NormBias(l, place) => trained.blocks[l].norms[place as usize].bias = index,
                Slot::Weight(l, p) => trained.blocks[l].linears[p as usize].weight = index,
                Slot::Bias(l, p) => trained.blocks[l].linears[p as usize].bias = index,
                Slot::Router(l) => trained.blocks[l].router = index,
                Slot::Expert(l, ..) => trained.blocks[l].experts.extend(index),
            }
        }
        self.trained = Trained::Full(trained);
        params
    }

    /// Makes the decoder see parameters that the optimiser replaced. LoRA pairs are read from the
    /// parameters at every use; only full fine-tuning has something to do here.
    ///
    /// # Errors
    /// When what follows from a parameter can't be made again.
    pub fn relink(&mut self, params: &ParamSet) -> candle_core::Result<()> {
        if !matches!(self.trained, Trained::Full(_)) {
            return Ok(());
        }
        let slots = Slot::all(&self.spec);
        for (slot, param) in slots.into_iter().zip(&params.params) {
            if let Some(place) = self.weights.get_mut(slot) {
                *place = param.tensor.clone();
            }
        }
        self.normalize_head()
    }
}
