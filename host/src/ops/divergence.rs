//! Divergence of a student's predictions from a teacher's: both heads, the generalised
//! Jensen-Shannon divergence of their distributions over the whole vocabulary, and the gradient,
//! in chunks, so that no `[tokens, vocab]` exists.

use candle_core::{D, Result, Tensor};
use rayon::prelude::*;

use super::Exec;
use super::cpu::divergence::{RowDivergence, divergence_row};
use super::cpu::slices::{into_vec, modify};
use super::head::{Grads, Head, add_part, chunk_bytes, chunks_of};

/// Results of comparing `n` positions.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Divergences {
    /// Divergence of each position, `[n]`, nats.
    pub divergences: Vec<f32>,
    /// Entropy of each distribution of the student, `[n]`, nats.
    pub entropies: Vec<f32>,
    /// Whether the teacher's most likely token is the student's too, `[n]`.
    pub agrees: Vec<bool>,
}

/// What predicts: normed states `[n, hidden]` and the head over them. The widths of student and
/// teacher may differ, the vocabularies may not.
#[derive(Clone, Copy)]
pub struct Predictor<'a> {
    /// States.
    pub hidden: &'a Tensor,
    /// Head.
    pub head: Head<'a>,
}

/// Divergences of the student's distributions `p` from the teacher's `q` (Agarwal et al. 2024,
/// arXiv 2306.13649, equation 1): with `m = (1 - beta) p + beta q`, `beta KL(q, m) + (1 - beta)
/// KL(p, m)`; `KL(q, p)` for a beta of 0 and `KL(p, q)` for 1. `coefficients[i]` is the derivative
/// of the loss by divergence `i`; without them no gradient is made.
///
/// # Errors
/// When shapes don't fit, or a device fails.
pub fn compare(
    exec: Exec,
    student: Predictor<'_>,
    teacher: Predictor<'_>,
    beta: f64,
    coefficients: Option<&[f32]>,
    want_weight: bool,
) -> Result<(Divergences, Option<Grads>)> {
    let (n, vocab) = (student.hidden.dim(0)?, student.head.weight.dim(0)?);
    let (teacher_n, teacher_vocab) = (teacher.hidden.dim(0)?, teacher.head.weight.dim(0)?);
    if (n, vocab) != (teacher_n, teacher_vocab) || coefficients.is_some_and(|c| c.len() != n) {
        candle_core::bail!(
            "{n} states over {vocab} tokens against {teacher_n} over {teacher_vocab}"
        );
    }
    let mut out = Divergences::default();
    let mut dhidden = Vec::new();
    let mut dweight: Option<Tensor> = None;
    for (start, rows) in chunks_of(n, vocab, chunk_bytes(student.hidden.device()) / 2) {
        let logits = |of: Predictor<'_>| {
            let x = of.hidden.narrow(0, start, rows)?;
            Ok::<_, candle_core::Error>((of.head.logits(exec, &x)?, x))
        };
        let ((own, x), (theirs, _)) = (logits(student)?, logits(teacher)?);
        let coefficients = coefficients.map(|c| &c[start..start + rows]);
        let kept = student.head.kept(&own)?;
        let (compared, dlogits) = compare_chunk(exec, own, theirs, beta, coefficients)?;
        for row in compared {
            out.divergences.push(row.divergence);
            out.entropies.push(row.entropy);
            out.agrees.push(row.agrees);
        }
        if coefficients.is_some() {
            let kept = kept.as_ref();
            let (dx, part) = student.head.backward(exec, dlogits, kept, &x, want_weight)?;
            dhidden.push(dx);
            dweight = add_part(exec, dweight, part)?;
        }
    }
    if coefficients.is_none() {
        return Ok((out, None));
    }
    let hidden = match dhidden.len() {
        0 => student.hidden.zeros_like()?,
        1 => dhidden.remove(0),
        _ => Tensor::cat(&dhidden, 0)?,
    };
    Ok((out, Some(Grads { hidden, weight: dweight })))
}

