//! `y = x Wᵀ + b`.

use candle_core::{Result, Tensor};

use super::Exec;

/// `x [tokens, in]`, `weight [out, in]` (f32 or bf16), `bias [out]` → `[tokens, out]`.
pub fn forward(exec: Exec, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    todo!()
}

/// `dy [tokens, out]`, `weight [out, in]` → `dx [tokens, in]`.
pub fn backward_input(exec: Exec, dy: &Tensor, weight: &Tensor) -> Result<Tensor> {
    todo!()
}

/// As [`backward_input`], added onto `dx` (which is consumed and returned; its buffer is reused
/// where it is not shared).
pub fn backward_input_add(exec: Exec, dy: &Tensor, weight: &Tensor, dx: Tensor) -> Result<Tensor> {
    todo!()
}

/// `dyᵀ x`: the weight's gradient `[out, in]`.
pub fn backward_weight(exec: Exec, dy: &Tensor, x: &Tensor) -> Result<Tensor> {
    todo!()
}

/// Column sums of `dy`: the bias's gradient `[out]`.
pub fn backward_bias(exec: Exec, dy: &Tensor) -> Result<Tensor> {
    todo!()
}
