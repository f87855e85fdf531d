//! One transformer block: forward, and the backward written by hand.
//!
//! ```text
//! a = project_o(attention(qkv(n1(x))))        m = mlp(n2(…))
//! sequential   h = x + a         y = h + mlp(n2(h))
//! parallel                       y = x + a + mlp(n2(x))
//! of the norm  h = s n1(x) + a   y = s n2(h) + mlp(n2(h))
//! ```
//!
//! `a` and `m` go through norms of their own where the family has them. Kept for the backward is what
//! is dear to compute again; the norms' outputs and the MLP's activation are recomputed.

use candle_core::{Result, Tensor};

use super::feed_forward;
use super::mixture::Load;
use super::norm::{self, NormParams, Norms};
use super::params::GradSet;
use super::places::Places;
use super::projection::{self, BackwardInput, Context, LinearParams, Projection};
use super::qkv::{self, Qkv};
use super::slots::NormPlace;
use super::spec::{DecoderSpec, Position, Residual};
use super::weights::LayerWeights;
use crate::ops::{attention, elementwise, lora};

/// Where full fine-tuning puts the gradients of one block.
#[derive(Clone, Debug, Default)]
pub struct BlockParams {
    /// Linear layers, by [`Projection`].
    pub linears: [LinearParams; Projection::COUNT],
    /// Norms, by [`NormPlace`].
    pub norms: [NormParams; NormPlace::ALL.len()],
    /// What chooses experts.
    pub router: Option<usize>,
    /// The experts' linear layers, three each.
    pub experts: Vec<usize>,
}

impl BlockParams {
    /// All of them, in order.
    pub fn indices(&self) -> Vec<usize> {
        let linears = self.linears.iter().flat_map(|l| [l.weight, l.bias]);
        let norms = self.norms.iter().flat_map(|n| [n.weight, n.bias]);
        let mut all: Vec<usize> = linears.chain(norms).flatten().collect();
        all.sort_unstable();
        all
    }
}

/// Everything about a block but its weights.
#[derive(Clone, Copy)]
pub struct BlockContext<'a> {
    /// Implementation, parameters, LoRA, dropout.
    pub cx: Context<'a>,
    /// How norms run.
    pub norms: Norms,
    /// The decoder.
    pub spec: &'a DecoderSpec,
    /// Which block.
    pub layer: usize,
    /// Where the tokens stand.
    pub places: &'a Places,
    /// In a backward: the loss that balances the experts' load.
    pub balance: Option<&'a Balance>,
}

/// The balancing loss in the backward of a mixture.
#[derive(Clone, Debug, PartialEq)]
pub struct Balance {
    /// Derivative by a token's probability of each expert, `[experts]`.
    pub slopes: Vec<f64>,
}

/// The attention of one layer.
pub fn attention_config(spec: &DecoderSpec, layer: usize) -> attention::Config {
    attention::Config {
        num_heads: spec.num_heads,
        num_kv_heads: spec.num_kv_heads,
        head_dim: spec.head_dim,
        scale: spec.attention_scale as f32,
        window: spec.window(layer),
        softcap: spec.attention_softcap.map(|cap| cap as f32),
        alibi: spec.position == Position::Alibi,
    }
}

/// An output before its norm.
struct Unnormed {
    x: Tensor,
    stats: norm::Saved,
}

/// What a block keeps for its backward.
pub struct Saved {
    x: Tensor,
    n1: norm::Saved,
    qkv: qkv::Saved,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    attention: attention::Saved,
    rest: RestSaved,
}

impl Saved {
    /// How the block's experts shared the tokens.
    pub fn load(&self) -> Option<&Load> {
        self.rest.mlp.load()
    }
}

/// What the part after attention keeps.
struct RestSaved {
    o: Option<lora::Saved>,
    attention_output: Option<Unnormed>,
    /// The stream before the MLP; `None`: the block's own input.
    h: Option<Tensor>,
    n2: norm::Saved,
    mlp: feed_forward::Saved,
    mlp_output: Option<Unnormed>,
}

