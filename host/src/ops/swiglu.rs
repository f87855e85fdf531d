//! `silu(gate) · up` (Shazeer 2020, arXiv 2002.05202).

use candle_core::{Result, Tensor};

use super::Exec;

/// `gate`, `up [tokens, width]` → `[tokens, width]`.
pub fn forward(exec: Exec, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    todo!()
}

/// → `(dgate, dup)`.
pub fn backward(exec: Exec, dy: &Tensor, gate: &Tensor, up: &Tensor) -> Result<(Tensor, Tensor)> {
    todo!()
}
