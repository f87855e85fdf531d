//! `y = (x - mean(x)) / sqrt(var(x) + eps) · w + b` over the last dimension (Ba et al. 2016, arXiv
//! 1607.06450).

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::Exec;
use super::cpu::slices::{tensor, with_f32};
use super::cpu::{PARALLEL_MIN, math, multiversion};
use super::rms_norm::for_rows;

/// Statistics of the rows, `[rows]`, f32.
#[derive(Debug, Clone)]
pub struct Saved {
    /// Means.
    pub mean: Tensor,
    /// Reciprocal standard deviations.
    pub rstd: Tensor,
}

/// Gradients of the weight and the bias, `[width]`.
#[derive(Debug)]
pub struct ParamGrads {
    /// Of the weight.
    pub weight: Tensor,
    /// Of the bias.
    pub bias: Tensor,
}

multiversion! {
    fn statistics(x: &[f32], eps: f32) -> (f32, f32) {
        let n = x.len();
        let mean = math::sum_by(n, |i| x[i]) / n as f32;
        let variance = math::sum_by(n, |i| (x[i] - mean) * (x[i] - mean)) / n as f32;
        (mean, 1.0 / (variance + eps).sqrt())
    }
}

multiversion! {
    fn scale_row(x: &[f32], weight: &[f32], bias: &[f32], mean: f32, rstd: f32, y: &mut [f32]) {
        for (((y, &x), &w), &b) in y.iter_mut().zip(x).zip(weight).zip(bias) {
            *y = (x - mean) * rstd * w + b;
        }
    }
}

multiversion! {
    /// `dx = rstd · (w dy - mean(w dy) - x̂ · mean(w dy x̂))`, with `x̂ = (x - mean) rstd`.
    fn backward_row(dy: &[f32], x: &[f32], weight: &[f32], mean: f32, rstd: f32, dx: &mut [f32]) {
        let n = x.len();
        let (dy, weight) = (&dy[..n], &weight[..n]);
        let sum = math::sum_by(n, |i| dy[i] * weight[i]) / n as f32;
        let along = math::sum_by(n, |i| dy[i] * weight[i] * (x[i] - mean)) * rstd / n as f32;
        for (((d, &g), &w), &x) in dx.iter_mut().zip(dy).zip(weight).zip(x) {
            *d = rstd * (g * w - sum - (x - mean) * rstd * along);
        }
    }
}

multiversion! {
    fn add_param_gradients(
        dy: &[f32],
        x: &[f32],
        mean: f32,
        rstd: f32,
        dw: &mut [f32],
        db: &mut [f32],
    ) {
        for (((dw, db), &g), &x) in dw.iter_mut().zip(db.iter_mut()).zip(dy).zip(x) {
            *dw += g * (x - mean) * rstd;
            *db += g;
        }
    }
}

/// `x [rows, width]`, `weight`, `bias [width]` → same shape as `x`.
///
/// # Errors
/// When shapes don't fit or a device fails.
pub fn forward(
    exec: Exec,
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
) -> Result<(Tensor, Saved)> {
    let (rows, width) = checked(x, weight, bias)?;
    #[cfg(feature = "cuda")]
    if exec.on_cuda(x) {
        let (y, mean, rstd) = super::cuda::norm::layer_forward(x, weight, bias, eps)?;
        return Ok((y, Saved { mean, rstd }));
    }
    let saved = if !exec.on_cpu(x) {
        let mean = x.mean(1)?;
        let variance = x.broadcast_sub(&mean.unsqueeze(1)?)?.sqr()?.mean(1)?;
        Saved { mean, rstd: (variance + eps)?.sqrt()?.recip()? }
    } else {
        let (mut mean, mut rstd) = (vec![0f32; rows], vec![0f32; rows]);
        with_f32(x, |x| {
            let one = |r: usize| statistics(&x[r * width..(r + 1) * width], eps as f32);
            let places = mean.par_iter_mut().zip(rstd.par_iter_mut());
            let min = if x.len() < PARALLEL_MIN { rows.max(1) } else { 32 };
            places.with_min_len(min).enumerate().for_each(|(r, (m, s))| (*m, *s) = one(r));
            Ok(())
        })?;
        Saved { mean: tensor(mean, rows)?, rstd: tensor(rstd, rows)? }
    };
    Ok((recompute(exec, x, weight, bias, &saved)?, saved))
}

