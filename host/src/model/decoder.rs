//! The decoder: embedding, blocks, final norm and head, forward and backward.
//!
//! Works on sequences laid end to end ([`TokenBatch`]); knows neither files nor losses beyond
//! per-token log-probabilities. Frozen weights get no gradient, and nothing below the lowest
//! trained layer is differentiated.

use candle_core::{Device, Result, Tensor};

use super::batch::TokenBatch;
use super::block::{self, BlockContext, BlockParams};
use super::lora::LoraTable;
use super::params::{GradSet, ParamSet};
use super::projection::Context;
use super::rope_freq::inverse_frequencies;
use super::spec::DecoderSpec;
use super::weights::Weights;
use crate::ops::{self, Exec, rms_norm, rope};
use crate::rng::mix64;

/// Where full fine-tuning puts the decoder's gradients.
#[derive(Clone, Debug, Default)]
pub struct TrainedWeights {
    /// Embedding (and head, when tied).
    pub embed: Option<usize>,
    /// Blocks.
    pub blocks: Vec<BlockParams>,
    /// Norm before the head.
    pub final_norm: Option<usize>,
    /// Head, when it is a matrix of its own.
    pub lm_head: Option<usize>,
}

/// What is trained: nothing, LoRA pairs, or the weights themselves.
#[derive(Clone, Debug)]
pub enum Trained {
    /// Evaluation and generation of a plain model.
    Nothing,
    /// LoRA pairs.
    Lora(LoraTable),
    /// Every weight.
    Full(TrainedWeights),
}

impl Trained {
    pub(super) fn lora(&self) -> Option<&LoraTable> {
        match self {
            Trained::Lora(table) => Some(table),
            _ => None,
        }
    }

    pub(super) fn weights(&self) -> Option<&TrainedWeights> {
        match self {
            Trained::Full(weights) => Some(weights),
            _ => None,
        }
    }
}

/// A decoder with its weights on one device.
pub struct Decoder {
    /// What it is.
    pub spec: DecoderSpec,
    /// Its weights.
    pub weights: Weights,
    /// What is trained.
    pub trained: Trained,
    /// Keep only each block's input and compute the rest again in the backward.
    pub gradient_checkpointing: bool,
    exec: Exec,
    device: Device,
    rope: rope::Table,
    max_positions: usize,
}

/// What one block left for the backward.
enum BlockTape {
    Saved(Box<block::Saved>),
    /// Gradient checkpointing: the input alone.
    Input(Tensor),
}

/// What a forward left for its backward.
pub struct Tape {
    blocks: Vec<BlockTape>,
    /// Output of the last block, `[tokens, hidden]`.
    pub(super) hidden: Tensor,
    dropout_key: Option<u64>,
}

impl Decoder {
    /// A decoder that can see `max_positions` positions of a sequence.
    ///
    /// # Errors
    /// When the rotation table can't be made on `device`.
    pub fn new(
        spec: DecoderSpec,
        weights: Weights,
        device: &Device,
        max_positions: usize,
    ) -> Result<Self> {
        let rope = rope::Table::new(
            &inverse_frequencies(&spec.rope, spec.head_dim),
            max_positions,
            device,
        )?;
        Ok(Self {
            spec,
            weights,
            trained: Trained::Nothing,
            gradient_checkpointing: false,
            exec: Exec::for_device(device),
            device: device.clone(),
            rope,
            max_positions,
        })
    }

    /// Chooses the implementation; tests compare the two.
    pub fn set_exec(&mut self, exec: Exec) {
        self.exec = exec;
    }

    /// The implementation in use.
    pub fn exec(&self) -> Exec {
        self.exec
    }

    /// The device of the weights.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Longest sequence this decoder was made for.
    pub fn max_positions(&self) -> usize {
        self.max_positions
    }

    /// The head's matrix, `[vocab, hidden]`.
    pub fn head_weight(&self) -> &Tensor {
        self.weights.lm_head.as_ref().unwrap_or(&self.weights.embed)
    }

