//! Rotary position embedding, half-split as Hugging Face lays LLaMA out (Su et al. 2021, arXiv 2104.09864).

use candle_core::{Device, Result, Tensor};
use rayon::prelude::*;

use super::Exec;
use super::cpu::slices::{tensor, with_f32};
use super::cpu::{PARALLEL_MIN, multiversion};

/// Cosines and sines by position.
#[derive(Debug, Clone)]
pub struct Table {
    /// `[positions, head_dim / 2]`, f32.
    pub cos: Tensor,
    /// `[positions, head_dim / 2]`, f32.
    pub sin: Tensor,
}

impl Table {
    /// `inv_freq [head_dim / 2]` as the model's family defines it, scaling included. Angles are
    /// products in f32, as transformers computes them.
    ///
    /// # Errors
    /// When the table can't be made on `device`.
    pub fn new(inv_freq: &[f64], positions: usize, device: &Device) -> Result<Self> {
        let half = inv_freq.len();
        let (mut cos, mut sin) =
            (Vec::with_capacity(positions * half), Vec::with_capacity(positions * half));
        for position in 0..positions {
            for &frequency in inv_freq {
                let angle = position as f32 * frequency as f32;
                cos.push(f64::from(angle).cos() as f32);
                sin.push(f64::from(angle).sin() as f32);
            }
        }
        let shape = (positions, half);
        Ok(Self {
            cos: Tensor::from_vec(cos, shape, device)?,
            sin: Tensor::from_vec(sin, shape, device)?,
        })
    }
}

multiversion! {
    fn rotate_head(x: &[f32], cos: &[f32], sin: &[f32], sign: f32, y: &mut [f32]) {
        let half = cos.len();
        let (x0, x1) = x.split_at(half);
        let (y0, y1) = y.split_at_mut(half);
        let (x1, y1, sin) = (&x1[..half], &mut y1[..half], &sin[..half]);
        for i in 0..half {
            let s = sin[i] * sign;
            y0[i] = x0[i] * cos[i] - x1[i] * s;
            y1[i] = x1[i] * cos[i] + x0[i] * s;
        }
    }
}

/// Rotates every head of `x [tokens, heads · head_dim]` by its token's position.
/// `inverse` rotates back: the backward.
///
/// # Errors
/// When a position is beyond the table or a device fails.
pub fn apply(
    exec: Exec,
    x: &Tensor,
    table: &Table,
    position_ids: &[u32],
    inverse: bool,
) -> Result<Tensor> {
    let (tokens, width) = x.dims2()?;
    let (positions, half) = table.cos.dims2()?;
    let head_dim = 2 * half;
    if position_ids.len() != tokens || head_dim == 0 || width % head_dim != 0 {
        candle_core::bail!("{} positions don't fit rows {:?}", position_ids.len(), x.dims());
    }
    if let Some(p) = position_ids.iter().find(|&&p| p as usize >= positions) {
        candle_core::bail!("position {p} is beyond the rotation table of {positions}");
    }
    if exec == Exec::Portable {
        let ids = Tensor::new(position_ids, x.device())?;
        let at = |t: &Tensor| t.index_select(&ids, 0)?.unsqueeze(1)?.to_dtype(x.dtype());
        let (cos, sin) = (at(&table.cos)?, at(&table.sin)?);
        let sin = if inverse { sin.neg()? } else { sin };
        let heads = x.reshape((tokens, width / head_dim, head_dim))?;
        let x0 = heads.narrow(2, 0, half)?;
        let x1 = heads.narrow(2, half, half)?;
        let y0 = (x0.broadcast_mul(&cos)? - x1.broadcast_mul(&sin)?)?;
        let y1 = (x1.broadcast_mul(&cos)? + x0.broadcast_mul(&sin)?)?;
        return Tensor::cat(&[y0, y1], 2)?.reshape((tokens, width));
    }
    let sign = if inverse { -1.0 } else { 1.0 };
    let mut y = vec![0f32; tokens * width];
    with_f32(x, |x| {
        with_f32(&table.cos, |cos| {
            with_f32(&table.sin, |sin| {
                let row = |t: usize, y: &mut [f32]| {
                    let at = position_ids[t] as usize * half;
                    let (cos, sin) = (&cos[at..at + half], &sin[at..at + half]);
                    let x = &x[t * width..(t + 1) * width];
                    for (x, y) in x.chunks_exact(head_dim).zip(y.chunks_exact_mut(head_dim)) {
                        rotate_head(x, cos, sin, sign, y);
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
