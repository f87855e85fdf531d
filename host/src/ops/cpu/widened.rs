//! Products with frozen matrices that are stored narrower than f32: blocks of rows are widened and
//! multiplied in f32.

use half::bf16;
use rayon::prelude::*;

use super::gemm::{self, Matrix, Output};

/// Rows widened at a time: 256 rows of 2,048 values stay within a core's second-level cache.
const BLOCK_ROWS: usize = 256;

/// A matrix `[out, in]` that is stored narrower than f32.
pub trait Narrow: Sync {
    /// Row `row` as f32 into `to [in]`.
    fn widen_row(&self, row: usize, to: &mut [f32]);
}

/// A matrix of bf16 values, row by row.
pub struct Bf16Rows<'a>(pub &'a [bf16]);

impl Narrow for Bf16Rows<'_> {
    fn widen_row(&self, row: usize, to: &mut [f32]) {
        let from = &self.0[row * to.len()..(row + 1) * to.len()];
        for (t, f) in to.iter_mut().zip(from) {
            *t = f32::from_bits(u32::from(f.to_bits()) << 16);
        }
    }
}

/// Rows `first..` of `w` into `to`.
pub fn widen(w: &dyn Narrow, first: usize, width_in: usize, to: &mut [f32]) {
    to.par_chunks_exact_mut(width_in)
        .with_min_len(8)
        .enumerate()
        .for_each(|(r, to)| w.widen_row(first + r, to));
}

/// `y [tokens, out] = x [tokens, in] · wᵀ`.
pub fn forward(
    x: &[f32],
    w: &dyn Narrow,
    tokens: usize,
    width_in: usize,
    width_out: usize,
    y: &mut [f32],
) {
    let mut block = vec![0f32; BLOCK_ROWS.min(width_out) * width_in];
    for first in (0..width_out).step_by(BLOCK_ROWS) {
        let rows = BLOCK_ROWS.min(width_out - first);
        let block = &mut block[..rows * width_in];
        widen(w, first, width_in, block);
        let out = Output { data: &mut y[first..], row_stride: width_out, accumulate: false };
        let (lhs, rhs) = (Matrix::rows(x, width_in), Matrix::rows(block, width_in).t());
        gemm::matmul(tokens, rows, width_in, out, lhs, rhs, 1.0);
    }
}

/// `dx [tokens, in] (+)= dy [tokens, out] · w`.
pub fn backward_input(
    dy: &[f32],
    w: &dyn Narrow,
    tokens: usize,
    width_in: usize,
    width_out: usize,
    dx: &mut [f32],
    accumulate: bool,
) {
    let mut block = vec![0f32; BLOCK_ROWS.min(width_out) * width_in];
    for first in (0..width_out).step_by(BLOCK_ROWS) {
        let rows = BLOCK_ROWS.min(width_out - first);
        let block = &mut block[..rows * width_in];
        widen(w, first, width_in, block);
        let out = Output { data: dx, row_stride: width_in, accumulate: accumulate || first > 0 };
        let lhs = Matrix { data: &dy[first..], row_stride: width_out, col_stride: 1 };
        gemm::matmul(tokens, width_in, rows, out, lhs, Matrix::rows(block, width_in), 1.0);
    }
}
