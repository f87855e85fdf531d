//! What the decoder predicts at chosen positions: normed hidden states, log-probabilities of
//! targets, and the backward from either.

use candle_core::{Result, Tensor};

use super::batch::{Target, TokenBatch};
use super::decoder::{Decoder, Tape, TokenRows};
use super::norm;
use super::params::{GradSet, ParamSet};
use crate::ops::{self, head, linear};

/// Scores of a batch's trained positions.
#[derive(Debug, Default)]
pub struct CausalScores {
    /// The positions scored.
    pub targets: Vec<Target>,
    /// Their scores.
    pub scores: head::Scores,
    /// The loss that balances the load of experts, before its weight, where it is asked for.
    pub balance: Option<f64>,
}

/// A forward that was kept for its backward, with the normed hidden states at some positions.
pub struct Kept {
    tape: Tape,
    positions: Vec<u32>,
    rows: Tensor,
    stats: norm::Saved,
    /// `[positions, hidden]`, in the order asked for.
    pub normed: Tensor,
}

/// A forward whose trained positions are scored, and what its backward needs.
pub struct Scored {
    kept: Kept,
    /// The positions scored.
    pub targets: Vec<Target>,
    temperature: f64,
}

impl Scored {
    /// Normed hidden states at the targets' positions, `[targets, hidden]`.
    pub fn normed(&self) -> &Tensor {
        &self.kept.normed
    }
}

pub(super) fn positions_of(targets: &[Target]) -> Vec<u32> {
    targets.iter().map(|t| t.position).collect()
}

fn tokens_of(targets: &[Target]) -> Vec<u32> {
    targets.iter().map(|t| t.token).collect()
}

/// Dividing the head's input by the temperature divides the logits by it.
pub(super) fn cooled(normed: &Tensor, temperature: f64) -> Result<Tensor> {
    if temperature == 1.0 { Ok(normed.clone()) } else { normed / temperature }
}

impl Decoder {
    fn normed_rows(
        &self,
        hidden: &Tensor,
        positions: &[u32],
    ) -> Result<(Tensor, norm::Saved, Tensor)> {
        let rows = hidden.index_select(&Tensor::new(positions, self.device())?, 0)?;
        let (normed, stats) = self.norms().forward(&self.weights.final_norm, &rows)?;
        Ok((rows, stats, normed))
    }

    /// Normed hidden states at `positions` (rows of `batch`), `[positions, hidden]`. Nothing is
    /// kept.
    pub fn hidden_at(
        &self,
        params: &ParamSet,
        batch: &TokenBatch,
        positions: Vec<u32>,
    ) -> Result<Tensor> {
        let hidden = self.hidden(params, batch)?;
        Ok(self.normed_rows(&hidden, &positions)?.2)
    }

    /// As [`Decoder::hidden_at`], with what [`Decoder::backward_at`] needs.
    pub fn forward_at(
        &self,
        params: &ParamSet,
        batch: &TokenBatch,
        positions: Vec<u32>,
        dropout_key: Option<u64>,
    ) -> Result<Kept> {
        let tape = self.forward(params, batch, dropout_key)?;
        let (rows, stats, normed) = self.normed_rows(&tape.hidden, &positions)?;
        Ok(Kept { tape, positions, rows, stats, normed })
    }

    /// Gradients of everything trained below the normed states of [`Decoder::forward_at`].
    /// `dnormed [positions, hidden]`.
    pub fn backward_at(
        &self,
        params: &ParamSet,
        batch: &TokenBatch,
        kept: Kept,
        dnormed: &Tensor,
        grads: &mut GradSet,
    ) -> Result<()> {
        let Kept { tape, positions, rows, stats, normed } = kept;
        drop(normed);
        let trained = self.trained.weights().map(|f| f.final_norm).unwrap_or_default();
        let norm = &self.weights.final_norm;
        let drows = self.norms().backward(norm, trained, &rows, &stats, dnormed, grads)?;
        let dhidden = ops::embedding::spread(self.exec(), &drows, &positions, tape.hidden.dim(0)?)?;
        drop((rows, drows));
        self.backward(params, batch, tape, dhidden, grads)
    }

    /// Scores of every trained position of `batch`, without a backward.
    pub fn score(&self, params: &ParamSet, batch: &TokenBatch) -> Result<CausalScores> {
        self.score_at(params, batch, 1.0)
    }

    /// As [`Decoder::score`], with the logits divided by `temperature`.
    pub fn score_at(
        &self,
        params: &ParamSet,
        batch: &TokenBatch,
        temperature: f64,
    ) -> Result<CausalScores> {
        let scored = self.score_with_states(params, batch, temperature)?;
        Ok(scored.map_or_else(CausalScores::default, |(scores, _)| scores))
    }

    /// As [`Decoder::score_at`], and the normed states that predict, `[targets, hidden]`. `None`:
    /// nothing is trained in `batch`.
    pub fn score_with_states(
        &self,
        params: &ParamSet,
        batch: &TokenBatch,
        temperature: f64,
    ) -> Result<Option<(CausalScores, Tensor)>> {
        let targets = batch.targets();
        if targets.is_empty() {
            return Ok(None);
        }
        let normed = self.hidden_at(params, batch, positions_of(&targets))?;
        let input = cooled(&normed, temperature)?;
        let scores = head::score(self.exec(), &input, self.head(), &tokens_of(&targets))?;
        Ok(Some((CausalScores { targets, scores, balance: None }, normed)))
    }

