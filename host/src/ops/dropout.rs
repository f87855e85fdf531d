//! Inverted dropout whose mask is a pure function of a key and the element's position, so
//! that the backward recomputes it and nothing is stored.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::Exec;
use super::cpu::slices::{tensor, with_f32};
use super::cpu::{PARALLEL_MIN, multiversion};

/// A dropout mask: element `(row, column)` is kept iff a hash of `(key, row's name, column)` says so.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout<'a> {
    /// Probability of dropping, in `(0, 1)`.
    pub p: f32,
    /// Key of the mask: from the seed, step, layer and module.
    pub key: u64,
    /// Names of the rows, so that a token's mask does not depend on its neighbours; rows beyond are
    /// named by their index.
    pub rows: &'a [u64],
}

/// 32 well-mixed bits (the finaliser of MurmurHash3, Appleby 2011), vectorisable.
#[inline(always)]
pub(super) fn mix32(mut h: u32) -> u32 {
    h ^= h >> 16;
    h = h.wrapping_mul(0x85EB_CA6B);
    h ^= h >> 13;
    h = h.wrapping_mul(0xC2B2_AE35);
    h ^ (h >> 16)
}

/// Key of one row's values; `names` names the rows, those beyond by their index.
pub(super) fn row_key(key: u64, names: &[u64], row: usize) -> u32 {
    let name = names.get(row).copied().unwrap_or(row as u64);
    let mixed = crate::rng::mix64(key ^ crate::rng::mix64(name.wrapping_add(1)));
    (mixed ^ (mixed >> 32)) as u32
}

impl Dropout<'_> {
    /// Key of one row's mask.
    fn row_key(&self, row: usize) -> u32 {
        row_key(self.key, self.rows, row)
    }

    /// Hashes below this are dropped.
    fn threshold(&self) -> u32 {
        (f64::from(self.p) * 4_294_967_296.0) as u32
    }

    fn keep_scale(&self) -> f32 {
        1.0 / (1.0 - self.p)
    }
}

multiversion! {
    fn apply_row(x: &[f32], y: &mut [f32], key: u32, threshold: u32, scale: f32) {
        for (column, (y, &x)) in y.iter_mut().zip(x).enumerate() {
            let hash = mix32((column as u32).wrapping_mul(0x9E37_79B9) ^ key);
            *y = if hash >= threshold { x * scale } else { 0.0 };
        }
    }
}

/// `x · mask / (1 - p)`, `[tokens, width]`. Its own backward.
///
/// # Errors
/// When a device fails.
pub fn apply(exec: Exec, x: &Tensor, dropout: Dropout<'_>) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    let (threshold, scale) = (dropout.threshold(), dropout.keep_scale());
    let fill = |source: &dyn Fn(usize) -> std::ops::Range<usize>, x: &[f32], y: &mut [f32]| {
        let row = |r: usize, y: &mut [f32]| {
            apply_row(&x[source(r)], y, dropout.row_key(r), threshold, scale);
        };
        y.chunks_exact_mut(width).enumerate().for_each(|(r, y)| row(r, y));
    };
    #[cfg(feature = "cuda")]
    if exec.on_cuda(x) {
        let keys: Vec<u32> = (0..rows).map(|row| dropout.row_key(row)).collect();
        let keys = Tensor::from_vec(keys, rows, x.device())?;
        return super::cuda::dropout::apply(x, &keys, threshold, scale);
    }
    if !exec.on_cpu(x) {
        // The mask is made on the host from the key alone, then applied on the device.
        let ones = vec![1f32; width];
        let mut mask = vec![0f32; rows * width];
        fill(&|_| 0..width, &ones, &mut mask);
        let mask = Tensor::from_vec(mask, (rows, width), x.device())?;
        return x.mul(&mask.to_dtype(x.dtype())?);
    }
    let mut y = vec![0f32; rows * width];
    with_f32(x, |x| {
        if rows * width < PARALLEL_MIN {
            fill(&|r| r * width..(r + 1) * width, x, &mut y);
        } else {
            y.par_chunks_exact_mut(width)
                .zip(x.par_chunks_exact(width))
                .enumerate()
                .for_each(|(r, (y, x))| apply_row(x, y, dropout.row_key(r), threshold, scale));
        }
        Ok(())
    })?;
    tensor(y, (rows, width))
}
