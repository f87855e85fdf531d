//! The language-model head: linear + log-softmax + gather in chunks, over trained positions
//! only, so that `[tokens, vocab]` never exists.

use candle_core::{D, DType, Device, Result, Tensor};
use rayon::prelude::*;

use super::cpu::head::{RowScore, score_row};
use super::cpu::slices::modify;
use super::{Exec, elementwise, linear};

/// Logits held at a time, bytes.
pub const CHUNK_BYTES: usize = 32 << 20;
/// The same on a GPU, which needs large products to be busy.
pub const DEVICE_CHUNK_BYTES: usize = 512 << 20;

/// Logits that are held at a time on `device`, bytes.
pub fn chunk_bytes(device: &Device) -> usize {
    if device.is_cpu() { CHUNK_BYTES } else { DEVICE_CHUNK_BYTES }
}

/// What turns normed states `[n, hidden]` into logits `[n, vocab]`.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// `[vocab, hidden]`, f32 or bf16.
    pub weight: &'a Tensor,
    /// `cap · tanh(logit / cap)` on the logits.
    pub softcap: Option<f64>,
    /// Rows of the weight whose gradient is wanted, alone and in this order; `None`: all.
    pub rows: Option<&'a [u32]>,
}

impl<'a> From<&'a Tensor> for Head<'a> {
    fn from(weight: &'a Tensor) -> Self {
        Self { weight, softcap: None, rows: None }
    }
}

impl Head<'_> {
    /// Logits of `x [n, hidden]`.
    ///
    /// # Errors
    /// When shapes don't fit or a device fails.
    pub fn logits(&self, exec: Exec, x: &Tensor) -> Result<Tensor> {
        let logits = linear::forward(exec, x, self.weight, None)?;
        match self.softcap {
            None => Ok(logits),
            Some(cap) => elementwise::softcap(exec, logits, cap),
        }
    }

    /// What the backward needs of logits that are about to be overwritten.
    pub(super) fn kept(&self, logits: &Tensor) -> Result<Option<Tensor>> {
        self.softcap.map(|_| logits.copy()).transpose()
    }

    /// Gradients of `x`, and of the weight or its rows where it is wanted, from `dlogits`.
    pub(super) fn backward(
        &self,
        exec: Exec,
        dlogits: Tensor,
        kept: Option<&Tensor>,
        x: &Tensor,
        want_weight: bool,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let dlogits = match (self.softcap, kept) {
            (Some(cap), Some(capped)) => elementwise::softcap_backward(exec, dlogits, capped, cap)?,
            _ => dlogits,
        };
        let dx = linear::backward_input(exec, &dlogits, self.weight)?;
        let dweight = match want_weight {
            true => Some(match self.rows {
                None => linear::backward_weight(exec, &dlogits, x)?,
                Some(rows) => {
                    let rows = Tensor::new(rows, dlogits.device())?;
                    linear::backward_weight(exec, &dlogits.index_select(&rows, 1)?, x)?
                }
            }),
            false => None,
        };
        Ok((dx, dweight))
    }
}

/// Euclidean lengths of the rows of `weight [vocab, hidden]`, `[vocab, 1]`, f32.
///
/// # Errors
/// When a device fails.
pub fn row_lengths(weight: &Tensor) -> Result<Tensor> {
    // The floor is PyTorch's `normalize`.
    weight.to_dtype(DType::F32)?.sqr()?.sum_keepdim(1)?.sqrt()?.maximum(1e-12f32)
}

/// The gradient by `weight` from the one by `unit = weight / |weight|`, row by row.
///
/// # Errors
/// When shapes don't fit or a device fails.
pub fn through_unit_rows(grad: &Tensor, unit: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let unit = unit.to_dtype(DType::F32)?;
    let along = (grad * &unit)?.sum_keepdim(1)?;
    (grad - unit.broadcast_mul(&along)?)?.broadcast_div(&row_lengths(weight)?)
}

/// Results of scoring `n` positions.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Scores {
    /// Log-probability of each target, `[n]`, nats.
    pub logprobs: Vec<f32>,
    /// Entropy of each predicted distribution, `[n]`, nats.
    pub entropies: Vec<f32>,
    /// Whether the target was the most likely token, `[n]`.
    pub correct: Vec<bool>,
}

