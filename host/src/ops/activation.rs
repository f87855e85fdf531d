//! The MLP's non-linearity, alone or on a gate: `act(x)`, `act(gate) · up` (Shazeer 2020, arXiv
//! 2002.05202; GELU: Hendrycks & Gimpel 2016, arXiv 1606.08415).

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::Exec;
use super::cpu::slices::{tensor, with_f32};
use super::cpu::{PARALLEL_MIN, math, multiversion};

/// Elements handled at a time: the operands stay in the first-level cache.
const PIECE: usize = 2048;

/// A non-linearity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x σ(x)`.
    Silu,
    /// `x Φ(x)`.
    Gelu,
    /// Its approximation by a hyperbolic tangent.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
}

/// `sqrt(2 / π)`, and the cubic term of GELU's approximation.
const ROOT: f32 = 0.797_884_6;
const CUBIC: f32 = 0.044_715;

#[inline(always)]
fn silu(x: f32) -> (f32, f32) {
    let s = math::sigmoid(x);
    (x * s, s * (1.0 + x * (1.0 - s)))
}

#[inline(always)]
fn gelu(x: f32) -> (f32, f32) {
    let below = math::normal_below(x);
    (x * below, below + x * math::normal_density(x))
}

/// `½ (1 + tanh u) = σ(2 u)`.
#[inline(always)]
fn gelu_tanh(x: f32) -> (f32, f32) {
    let s = math::sigmoid(2.0 * ROOT * (x + CUBIC * x * x * x));
    (x * s, s + x * s * (1.0 - s) * 2.0 * ROOT * (1.0 + 3.0 * CUBIC * x * x))
}

#[inline(always)]
fn relu(x: f32) -> (f32, f32) {
    if x > 0.0 { (x, 1.0) } else { (0.0, 0.0) }
}

/// `y = f(x) · up`; an empty `up` is 1 everywhere.
#[inline(always)]
fn forward_loop(f: impl Fn(f32) -> (f32, f32), x: &[f32], up: &[f32], y: &mut [f32]) {
    if up.is_empty() {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = f(x).0;
        }
    } else {
        for ((y, &x), &u) in y.iter_mut().zip(x).zip(up) {
            *y = f(x).0 * u;
        }
    }
}

#[inline(always)]
fn backward_loop(
    f: impl Fn(f32) -> (f32, f32),
    dy: &[f32],
    x: &[f32],
    up: &[f32],
    dx: &mut [f32],
    dup: &mut [f32],
) {
    let n = dy.len();
    let (x, dx) = (&x[..n], &mut dx[..n]);
    if up.is_empty() {
        for i in 0..n {
            dx[i] = dy[i] * f(x[i]).1;
        }
        return;
    }
    let (up, dup) = (&up[..n], &mut dup[..n]);
    for i in 0..n {
        let (value, slope) = f(x[i]);
        dup[i] = dy[i] * value;
        dx[i] = dy[i] * up[i] * slope;
    }
}

multiversion! {
    fn forward_piece(act: Activation, x: &[f32], up: &[f32], y: &mut [f32]) {
        match act {
            Activation::Silu => forward_loop(silu, x, up, y),
            Activation::Gelu => forward_loop(gelu, x, up, y),
            Activation::GeluTanh => forward_loop(gelu_tanh, x, up, y),
            Activation::Relu => forward_loop(relu, x, up, y),
        }
    }
}

multiversion! {
    fn backward_piece(
        act: Activation,
        dy: &[f32],
        x: &[f32],
        up: &[f32],
        dx: &mut [f32],
        dup: &mut [f32],
    ) {
        match act {
            Activation::Silu => backward_loop(silu, dy, x, up, dx, dup),
            Activation::Gelu => backward_loop(gelu, dy, x, up, dx, dup),
            Activation::GeluTanh => backward_loop(gelu_tanh, dy, x, up, dx, dup),
            Activation::Relu => backward_loop(relu, dy, x, up, dx, dup),
        }
    }
}

fn portable(act: Activation, x: &Tensor) -> Result<Tensor> {
    match act {
        Activation::Silu => x.silu(),
        Activation::Gelu => x.gelu_erf(),
        Activation::GeluTanh => x.gelu(),
        Activation::Relu => x.relu(),
    }
}