/// Compares a chunk; the gradient by the student's logits is of use with coefficients only.
fn compare_chunk(
    exec: Exec,
    student: Tensor,
    teacher: Tensor,
    beta: f64,
    coefficients: Option<&[f32]>,
) -> Result<(Vec<RowDivergence>, Tensor)> {
    if !exec.on_cpu(&student) {
        return portable_chunk(&student, &teacher, beta, coefficients);
    }
    let (n, vocab) = student.dims2()?;
    let mut compared = vec![RowDivergence::default(); n];
    let mut theirs = into_vec(teacher)?;
    let student = modify(student, |student| {
        student
            .par_chunks_exact_mut(vocab)
            .zip(theirs.par_chunks_exact_mut(vocab))
            .zip(&mut compared)
            .enumerate()
            .for_each(|(i, ((own, theirs), row))| {
                let coefficient = coefficients.map_or(0.0, |c| c[i]);
                *row = divergence_row(own, theirs, beta as f32, coefficient);
            });
    })?;
    Ok((compared, student))
}

fn log_softmax(logits: &Tensor) -> Result<Tensor> {
    let shifted = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?)?;
    let log_sum = shifted.exp()?.sum_keepdim(D::Minus1)?.log()?;
    shifted.broadcast_sub(&log_sum)
}

fn portable_chunk(
    student: &Tensor,
    teacher: &Tensor,
    beta: f64,
    coefficients: Option<&[f32]>,
) -> Result<(Vec<RowDivergence>, Tensor)> {
    let (log_p, log_q) = (log_softmax(student)?, log_softmax(teacher)?);
    let (p, q) = (log_p.exp()?, log_q.exp()?);
    let kl = |a: &Tensor, log_a: &Tensor, log_b: &Tensor| -> Result<(Tensor, Tensor)> {
        let terms = (a * (log_a - log_b)?)?;
        let sum = terms.sum_keepdim(1)?;
        Ok((terms, sum))
    };
    let (divergence, gradient);
    if beta <= 0.0 {
        (divergence, gradient) = (kl(&q, &log_q, &log_p)?.1, (&p - &q)?);
    } else if beta >= 1.0 {
        let (terms, sum) = kl(&p, &log_p, &log_q)?;
        gradient = (terms - p.broadcast_mul(&sum)?)?;
        divergence = sum;
    } else {
        let log_m = ((&p * (1.0 - beta))? + (&q * beta)?)?.log()?;
        let (terms, own) = kl(&p, &log_p, &log_m)?;
        let other = kl(&q, &log_q, &log_m)?.1;
        gradient = ((terms - p.broadcast_mul(&own)?)? * (1.0 - beta))?;
        divergence = ((other * beta)? + (own * (1.0 - beta))?)?;
    }
    let numbers = |t: Tensor| t.squeeze(1)?.to_dtype(candle_core::DType::F32)?.to_vec1::<f32>();
    let divergences = numbers(divergence)?;
    let entropies = numbers((&p * &log_p)?.sum_keepdim(1)?.neg()?)?;
    let favourites = teacher.argmax_keepdim(D::Minus1)?;
    let agrees = student.gather(&favourites, 1)?.ge(&student.max_keepdim(1)?)?;
    let agrees = agrees.squeeze(1)?.to_vec1::<u8>()?;
    let compared = (0..divergences.len())
        .map(|i| RowDivergence {
            divergence: divergences[i],
            entropy: entropies[i],
            agrees: agrees[i] != 0,
        })
        .collect();
    let Some(coefficients) = coefficients else { return Ok((compared, gradient)) };
    let coefficients =
        Tensor::new(coefficients, student.device())?.to_dtype(gradient.dtype())?.unsqueeze(1)?;
    Ok((compared, gradient.broadcast_mul(&coefficients)?))
}

#[cfg(test)]
mod tests;
