//! A decoder with an adapter: what follows from the trained parameters, and the base without it.

use candle_core::{DType, Result, Tensor};

use super::block::BlockParams;
use super::decoder::{Decoder, TokenRows, Trained, TrainedWeights};
use super::params::ParamSet;
use super::slots::Slot;
use crate::ops::dora;

impl TrainedWeights {
    /// Says that the gradient of `slot` goes to parameter `index`.
    pub(super) fn place(&mut self, slot: Slot, index: usize, num_layers: usize) {
        let index = Some(index);
        if self.blocks.is_empty() {
            self.blocks = vec![BlockParams::default(); num_layers];
        }
        match slot {
            Slot::Embed => self.embed = index,
            Slot::Positions => self.positions = index,
            Slot::EmbedNorm => self.embed_norm.weight = index,
            Slot::EmbedNormBias => self.embed_norm.bias = index,
            Slot::FinalNorm => self.final_norm.weight = index,
            Slot::FinalNormBias => self.final_norm.bias = index,
            Slot::LmHead => self.lm_head = index,
            Slot::Norm(l, place) => self.blocks[l].norms[place as usize].weight = index,
            Slot::NormBias(l, place) => self.blocks[l].norms[place as usize].bias = index,
            Slot::Weight(l, p) => self.blocks[l].linears[p as usize].weight = index,
            Slot::Bias(l, p) => self.blocks[l].linears[p as usize].bias = index,
            Slot::Router(l) => self.blocks[l].router = index,
            Slot::Expert(l, ..) => self.blocks[l].experts.extend(index),
        }
    }

    /// Whether something before the first block is trained.
    pub(super) fn before_blocks(&self) -> bool {
        let tables = self.embed.is_some() || self.positions.is_some() || self.embed_rows.is_some();
        tables || self.embed_norm.any()
    }
}

impl Decoder {
    /// The tensor of a slot as an adapter may train it whole: a head that is the embedding counts as
    /// a matrix of its own then.
    pub(crate) fn module(&self, slot: Slot) -> Option<&Tensor> {
        match slot {
            Slot::LmHead => Some(self.head_weight()),
            _ => self.weights.get(slot),
        }
    }

    /// Makes the module in `slot` a trained one beside the LoRA pairs: parameter `index`, which holds
    /// f32 values of its own. As in PEFT, a head that was the embedding stays what it was when the
    /// embedding alone is trained.
    ///
    /// # Errors
    /// When the decoder has no adapter or no such module.
    pub(crate) fn train_module(&mut self, slot: Slot, index: usize) -> Result<()> {
        let num_layers = self.spec.num_layers;
        if slot == Slot::Embed && self.weights.lm_head.is_none() {
            self.weights.lm_head = Some(self.weights.embed.clone());
        }
        let base = self.weights.get(slot).cloned();
        let missing = || candle_core::Error::Msg(format!("the decoder has no module {slot:?}"));
        if base.is_none() && slot != Slot::LmHead {
            return Err(missing());
        }
        let Trained::Lora(table) = &mut self.trained else { return Err(missing()) };
        table.saved.gradients.place(slot, index, num_layers);
        table.saved.slots.push((slot, index, base));
        table.saved.normalized_head = self.normalized_head.clone();
        Ok(())
    }

    /// Makes rows `ids` of the embedding or of the head trained ones: parameter `index`, `[ids, hidden]`.
    /// The tables are this decoder's alone, and are written to.
    ///
    /// # Errors
    /// When the decoder has no adapter or no such table.
    pub(crate) fn train_rows(&mut self, slot: Slot, ids: Vec<u32>, index: usize) -> Result<()> {
        let missing = || candle_core::Error::Msg(format!("the decoder has no table {slot:?}"));
        if self.normalized_head.is_some() {
            candle_core::bail!("tokens can't be trained alone where the head's rows have length 1");
        }
        let table = self.weights.get(slot).ok_or_else(missing)?;
        let base = table.index_select(&Tensor::new(ids.as_slice(), table.device())?, 0)?;
        let Trained::Lora(adapter) = &mut self.trained else { return Err(missing()) };
        let rows = TokenRows { ids, index };
        match slot {
            Slot::Embed => adapter.saved.gradients.embed_rows = Some(rows.clone()),
            Slot::LmHead => adapter.saved.gradients.head_rows = Some(rows.clone()),
            _ => return Err(missing()),
        }
        adapter.saved.rows.push((slot, rows, base));
        Ok(())
    }

    /// Writes rows of a table in place.
    fn write_rows(&self, slot: Slot, ids: &[u32], values: &Tensor) -> Result<()> {
        let Some(table) = self.weights.get(slot) else { return Ok(()) };
        let values = values.to_dtype(table.dtype())?.contiguous()?;
        for (row, &id) in ids.iter().enumerate() {
            table.slice_set(&values.narrow(0, row, 1)?.contiguous()?, 0, id as usize)?;
        }
        Ok(())
    }

