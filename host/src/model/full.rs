//! Full fine-tuning: every weight becomes a trained parameter.

use super::decoder::{Decoder, Trained, TrainedWeights};
use super::params::{NamedTensor, ParamSet};
use super::slots::Slot;

impl Decoder {
    /// Makes every weight a trained parameter, named as in Hugging Face files. Weight decay
    /// applies to matrices only.
    pub fn train_all(&mut self) -> ParamSet {
        let mut params = ParamSet::default();
        let mut trained = TrainedWeights::default();
        for slot in Slot::all(&self.spec) {
            let Some(tensor) = self.weights.get(slot) else { continue };
            let index = params.params.len();
            params.params.push(NamedTensor {
                name: slot.name(&self.spec),
                tensor: tensor.clone(),
                decay: slot.is_matrix(),
                transposed: slot.is_transposed(&self.spec),
                learning_rate_ratio: 1.0,
            });
            trained.place(slot, index, self.spec.num_layers);
        }
        self.trained = Trained::Full(trained);
        params
    }

    /// Makes the decoder see parameters that changed. LoRA pairs are read from the parameters at
    /// every use.
    ///
    /// # Errors
    /// When what follows from a parameter can't be made again.
    pub fn relink(&mut self, params: &ParamSet) -> candle_core::Result<()> {
        if !matches!(self.trained, Trained::Full(_)) {
            return self.relink_adapter(params);
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
