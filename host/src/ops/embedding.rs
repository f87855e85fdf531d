//! Rows of a table.

use candle_core::{Result, Tensor};

use super::Exec;

/// `table [vocab, hidden]` (f32 or bf16), `ids [tokens]` → `[tokens, hidden]` f32.
pub fn forward(exec: Exec, table: &Tensor, ids: &[u32]) -> Result<Tensor> {
    todo!()
}

/// Adds the rows of `dy [tokens, hidden]` to row `ids[t]` of `grad [vocab, hidden]`, in token
/// order. `grad` of `None` starts at zero.
pub fn backward(
    exec: Exec,
    dy: &Tensor,
    ids: &[u32],
    vocab_size: usize,
    grad: Option<Tensor>,
) -> Result<Tensor> {
    todo!()
}