    /// The rows that an adapter trains alone, as they are now.
    fn rows_now(&self) -> Result<Vec<(Slot, Vec<u32>, Tensor)>> {
        let Trained::Lora(table) = &self.trained else { return Ok(Vec::new()) };
        let rows = table.saved.rows.iter().map(|(slot, rows, base)| {
            let now = match self.weights.get(*slot) {
                None => base.clone(),
                Some(t) => t.index_select(&Tensor::new(rows.ids.as_slice(), t.device())?, 0)?,
            };
            Ok((*slot, rows.ids.clone(), now))
        });
        rows.collect()
    }

    fn set(&mut self, slot: Slot, tensor: Option<Tensor>) {
        match (slot, tensor) {
            (Slot::LmHead, tensor) => self.weights.lm_head = tensor,
            (slot, Some(tensor)) => {
                if let Some(place) = self.weights.get_mut(slot) {
                    *place = tensor;
                }
            }
            (_, None) => {}
        }
    }

    /// Makes the decoder see an adapter's parameters: modules trained whole take their places, and
    /// lengths of rows are measured again.
    ///
    /// # Errors
    /// When a device fails.
    pub(crate) fn relink_adapter(&mut self, params: &ParamSet) -> Result<()> {
        let exec = self.exec();
        let Trained::Lora(table) = &mut self.trained else { return Ok(()) };
        for ((layer, projection), pair, by) in table.all_decomposed() {
            let weight = &self.weights.layers[layer].linear(projection)?.weight;
            let (a, b) = pair.tensors(params);
            by.norm = dora::weight_norm(exec, weight, &by.squares, a, b, pair.scale)?;
        }
        let rows = table.saved.rows.clone();
        let slots: Vec<(Slot, usize)> =
            table.saved.slots.iter().map(|&(slot, index, _)| (slot, index)).collect();
        for (slot, rows, _) in rows {
            self.write_rows(slot, &rows.ids, &params.params[rows.index].tensor)?;
        }
        if slots.is_empty() {
            return Ok(());
        }
        for (slot, index) in slots {
            self.set(slot, Some(params.params[index].tensor.clone()));
        }
        self.normalize_head()
    }

    /// Runs `f` on this decoder without its adapter: the base, as a reference model.
    ///
    /// # Errors
    /// When rows of a table can't be written.
    pub fn with_adapter_off<T>(&mut self, f: impl FnOnce(&Decoder) -> T) -> Result<T> {
        let rows = self.rows_now()?;
        let trained = std::mem::replace(&mut self.trained, Trained::Nothing);
        let mut kept = Vec::new();
        let normalized_head = self.normalized_head.clone();
        if let Trained::Lora(table) = &trained {
            for (slot, rows, base) in &table.saved.rows {
                self.write_rows(*slot, &rows.ids, base)?;
            }
            for (slot, _, base) in &table.saved.slots {
                kept.push((*slot, self.weights.get(*slot).cloned()));
                self.set(*slot, base.clone());
            }
            if !kept.is_empty() {
                self.normalized_head = table.saved.normalized_head.clone();
            }
        }
        let result = f(self);
        for (slot, tensor) in kept {
            self.set(slot, tensor);
        }
        for (slot, ids, values) in rows {
            self.write_rows(slot, &ids, &values)?;
        }
        self.normalized_head = normalized_head;
        self.trained = trained;
        Ok(result)
    }

    /// Runs `f` on this decoder with other values of its adapter: those of `params`, which `f` is to
    /// give to the decoder too.
    ///
    /// # Errors
    /// When what follows from the parameters can't be made.
    pub fn with_adapter_of<T>(
        &mut self,
        params: &ParamSet,
        f: impl FnOnce(&Decoder) -> T,
    ) -> Result<T> {
        let rows = self.rows_now()?;
        let Trained::Lora(table) = &self.trained else { return Ok(f(self)) };
        let slots: Vec<Slot> = table.saved.slots.iter().map(|&(slot, ..)| slot).collect();
        let kept: Vec<_> =
            slots.iter().map(|&slot| (slot, self.weights.get(slot).cloned())).collect();
        let (trained, normalized_head) = (self.trained.clone(), self.normalized_head.clone());
        self.relink_adapter(params)?;
        let result = f(self);
        for (slot, tensor) in kept {
            self.set(slot, tensor);
        }
        for (slot, ids, values) in rows {
            self.write_rows(slot, &ids, &values)?;
        }
        (self.trained, self.normalized_head) = (trained, normalized_head);
        Ok(result)
    }
}

/// A copy of a module's values that is trained: f32, on its own memory.
///
/// # Errors
/// When a device fails.
pub(crate) fn trained_copy(tensor: &Tensor) -> Result<Tensor> {
    tensor.to_dtype(DType::F32)?.copy()
}
