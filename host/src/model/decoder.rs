//! The decoder: embedding, blocks, final norm and head, forward and backward.
//!
//! Works on sequences laid end to end ([`TokenBatch`]); knows neither files nor losses beyond
//! per-token log-probabilities. Frozen weights get no gradient, and nothing below the lowest
//! trained layer is differentiated.

use candle_core::{Device, Result, Tensor};

use super::batch::TokenBatch;
use super::block::{self, Balance, BlockContext, BlockParams};
use super::lora::LoraTable;
use super::mixture::Load;
use super::norm::{self, NormParams, Norms};
use super::params::{GradSet, ParamSet};
use super::places::{self, Places, Tables};
use super::projection::{Context, Masks};
use super::spec::DecoderSpec;
use super::weights::Weights;
use crate::ops::head::Head;
use crate::ops::{self, Exec};
use crate::rng::mix64;

/// Where full fine-tuning puts the decoder's gradients.
#[derive(Clone, Debug, Default)]
pub struct TrainedWeights {
    /// Embedding (and head, when tied).
    pub embed: Option<usize>,
    /// Learned positions.
    pub positions: Option<usize>,
    /// Norm over the embedding.
    pub embed_norm: NormParams,
    /// Blocks.
    pub blocks: Vec<BlockParams>,
    /// Norm before the head.
    pub final_norm: NormParams,
    /// Head, when it is a matrix of its own.
    pub lm_head: Option<usize>,
    /// Rows of the embedding that are trained alone.
    pub embed_rows: Option<TokenRows>,
    /// Rows of the head, when it is a matrix of its own.
    pub head_rows: Option<TokenRows>,
}

/// Rows of a table that are trained alone.
#[derive(Clone, Debug)]
pub struct TokenRows {
    /// Which.
    pub ids: Vec<u32>,
    /// Index of the parameter, `[ids, hidden]`.
    pub index: usize,
}

/// What is trained: nothing, LoRA pairs, or the weights themselves.
#[derive(Clone, Debug)]
pub enum Trained {
    /// Evaluation and generation of a plain model.
    Nothing,
    /// LoRA pairs, and modules beside them.
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
            Trained::Lora(table) => Some(&table.saved.gradients),
            Trained::Nothing => None,
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
    tables: Tables,
    /// The head with rows of length 1, where the family's is so.
    pub(super) normalized_head: Option<Tensor>,
    /// NEFTune's alpha (Jain et al. 2023, arXiv 2310.05914): noise on the embeddings in training; 0:
    /// none.
    pub neftune_alpha: f64,
    max_positions: usize,
}

/// What one block left for the backward.
enum BlockTape {
    Saved(Box<block::Saved>),
    /// Gradient checkpointing: the input alone.
    Input(Tensor),
}

/// The embedding before its norm.
struct Embedded {
    x: Tensor,
    stats: norm::Saved,
}

/// What a forward left for its backward.
pub struct Tape {
    places: Places,
    embedded: Option<Embedded>,
    blocks: Vec<BlockTape>,
    /// Output of the last block, `[tokens, hidden]`.
    pub(super) hidden: Tensor,
    dropout: Option<Masks>,
    /// How all layers' experts shared the tokens.
    pub(super) load: Load,
    /// Weight of the loss that balances it, in the backward.
    pub(super) balance: f64,
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
        let tables = Tables::new(&spec, max_positions, device)?;
        let exec = Exec::new(device, weights.embed.dtype());
        let mut decoder = Self {
            spec,
            weights,
            trained: Trained::Nothing,
            gradient_checkpointing: false,
            exec,
            device: device.clone(),
            tables,
            normalized_head: None,
            neftune_alpha: 0.0,
            max_positions,
        };
        decoder.normalize_head()?;
        Ok(decoder)
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

