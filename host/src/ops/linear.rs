//! `y = x Wᵀ + b`.

use candle_core::{DType, Result, Tensor};

use super::Exec;
use super::cpu::gemm::{Matrix, Output, matmul};
use super::cpu::multiversion;
use super::cpu::slices::{modify, tensor, with, with_f32};
use super::cpu::widened::{self, Bf16Rows};
use super::quant::Frozen;

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
    if exec == Exec::Portable {
        let y = x.matmul(&wide(weight, x)?.t()?)?;
        return match bias {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        };
    }
    let mut y = vec![0f32; tokens * width_out];
    with_f32(x, |x| match weight {
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
    if exec == Exec::Portable {
        return dy.matmul(&wide(weight, dy)?);
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
    if exec == Exec::Portable {
        return dx + dy.matmul(&wide(weight, dy)?)?;
    }
    let mut done = Ok(());
    let dx = modify(dx, |dx| done = add_input_gradient(dy, weight, dx, true))?;
    done.map(|()| dx)
}

/// The matrix in `like`'s type, on its device.
fn wide(weight: Frozen<'_>, like: &Tensor) -> Result<Tensor> {
    match weight {
        Frozen::Dense(weight) => weight.to_dtype(like.dtype()),
        Frozen::Quantized(weight) => weight.dequantize(like.device())?.to_dtype(like.dtype()),
    }
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
    if exec == Exec::Portable {
        return dy.t()?.matmul(x);
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
    dy.sum(0)
}

fn check(fits: bool, a: &Tensor, b: (usize, usize)) -> Result<()> {
    if !fits {
        candle_core::bail!("shapes {:?} and {b:?} don't fit a linear layer", a.dims());
    }
    Ok(())
}
