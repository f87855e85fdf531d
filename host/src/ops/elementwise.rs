//! Sums of residuals.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::Exec;
use super::cpu::slices::{modify, with_f32};
use super::cpu::{PARALLEL_MIN, multiversion};

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
    if exec == Exec::Portable {
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
