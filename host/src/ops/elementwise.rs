//! Sums of residuals, caps on scores.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::Exec;
use super::cpu::slices::{modify, with_f32};
use super::cpu::{PARALLEL_MIN, multiversion, softcap as fused};

multiversion! {
    fn add_slice(to: &mut [f32], from: &[f32]) {
        for (t, &f) in to.iter_mut().zip(from) {
            *t += f;
        }
    }
}

/// `a + b`; `a` is overwritten: the caller holds no other handle on its values.
///
/// # Errors
/// When shapes don't fit or a device fails.
pub fn add(exec: Exec, a: Tensor, b: &Tensor) -> Result<Tensor> {
    if !exec.on_cpu(&a) {
        return a + b;
    }
    if a.dims() != b.dims() {
        candle_core::bail!("shapes {:?} and {:?} can't be added", a.dims(), b.dims());
    }
    with_f32(b, |b| {
        modify(a, |a| {
            if a.len() < PARALLEL_MIN {
                add_slice(a, b);
            } else {
                let piece = PARALLEL_MIN;
                a.par_chunks_mut(piece).zip(b.par_chunks(piece)).for_each(|(a, b)| add_slice(a, b));
            }
        })
    })
}

/// `cap · tanh(x / cap)`; `x` is overwritten: the caller holds no other handle on its values.
///
/// # Errors
/// When a device fails.
pub fn softcap(exec: Exec, x: Tensor, cap: f64) -> Result<Tensor> {
    if !exec.on_cpu(&x) {
        return (x / cap)?.tanh()? * cap;
    }
    modify(x, |x| x.par_chunks_mut(PARALLEL_MIN).for_each(|x| fused::cap(x, cap as f32)))
}

/// The gradient by `x` from the one by `capped = softcap(x)`; `d` is overwritten as in [`softcap`].
///
/// # Errors
/// When shapes don't fit or a device fails.
pub fn softcap_backward(exec: Exec, d: Tensor, capped: &Tensor, cap: f64) -> Result<Tensor> {
    if d.dims() != capped.dims() {
        candle_core::bail!("shapes {:?} and {:?} don't fit a cap", d.dims(), capped.dims());
    }
    if !exec.on_cpu(&d) {
        return d * (1.0 - (capped / cap)?.sqr()?)?;
    }
    with_f32(capped, |capped| {
        modify(d, |d| {
            let pieces = d.par_chunks_mut(PARALLEL_MIN).zip(capped.par_chunks(PARALLEL_MIN));
            pieces.for_each(|(d, capped)| fused::cap_gradient(d, capped, cap as f32));
        })
    })
}
