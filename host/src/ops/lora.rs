//! Low-rank update of a linear layer: `y += scale · (dropout(x) Aᵀ) Bᵀ` (Hu et al. 2021, arXiv 2106.09685).

use candle_core::{Result, Tensor};

use super::{Exec, dropout::Dropout};

/// What the backward needs besides its inputs.
#[derive(Debug, Clone)]
pub struct Saved {
    /// `dropout(x) Aᵀ`, `[tokens, rank]`.
    pub xa: Tensor,
}

/// Gradients of one LoRA pair.
#[derive(Debug)]
pub struct Grads {
    /// `[rank, in]`.
    pub a: Tensor,
    /// `[out, rank]`.
    pub b: Tensor,
}

/// Adds the low-rank update to `y [tokens, out]` (consumed, buffer reused where unshared).
/// `x [tokens, in]`, `a [rank, in]`, `b [out, rank]`.
pub fn forward(
    exec: Exec,
    x: &Tensor,
    y: Tensor,
    a: &Tensor,
    b: &Tensor,
    scale: f32,
    dropout: Option<Dropout>,
) -> Result<(Tensor, Saved)> {
    todo!()
}

/// `dy [tokens, out]` → gradients of A and B; adds the input's gradient to `dx [tokens, in]`
/// when it is wanted.
pub fn backward(
    exec: Exec,
    dy: &Tensor,
    x: &Tensor,
    saved: &Saved,
    a: &Tensor,
    b: &Tensor,
    scale: f32,
    dropout: Option<Dropout>,
    dx: Option<Tensor>,
) -> Result<(Grads, Option<Tensor>)> {
    todo!()
}