/// The output again from the input and the saved statistics.
///
/// # Errors
/// As [`forward`].
pub fn recompute(
    exec: Exec,
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    saved: &Saved,
) -> Result<Tensor> {
    let (rows, width) = checked(x, weight, bias)?;
    #[cfg(feature = "cuda")]
    if exec.on_cuda(x) {
        return super::cuda::norm::layer_recompute(x, weight, bias, &saved.mean, &saved.rstd);
    }
    if !exec.on_cpu(x) {
        return normed(x, saved)?.broadcast_mul(weight)?.broadcast_add(bias);
    }
    let mut y = vec![0f32; rows * width];
    with_f32(x, |x| {
        with_f32(weight, |w| {
            with_f32(bias, |b| {
                with_f32(&saved.mean, |mean| {
                    with_f32(&saved.rstd, |rstd| {
                        for_rows(&mut y, width, |r, y| {
                            scale_row(&x[r * width..(r + 1) * width], w, b, mean[r], rstd[r], y);
                        });
                        Ok(())
                    })
                })
            })
        })
    })?;
    tensor(y, x.shape())
}

/// → `dx`, and the gradients of weight and bias when wanted.
///
/// # Errors
/// As [`forward`].
pub fn backward(
    exec: Exec,
    dy: &Tensor,
    x: &Tensor,
    weight: &Tensor,
    saved: &Saved,
    want_params: bool,
) -> Result<(Tensor, Option<ParamGrads>)> {
    let (rows, width) = checked(x, weight, weight)?;
    #[cfg(feature = "cuda")]
    if exec.on_cuda(x) {
        let Saved { mean, rstd } = saved;
        let (dx, params) =
            super::cuda::norm::layer_backward(dy, x, weight, mean, rstd, want_params)?;
        return Ok((dx, params.map(|(weight, bias)| ParamGrads { weight, bias })));
    }
    if !exec.on_cpu(x) {
        let normed = normed(x, saved)?;
        let weighted = dy.broadcast_mul(weight)?;
        let sum = weighted.mean_keepdim(1)?;
        let along = (&weighted * &normed)?.mean_keepdim(1)?;
        let dx = (weighted.broadcast_sub(&sum)? - normed.broadcast_mul(&along)?)?;
        let dx = dx.broadcast_mul(&saved.rstd.unsqueeze(1)?)?;
        let params = match want_params {
            true => Some(ParamGrads { weight: (dy * normed)?.sum(0)?, bias: dy.sum(0)? }),
            false => None,
        };
        return Ok((dx, params));
    }
    let mut dx = vec![0f32; rows * width];
    let mut params = want_params.then(|| (vec![0f32; width], vec![0f32; width]));
    with_f32(x, |x| {
        with_f32(dy, |dy| {
            with_f32(weight, |w| {
                with_f32(&saved.mean, |mean| {
                    with_f32(&saved.rstd, |rstd| {
                        let row = |r: usize| r * width..(r + 1) * width;
                        for_rows(&mut dx, width, |r, dx| {
                            backward_row(&dy[row(r)], &x[row(r)], w, mean[r], rstd[r], dx);
                        });
                        if let Some((dw, db)) = &mut params {
                            // One thread, in the rows' order: a sum that no thread count changes.
                            for r in 0..rows {
                                let (dy, x) = (&dy[row(r)], &x[row(r)]);
                                add_param_gradients(dy, x, mean[r], rstd[r], dw, db);
                            }
                        }
                        Ok(())
                    })
                })
            })
        })
    })?;
    let params = match params {
        Some((dw, db)) => Some(ParamGrads { weight: tensor(dw, width)?, bias: tensor(db, width)? }),
        None => None,
    };
    Ok((tensor(dx, x.shape())?, params))
}

fn normed(x: &Tensor, saved: &Saved) -> Result<Tensor> {
    x.broadcast_sub(&saved.mean.unsqueeze(1)?)?.broadcast_mul(&saved.rstd.unsqueeze(1)?)
}

fn checked(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<(usize, usize)> {
    let (rows, width) = x.dims2()?;
    if width == 0 || weight.dims() != [width] || bias.dims() != [width] {
        candle_core::bail!("a norm of {:?} values was given rows of {width}", weight.dims());
    }
    Ok((rows, width))
}