impl Scores {
    fn extend(&mut self, rows: Vec<RowScore>) {
        for row in rows {
            self.logprobs.push(row.logprob);
            self.entropies.push(row.entropy);
            self.correct.push(row.correct);
        }
    }
}

/// Scores that may still be on their way: on a GPU nothing waits for them until [`Pending::get`].
#[derive(Debug, Default)]
pub struct Pending(Vec<Part>);

/// Scores of a chunk.
#[derive(Debug)]
enum Part {
    Known(Vec<RowScore>),
    /// Log-probability, entropy and 1 where the target was the most likely token, `[n, 3]`, f32.
    OnDevice(Tensor),
}

impl Pending {
    /// The scores.
    ///
    /// # Errors
    /// When a device fails.
    pub fn get(self) -> Result<Scores> {
        let mut scores = Scores::default();
        for part in self.0 {
            scores.extend(match part {
                Part::Known(rows) => rows,
                Part::OnDevice(rows) => {
                    let row = |row: Vec<f32>| RowScore {
                        logprob: row[0],
                        entropy: row[1],
                        correct: row[2] != 0.0,
                    };
                    rows.to_vec2::<f32>()?.into_iter().map(row).collect()
                }
            });
        }
        Ok(scores)
    }
}

/// Gradients of the head.
#[derive(Debug)]
pub struct Grads {
    /// `[n, hidden]`.
    pub hidden: Tensor,
    /// `[vocab, hidden]`, when wanted.
    pub weight: Option<Tensor>,
}

/// Log-probabilities alone. `hidden [n, hidden]` at the trained positions, `targets [n]`.
///
/// # Errors
/// When shapes don't fit, a target is beyond the vocabulary, or a device fails.
pub fn score(exec: Exec, hidden: &Tensor, head: Head<'_>, targets: &[u32]) -> Result<Scores> {
    let mut parts = Vec::new();
    for (start, rows) in chunks(hidden, head.weight, targets)? {
        let targets = &targets[start..start + rows];
        let logits = head.logits(exec, &hidden.narrow(0, start, rows)?)?;
        parts.push(score_chunk(exec, logits, targets, None)?.0);
    }
    Pending(parts).get()
}

/// Forward and backward in one pass, for objectives whose derivative by each log-probability
/// is known beforehand: `dlogprobs[i] = d loss / d logprob_i`.
///
/// # Errors
/// As [`score`].
pub fn score_and_backward(
    exec: Exec,
    hidden: &Tensor,
    head: Head<'_>,
    targets: &[u32],
    dlogprobs: &[f32],
    want_weight: bool,
) -> Result<(Pending, Grads)> {
    if dlogprobs.len() != targets.len() {
        candle_core::bail!("{} derivatives for {} targets", dlogprobs.len(), targets.len());
    }
    let mut scores = Vec::new();
    let mut dhidden = Vec::new();
    let mut dweight: Option<Tensor> = None;
    for (start, rows) in chunks(hidden, head.weight, targets)? {
        let x = hidden.narrow(0, start, rows)?;
        let logits = head.logits(exec, &x)?;
        let kept = head.kept(&logits)?;
        let (rows_scored, dlogits) = score_chunk(
            exec,
            logits,
            &targets[start..start + rows],
            Some(&dlogprobs[start..start + rows]),
        )?;
        scores.push(rows_scored);
        let (dx, part) = head.backward(exec, dlogits, kept.as_ref(), &x, want_weight)?;
        dhidden.push(dx);
        dweight = add_part(exec, dweight, part)?;
    }
    let hidden = match dhidden.len() {
        0 => hidden.zeros_like()?,
        1 => dhidden.remove(0),
        _ => Tensor::cat(&dhidden, 0)?,
    };
    Ok((Pending(scores), Grads { hidden, weight: dweight }))
}

