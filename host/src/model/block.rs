//! One transformer block: forward, and the backward written by hand.
//!
//! ```text
//! n1 = rms_norm(x)      q, k, v = project(n1)   [q, k = rms_norm per head]   q, k = rope(q, k)
//! h  = x + project_o(attention(q, k, v))
//! n2 = rms_norm(h)      y = h + project_down(silu(project_gate(n2)) · project_up(n2))
//! ```
//!
//! Kept for the backward: what is dear to compute again. `n1`, `n2` and the MLP's activation
//! are cheap and are recomputed.

use candle_core::{Result, Tensor};

use super::params::GradSet;
use super::projection::{self, BackwardInput, Context, LinearParams, Projection};
use super::spec::DecoderSpec;
use super::weights::LayerWeights;
use crate::ops::{self, attention, lora, rms_norm, rope};

/// Where full fine-tuning puts the gradients of one block.
#[derive(Clone, Copy, Debug, Default)]
pub struct BlockParams {
    /// Linear layers, by [`Projection`].
    pub linear: [LinearParams; 7],
    /// Norm before attention.
    pub input_norm: Option<usize>,
    /// Norm before the MLP.
    pub post_norm: Option<usize>,
    /// Norm of each query head.
    pub q_norm: Option<usize>,
    /// Norm of each key head.
    pub k_norm: Option<usize>,
}

/// Everything about a block but its weights.
#[derive(Clone, Copy)]
pub struct BlockContext<'a> {
    /// Implementation, parameters, LoRA, dropout.
    pub cx: Context<'a>,
    /// The decoder.
    pub spec: &'a DecoderSpec,
    /// Which block.
    pub layer: usize,
    /// Rotations by position.
    pub rope: &'a rope::Table,
    /// Position of each token in its sequence.
    pub position_ids: &'a [u32],
    /// Borders of the sequences.
    pub bounds: &'a [usize],
}

impl BlockContext<'_> {
    fn attention(&self) -> attention::Config {
        attention_config(self.spec, self.layer)
    }
}

/// The attention of one layer.
pub fn attention_config(spec: &DecoderSpec, layer: usize) -> attention::Config {
    attention::Config {
        num_heads: spec.num_heads,
        num_kv_heads: spec.num_kv_heads,
        head_dim: spec.head_dim,
        scale: 1.0 / (spec.head_dim as f32).sqrt(),
        window: spec.window(layer),
    }
}

/// Queries and keys before their norm, where a family has one (Qwen3).
struct QkNormSaved {
    q: Tensor,
    k: Tensor,
    q_stats: rms_norm::Saved,
    k_stats: rms_norm::Saved,
}

/// What a block keeps for its backward.
pub struct Saved {
    x: Tensor,
    n1: rms_norm::Saved,
    qk_norm: Option<QkNormSaved>,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    attention: attention::Saved,
    h: Tensor,
    n2: rms_norm::Saved,
    gate: Tensor,
    up: Tensor,
    lora: [Option<lora::Saved>; 7],
}

/// Queries, keys and values of `n1 [tokens, hidden]`, normed where the family does and rotated.
pub(super) struct Qkv {
    pub q: Tensor,
    pub k: Tensor,
    pub v: Tensor,
    qk_norm: Option<QkNormSaved>,
    lora: [Option<lora::Saved>; 3],
}

pub(super) fn qkv(b: &BlockContext<'_>, w: &LayerWeights, n1: &Tensor) -> Result<Qkv> {
    let (mut q, lora_q) = projection::forward(&b.cx, b.layer, Projection::Q, &w.q, n1)?;
    let (mut k, lora_k) = projection::forward(&b.cx, b.layer, Projection::K, &w.k, n1)?;
    let (v, lora_v) = projection::forward(&b.cx, b.layer, Projection::V, &w.v, n1)?;
    let mut qk_norm = None;
    if let (Some(q_weight), Some(k_weight)) = (&w.q_norm, &w.k_norm) {
        let eps = b.spec.rms_norm_eps;
        let (q_normed, q_stats) = rms_norm::forward(b.cx.exec, &q, q_weight, eps)?;
        let (k_normed, k_stats) = rms_norm::forward(b.cx.exec, &k, k_weight, eps)?;
        qk_norm = Some(QkNormSaved { q, k, q_stats, k_stats });
        (q, k) = (q_normed, k_normed);
    }
    let q = rope::apply(b.cx.exec, &q, b.rope, b.position_ids, false)?;
    let k = rope::apply(b.cx.exec, &k, b.rope, b.position_ids, false)?;
    Ok(Qkv { q, k, v, qk_norm, lora: [lora_q, lora_k, lora_v] })
}

