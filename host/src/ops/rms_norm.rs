//! `y = x / sqrt(mean(x²) + eps) · w` over the last dimension (Zhang & Sennrich 2019, arXiv 1910.07467).

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::Exec;
use super::cpu::slices::{tensor, with_f32};
use super::cpu::{PARALLEL_MIN, math, multiversion};

/// Reciprocal root mean squares of the rows.
#[derive(Debug, Clone)]
pub struct Saved {
    /// `[rows]`, f32.
    pub rstd: Tensor,
}

multiversion! {
    fn rstd_of(x: &[f32], eps: f32) -> f32 {
        1.0 / (math::dot(x, x) / x.len() as f32 + eps).sqrt()
    }
}

multiversion! {
    fn scale_row(x: &[f32], weight: &[f32], rstd: f32, y: &mut [f32]) {
        for ((y, &x), &w) in y.iter_mut().zip(x).zip(weight) {
            *y = x * rstd * w;
        }
    }
}

multiversion! {
    /// `dx = rstd · (w dy - x̂ · mean(w dy x̂))`, with `x̂ = x rstd`.
    fn backward_row(dy: &[f32], x: &[f32], weight: &[f32], rstd: f32, dx: &mut [f32]) {
        let n = x.len();
        let (dy, weight) = (&dy[..n], &weight[..n]);
        let mean = math::sum_by(n, |i| dy[i] * weight[i] * x[i]) * rstd / n as f32;
        for (((d, &g), &w), &x) in dx.iter_mut().zip(dy).zip(weight).zip(x) {
            *d = rstd * (g * w - x * rstd * mean);
        }
    }
}

multiversion! {
    fn add_weight_gradient(dy: &[f32], x: &[f32], rstd: f32, dw: &mut [f32]) {
        for ((d, &g), &x) in dw.iter_mut().zip(dy).zip(x) {
            *d += g * x * rstd;
        }
    }
}

/// Rows of `width` values within `x`.
fn grouped(x: &Tensor, weight: &Tensor) -> Result<(usize, usize)> {
    let (tokens, total) = x.dims2()?;
    let width = weight.dim(0)?;
    if width == 0 || total % width != 0 {
        candle_core::bail!("a norm of {width} values can't divide rows of {total}");
    }
    Ok((tokens * (total / width), width))
}

/// `f(row, out_row)` for every row, on as many threads as pay.
pub(super) fn for_rows(out: &mut [f32], width: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    if out.len() < PARALLEL_MIN {
        out.chunks_exact_mut(width).enumerate().for_each(|(r, y)| f(r, y));
    } else {
        out.par_chunks_exact_mut(width).enumerate().for_each(|(r, y)| f(r, y));
    }
}

/// `x [tokens, groups · width]` with `weight [width]` → same shape: each of the `groups` of a
/// row is normalised by itself (1 for a block's norm, heads for Qwen3's query and key norms).
///
/// # Errors
/// When the width does not divide the rows or a device fails.
pub fn forward(exec: Exec, x: &Tensor, weight: &Tensor, eps: f64) -> Result<(Tensor, Saved)> {
    let (rows, width) = grouped(x, weight)?;
    #[cfg(feature = "cuda")]
    if exec.on_cuda(x) {
        let (y, rstd) = super::cuda::norm::rms_forward(x, weight, eps)?;
        return Ok((y, Saved { rstd }));
    }
    if !exec.on_cpu(x) {
        let mean = x.reshape((rows, width))?.sqr()?.mean(1)?;
        let saved = Saved { rstd: (mean + eps)?.sqrt()?.recip()? };
        return Ok((recompute(exec, x, weight, &saved)?, saved));
    }
    let rstd = with_f32(x, |x| {
        let mut rstd = vec![0f32; rows];
        let one = |r: usize| rstd_of(&x[r * width..(r + 1) * width], eps as f32);
        if x.len() < PARALLEL_MIN {
            rstd.iter_mut().enumerate().for_each(|(r, s)| *s = one(r));
        } else {
            rstd.par_iter_mut().with_min_len(32).enumerate().for_each(|(r, s)| *s = one(r));
        }
        Ok(rstd)
    })?;
    let saved = Saved { rstd: tensor(rstd, rows)? };
    Ok((recompute(exec, x, weight, &saved)?, saved))
}

/// The output again from the input and the saved statistics (cheaper than keeping it).
///
/// # Errors
/// As [`forward`].
pub fn recompute(exec: Exec, x: &Tensor, weight: &Tensor, saved: &Saved) -> Result<Tensor> {
    let (rows, width) = grouped(x, weight)?;
    #[cfg(feature = "cuda")]
    if exec.on_cuda(x) {
        return super::cuda::norm::rms_recompute(x, weight, &saved.rstd);
    }
    if !exec.on_cpu(x) {
        let normed = x.reshape((rows, width))?.broadcast_mul(&saved.rstd.unsqueeze(1)?)?;
        return normed.broadcast_mul(weight)?.reshape(x.shape());
    }
    let mut y = vec![0f32; rows * width];
    with_f32(x, |x| {
        with_f32(weight, |w| {
            with_f32(&saved.rstd, |rstd| {
                for_rows(&mut y, width, |r, y| {
                    scale_row(&x[r * width..(r + 1) * width], w, rstd[r], y);
                });
                Ok(())
            })
        })
    })?;
    tensor(y, x.shape())
}

/// → `dx`, and the weight's gradient `[width]` when wanted.
///
/// # Errors
/// As [`forward`].
pub fn backward(
    exec: Exec,
    dy: &Tensor,
    x: &Tensor,
    weight: &Tensor,
    saved: &Saved,
    want_weight: bool,
) -> Result<(Tensor, Option<Tensor>)> {
    let (rows, width) = grouped(x, weight)?;
    #[cfg(feature = "cuda")]
    if exec.on_cuda(x) {
        return super::cuda::norm::rms_backward(dy, x, weight, &saved.rstd, want_weight);
    }
    if !exec.on_cpu(x) {
        let rstd = saved.rstd.unsqueeze(1)?;
        let normed = x.reshape((rows, width))?.broadcast_mul(&rstd)?;
        let dy = dy.reshape((rows, width))?;
        let weighted = dy.broadcast_mul(weight)?;
        let mean = (&weighted * &normed)?.mean_keepdim(1)?;
        let dx = (weighted - normed.broadcast_mul(&mean)?)?.broadcast_mul(&rstd)?;
        let dw = if want_weight { Some((dy * normed)?.sum(0)?) } else { None };
        return Ok((dx.reshape(x.shape())?, dw));
    }
    let mut dx = vec![0f32; rows * width];
    let mut dw = want_weight.then(|| vec![0f32; width]);
    with_f32(x, |x| {
        with_f32(dy, |dy| {
            with_f32(weight, |w| {
                with_f32(&saved.rstd, |rstd| {
                    let row = |r: usize| r * width..(r + 1) * width;
                    for_rows(&mut dx, width, |r, dx| {
                        backward_row(&dy[row(r)], &x[row(r)], w, rstd[r], dx);
                    });
                    if let Some(dw) = &mut dw {
                        // One thread, in the rows' order: a sum that no thread count changes.
                        for (r, &rstd) in rstd.iter().enumerate() {
                            add_weight_gradient(&dy[row(r)], &x[row(r)], rstd, dw);
                        }
                    }
                    Ok(())
                })
            })
        })
    })?;
    let dw = dw.map(|dw| tensor(dw, width)).transpose()?;
    Ok((tensor(dx, x.shape())?, dw))
}