fn portable_slope(act: Activation, x: &Tensor) -> Result<Tensor> {
    match act {
        Activation::Silu => {
            let s = (x.neg()?.exp()? + 1.0)?.recip()?;
            let rest = (x * (1.0 - &s)?)?;
            s * (rest + 1.0)?
        }
        Activation::Gelu => {
            let below = (((x / std::f64::consts::SQRT_2)?.erf()? + 1.0)? * 0.5)?;
            let density = ((x.sqr()? * -0.5)?.exp()? / (std::f64::consts::TAU).sqrt())?;
            below + (x * density)?
        }
        Activation::GeluTanh => {
            let root = std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2;
            let cubic = 0.044_715;
            let u = ((x + (x.powf(3.0)? * cubic)?)? * (-2.0 * root))?;
            let s = (u.exp()? + 1.0)?.recip()?;
            let du = ((x.sqr()? * (3.0 * cubic))? + 1.0)?;
            let rest = ((x * (&s * (1.0 - &s)?)?)? * du)?;
            s + (rest * (2.0 * root))?
        }
        Activation::Relu => x.gt(0.0)?.to_dtype(x.dtype()),
    }
}

/// Values of `up`, or nothing.
fn with_up<R>(up: Option<&Tensor>, n: usize, f: impl FnOnce(&[f32]) -> Result<R>) -> Result<R> {
    match up {
        None => f(&[]),
        Some(up) => with_f32(up, |up| {
            if up.len() != n {
                candle_core::bail!("the gate has {n} values and up {}", up.len());
            }
            f(up)
        }),
    }
}

/// The same piece of `up`, or nothing.
fn piece(up: &[f32], i: usize, n: usize) -> &[f32] {
    if up.is_empty() { up } else { &up[i * PIECE..i * PIECE + n] }
}

/// `act(x)`, or `act(x) · up`; `x`, `up [tokens, width]` → `[tokens, width]`.
///
/// # Errors
/// When shapes don't fit or a device fails.
pub fn forward(exec: Exec, act: Activation, x: &Tensor, up: Option<&Tensor>) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if exec.on_cuda(x) {
        return super::cuda::activation::forward(act, x, up);
    }
    if !exec.on_cpu(x) {
        let y = portable(act, x)?;
        return match up {
            Some(up) => y * up,
            None => Ok(y),
        };
    }
    let mut y = vec![0f32; x.elem_count()];
    with_f32(x, |x| {
        with_up(up, x.len(), |up| {
            if y.len() < PARALLEL_MIN {
                forward_piece(act, x, up, &mut y);
            } else {
                y.par_chunks_mut(PIECE)
                    .zip(x.par_chunks(PIECE))
                    .enumerate()
                    .for_each(|(i, (y, x))| forward_piece(act, x, piece(up, i, x.len()), y));
            }
            Ok(())
        })
    })?;
    tensor(y, x.shape())
}

/// `dy [tokens, width]` → `dx`, and `dup` where there is an `up`.
///
/// # Errors
/// As [`forward`].
pub fn backward(
    exec: Exec,
    act: Activation,
    dy: &Tensor,
    x: &Tensor,
    up: Option<&Tensor>,
) -> Result<(Tensor, Option<Tensor>)> {
    #[cfg(feature = "cuda")]
    if exec.on_cuda(x) {
        return super::cuda::activation::backward(act, dy, x, up);
    }
    if !exec.on_cpu(x) {
        let slope = portable_slope(act, x)?;
        return match up {
            None => Ok(((dy * slope)?, None)),
            Some(up) => Ok((((dy * up)? * slope)?, Some((dy * portable(act, x)?)?))),
        };
    }
    let mut dx = vec![0f32; x.elem_count()];
    let mut dup = vec![0f32; if up.is_some() { x.elem_count() } else { 0 }];
    with_f32(dy, |dy| {
        with_f32(x, |x| {
            with_up(up, x.len(), |up| {
                if dy.len() != x.len() {
                    candle_core::bail!("{} gradients for {} values", dy.len(), x.len());
                }
                if dy.len() < PARALLEL_MIN {
                    backward_piece(act, dy, x, up, &mut dx, &mut dup);
                    return Ok(());
                }
                let inputs = dy.par_chunks(PIECE).zip(x.par_chunks(PIECE));
                if up.is_empty() {
                    dx.par_chunks_mut(PIECE).zip(inputs).for_each(|(dx, (dy, x))| {
                        backward_piece(act, dy, x, &[], dx, &mut []);
                    });
                } else {
                    let outputs = dx.par_chunks_mut(PIECE).zip(dup.par_chunks_mut(PIECE));
                    outputs.zip(inputs).enumerate().for_each(|(i, ((dx, dup), (dy, x)))| {
                        backward_piece(act, dy, x, piece(up, i, x.len()), dx, dup);
                    });
                }
                Ok(())
            })
        })
    })?;
    let dup = up.map(|up| tensor(dup, up.shape())).transpose()?;
    Ok((tensor(dx, x.shape())?, dup))
}