/// The second half of a block, from the attention's output to the block's.
pub(super) struct Mlp {
    pub y: Tensor,
    h: Tensor,
    n2: rms_norm::Saved,
    gate: Tensor,
    up: Tensor,
    lora: [Option<lora::Saved>; 4],
}

pub(super) fn output_and_mlp(
    b: &BlockContext<'_>,
    w: &LayerWeights,
    x: &Tensor,
    out: &Tensor,
) -> Result<Mlp> {
    let exec = b.cx.exec;
    let (attended, lora_o) = projection::forward(&b.cx, b.layer, Projection::O, &w.o, out)?;
    let h = ops::elementwise::add(exec, attended, x)?;
    let (normed, n2) = rms_norm::forward(exec, &h, &w.post_norm, b.spec.rms_norm_eps)?;
    let (gate, lora_gate) =
        projection::forward(&b.cx, b.layer, Projection::Gate, &w.gate, &normed)?;
    let (up, lora_up) = projection::forward(&b.cx, b.layer, Projection::Up, &w.up, &normed)?;
    drop(normed);
    let act = ops::swiglu::forward(exec, &gate, &up)?;
    let (down, lora_down) = projection::forward(&b.cx, b.layer, Projection::Down, &w.down, &act)?;
    let y = ops::elementwise::add(exec, down, &h)?;
    Ok(Mlp { y, h, n2, gate, up, lora: [lora_o, lora_gate, lora_up, lora_down] })
}

/// `x [tokens, hidden]` → the block's output and what its backward needs.
pub fn forward(b: &BlockContext<'_>, w: &LayerWeights, x: &Tensor) -> Result<(Tensor, Saved)> {
    let (normed, n1) = rms_norm::forward(b.cx.exec, x, &w.input_norm, b.spec.rms_norm_eps)?;
    let Qkv { q, k, v, qk_norm, lora: [lq, lk, lv] } = qkv(b, w, &normed)?;
    drop(normed);
    let (out, attention) = attention::forward(b.cx.exec, &q, &k, &v, b.bounds, b.attention())?;
    let Mlp { y, h, n2, gate, up, lora: [lo, lg, lu, ld] } = output_and_mlp(b, w, x, &out)?;
    let lora = [lq, lk, lv, lo, lg, lu, ld];
    let x = x.clone();
    Ok((y, Saved { x, n1, qk_norm, q, k, v, out, attention, h, n2, gate, up, lora }))
}

