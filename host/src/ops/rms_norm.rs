//! `y = x / sqrt(mean(x²) + eps) · w` over the last dimension (Zhang & Sennrich 2019, arXiv 1910.07467).

use candle_core::{Result, Tensor};

use super::Exec;

/// Reciprocal root mean squares of the rows.
#[derive(Debug, Clone)]
pub struct Saved {
    /// `[rows]`, f32.
    pub rstd: Tensor,
}

/// `x [tokens, groups · width]` with `weight [width]` → same shape: each of the `groups` of a
/// row is normalised by itself (1 for a block's norm, heads for Qwen3's query and key norms).
pub fn forward(exec: Exec, x: &Tensor, weight: &Tensor, eps: f64) -> Result<(Tensor, Saved)> {
    todo!()
}

/// The output again from the input and the saved statistics (cheaper than keeping it).
pub fn recompute(exec: Exec, x: &Tensor, weight: &Tensor, saved: &Saved) -> Result<Tensor> {
    todo!()
}

/// → `dx`, and the weight's gradient `[width]` when wanted.
pub fn backward(
    exec: Exec,
    dy: &Tensor,
    x: &Tensor,
    weight: &Tensor,
    saved: &Saved,
    want_weight: bool,
) -> Result<(Tensor, Option<Tensor>)> {
    todo!()
}
