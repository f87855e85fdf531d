//! Weight-decomposed low-rank update (DoRA: Liu et al. 2024, arXiv 2402.09353):
//! `W' = m · (W + s B A) / |W + s B A|`, the length taken over each row and held constant in the
//! backward. With dropout the change is that of a dropped input, as in PEFT:
//! `y = W x + b + (W' - W) dropout(x)`.

use candle_core::{DType, Result, Tensor};

use super::dropout::{self, Dropout};
use super::quant::Frozen;
use super::{Exec, elementwise, linear, lora, widened};

/// The parts of an adapted linear layer.
#[derive(Clone, Copy)]
pub struct Layer<'a> {
    /// W, `[out, in]`.
    pub weight: Frozen<'a>,
    /// b, `[out]`.
    pub bias: Option<&'a Tensor>,
    /// A, `[rank, in]`.
    pub a: &'a Tensor,
    /// B, `[out, rank]`.
    pub b: &'a Tensor,
    /// s.
    pub scale: f32,
    /// m, `[out]`.
    pub magnitude: &'a Tensor,
    /// `|W + s B A|`, `[out]`, of [`weight_norm`].
    pub norm: &'a Tensor,
    /// Dropout on the input of the change.
    pub dropout: Option<Dropout<'a>>,
}

impl Layer<'_> {
    /// Factors on the rows of `W + s B A`, `[out]`.
    fn factors(&self) -> Result<Tensor> {
        self.magnitude.div(self.norm)
    }
}

/// Gradients of what is trained.
#[derive(Debug)]
pub struct Grads {
    /// Of A and B.
    pub pair: lora::Grads,
    /// Of m, `[out]`.
    pub magnitude: Tensor,
}

/// Sums of squares of the rows of `weight`, `[out]`, f64.
///
/// # Errors
/// When a device fails.
pub fn row_squares(weight: Frozen<'_>) -> Result<Tensor> {
    /// Rows widened at a time.
    const ROWS: usize = 512;
    let whole;
    let weight = match weight {
        Frozen::Dense(weight) => weight,
        Frozen::Quantized(matrix) => {
            whole = matrix.dequantize(&candle_core::Device::Cpu)?;
            &whole
        }
        Frozen::Resident(matrix) => {
            whole = matrix.widen(DType::F32)?;
            &whole
        }
    };
    let rows = weight.dim(0)?;
    let part = |first: usize| {
        let n = ROWS.min(rows - first);
        weight.narrow(0, first, n)?.to_dtype(DType::F64)?.sqr()?.sum(1)
    };
    let parts = (0..rows).step_by(ROWS).map(part).collect::<Result<Vec<_>>>()?;
    Tensor::cat(&parts, 0)
}

/// Lengths of the rows of `W + s B A`, `[out]`, f32, from the [`row_squares`] of W; the sum itself is
/// never made.
///
/// # Errors
/// When shapes don't fit or a device fails.
pub fn weight_norm<'a>(
    exec: Exec,
    weight: impl Into<Frozen<'a>>,
    squares: &Tensor,
    a: &Tensor,
    b: &Tensor,
    scale: f32,
) -> Result<Tensor> {
    let wide = |t: &Tensor| t.to_dtype(DType::F64);
    let scale = f64::from(scale);
    let aw = wide(&linear::forward(exec, a, weight, None)?)?;
    let (a, b) = (wide(a)?, wide(b)?);
    let cross = (&b * aw.t()?)?.sum(1)?;
    let square = (b.matmul(&a.matmul(&a.t()?)?)? * &b)?.sum(1)?;
    let sum = ((wide(squares)? + (cross * (2.0 * scale))?)? + (square * (scale * scale))?)?;
    sum.maximum(0f64)?.sqrt()?.to_dtype(DType::F32)
}

/// `x [tokens, in]` → `[tokens, out]`.
///
/// # Errors
/// When shapes don't fit or a device fails.
pub fn forward(exec: Exec, x: &Tensor, layer: Layer<'_>) -> Result<(Tensor, lora::Saved)> {
    let Layer { weight, bias, a, b, scale, dropout, .. } = layer;
    let factors = layer.factors()?;
    let Some(dropout) = dropout else {
        let base = linear::forward(exec, x, weight, None)?;
        let (sum, saved) = lora::forward(exec, x, base, a, b, scale, None)?;
        let y = sum.broadcast_mul(&factors)?;
        let y = match bias {
            Some(bias) => y.broadcast_add(bias)?,
            None => y,
        };
        return Ok((y, lora::Saved { sum: Some(sum), ..saved }));
    };
    let dropped = dropout::apply(exec, &widened(x)?, dropout)?;
    let of_dropped = linear::forward(exec, &dropped, weight, None)?;
    let y = (linear::forward(exec, x, weight, bias)? - &of_dropped)?;
    let (sum, saved) = lora::forward(exec, &dropped, of_dropped, a, b, scale, None)?;
    let y = elementwise::add(exec, y, &sum.broadcast_mul(&factors)?)?;
    Ok((y, lora::Saved { sum: Some(sum), ..saved }))
}

/// `dy [tokens, out]` → gradients of what is trained, and of the input, added to `dx`, when `want_dx`.
///
/// # Errors
/// As [`forward`]; when `saved` is of a plain pair.
pub fn backward(
    exec: Exec,
    dy: &Tensor,
    x: &Tensor,
    saved: &lora::Saved,
    layer: Layer<'_>,
    dx: Option<Tensor>,
    want_dx: bool,
) -> Result<(Grads, Option<Tensor>)> {
    let Layer { weight, a, b, scale, dropout, .. } = layer;
    let Some(sum) = &saved.sum else {
        candle_core::bail!("the backward of a decomposed layer was given a plain pair's state");
    };
    let factors = layer.factors()?;
    let magnitude = (dy * sum)?.sum(0)?.div(layer.norm)?;
    let scaled = dy.broadcast_mul(&factors)?;
    let through_weight = |dy: &Tensor, dx: Option<Tensor>| match dx {
        None => linear::backward_input(exec, dy, weight),
        Some(sum) => linear::backward_input_add(exec, dy, weight, sum),
    };
    let Some(dropout) = dropout else {
        let dx = want_dx.then(|| through_weight(&scaled, dx)).transpose()?;
        let (pair, dx) = lora::backward(exec, &scaled, x, saved, a, b, scale, None, dx)?;
        return Ok((Grads { pair, magnitude }, dx));
    };
    let dropped = dropout::apply(exec, &widened(x)?, dropout)?;
    let part = want_dx.then(|| through_weight(&(&scaled - dy)?, None)).transpose()?;
    let (pair, part) = lora::backward(exec, &scaled, &dropped, saved, a, b, scale, None, part)?;
    let dx = match part {
        None => None,
        Some(part) => {
            let part = dropout::apply(exec, &part, dropout)?;
            Some(elementwise::add(exec, through_weight(dy, dx)?, &part)?)
        }
    };
    Ok((Grads { pair, magnitude }, dx))
}