/// The sum of a weight's gradients by chunks.
pub(super) fn add_part(
    exec: Exec,
    sum: Option<Tensor>,
    part: Option<Tensor>,
) -> Result<Option<Tensor>> {
    Ok(match (sum, part) {
        (Some(sum), Some(part)) => Some(elementwise::add(exec, sum, &part)?),
        (sum, part) => sum.or(part),
    })
}

/// Chunks of checked targets.
fn chunks(hidden: &Tensor, weight: &Tensor, targets: &[u32]) -> Result<Vec<(usize, usize)>> {
    let (n, vocab) = (hidden.dim(0)?, weight.dim(0)?);
    if targets.len() != n {
        candle_core::bail!("{} targets for {n} hidden states", targets.len());
    }
    if let Some(id) = targets.iter().find(|&&id| id as usize >= vocab) {
        candle_core::bail!("target {id} is beyond the vocabulary of {vocab}");
    }
    Ok(chunks_of(n, vocab, chunk_bytes(hidden.device())))
}

/// `(first row, rows)` of the chunks of `n` rows, whose logits take at most `bytes`.
pub fn chunks_of(n: usize, vocab: usize, bytes: usize) -> Vec<(usize, usize)> {
    let most = (bytes / 4 / vocab.max(1)).max(16);
    // Chunks of equal size: a short last one would waste a product.
    let count = n.div_ceil(most).max(1);
    let rows = n.div_ceil(count).max(1);
    (0..n).step_by(rows).map(|start| (start, rows.min(n - start))).collect()
}

/// Scores of a chunk; with derivatives the logits become their gradient.
fn score_chunk(
    exec: Exec,
    logits: Tensor,
    targets: &[u32],
    dlogprobs: Option<&[f32]>,
) -> Result<(Part, Tensor)> {
    #[cfg(feature = "cuda")]
    if exec.on_cuda(&logits) {
        let upload = |d: &[f32]| Tensor::new(d, logits.device());
        let (targets, dlogprobs) =
            (Tensor::new(targets, logits.device())?, dlogprobs.map(upload).transpose()?);
        let (scores, logits) = super::cuda::head::score(logits, &targets, dlogprobs.as_ref())?;
        return Ok((Part::OnDevice(scores), logits));
    }
    if !exec.on_cpu(&logits) {
        return portable_chunk(&logits, targets, dlogprobs);
    }
    let vocab = logits.dim(1)?;
    let mut scored = vec![RowScore::default(); targets.len()];
    let logits = modify(logits, |logits| {
        logits.par_chunks_exact_mut(vocab).zip(&mut scored).enumerate().for_each(
            |(i, (row, score))| {
                *score = score_row(row, targets[i] as usize, dlogprobs.map(|d| d[i]));
            },
        );
    })?;
    Ok((Part::Known(scored), logits))
}

fn portable_chunk(
    logits: &Tensor,
    targets: &[u32],
    dlogprobs: Option<&[f32]>,
) -> Result<(Part, Tensor)> {
    let max = logits.max_keepdim(D::Minus1)?;
    let shifted = logits.broadcast_sub(&max)?;
    let exps = shifted.exp()?;
    let sum = exps.sum_keepdim(D::Minus1)?;
    let p = exps.broadcast_div(&sum)?;
    let log_sum = sum.log()?;
    let index = Tensor::new(targets, logits.device())?.unsqueeze(1)?;
    let at_target = logits.gather(&index, 1)?;
    let logprob = ((&at_target - &max)? - &log_sum)?.squeeze(1)?;
    let entropy = (log_sum - (&p * &shifted)?.sum_keepdim(1)?)?.squeeze(1)?;
    let correct = at_target.ge(&max)?.squeeze(1)?.to_dtype(logprob.dtype())?;
    let scores = Part::OnDevice(Tensor::stack(&[logprob, entropy, correct], 1)?);
    let Some(dlogprobs) = dlogprobs else { return Ok((scores, logits.clone())) };
    let coefficient = Tensor::new(dlogprobs, logits.device())?.unsqueeze(1)?;
    let dlogits = p.broadcast_mul(&coefficient.neg()?)?.scatter_add(&index, &coefficient, 1)?;
    Ok((scores, dlogits.to_dtype(DType::F32)?))
}
