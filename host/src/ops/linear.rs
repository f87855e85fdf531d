//! `y = x Wᵀ + b`.

use candle_core::{DType, Result, Tensor};

use super::cpu::gemm::{Matrix, Output, matmul};
use super::cpu::multiversion;
use super::cpu::slices::{modify, tensor, with, with_f32};
use super::cpu::widened::{self, Bf16Rows};
use super::quant::Frozen;
use super::{Exec, wide, widened};

multiversion! {
    fn add_bias(rows: &mut [f32], bias: &[f32]) {
        for row in rows.chunks_exact_mut(bias.len()) {
            for (y, &b) in row.iter_mut().zip(bias) {
                *y += b;
            }
        }
    }
}

/// `x [tokens, in]`, `weight [out, in]` (f32, bf16 or narrower), `bias [out]` → `[tokens, out]`.
///
/// # Errors
/// When shapes or types don't fit, or a device fails.
pub fn forward<'a>(
    exec: Exec,
    x: &Tensor,
    weight: impl Into<Frozen<'a>>,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    let weight = weight.into();
    let (tokens, width_in) = x.dims2()?;
    let (width_out, inner) = weight.dims()?;
    check(inner == width_in, x, (width_out, inner))?;
    if !exec.on_cpu(x) {
        let y = product(x, &weight_as(exec, weight, x)?.t()?)?;
        return match bias {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        };
    }
    let mut y = vec![0f32; tokens * width_out];
    with_f32(x, |x| match weight {
        Frozen::Resident(_) => candle_core::bail!("a CPU kernel was given a matrix of a GPU"),
        Frozen::Quantized(w) => {
            widened::forward(x, w, tokens, width_in, width_out, &mut y);
            Ok(())
        }
        Frozen::Dense(weight) if weight.dtype() == DType::BF16 => with(weight, |w| {
            widened::forward(x, &Bf16Rows(w), tokens, width_in, width_out, &mut y);
            Ok(())
        }),
        Frozen::Dense(weight) => with_f32(weight, |w| {
            let out = Output { data: &mut y, row_stride: width_out, accumulate: false };
            let (lhs, rhs) = (Matrix::rows(x, width_in), Matrix::rows(w, width_in).t());
            matmul(tokens, width_out, width_in, out, lhs, rhs, 1.0);
            Ok(())
        }),
    })?;
    if let Some(bias) = bias {
        with_f32(bias, |bias| {
            add_bias(&mut y, bias);
            Ok(())
        })?;
    }
    tensor(y, (tokens, width_out))
}

/// `dy [tokens, out]`, `weight [out, in]` → `dx [tokens, in]`.
///
/// # Errors
/// As [`forward`].
pub fn backward_input<'a>(
    exec: Exec,
    dy: &Tensor,
    weight: impl Into<Frozen<'a>>,
) -> Result<Tensor> {
    let weight = weight.into();
    let (tokens, width_in) = (dy.dim(0)?, weight.dims()?.1);
    if !exec.on_cpu(dy) {
        return product(dy, &weight_as(exec, weight, dy)?);
    }
    let mut dx = vec![0f32; tokens * width_in];
    add_input_gradient(dy, weight, &mut dx, false)?;
    tensor(dx, (tokens, width_in))
}

/// As [`backward_input`], added onto `dx`, which is overwritten: the caller holds no other handle
/// on its values.
///
/// # Errors
/// As [`forward`].
pub fn backward_input_add<'a>(
    exec: Exec,
    dy: &Tensor,
    weight: impl Into<Frozen<'a>>,
    dx: Tensor,
) -> Result<Tensor> {
    let weight = weight.into();
    if !exec.on_cpu(dy) {
        return dx + product(dy, &weight_as(exec, weight, dy)?)?;
    }
    let mut done = Ok(());
    let dx = modify(dx, |dx| done = add_input_gradient(dy, weight, dx, true))?;
    done.map(|()| dx)
}

/// The matrix in the type of products, on the device of `like`.
fn weight_as(exec: Exec, weight: Frozen<'_>, like: &Tensor) -> Result<Tensor> {
    let dtype = exec.product_type(like);
    weight.widen(like.device(), dtype)
}

/// `x [m, k] · y [k, n]` in the type of `y`; what comes is never 16 bits wide.
pub(super) fn product(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    x.to_dtype(y.dtype())?.matmul(y)?.to_dtype(wide(x.dtype()))
}

fn add_input_gradient(
    dy: &Tensor,
    weight: Frozen<'_>,
    dx: &mut [f32],
    accumulate: bool,
) -> Result<()> {
    let (tokens, width_out) = dy.dims2()?;
    let (rows, width_in) = weight.dims()?;
    check(rows == width_out, dy, (rows, width_in))?;
    with_f32(dy, |dy| match weight {
        Frozen::Resident(_) => candle_core::bail!("a CPU kernel was given a matrix of a GPU"),
        Frozen::Quantized(w) => {
            widened::backward_input(dy, w, tokens, width_in, width_out, dx, accumulate);
            Ok(())
        }
        Frozen::Dense(weight) if weight.dtype() == DType::BF16 => with(weight, |w| {
            let w = Bf16Rows(w);
            widened::backward_input(dy, &w, tokens, width_in, width_out, dx, accumulate);
            Ok(())
        }),
        Frozen::Dense(weight) => with_f32(weight, |w| {
            let out = Output { data: dx, row_stride: width_in, accumulate };
            let (lhs, rhs) = (Matrix::rows(dy, width_out), Matrix::rows(w, width_in));
            matmul(tokens, width_in, width_out, out, lhs, rhs, 1.0);
            Ok(())
        }),
    })
}

/// `dyᵀ x`: the weight's gradient `[out, in]`.
///
/// # Errors
/// As [`forward`].
pub fn backward_weight(exec: Exec, dy: &Tensor, x: &Tensor) -> Result<Tensor> {
    let ((tokens, width_out), (rows, width_in)) = (dy.dims2()?, x.dims2()?);
    check(rows == tokens, dy, x.dims2()?)?;
    if !exec.on_cpu(dy) {
        let dtype = exec.product_type(x);
        return dy.to_dtype(dtype)?.t()?.matmul(&x.to_dtype(dtype)?)?.to_dtype(wide(x.dtype()));
    }
    let mut grad = vec![0f32; width_out * width_in];
    with_f32(dy, |dy| {
        with_f32(x, |x| {
            let out = Output { data: &mut grad, row_stride: width_in, accumulate: false };
            let (lhs, rhs) = (Matrix::rows(dy, width_out).t(), Matrix::rows(x, width_in));
            matmul(width_out, width_in, tokens, out, lhs, rhs, 1.0);
            Ok(())
        })
    })?;
    tensor(grad, (width_out, width_in))
}

/// Column sums of `dy`: the bias's gradient `[out]`.
///
/// # Errors
/// When a device fails.
pub fn backward_bias(_exec: Exec, dy: &Tensor) -> Result<Tensor> {
    widened(dy)?.sum(0)
}

fn check(fits: bool, a: &Tensor, b: (usize, usize)) -> Result<()> {
    if !fits {
        candle_core::bail!("shapes {:?} and {b:?} don't fit a linear layer", a.dims());
    }
    Ok(())
}