fn add_scaled(b: &BlockContext<'_>, a: Tensor, x: &Tensor, scale: f64) -> Result<Tensor> {
    match scale == 1.0 {
        true => elementwise::add(b.cx.exec, a, x),
        false => elementwise::add(b.cx.exec, (x * scale)?, &a),
    }
}

/// Norm over an output, where the family has one.
fn output_norm(
    b: &BlockContext<'_>,
    w: &LayerWeights,
    place: NormPlace,
    x: Tensor,
) -> Result<(Tensor, Option<Unnormed>)> {
    let Some(norm) = w.norm(place) else { return Ok((x, None)) };
    let (y, stats) = b.norms.forward(norm, &x)?;
    Ok((y, Some(Unnormed { x, stats })))
}

/// From the attention's output `out` to the block's. `x`: the block's input, `n1` its norm.
fn rest(
    b: &BlockContext<'_>,
    w: &LayerWeights,
    x: &Tensor,
    n1: &Tensor,
    out: &Tensor,
) -> Result<(Tensor, RestSaved)> {
    let exec = b.cx.exec;
    let p = Projection::O;
    let (a, o) = projection::forward(&b.cx, b.layer, p, w.linear(p)?, out)?;
    let (a, attention_output) = output_norm(b, w, NormPlace::AttentionOutput, a)?;
    let h = match b.spec.residual {
        Residual::Sequential | Residual::Parallel => elementwise::add(exec, a, x)?,
        Residual::OfNorm { scale } => add_scaled(b, a, n1, scale)?,
    };
    let parallel = b.spec.residual == Residual::Parallel;
    let input = if parallel { x } else { &h };
    let (n2, stats) = b.norms.forward(w.required_norm(NormPlace::Mlp)?, input)?;
    let (m, mlp) = feed_forward::forward(b, w, &n2)?;
    let (m, mlp_output) = output_norm(b, w, NormPlace::MlpOutput, m)?;
    let y = match b.spec.residual {
        Residual::Sequential | Residual::Parallel => elementwise::add(exec, m, &h)?,
        Residual::OfNorm { scale } => add_scaled(b, m, &n2, scale)?,
    };
    let h = (!parallel).then_some(h);
    Ok((y, RestSaved { o, attention_output, h, n2: stats, mlp, mlp_output }))
}

/// A block whose attention is `attend`: for generation, which reads a cache. Nothing is kept.
pub(super) fn forward_with(
    b: &BlockContext<'_>,
    w: &LayerWeights,
    x: &Tensor,
    attend: impl FnOnce(Qkv) -> Result<Tensor>,
) -> Result<Tensor> {
    let (n1, _) = b.norms.forward(w.required_norm(NormPlace::Input)?, x)?;
    let out = attend(qkv::forward(b, w, &n1)?)?;
    Ok(rest(b, w, x, &n1, &out)?.0)
}

