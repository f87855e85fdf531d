//! Full fine-tuning: every weight becomes a trained parameter.

use super::block::BlockParams;
use super::decoder::{Decoder, Trained, TrainedWeights};
use super::params::{NamedTensor, ParamSet};
use super::projection::LinearParams;
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
                name: slot.name(),
                tensor: tensor.clone(),
                decay: slot.is_matrix(),
            });
            match slot {
                Slot::Embed => trained.embed = index,
                Slot::FinalNorm => trained.final_norm = index,
                Slot::LmHead => trained.lm_head = index,
                Slot::InputNorm(l) => trained.blocks[l].input_norm = index,
                Slot::PostNorm(l) => trained.blocks[l].post_norm = index,
                Slot::QNorm(l) => trained.blocks[l].q_norm = index,
                Slot::KNorm(l) => trained.blocks[l].k_norm = index,
                Slot::Weight(l, p) => {
                    let linear: &mut LinearParams = &mut trained.blocks[l].linear[p as usize];
                    linear.weight = index;
                }
                Slot::Bias(l, p) => trained.blocks[l].linear[p as usize].bias = index,
            }
        }
        self.trained = Trained::Full(trained);
        params
    }

    /// Makes the decoder see parameters that the optimiser replaced. LoRA pairs are read from the
    /// parameters at every use; only full fine-tuning has something to do here.
    pub fn relink(&mut self, params: &ParamSet) {
        if !matches!(self.trained, Trained::Full(_)) {
            return;
        }
        let slots = Slot::all(&self.spec);
        for (slot, param) in slots.into_iter().zip(&params.params) {
            if let Some(place) = self.weights.get_mut(slot) {
                *place = param.tensor.clone();
            }
        }
    }
}