    /// Forward and backward of a loss whose derivative by each target's log-probability is
    /// known beforehand (`dlogprob`), as the causal loss's is: `-weight / denominator`.
    pub fn score_and_backward(
        &self,
        params: &ParamSet,
        batch: &TokenBatch,
        dropout_key: Option<u64>,
        dlogprob: impl Fn(&Target) -> f32,
        grads: &mut GradSet,
    ) -> Result<CausalScores> {
        let targets = batch.targets();
        if targets.is_empty() {
            return Ok(CausalScores::default());
        }
        let mut kept = self.forward_at(params, batch, positions_of(&targets), dropout_key)?;
        let dlogprobs: Vec<f32> = targets.iter().map(dlogprob).collect();
        let balance = self.spec.mixture.as_ref().and_then(|m| m.balance).map(|weight| {
            // The batch's part in the update.
            let share: f64 = dlogprobs.iter().map(|&d| -f64::from(d)).sum();
            kept.tape.balance = weight * share;
            kept.tape.load.loss()
        });
        let scored = Scored { kept, targets, temperature: 1.0 };
        let targets = scored.targets.clone();
        let scores = self.head_and_below(params, batch, scored, &dlogprobs, None, grads)?;
        Ok(CausalScores { targets, scores, balance })
    }

    /// Scores of every trained position with what [`Decoder::backward_scored`] needs, for losses
    /// whose derivative depends on the log-probabilities; logits are divided by `temperature`.
    /// `None`: nothing is trained in `batch`.
    pub fn forward_scored(
        &self,
        params: &ParamSet,
        batch: &TokenBatch,
        dropout_key: Option<u64>,
        temperature: f64,
    ) -> Result<Option<(head::Scores, Scored)>> {
        let targets = batch.targets();
        if targets.is_empty() {
            return Ok(None);
        }
        let kept = self.forward_at(params, batch, positions_of(&targets), dropout_key)?;
        let normed = cooled(&kept.normed, temperature)?;
        let scores = head::score(self.exec(), &normed, self.head(), &tokens_of(&targets))?;
        Ok(Some((scores, Scored { kept, targets, temperature })))
    }

    /// The backward of [`Decoder::forward_scored`]: `dlogprobs[i] = d loss / d logprob_i`, and,
    /// where another head reads the same states, its gradient `dnormed [targets, hidden]`. The
    /// head's logits are made again, so that `[targets, vocab]` never exists.
    pub fn backward_scored(
        &self,
        params: &ParamSet,
        batch: &TokenBatch,
        scored: Scored,
        dlogprobs: &[f32],
        dnormed: Option<&Tensor>,
        grads: &mut GradSet,
    ) -> Result<()> {
        self.head_and_below(params, batch, scored, dlogprobs, dnormed, grads).map(|_| ())
    }

    /// Mean over the vocabulary of the logits that states `normed [n, hidden]` predict, `[n]`.
    /// Without a cap on the logits the mean of products is the product with the mean row.
    pub fn mean_logits(&self, normed: &Tensor) -> Result<Vec<f32>> {
        let head = self.head();
        let vocab = head.weight.dim(0)?;
        if head.softcap.is_some() {
            let bytes = head::chunk_bytes(self.device());
            let chunks = head::chunks_of(normed.dim(0)?, vocab, bytes);
            let means = chunks.into_iter().map(|(start, rows)| {
                head.logits(self.exec(), &normed.narrow(0, start, rows)?)?.mean(1)?.to_vec1()
            });
            return Ok(means.collect::<Result<Vec<Vec<f32>>>>()?.concat());
        }
        let shares = Tensor::full(1.0 / vocab as f32, (1, vocab), self.device())?;
        let row = linear::backward_input(self.exec(), &shares, head.weight)?;
        normed.matmul(&row.t()?)?.squeeze(1)?.to_vec1()
    }

    /// Index of the head's weight, or of its trained rows, among the parameters.
    pub(super) fn head_index(&self) -> Option<usize> {
        let full = self.trained.weights();
        let whole =
            full.and_then(|f| if self.weights.lm_head.is_some() { f.lm_head } else { f.embed });
        whole.or_else(|| self.head_rows().map(|rows| rows.index))
    }

    /// Rows of the head that are trained alone.
    pub(super) fn head_rows(&self) -> Option<&TokenRows> {
        let full = self.trained.weights()?;
        match self.weights.lm_head.is_some() {
            true => full.head_rows.as_ref(),
            false => full.embed_rows.as_ref(),
        }
    }

    fn head_and_below(
        &self,
        params: &ParamSet,
        batch: &TokenBatch,
        scored: Scored,
        dlogprobs: &[f32],
        dnormed: Option<&Tensor>,
        grads: &mut GradSet,
    ) -> Result<head::Scores> {
        let Scored { kept, targets, temperature } = scored;
        let head_index = self.head_index();
        let (scores, head_grads) = head::score_and_backward(
            self.exec(),
            &cooled(&kept.normed, temperature)?,
            self.head(),
            &tokens_of(&targets),
            dlogprobs,
            head_index.is_some(),
        )?;
        self.add_head_gradient(grads, head_grads.weight)?;
        let mut gradient = cooled(&head_grads.hidden, temperature)?;
        if let Some(other) = dnormed {
            gradient = (gradient + other)?;
        }
        self.backward_at(params, batch, kept, &gradient, grads)?;
        // Only now: on a GPU the backward is on its way meanwhile.
        scores.get()
    }
}