/// `x [tokens, hidden]` → the block's output and what its backward needs.
pub fn forward(b: &BlockContext<'_>, w: &LayerWeights, x: &Tensor) -> Result<(Tensor, Saved)> {
    let (normed, n1) = b.norms.forward(w.required_norm(NormPlace::Input)?, x)?;
    let Qkv { q, k, v, saved: qkv } = qkv::forward(b, w, &normed)?;
    // Only a residual of the norm reads it again; its memory is better free until then.
    let normed = matches!(b.spec.residual, Residual::OfNorm { .. }).then_some(normed);
    let config = attention_config(b.spec, b.layer);
    let exec = b.cx.exec;
    let (q, k, v) = (exec.rounded(&q)?, exec.rounded(&k)?, exec.rounded(&v)?);
    let (out, attention) = attention::forward(exec, &q, &k, &v, b.places.sequences(), config)?;
    let out = exec.rounded(&out)?;
    let (y, rest) = rest(b, w, x, normed.as_ref().unwrap_or(x), &out)?;
    Ok((y, Saved { x: x.clone(), n1, qkv, q, k, v, out, attention, rest }))
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
    let Saved { x, n1, qkv, q, k, v, out, attention: attended, rest } = saved;
    let RestSaved { o, attention_output, h, n2, mlp, mlp_output } = rest;
    let params = |place: NormPlace| trained.norms[place as usize];
    let through = |place: NormPlace, kept: Option<Unnormed>, d: &Tensor, grads: &mut GradSet| match (
        kept,
        w.norm(place),
    ) {
        (Some(kept), Some(norm)) => {
            b.norms.backward(norm, params(place), &kept.x, &kept.stats, d, grads).map(Some)
        }
        _ => Ok(None),
    };

    // The MLP, to the gradient of its input `h` (or `x`).
    let dm = through(NormPlace::MlpOutput, mlp_output, &dy, grads)?;
    let norm = w.required_norm(NormPlace::Mlp)?;
    let input = h.as_ref().unwrap_or(&x);
    let needed = feed_forward::needs_input(b, w, trained);
    let normed = needed.then(|| b.norms.recompute(norm, input, &n2)).transpose()?;
    let dm = dm.as_ref().unwrap_or(&dy);
    let mut dn2 = feed_forward::backward(b, w, trained, mlp, dm, normed.as_ref(), grads)?;
    drop(normed);
    if let Residual::OfNorm { scale } = b.spec.residual {
        dn2 = add_scaled(b, dn2, &dy, scale)?;
    }
    let dinput = b.norms.backward(norm, params(NormPlace::Mlp), input, &n2, &dn2, grads)?;
    drop((dn2, h));
    // `dh`: of the sum of stream and attention. `beside`: what reaches `x` past the attention.
    let (dh, beside) = match b.spec.residual {
        Residual::Sequential => (elementwise::add(exec, dinput, &dy)?, None),
        Residual::Parallel => {
            let beside = elementwise::add(exec, dinput, &dy)?;
            (dy, Some(beside))
        }
        Residual::OfNorm { .. } => (dinput, None),
    };

    // Attention.
    let da = through(NormPlace::AttentionOutput, attention_output, &dh, grads)?;
    let p = Projection::O;
    let da = da.as_ref().unwrap_or(&dh);
    let input = BackwardInput { dy: da, x: Some(&out), saved: o.as_ref(), dx: None, want_dx: true };
    let place = trained.linears[p as usize];
    let dout = projection::backward(&b.cx, b.layer, p, w.linear(p)?, place, input, grads)?
        .ok_or_else(|| candle_core::Error::Msg("a wanted gradient did not come".into()))?;
    let config = attention_config(b.spec, b.layer);
    let sequences = b.places.sequences();
    let (dq, dk, dv) =
        attention::backward(exec, &dout, &q, &k, &v, &out, &attended, sequences, config)?;
    drop((dout, out, q, k, v, attended));
    let norm = w.required_norm(NormPlace::Input)?;
    let want_dn1 = want_dx || params(NormPlace::Input).any();
    let normed =
        qkv::needs_input(b, trained).then(|| b.norms.recompute(norm, &x, &n1)).transpose()?;
    let dn1 = qkv::backward(b, w, trained, qkv, [dq, dk, dv], normed.as_ref(), want_dn1, grads)?;
    drop(normed);
    let Some(mut dn1) = dn1 else { return Ok(None) };
    if let Residual::OfNorm { scale } = b.spec.residual {
        dn1 = add_scaled(b, dn1, &dh, scale)?;
    }
    let dx = b.norms.backward(norm, params(NormPlace::Input), &x, &n1, &dn1, grads)?;
    Ok(Some(match b.spec.residual {
        Residual::OfNorm { .. } => dx,
        Residual::Sequential | Residual::Parallel => {
            elementwise::add(exec, dx, beside.as_ref().unwrap_or(&dh))?
        }
    }))
}
