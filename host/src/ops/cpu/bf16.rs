//! Products with frozen bf16 matrices: blocks of rows are widened to f32 and multiplied in f32.

use half::bf16;
use rayon::prelude::*;

use super::gemm::{self, Matrix, Output};

/// Rows widened at a time: 256 rows of 2,048 values stay within a core's second-level cache.
const BLOCK_ROWS: usize = 256;

/// bf16 values to f32: exact.
pub fn widen(from: &[bf16], to: &mut [f32]) {
    let piece = 16 * 1024;
    to.par_chunks_mut(piece).zip(from.par_chunks(piece)).for_each(|(to, from)| {
        for (t, f) in to.iter_mut().zip(from) {
            *t = f32::from_bits(u32::from(f.to_bits()) << 16);
        }
    });
}

/// `y [tokens, out] = x [tokens, in] · wᵀ`, `w [out, in]`.
pub fn forward(
    x: &[f32],
    w: &[bf16],
    tokens: usize,
    width_in: usize,
    width_out: usize,
    y: &mut [f32],
) {
    let mut block = vec![0f32; BLOCK_ROWS.min(width_out) * width_in];
    for first in (0..width_out).step_by(BLOCK_ROWS) {
        let rows = BLOCK_ROWS.min(width_out - first);
        let block = &mut block[..rows * width_in];
        widen(&w[first * width_in..(first + rows) * width_in], block);
        let out = Output { data: &mut y[first..], row_stride: width_out, accumulate: false };
        let (lhs, rhs) = (Matrix::rows(x, width_in), Matrix::rows(block, width_in).t());
        gemm::matmul(tokens, rows, width_in, out, lhs, rhs, 1.0);
    }
}

/// `dx [tokens, in] (+)= dy [tokens, out] · w`.
pub fn backward_input(
    dy: &[f32],
    w: &[bf16],
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
        widen(&w[first * width_in..(first + rows) * width_in], block);
        let out = Output { data: dx, row_stride: width_in, accumulate: accumulate || first > 0 };
        let lhs = Matrix { data: &dy[first..], row_stride: width_out, col_stride: 1 };
        gemm::matmul(tokens, width_in, rows, out, lhs, Matrix::rows(block, width_in), 1.0);
    }
}