/// `dy [tokens, hidden]` → the input's gradient when `want_dx`; gradients of what is trained in
/// the block are added to `grads`. Consumes what the forward saved, so that memory falls as the
/// backward goes down.
pub fn backward(
    b: &BlockContext<'_>,
    w: &LayerWeights,
    trained: &BlockParams,
    saved: Saved,
    dy: Tensor,
    want_dx: bool,
    grads: &mut GradSet,
) -> Result<Option<Tensor>> {
    let exec = b.cx.exec;
    let Saved { x, n1, qk_norm, q, k, v, out, attention: attended, h, n2, gate, up, lora } = saved;
    let needs = |p: Projection| b.cx.needs_input(b.layer, p, trained.linear[p as usize]);
    let run = |p: Projection,
               dy: &Tensor,
               x: Option<&Tensor>,
               dx: Option<Tensor>,
               want_dx: bool,
               grads: &mut GradSet| {
        let linear = w.linear(p);
        let input = BackwardInput { dy, x, saved: lora[p as usize].as_ref(), dx, want_dx };
        projection::backward(&b.cx, b.layer, p, linear, trained.linear[p as usize], input, grads)
    };
    let wanted = |t: Option<Tensor>| {
        t.ok_or_else(|| candle_core::Error::Msg("a wanted gradient did not come".into()))
    };

    // MLP.
    let act =
        needs(Projection::Down).then(|| ops::swiglu::forward(exec, &gate, &up)).transpose()?;
    let dact = wanted(run(Projection::Down, &dy, act.as_ref(), None, true, grads)?)?;
    drop(act);
    let (dgate, dup) = ops::swiglu::backward(exec, &dact, &gate, &up)?;
    drop((dact, gate, up));
    let normed = (needs(Projection::Gate) || needs(Projection::Up))
        .then(|| rms_norm::recompute(exec, &h, &w.post_norm, &n2))
        .transpose()?;
    let dn2 = run(Projection::Gate, &dgate, normed.as_ref(), None, true, grads)?;
    let dn2 = wanted(run(Projection::Up, &dup, normed.as_ref(), dn2, true, grads)?)?;
    drop((dgate, dup, normed));
    let (dh, dweight) =
        rms_norm::backward(exec, &dn2, &h, &w.post_norm, &n2, trained.post_norm.is_some())?;
    add_optional(grads, trained.post_norm, dweight)?;
    let dh = ops::elementwise::add(exec, dh, &dy)?;
    drop((dn2, h, dy));

    // Attention.
    let dout = wanted(run(Projection::O, &dh, Some(&out), None, true, grads)?)?;
    let (dq, dk, dv) =
        attention::backward(exec, &dout, &q, &k, &v, &out, &attended, b.bounds, b.attention())?;
    drop((dout, out, q, k, v, attended));
    let mut dq = rope::apply(exec, &dq, b.rope, b.position_ids, true)?;
    let mut dk = rope::apply(exec, &dk, b.rope, b.position_ids, true)?;
    if let (Some(s), Some(q_weight), Some(k_weight)) = (qk_norm, &w.q_norm, &w.k_norm) {
        let want = trained.q_norm.is_some();
        let (dq_in, dw) = rms_norm::backward(exec, &dq, &s.q, q_weight, &s.q_stats, want)?;
        add_optional(grads, trained.q_norm, dw)?;
        let want = trained.k_norm.is_some();
        let (dk_in, dw) = rms_norm::backward(exec, &dk, &s.k, k_weight, &s.k_stats, want)?;
        add_optional(grads, trained.k_norm, dw)?;
        (dq, dk) = (dq_in, dk_in);
    }
    let want_dn1 = want_dx || trained.input_norm.is_some();
    let needs_n1 = [Projection::Q, Projection::K, Projection::V].into_iter().any(needs);
    let normed = needs_n1.then(|| rms_norm::recompute(exec, &x, &w.input_norm, &n1)).transpose()?;
    let dn1 = run(Projection::Q, &dq, normed.as_ref(), None, want_dn1, grads)?;
    let dn1 = run(Projection::K, &dk, normed.as_ref(), dn1, want_dn1, grads)?;
    let dn1 = run(Projection::V, &dv, normed.as_ref(), dn1, want_dn1, grads)?;
    drop((dq, dk, dv, normed));
    let Some(dn1) = dn1 else { return Ok(None) };
    let (dx, dweight) =
        rms_norm::backward(exec, &dn1, &x, &w.input_norm, &n1, trained.input_norm.is_some())?;
    add_optional(grads, trained.input_norm, dweight)?;
    Ok(Some(ops::elementwise::add(exec, dx, &dh)?))
}

/// Adds a gradient that is wanted.
pub(super) fn add_optional(
    grads: &mut GradSet,
    index: Option<usize>,
    grad: Option<Tensor>,
) -> Result<()> {
    match (index, grad) {
        (Some(index), Some(grad)) => grads.add(index, grad),
        _ => Ok(()),
    }
}
