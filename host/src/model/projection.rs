//! One linear layer as the decoder uses it: the frozen or trained weight, its bias, and a
//! LoRA pair on top when there is one.

use candle_core::{Result, Tensor};

use super::lora::{LoraPair, LoraTable};
use super::params::{GradSet, ParamSet};
use super::weights::Linear;
use crate::ops::{self, Exec, dora, dropout::Dropout};
use crate::rng::mix64;

/// The linear layers that a block can have; `slots::projections` says which a family has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Projection {
    /// Queries.
    Q,
    /// Keys.
    K,
    /// Values.
    V,
    /// Attention output.
    O,
    /// MLP gate.
    Gate,
    /// MLP up.
    Up,
    /// MLP down.
    Down,
    /// Queries, keys and values together.
    Qkv,
    /// Gate and up together.
    GateUp,
}

impl Projection {
    /// How many there are.
    pub const COUNT: usize = 9;
}

/// Where full fine-tuning puts the gradients of one linear layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinearParams {
    /// Index of the weight.
    pub weight: Option<usize>,
    /// Index of the bias.
    pub bias: Option<usize>,
}

impl LinearParams {
    fn any(self) -> bool {
        self.weight.is_some() || self.bias.is_some()
    }
}

/// What runs around a projection.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// Implementation.
    pub exec: Exec,
    /// The trained parameters.
    pub params: &'a ParamSet,
    /// LoRA pairs, if any.
    pub lora: Option<&'a LoraTable>,
    /// This micro-batch's dropout masks; `None`: no dropout (evaluation).
    pub dropout: Option<&'a Masks>,
}

/// What a micro-batch's dropout masks are made of.
#[derive(Clone, Debug)]
pub struct Masks {
    /// Their key: from the seed and the step.
    pub key: u64,
    /// Names of the tokens, by row.
    pub rows: Vec<u64>,
}

impl<'a> Context<'a> {
    fn pair(&self, layer: usize, projection: Projection) -> Option<LoraPair> {
        self.lora.and_then(|table| table.get(layer, projection))
    }

    /// The layer with its decomposed pair, if it has one.
    fn decomposed<'b>(
        &'b self,
        layer: usize,
        projection: Projection,
        linear: &'b Linear,
    ) -> Option<(usize, dora::Layer<'b>)> {
        let by = self.lora?.decomposed(layer, projection)?;
        let pair = self.pair(layer, projection)?;
        let (a, b) = pair.tensors(self.params);
        let layer = dora::Layer {
            weight: (&linear.weight).into(),
            bias: linear.bias.as_ref(),
            a,
            b,
            scale: pair.scale,
            magnitude: &self.params.params[by.magnitude].tensor,
            norm: &by.norm,
            dropout: self.dropout(layer, projection),
        };
        Some((by.magnitude, layer))
    }

    fn dropout(&self, layer: usize, projection: Projection) -> Option<Dropout<'a>> {
        let p = self.lora?.dropout;
        let Masks { key, rows } = self.dropout?;
        let module = (layer as u64) << 8 | projection as u64;
        (p > 0.0).then(|| Dropout { p, key: mix64(key ^ mix64(module + 1)), rows })
    }

    /// Whether the backward of this layer needs its input.
    pub fn needs_input(&self, layer: usize, projection: Projection, trained: LinearParams) -> bool {
        trained.weight.is_some() || self.pair(layer, projection).is_some()
    }
}

/// `x [tokens, in]` → `[tokens, out]`.
pub fn forward(
    cx: &Context<'_>,
    layer: usize,
    projection: Projection,
    linear: &Linear,
    x: &Tensor,
) -> Result<(Tensor, Option<ops::lora::Saved>)> {
    let x = &cx.exec.rounded(x)?;
    if let Some((_, decomposed)) = cx.decomposed(layer, projection, linear) {
        let (y, saved) = dora::forward(cx.exec, x, decomposed)?;
        return Ok((y, Some(saved)));
    }
    let y = ops::linear::forward(cx.exec, x, &linear.weight, linear.bias.as_ref())?;
    match cx.pair(layer, projection) {
        None => Ok((y, None)),
        Some(pair) => {
            let (a, b) = pair.tensors(cx.params);
            let dropout = cx.dropout(layer, projection);
            let (y, saved) = ops::lora::forward(cx.exec, x, y, a, b, pair.scale, dropout)?;
            Ok((y, Some(saved)))
        }
    }
}

/// What a projection's backward is given.
pub struct BackwardInput<'a> {
    /// Gradient of the output, `[tokens, out]`.
    pub dy: &'a Tensor,
    /// The input, `[tokens, in]`; `None` where [`Context::needs_input`] said it is not needed.
    pub x: Option<&'a Tensor>,
    /// What the forward saved.
    pub saved: Option<&'a ops::lora::Saved>,
    /// Sum so far of the input's gradient, from other projections of the same input.
    pub dx: Option<Tensor>,
    /// Whether the input's gradient is wanted at all.
    pub want_dx: bool,
}

/// Adds the gradients of what is trained here to `grads`; returns the input's gradient, added
/// to `input.dx`, when wanted.
pub fn backward(
    cx: &Context<'_>,
    layer: usize,
    projection: Projection,
    linear: &Linear,
    trained: LinearParams,
    input: BackwardInput<'_>,
    grads: &mut GradSet,
) -> Result<Option<Tensor>> {
    let BackwardInput { dy, x, saved, dx, want_dx } = input;
    if trained.any() {
        if let Some(index) = trained.weight {
            let x = x.ok_or_else(|| missing("input"))?;
            grads.add(index, ops::linear::backward_weight(cx.exec, dy, x)?)?;
        }
        if let Some(index) = trained.bias {
            grads.add(index, ops::linear::backward_bias(cx.exec, dy)?)?;
        }
    }
    if let (Some(pair), Some((magnitude, decomposed))) =
        (cx.pair(layer, projection), cx.decomposed(layer, projection, linear))
    {
        let x = x.ok_or_else(|| missing("input"))?;
        let saved = saved.ok_or_else(|| missing("saved state"))?;
        let (found, dx) = dora::backward(cx.exec, dy, x, saved, decomposed, dx, want_dx)?;
        grads.add(pair.a, found.pair.a)?;
        grads.add(pair.b, found.pair.b)?;
        grads.add(magnitude, found.magnitude)?;
        return Ok(dx);
    }
    // Rounded once for all products below.
    let dy = &cx.exec.rounded(dy)?;
    let dx = match (want_dx, dx) {
        (false, _) => None,
        (true, None) => Some(ops::linear::backward_input(cx.exec, dy, &linear.weight)?),
        (true, Some(sum)) => {
            Some(ops::linear::backward_input_add(cx.exec, dy, &linear.weight, sum)?)
        }
    };
    let Some(pair) = cx.pair(layer, projection) else { return Ok(dx) };
    let x = x.ok_or_else(|| missing("input"))?;
    let saved = saved.ok_or_else(|| missing("saved state"))?;
    let (a, b) = pair.tensors(cx.params);
    let dropout = cx.dropout(layer, projection);
    let (pair_grads, dx) =
        ops::lora::backward(cx.exec, dy, x, saved, a, b, pair.scale, dropout, dx)?;
    grads.add(pair.a, pair_grads.a)?;
    grads.add(pair.b, pair_grads.b)?;
    Ok(dx)
}

fn missing(what: &str) -> candle_core::Error {
    candle_core::Error::Msg(format!("a projection's backward was called without its {what}"))
}