    pub(super) fn block_context<'a>(
        &'a self,
        params: &'a ParamSet,
        layer: usize,
        position_ids: &'a [u32],
        bounds: &'a [usize],
        dropout_key: Option<u64>,
    ) -> BlockContext<'a> {
        let cx = Context { exec: self.exec, params, lora: self.trained.lora(), dropout_key };
        BlockContext { cx, spec: &self.spec, layer, rope: &self.rope, position_ids, bounds }
    }

    pub(super) fn check(&self, batch: &TokenBatch) -> Result<()> {
        let longest = batch.position_ids.iter().max().map_or(0, |&p| p as usize + 1);
        if longest > self.max_positions {
            candle_core::bail!(
                "a sequence of {longest} tokens was given to a decoder made for {}",
                self.max_positions
            );
        }
        if let Some(id) = batch.input_ids.iter().find(|&&id| id as usize >= self.spec.vocab_size) {
            candle_core::bail!(
                "token id {id} is beyond the embedding's {} rows",
                self.spec.vocab_size
            );
        }
        Ok(())
    }

    /// The lowest block that the backward must enter; `None`: nothing is trained.
    fn lowest_trained(&self) -> Option<usize> {
        match &self.trained {
            Trained::Nothing => None,
            Trained::Lora(table) => table.lowest_layer(),
            Trained::Full(_) => Some(0),
        }
    }

    /// The last block's output, `[tokens, hidden]`, before the final norm. Nothing is kept.
    pub fn hidden(&self, params: &ParamSet, batch: &TokenBatch) -> Result<Tensor> {
        self.check(batch)?;
        let mut x = ops::embedding::forward(self.exec, &self.weights.embed, &batch.input_ids)?;
        for (layer, weights) in self.weights.layers.iter().enumerate() {
            let b = self.block_context(params, layer, &batch.position_ids, &batch.bounds, None);
            x = block::forward(&b, weights, &x)?.0;
        }
        Ok(x)
    }

    /// As [`Decoder::hidden`], keeping what the backward needs. `dropout_key` is the key of this
    /// micro-batch's dropout masks; `None` switches dropout off.
    pub fn forward(
        &self,
        params: &ParamSet,
        batch: &TokenBatch,
        dropout_key: Option<u64>,
    ) -> Result<Tape> {
        self.check(batch)?;
        let lowest = self.lowest_trained().unwrap_or(usize::MAX);
        let mut x = ops::embedding::forward(self.exec, &self.weights.embed, &batch.input_ids)?;
        let mut blocks = Vec::with_capacity(self.weights.layers.len());
        for (layer, weights) in self.weights.layers.iter().enumerate() {
            let b =
                self.block_context(params, layer, &batch.position_ids, &batch.bounds, dropout_key);
            let (y, saved) = block::forward(&b, weights, &x)?;
            if layer >= lowest {
                blocks.push(if self.gradient_checkpointing {
                    BlockTape::Input(x)
                } else {
                    BlockTape::Saved(Box::new(saved))
                });
            }
            x = y;
        }
        Ok(Tape { blocks, hidden: x, dropout_key })
    }

    /// Gradients of everything trained below the last block's output. `dhidden [tokens, hidden]`.
    pub fn backward(
        &self,
        params: &ParamSet,
        batch: &TokenBatch,
        tape: Tape,
        dhidden: Tensor,
        grads: &mut GradSet,
    ) -> Result<()> {
        let Some(lowest) = self.lowest_trained() else { return Ok(()) };
        let full = self.trained.weights();
        let untrained = BlockParams::default();
        let Tape { mut blocks, dropout_key, hidden } = tape;
        drop(hidden);
        let mut dy = dhidden;
        for layer in (lowest..self.weights.layers.len()).rev() {
            let weights = &self.weights.layers[layer];
            let b =
                self.block_context(params, layer, &batch.position_ids, &batch.bounds, dropout_key);
            let saved = match blocks.pop() {
                Some(BlockTape::Saved(saved)) => *saved,
                Some(BlockTape::Input(x)) => block::forward(&b, weights, &x)?.1,
                None => candle_core::bail!("the tape holds fewer blocks than the decoder"),
            };
            let trained = full.and_then(|f| f.blocks.get(layer)).unwrap_or(&untrained);
            let want_dx = layer > lowest || full.is_some_and(|f| f.embed.is_some());
            match block::backward(&b, weights, trained, saved, dy, want_dx, grads)? {
                Some(dx) => dy = dx,
                None => return Ok(()),
            }
        }
        if let Some(index) = full.and_then(|f| f.embed) {
            let sum = grads.grads[index].take();
            let vocab = self.spec.vocab_size;
            let grad = ops::embedding::backward(self.exec, &dy, &batch.input_ids, vocab, sum)?;
            grads.grads[index] = Some(grad);
        }
        Ok(())
    }

    /// Runs `f` on this decoder without its LoRA pairs: the base, as a reference model.
    pub fn with_adapter_off<T>(&mut self, f: impl FnOnce(&Decoder) -> T) -> T {
        let trained = std::mem::replace(&mut self.trained, Trained::Nothing);
        let result = f(self);
        self.trained = trained;
        result
    }

    /// Logits `[rows, vocab]` of hidden states `[rows, hidden]` (before the final norm).
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        let (normed, _) =
            rms_norm::forward(self.exec, hidden, &self.weights.final_norm, self.spec.rms_norm_eps)?;
        ops::linear::forward(self.exec, &normed, self.head_weight(), None)
    }

    pub(super) fn embed(&self, ids: &[u32]) -> Result<Tensor> {
        ops::embedding::forward(self.exec, &self.weights.embed, ids)
    }
}

/// Key of one micro-batch's dropout masks.
pub fn dropout_key(seed: u64, global_step: u64, micro_step: u32) -> u64 {
    mix64(mix64(seed ^ 0xD509_0A7B_0000_0001).wrapping_add(global_step)) ^ mix64(micro_step.into())
}
