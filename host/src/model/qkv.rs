//! Queries, keys and values of a block: projected, taken apart where one layer makes all, normed
//! where the family does, rotated.

use candle_core::{Result, Tensor};

use super::block::{BlockContext, BlockParams};
use super::norm;
use super::params::GradSet;
use super::projection::{self, Projection};
use super::slots::NormPlace;
use super::spec::{DecoderSpec, QkvLayout};
use super::weights::{LayerWeights, Norm};
use crate::ops::{lora, rope};

/// Queries `[tokens, num_heads · head_dim]`, keys and values `[tokens, num_kv_heads · head_dim]`, as
/// attention takes them.
pub struct Qkv {
    /// Queries.
    pub q: Tensor,
    /// Keys.
    pub k: Tensor,
    /// Values.
    pub v: Tensor,
    /// What the backward needs.
    pub saved: Saved,
}

/// Queries or keys before their norm.
struct Normed {
    x: Tensor,
    stats: norm::Saved,
}

/// What the backward needs besides the block's normed input.
pub struct Saved {
    q: Option<Normed>,
    k: Option<Normed>,
    lora: Vec<Option<lora::Saved>>,
}

fn projections(spec: &DecoderSpec) -> &'static [Projection] {
    match spec.qkv {
        QkvLayout::Split => &[Projection::Q, Projection::K, Projection::V],
        QkvLayout::Concatenated | QkvLayout::Grouped => &[Projection::Qkv],
    }
}

/// Whether the backward reads the block's normed input.
pub fn needs_input(b: &BlockContext<'_>, trained: &BlockParams) -> bool {
    let needs = |&p: &Projection| b.cx.needs_input(b.layer, p, trained.linears[p as usize]);
    projections(b.spec).iter().any(needs)
}

/// Of `n1 [tokens, hidden]`.
pub fn forward(b: &BlockContext<'_>, w: &LayerWeights, n1: &Tensor) -> Result<Qkv> {
    let n1 = &b.cx.exec.rounded(n1)?;
    let mut made = Vec::with_capacity(3);
    let mut lora = Vec::with_capacity(3);
    for &p in projections(b.spec) {
        let (y, saved) = projection::forward(&b.cx, b.layer, p, w.linear(p)?, n1)?;
        made.push(y);
        lora.push(saved);
    }
    if made.len() == 1 {
        made = take_apart(b.spec, &made[0])?;
    }
    let [q, k, v]: [Tensor; 3] = made
        .try_into()
        .map_err(|_| candle_core::Error::Msg("queries, keys and values are not three".into()))?;
    let (q, q_normed) = normed(b, w.norm(NormPlace::Query), q)?;
    let (k, k_normed) = normed(b, w.norm(NormPlace::Key), k)?;
    let (q, k) = (rotate(b, q, false)?, rotate(b, k, false)?);
    Ok(Qkv { q, k, v, saved: Saved { q: q_normed, k: k_normed, lora } })
}

/// Gradients of queries, keys and values → that of the block's normed input, when wanted. `n1`:
/// that input, where [`needs_input`] asks for it.
pub fn backward(
    b: &BlockContext<'_>,
    w: &LayerWeights,
    trained: &BlockParams,
    saved: Saved,
    [dq, dk, dv]: [Tensor; 3],
    n1: Option<&Tensor>,
    want_dx: bool,
    grads: &mut GradSet,
) -> Result<Option<Tensor>> {
    let n1 = n1.map(|n1| b.cx.exec.rounded(n1)).transpose()?;
    let n1 = n1.as_ref();
    let (dq, dk) = (rotate(b, dq, true)?, rotate(b, dk, true)?);
    let mut through =
        |place: NormPlace, kept: Option<Normed>, d: Tensor| match (kept, w.norm(place)) {
            (Some(kept), Some(norm)) => {
                let params = trained.norms[place as usize];
                b.norms.backward(norm, params, &kept.x, &kept.stats, &d, grads)
            }
            _ => Ok(d),
        };
    let dq = through(NormPlace::Query, saved.q, dq)?;
    let dk = through(NormPlace::Key, saved.k, dk)?;
    let gradients = match b.spec.qkv {
        QkvLayout::Split => vec![dq, dk, dv],
        QkvLayout::Concatenated | QkvLayout::Grouped => vec![put_together(b.spec, [dq, dk, dv])?],
    };
    let mut dx = None;
    for ((&p, dy), lora) in projections(b.spec).iter().zip(&gradients).zip(&saved.lora) {
        let input = projection::BackwardInput { dy, x: n1, saved: lora.as_ref(), dx, want_dx };
        let place = trained.linears[p as usize];
        dx = projection::backward(&b.cx, b.layer, p, w.linear(p)?, place, input, grads)?;
    }
    Ok(dx)
}

fn normed(
    b: &BlockContext<'_>,
    norm: Option<&Norm>,
    x: Tensor,
) -> Result<(Tensor, Option<Normed>)> {
    let Some(norm) = norm else { return Ok((x, None)) };
    let (y, stats) = b.norms.forward(norm, &x)?;
    Ok((y, Some(Normed { x, stats })))
}

fn rotate(b: &BlockContext<'_>, x: Tensor, backward: bool) -> Result<Tensor> {
    match b.places.rotations(b.spec, b.layer) {
        None => Ok(x),
        Some(r) => rope::apply(b.cx.exec, &x, &r.table, b.spec.head_dim, &r.rows, backward),
    }
}

/// `[tokens, q + 2 kv]` → queries, keys, values.
fn take_apart(spec: &DecoderSpec, all: &Tensor) -> Result<Vec<Tensor>> {
    let (q, kv) = spec.attention_widths();
    if spec.qkv == QkvLayout::Concatenated {
        let part = |first, n| all.narrow(1, first, n)?.contiguous();
        return Ok(vec![part(0, q)?, part(q, kv)?, part(q + kv, kv)?]);
    }
    let (tokens, group) = (all.dim(0)?, spec.num_heads / spec.num_kv_heads);
    let heads = all.reshape((tokens, spec.num_kv_heads, group + 2, spec.head_dim))?;
    let part =
        |first, n: usize, width| heads.narrow(2, first, n)?.contiguous()?.reshape((tokens, width));
    Ok(vec![part(0, group, q)?, part(group, 1, kv)?, part(group + 1, 1, kv)?])
}

/// The way back of [`take_apart`].
fn put_together(spec: &DecoderSpec, parts: [Tensor; 3]) -> Result<Tensor> {
    if spec.qkv == QkvLayout::Concatenated {
        return Tensor::cat(&parts, 1);
    }
    let (tokens, group) = (parts[0].dim(0)?, spec.num_heads / spec.num_kv_heads);
    let shaped = |x: &Tensor, n: usize| x.reshape((tokens, spec.num_kv_heads, n, spec.head_dim));
    let [q, k, v] = &parts;
    let heads = Tensor::cat(&[shaped(q, group)?, shaped(k, 1)?, shaped(v, 1)?], 2)?;
    heads.flatten_from(1)
}