    /// What makes logits of normed states.
    pub fn head(&self) -> Head<'_> {
        let weight = self.normalized_head.as_ref().unwrap_or(self.head_weight());
        let rows = self.head_rows().map(|rows| rows.ids.as_slice());
        Head { weight, softcap: self.spec.final_softcap, rows }
    }

    /// The head's matrix as it is trained and saved, `[vocab, hidden]`.
    pub(super) fn head_weight(&self) -> &Tensor {
        self.weights.lm_head.as_ref().unwrap_or(&self.weights.embed)
    }

    /// Makes the head with rows of length 1 again, after its matrix changed.
    pub(super) fn normalize_head(&mut self) -> Result<()> {
        if self.spec.normalized_head {
            let weight = self.head_weight();
            let lengths = ops::head::row_lengths(weight)?;
            let wide = weight.to_dtype(candle_core::DType::F32)?.broadcast_div(&lengths)?;
            self.normalized_head = Some(wide.to_dtype(weight.dtype())?);
        }
        Ok(())
    }

    /// Adds the gradient of the head's matrix, given by the matrix in use.
    pub(super) fn add_head_gradient(
        &self,
        grads: &mut GradSet,
        grad: Option<Tensor>,
    ) -> Result<()> {
        let grad = match (grad, &self.normalized_head) {
            (Some(grad), Some(unit)) => {
                Some(ops::head::through_unit_rows(&grad, unit, self.head_weight())?)
            }
            (grad, _) => grad,
        };
        grads.add_optional(self.head_index(), grad)
    }

    pub(super) fn block_context<'a>(
        &'a self,
        params: &'a ParamSet,
        layer: usize,
        places: &'a Places,
        dropout: Option<&'a Masks>,
    ) -> BlockContext<'a> {
        let cx = Context { exec: self.exec, params, lora: self.trained.lora(), dropout };
        BlockContext { cx, norms: self.norms(), spec: &self.spec, layer, places, balance: None }
    }

    pub(super) fn norms(&self) -> Norms {
        Norms::new(self.exec, &self.spec)
    }

    /// Where the tokens of a batch of whole sequences stand.
    pub(super) fn places(&self, batch: &TokenBatch) -> Result<Places> {
        self.tables.places(&self.spec, batch, &self.contexts(batch))
    }

    /// The contexts of whole sequences; empty where the family has none.
    pub(super) fn contexts(&self, batch: &TokenBatch) -> Vec<places::Context> {
        let Some(prefix) = &self.spec.prefix else { return Vec::new() };
        let sequences = batch.bounds.windows(2);
        sequences.map(|b| places::Context::of(&batch.input_ids[b[0]..b[1]], prefix)).collect()
    }

    /// Where single tokens stand that continue sequences with the given contexts.
    pub(super) fn places_of_next(
        &self,
        batch: &TokenBatch,
        contexts: &[places::Context],
    ) -> Result<Places> {
        self.tables.places(&self.spec, batch, contexts)
    }

    /// Embeddings of `batch` as the first block takes them, `[tokens, hidden]`, and what the backward
    /// needs of them. `masks` keys the noise on them; `None`: no noise.
    fn embedded(
        &self,
        batch: &TokenBatch,
        masks: Option<&Masks>,
    ) -> Result<(Tensor, Option<Embedded>)> {
        let mut x = ops::embedding::forward(self.exec, &self.weights.embed, &batch.input_ids)?;
        if let (Some(Masks { key, rows }), true) = (masks, self.neftune_alpha > 0.0) {
            let noise = ops::neftune::Neftune { alpha: self.neftune_alpha, key: *key, rows };
            x = ops::neftune::add(x, &batch.bounds, noise)?;
        }
        if self.spec.embed_scale != 1.0 {
            x = (x * self.spec.embed_scale)?;
        }
        if let Some(table) = &self.weights.positions {
            let positions = ops::embedding::forward(self.exec, table, &batch.position_ids)?;
            x = ops::elementwise::add(self.exec, x, &positions)?;
        }
        let Some(norm) = &self.weights.embed_norm else { return Ok((x, None)) };
        let (y, stats) = self.norms().forward(norm, &x)?;
        Ok((y, Some(Embedded { x, stats })))
    }

    pub(super) fn check(&self, batch: &TokenBatch) -> Result<()> {
        let longest = batch.position_ids.iter().max().map_or(0, |&p| p as usize + 1);
        let learned = self.weights.positions.as_ref().map(|t| t.dim(0)).transpose()?;
        if let Some(most) = learned.filter(|&most| longest > most) {
            candle_core::bail!(
                "a sequence of {longest} tokens was given to a model that has learned {most} positions"
            );
        }
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

    /// Indices of the trained parameters of each block.
    pub fn trained_by_block(&self) -> Vec<Vec<usize>> {
        let of = |layer: usize| match &self.trained {
            Trained::Nothing => Vec::new(),
            Trained::Lora(table) => table.indices(layer),
            Trained::Full(weights) => {
                weights.blocks.get(layer).map_or_else(Vec::new, BlockParams::indices)
            }
        };
        (0..self.weights.layers.len()).map(of).collect()
    }

    /// The last block's output, `[tokens, hidden]`, before the final norm. Nothing is kept.
    pub fn hidden(&self, params: &ParamSet, batch: &TokenBatch) -> Result<Tensor> {
        self.check(batch)?;
        let places = self.places(batch)?;
        let mut x = self.embedded(batch, None)?.0;
        for (layer, weights) in self.weights.layers.iter().enumerate() {
            let b = self.block_context(params, layer, &places, None);
            x = block::forward(&b, weights, &x)?.0;
        }
        Ok(x)
    }

    /// As [`Decoder::hidden`], keeping what the backward needs. `dropout_key` is the key of this
    /// micro-batch's dropout masks and noise; `None` switches both off.
    pub fn forward(
        &self,
        params: &ParamSet,
        batch: &TokenBatch,
        dropout_key: Option<u64>,
    ) -> Result<Tape> {
        self.check(batch)?;
        let lowest = self.lowest_trained().unwrap_or(usize::MAX);
        let places = self.places(batch)?;
        let dropout = dropout_key.map(|key| Masks { key, rows: batch.token_names() });
        let (mut x, embedded) = self.embedded(batch, dropout.as_ref())?;
        let mut blocks = Vec::with_capacity(self.weights.layers.len());
        let mut load = Load::default();
        for (layer, weights) in self.weights.layers.iter().enumerate() {
            let b = self.block_context(params, layer, &places, dropout.as_ref());
            let (y, saved) = block::forward(&b, weights, &x)?;
            if let Some(own) = saved.load() {
                load.add(own);
            }
            if layer >= lowest {
                blocks.push(if self.gradient_checkpointing {
                    BlockTape::Input(x)
                } else {
                    BlockTape::Saved(Box::new(saved))
                });
            }
            x = y;
        }
        Ok(Tape { places, embedded, blocks, hidden: x, dropout, load, balance: 0.0 })
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
        let Tape { places, embedded, mut blocks, dropout, hidden, load, balance } = tape;
        drop(hidden);
        let balance = (balance != 0.0).then(|| Balance {
            slopes: load.slopes().into_iter().map(|slope| balance * slope).collect(),
        });
        let mut dy = dhidden;
        for layer in (lowest..self.weights.layers.len()).rev() {
            let weights = &self.weights.layers[layer];
            let mut b = self.block_context(params, layer, &places, dropout.as_ref());
            b.balance = balance.as_ref();
            let saved = match blocks.pop() {
                Some(BlockTape::Saved(saved)) => *saved,
                Some(BlockTape::Input(x)) => block::forward(&b, weights, &x)?.1,
                None => candle_core::bail!("the tape holds fewer blocks than the decoder"),
            };
            let trained = full.and_then(|f| f.blocks.get(layer)).unwrap_or(&untrained);
            let want_dx = layer > lowest || full.is_some_and(TrainedWeights::before_blocks);
            let dx = block::backward(&b, weights, trained, saved, dy, want_dx, grads)?;
            grads.block_done(layer)?;
            match dx {
                Some(dx) => dy = dx,
                None => return Ok(()),
            }
        }
        match full {
            Some(full) => self.backward_embedded(batch, full, embedded, dy, grads),
            None => Ok(()),
        }
    }

    /// The backward of [`Decoder::embedded`].
    fn backward_embedded(
        &self,
        batch: &TokenBatch,
        full: &TrainedWeights,
        embedded: Option<Embedded>,
        dy: Tensor,
        grads: &mut GradSet,
    ) -> Result<()> {
        let mut dx = match (embedded, &self.weights.embed_norm) {
            (Some(Embedded { x, stats }), Some(norm)) => {
                self.norms().backward(norm, full.embed_norm, &x, &stats, &dy, grads)?
            }
            _ => dy,
        };
        let mut add = |index: Option<usize>, table: &Tensor, dx: &Tensor, ids: &[u32]| {
            let Some(index) = index else { return Ok(()) };
            let sum = grads.grads[index].take();
            let grad = ops::embedding::backward(self.exec, dx, ids, table.dim(0)?, sum)?;
            grads.grads[index] = Some(grad);
            Ok::<_, candle_core::Error>(())
        };
        if let Some(table) = &self.weights.positions {
            add(full.positions, table, &dx, &batch.position_ids)?;
        }
        if self.spec.embed_scale != 1.0 {
            dx = (dx * self.spec.embed_scale)?;
        }
        add(full.embed, &self.weights.embed, &dx, &batch.input_ids)?;
        let Some(rows) = &full.embed_rows else { return Ok(()) };
        let row_of = |id: &u32| rows.ids.iter().position(|own| own == id);
        let found =
            batch.input_ids.iter().zip(0u32..).filter_map(|(id, at)| Some((at, row_of(id)?)));
        let (at, of): (Vec<u32>, Vec<u32>) = found.map(|(at, row)| (at, row as u32)).unzip();
        if at.is_empty() {
            return Ok(());
        }
        let dx = dx.index_select(&Tensor::new(at, dx.device())?, 0)?;
        let sum = grads.grads[rows.index].take();
        let grad = ops::embedding::backward(self.exec, &dx, &of, rows.ids.len(), sum)?;
        grads.grads[rows.index] = Some(grad);
        Ok(())
    }

    /// Logits `[rows, vocab]` of hidden states `[rows, hidden]` (before the final norm).
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        let (normed, _) = self.norms().forward(&self.weights.final_norm, hidden)?;
        self.head().logits(self.exec, &normed)
    }

    pub(super) fn embed(&self, batch: &TokenBatch) -> Result<Tensor> {
        Ok(self.embedded(batch, None)?.0)
    }
}

/// Key of one update's dropout masks.
pub fn dropout_key(seed: u64, global_step: u64) -> u64 {
    mix64(mix64(seed ^ 0xD509_0A7B_0000_0001).wrapping_add(global_step))
}
