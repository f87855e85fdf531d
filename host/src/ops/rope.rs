//! Rotary position embedding (Su et al. 2021, arXiv 2104.09864), in the layouts that families have.

use candle_core::{Device, Result, Tensor};
use rayon::prelude::*;

use super::Exec;
use super::cpu::slices::{tensor, with_f32};
use super::cpu::{PARALLEL_MIN, multiversion};

/// Which two values of a head form a rotated pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `i` and `i + pairs` (Hugging Face's LLaMA).
    Halves,
    /// `2 i` and `2 i + 1` (ChatGLM 2).
    Interleaved,
    /// The first half of the pairs as [`Layout::Halves`] of the head's first half, the others of its
    /// second (ChatGLM, which has two positions).
    TwoHalves,
}

/// Cosines and sines by row (usually a position), and how they apply to a head's first `2 · pairs`
/// values; the others are kept.
#[derive(Debug, Clone)]
pub struct Table {
    /// `[rows, pairs]`, f32.
    pub cos: Tensor,
    /// `[rows, pairs]`, f32.
    pub sin: Tensor,
    /// Which values form the pairs.
    pub layout: Layout,
}

impl Table {
    /// From angles in radians, `[rows, pairs]`. `factor` multiplies cosines and sines.
    ///
    /// # Errors
    /// When the table can't be made on `device`.
    pub fn new(
        angles: &[f32],
        pairs: usize,
        factor: f64,
        layout: Layout,
        device: &Device,
    ) -> Result<Self> {
        let shape = (angles.len() / pairs.max(1), pairs);
        let table = |f: fn(f64) -> f64| {
            let values = angles.iter().map(|&a| (f(f64::from(a)) * factor) as f32).collect();
            Tensor::from_vec::<_, f32>(values, shape, device)
        };
        Ok(Self { cos: table(f64::cos)?, sin: table(f64::sin)?, layout })
    }
}

/// The row of a table for each token.
#[derive(Debug, Clone)]
pub struct Rows {
    rows: Vec<u32>,
    /// On a GPU the same there.
    on_device: Option<Tensor>,
}

impl Rows {
    /// For tokens on `device`.
    ///
    /// # Errors
    /// When a device fails.
    pub fn new(rows: Vec<u32>, device: &Device) -> Result<Self> {
        let on_device = match device.is_cpu() {
            true => None,
            false => Some(Tensor::new(rows.as_slice(), device)?),
        };
        Ok(Self { rows, on_device })
    }

    fn tensor(&self, device: &Device) -> Result<Tensor> {
        match &self.on_device {
            Some(tensor) => Ok(tensor.clone()),
            None => Tensor::new(self.rows.as_slice(), device),
        }
    }
}

/// `n` pairs: `(x0[i], x1[i])`.
#[inline(always)]
fn rotate_halves(x: &[f32], cos: &[f32], sin: &[f32], sign: f32, y: &mut [f32]) {
    let n = cos.len();
    let (x0, x1) = x.split_at(n);
    let (y0, y1) = y.split_at_mut(n);
    let (x1, y1, sin) = (&x1[..n], &mut y1[..n], &sin[..n]);
    for i in 0..n {
        let s = sin[i] * sign;
        y0[i] = x0[i] * cos[i] - x1[i] * s;
        y1[i] = x1[i] * cos[i] + x0[i] * s;
    }
}

multiversion! {
    fn rotate_head(layout: Layout, x: &[f32], cos: &[f32], sin: &[f32], sign: f32, y: &mut [f32]) {
        let pairs = cos.len();
        match layout {
            Layout::Halves => rotate_halves(x, cos, sin, sign, y),
            Layout::TwoHalves => {
                let n = pairs / 2;
                rotate_halves(&x[..pairs], &cos[..n], &sin[..n], sign, &mut y[..pairs]);
                rotate_halves(&x[pairs..], &cos[n..], &sin[n..], sign, &mut y[pairs..]);
            }
            Layout::Interleaved => {
                let couples = x.chunks_exact(2).zip(y.chunks_exact_mut(2));
                for ((x, y), (&c, &s)) in couples.zip(cos.iter().zip(sin)) {
                    let s = s * sign;
                    (y[0], y[1]) = (x[0] * c - x[1] * s, x[1] * c + x[0] * s);
                }
            }
        }
        y[2 * pairs..].copy_from_slice(&x[2 * pairs..]);
    }
}

