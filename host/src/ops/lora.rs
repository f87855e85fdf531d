//! Low-rank update of a linear layer: `y += scale · (dropout(x) Aᵀ) Bᵀ` (Hu et al. 2021, arXiv 2106.09685).

use candle_core::{Result, Tensor};

use super::cpu::gemm::{Matrix, Output, matmul};
use super::cpu::slices::{modify, tensor, with_f32};
use super::dropout::{self, Dropout};
use super::linear::product;
use super::{Exec, wide, widened};

/// What the backward needs besides its inputs.
#[derive(Debug, Clone)]
pub struct Saved {
    /// `dropout(x) Aᵀ`, `[tokens, rank]`.
    pub xa: Tensor,
    /// Of a decomposed layer (see [`super::dora`]): `(W + scale · B A) dropout(x)`, `[tokens, out]`.
    pub sum: Option<Tensor>,
}

/// Gradients of one LoRA pair.
#[derive(Debug)]
pub struct Grads {
    /// `[rank, in]`.
    pub a: Tensor,
    /// `[out, rank]`.
    pub b: Tensor,
}

/// A product of two f32 tensors' values as matrices; `t` transposes.
struct Product<'a> {
    m: usize,
    n: usize,
    k: usize,
    lhs: (&'a Tensor, bool),
    rhs: (&'a Tensor, bool),
    scale: f32,
}

impl Product<'_> {
    fn add_to(&self, out: &mut [f32], accumulate: bool) -> Result<()> {
        let &Product { m, n, k, lhs, rhs, scale } = self;
        fn matrix(data: &[f32], rows: usize, cols: usize, transposed: bool) -> Matrix<'_> {
            if transposed { Matrix::rows(data, rows).t() } else { Matrix::rows(data, cols) }
        }
        with_f32(lhs.0, |l| {
            with_f32(rhs.0, |r| {
                let out = Output { data: out, row_stride: n, accumulate };
                matmul(m, n, k, out, matrix(l, m, k, lhs.1), matrix(r, k, n, rhs.1), scale);
                Ok(())
            })
        })
    }

    fn run(&self) -> Result<Tensor> {
        let mut out = vec![0f32; self.m * self.n];
        self.add_to(&mut out, false)?;
        tensor(out, (self.m, self.n))
    }

    fn run_onto(&self, onto: Tensor) -> Result<Tensor> {
        let mut done = Ok(());
        let onto = modify(onto, |out| done = self.add_to(out, true))?;
        done.map(|()| onto)
    }
}

/// Adds the low-rank update to `y [tokens, out]`, which is overwritten: the caller holds no other
/// handle on its values. `x [tokens, in]`, `a [rank, in]`, `b [out, rank]`.
///
/// # Errors
/// When shapes don't fit or a device fails.
pub fn forward(
    exec: Exec,
    x: &Tensor,
    y: Tensor,
    a: &Tensor,
    b: &Tensor,
    scale: f32,
    dropout: Option<Dropout<'_>>,
) -> Result<(Tensor, Saved)> {
    let ((tokens, width_in), (width_out, rank)) = (x.dims2()?, b.dims2()?);
    let dropped = dropped(exec, x, dropout)?;
    let x = dropped.as_ref().unwrap_or(x);
    if !exec.on_cpu(x) {
        let dtype = exec.product_type(x);
        let xa = product(x, &a.to_dtype(dtype)?.t()?)?;
        let y = (y + product(&(&xa * f64::from(scale))?, &b.to_dtype(dtype)?.t()?)?)?;
        return Ok((y, Saved { xa, sum: None }));
    }
    let xa =
        Product { m: tokens, n: rank, k: width_in, lhs: (x, false), rhs: (a, true), scale: 1.0 }
            .run()?;
    let y = Product { m: tokens, n: width_out, k: rank, lhs: (&xa, false), rhs: (b, true), scale }
        .run_onto(y)?;
    Ok((y, Saved { xa, sum: None }))
}

fn dropped(exec: Exec, x: &Tensor, dropout: Option<Dropout<'_>>) -> Result<Option<Tensor>> {
    dropout.map(|d| dropout::apply(exec, &widened(x)?, d)).transpose()
}

/// `dy [tokens, out]` → gradients of A and B; adds the input's gradient to `dx [tokens, in]`
/// (overwritten) when it is wanted.
///
/// # Errors
/// As [`forward`].
#[allow(clippy::too_many_arguments)]
pub fn backward(
    exec: Exec,
    dy: &Tensor,
    x: &Tensor,
    saved: &Saved,
    a: &Tensor,
    b: &Tensor,
    scale: f32,
    dropout: Option<Dropout<'_>>,
    dx: Option<Tensor>,
) -> Result<(Grads, Option<Tensor>)> {
    let ((tokens, width_in), (width_out, rank)) = (x.dims2()?, b.dims2()?);
    let dropped = dropped(exec, x, dropout)?;
    let x = dropped.as_ref().unwrap_or(x);
    if !exec.on_cpu(x) {
        let (factor, dtype) = (f64::from(scale), exec.product_type(x));
        let dy = dy.to_dtype(dtype)?;
        let xa = (&saved.xa * factor)?.to_dtype(dtype)?;
        let wide = wide(x.dtype());
        let db = dy.t()?.matmul(&xa)?.to_dtype(wide)?;
        let dxa = (dy.matmul(&b.to_dtype(dtype)?)?.to_dtype(wide)? * factor)?;
        let da = dxa.to_dtype(dtype)?.t()?.matmul(&x.to_dtype(dtype)?)?.to_dtype(wide)?;
        let dx = match dx {
            None => None,
            Some(sum) => {
                let part = product(&dxa, &a.to_dtype(dtype)?)?;
                let part = match dropout {
                    Some(d) => dropout::apply(exec, &part, d)?,
                    None => part,
                };
                Some((sum + part)?)
            }
        };
        return Ok((Grads { a: da, b: db }, dx));
    }
    let xa = &saved.xa;
    let db = Product { m: width_out, n: rank, k: tokens, lhs: (dy, true), rhs: (xa, false), scale }
        .run()?;
    let dxa =
        Product { m: tokens, n: rank, k: width_out, lhs: (dy, false), rhs: (b, false), scale }
            .run()?;
    let da =
        Product { m: rank, n: width_in, k: tokens, lhs: (&dxa, true), rhs: (x, false), scale: 1.0 }
            .run()?;
    let part = Product {
        m: tokens,
        n: width_in,
        k: rank,
        lhs: (&dxa, false),
        rhs: (a, false),
        scale: 1.0,
    };
    let dx = match (dx, dropout) {
        (None, _) => None,
        (Some(sum), None) => Some(part.run_onto(sum)?),
        (Some(sum), Some(d)) => {
            let part = dropout::apply(exec, &part.run()?, d)?;
            Some(super::elementwise::add(exec, sum, &part)?)
        }
    };
    Ok((Grads { a: da, b: db }, dx))
}
