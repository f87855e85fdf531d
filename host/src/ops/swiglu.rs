//! `silu(gate) · up` (Shazeer 2020, arXiv 2002.05202).

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::Exec;
use super::cpu::slices::{tensor, with_f32};
use super::cpu::{PARALLEL_MIN, math, multiversion};

/// Elements handled at a time: the operands stay in the first-level cache.
const PIECE: usize = 2048;

multiversion! {
    fn forward_piece(gate: &[f32], up: &[f32], y: &mut [f32]) {
        for ((y, &g), &u) in y.iter_mut().zip(gate).zip(up) {
            *y = g * math::sigmoid(g) * u;
        }
    }
}

multiversion! {
    fn backward_piece(dy: &[f32], gate: &[f32], up: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
        let n = dy.len();
        let (gate, up, dgate, dup) = (&gate[..n], &up[..n], &mut dgate[..n], &mut dup[..n]);
        for i in 0..n {
            let (g, d) = (gate[i], dy[i]);
            let s = math::sigmoid(g);
            dup[i] = d * g * s;
            dgate[i] = d * up[i] * s * (1.0 + g * (1.0 - s));
        }
    }
}

/// `gate`, `up [tokens, width]` → `[tokens, width]`.
///
/// # Errors
/// When shapes don't fit or a device fails.
pub fn forward(exec: Exec, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if exec == Exec::Portable {
        return gate.silu()? * up;
    }
    let mut y = vec![0f32; gate.elem_count()];
    with_f32(gate, |gate| {
        with_f32(up, |up| {
            if gate.len() != up.len() {
                candle_core::bail!("gate has {} values and up {}", gate.len(), up.len());
            }
            if y.len() < PARALLEL_MIN {
                forward_piece(gate, up, &mut y);
            } else {
                y.par_chunks_mut(PIECE)
                    .zip(gate.par_chunks(PIECE).zip(up.par_chunks(PIECE)))
                    .for_each(|(y, (gate, up))| forward_piece(gate, up, y));
            }
            Ok(())
        })
    })?;
    tensor(y, gate.shape())
}

/// → `(dgate, dup)`.
///
/// # Errors
/// As [`forward`].
pub fn backward(exec: Exec, dy: &Tensor, gate: &Tensor, up: &Tensor) -> Result<(Tensor, Tensor)> {
    if exec == Exec::Portable {
        let s = (gate.neg()?.exp()? + 1.0)?.recip()?;
        let dup = (dy * (gate * &s)?)?;
        let slope = (&s * ((gate * (1.0 - &s)?)? + 1.0)?)?;
        return Ok((((dy * up)? * slope)?, dup));
    }
    let mut dgate = vec![0f32; gate.elem_count()];
    let mut dup = vec![0f32; gate.elem_count()];
    with_f32(dy, |dy| {
        with_f32(gate, |gate| {
            with_f32(up, |up| {
                if dy.len() != gate.len() || up.len() != gate.len() {
                    candle_core::bail!("gate has {} values, up {}", gate.len(), up.len());
                }
                if dy.len() < PARALLEL_MIN {
                    backward_piece(dy, gate, up, &mut dgate, &mut dup);
                } else {
                    let inputs =
                        dy.par_chunks(PIECE).zip(gate.par_chunks(PIECE).zip(up.par_chunks(PIECE)));
                    dgate
                        .par_chunks_mut(PIECE)
                        .zip(dup.par_chunks_mut(PIECE))
                        .zip(inputs)
                        .for_each(|((dgate, dup), (dy, (gate, up)))| {
                            backward_piece(dy, gate, up, dgate, dup);
                        });
                }
                Ok(())
            })
        })
    })?;
    Ok((tensor(dgate, gate.shape())?, tensor(dup, gate.shape())?))
}