/// Rotates every head of `x [tokens, heads · head_dim]` by its token's row of the table.
/// `backward` applies the transpose: the gradient's way.
///
/// # Errors
/// When a row is beyond the table or a device fails.
pub fn apply(
    exec: Exec,
    x: &Tensor,
    table: &Table,
    head_dim: usize,
    rows: &Rows,
    backward: bool,
) -> Result<Tensor> {
    let (tokens, width) = x.dims2()?;
    let (positions, pairs) = table.cos.dims2()?;
    let fits = head_dim >= 2 * pairs && head_dim > 0 && width % head_dim == 0;
    let halves = table.layout != Layout::TwoHalves || (pairs % 2 == 0 && head_dim == 2 * pairs);
    let (rows, places) = (&rows.rows, rows);
    if rows.len() != tokens || !fits || !halves {
        candle_core::bail!("{} rows of {pairs} pairs don't fit {:?}", rows.len(), x.dims());
    }
    if let Some(p) = rows.iter().find(|&&p| p as usize >= positions) {
        candle_core::bail!("position {p} is beyond the rotation table of {positions}");
    }
    #[cfg(feature = "cuda")]
    if exec.on_cuda(x) {
        let (rows, Table { cos, sin, layout }) = (places.tensor(x.device())?, table);
        return super::cuda::rope::apply(x, cos, sin, &rows, *layout, head_dim, backward);
    }
    if !exec.on_cpu(x) {
        return portable(x, table, head_dim, &places.tensor(x.device())?, backward);
    }
    let sign = if backward { -1.0 } else { 1.0 };
    let mut y = vec![0f32; tokens * width];
    with_f32(x, |x| {
        with_f32(&table.cos, |cos| {
            with_f32(&table.sin, |sin| {
                let row = |t: usize, y: &mut [f32]| {
                    let at = rows[t] as usize * pairs;
                    let (cos, sin) = (&cos[at..at + pairs], &sin[at..at + pairs]);
                    let x = &x[t * width..(t + 1) * width];
                    for (x, y) in x.chunks_exact(head_dim).zip(y.chunks_exact_mut(head_dim)) {
                        rotate_head(table.layout, x, cos, sin, sign, y);
                    }
                };
                if y.len() < PARALLEL_MIN {
                    y.chunks_exact_mut(width).enumerate().for_each(|(t, y)| row(t, y));
                } else {
                    y.par_chunks_exact_mut(width).enumerate().for_each(|(t, y)| row(t, y));
                }
                Ok(())
            })
        })
    })?;
    tensor(y, (tokens, width))
}

fn portable(
    x: &Tensor,
    table: &Table,
    head_dim: usize,
    ids: &Tensor,
    backward: bool,
) -> Result<Tensor> {
    let ((tokens, width), pairs) = (x.dims2()?, table.cos.dim(1)?);
    let heads = x.reshape((tokens, width / head_dim, head_dim))?;
    let at = |t: &Tensor| t.index_select(ids, 0)?.unsqueeze(1)?.to_dtype(x.dtype());
    let (cos, sin) = (at(&table.cos)?, at(&table.sin)?);
    let sin = if backward { sin.neg()? } else { sin };
    let turn = |x0: &Tensor, x1: &Tensor, first: usize, n: usize| -> Result<(Tensor, Tensor)> {
        let (cos, sin) = (cos.narrow(2, first, n)?, sin.narrow(2, first, n)?);
        let y0 = (x0.broadcast_mul(&cos)? - x1.broadcast_mul(&sin)?)?;
        let y1 = (x1.broadcast_mul(&cos)? + x0.broadcast_mul(&sin)?)?;
        Ok((y0, y1))
    };
    let mut parts = match table.layout {
        Layout::Halves => {
            let (x0, x1) = (heads.narrow(2, 0, pairs)?, heads.narrow(2, pairs, pairs)?);
            let (y0, y1) = turn(&x0, &x1, 0, pairs)?;
            vec![y0, y1]
        }
        Layout::TwoHalves => {
            let n = pairs / 2;
            let mut parts = Vec::with_capacity(4);
            for half in [0, 1] {
                let x0 = heads.narrow(2, half * pairs, n)?;
                let x1 = heads.narrow(2, half * pairs + n, n)?;
                let (y0, y1) = turn(&x0, &x1, half * n, n)?;
                parts.extend([y0, y1]);
            }
            parts
        }
        Layout::Interleaved => {
            let couples = heads.narrow(2, 0, 2 * pairs)?;
            let couples = couples.reshape((tokens, width / head_dim, pairs, 2))?;
            let (x0, x1) =
                (couples.narrow(3, 0, 1)?.squeeze(3)?, couples.narrow(3, 1, 1)?.squeeze(3)?);
            let (y0, y1) = turn(&x0, &x1, 0, pairs)?;
            vec![Tensor::stack(&[y0, y1], 3)?.flatten_from(2)?]
        }
    };
    if head_dim > 2 * pairs {
        parts.push(heads.narrow(2, 2 * pairs, head_dim - 2 * pairs)?);
    }
    Tensor::cat(&parts, 2)?.reshape((tokens, width))
}
