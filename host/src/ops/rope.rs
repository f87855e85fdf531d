//! Rotary position embedding, half-split as Hugging Face lays LLaMA out (Su et al. 2021, arXiv 2104.09864).

use candle_core::{Device, Result, Tensor};

use super::Exec;

/// Cosines and sines by position.
#[derive(Debug, Clone)]
pub struct Table {
    /// `[positions, head_dim / 2]`, f32.
    pub cos: Tensor,
    /// `[positions, head_dim / 2]`, f32.
    pub sin: Tensor,
}

impl Table {
    /// `inv_freq [head_dim / 2]` in f64 as the model's family defines it (scaling included);
    /// angles are computed as HF does (f32 product of f32 position and f32 frequency).
    pub fn new(inv_freq: &[f64], positions: usize, device: &Device) -> Result<Self> {
        todo!()
    }
}

/// Rotates every head of `x [tokens, heads · head_dim]` by its token's position.
/// `inverse` rotates back: the backward.
pub fn apply(
    exec: Exec,
    x: &Tensor,
    table: &Table,
    position_ids: &[u32],
    inverse: bool,
) -> Result<Tensor> {
    todo!()
}
