//! The MLP of a block: `down(act(gate(x)) · up(x))`, or `down(act(up(x)))` without a gate.

use candle_core::{Result, Tensor};

use super::block::{BlockContext, BlockParams};
use super::params::GradSet;
use super::projection::{self, BackwardInput, Projection};
use super::spec::GateLayout;
use super::weights::LayerWeights;
use crate::ops::{activation, lora, widened};

/// What the backward needs besides the MLP's input.
pub struct Saved {
    /// What the non-linearity is applied to: the gate, or up where there is none.
    x: Tensor,
    /// Up beside a gate.
    up: Option<Tensor>,
    first: Vec<Option<lora::Saved>>,
    down: Option<lora::Saved>,
}

fn first_half(gate: GateLayout) -> &'static [Projection] {
    match gate {
        GateLayout::None => &[Projection::Up],
        GateLayout::Split => &[Projection::Gate, Projection::Up],
        GateLayout::Fused => &[Projection::GateUp],
    }
}

/// Whether the backward reads the MLP's input.
pub fn needs_input(b: &BlockContext<'_>, trained: &BlockParams) -> bool {
    let needs = |&p: &Projection| b.cx.needs_input(b.layer, p, trained.linears[p as usize]);
    first_half(b.spec.gate).iter().any(needs)
}

/// Of `n2 [tokens, hidden]`.
pub fn forward(b: &BlockContext<'_>, w: &LayerWeights, n2: &Tensor) -> Result<(Tensor, Saved)> {
    let (exec, n2) = (b.cx.exec, &b.cx.exec.rounded(n2)?);
    let mut first = Vec::with_capacity(2);
    let mut made = Vec::with_capacity(2);
    for &p in first_half(b.spec.gate) {
        let (y, saved) = projection::forward(&b.cx, b.layer, p, w.linear(p)?, n2)?;
        made.push(y);
        first.push(saved);
    }
    let mut made = made.into_iter();
    let missing = || candle_core::Error::Msg("an MLP has no first half".into());
    let x = made.next().ok_or_else(missing)?;
    let (x, up) = match b.spec.gate {
        GateLayout::Fused => {
            let width = b.spec.intermediate_size;
            let part = |first| x.narrow(1, first, width)?.contiguous();
            (part(0)?, Some(part(width)?))
        }
        GateLayout::None | GateLayout::Split => (x, made.next()),
    };
    let act = activation::forward(exec, b.spec.activation, &x, up.as_ref())?;
    // The backward needs them to the precision of products only.
    let (x, up) = (exec.rounded(&x)?, up.map(|up| exec.rounded(&up)).transpose()?);
    let p = Projection::Down;
    let (y, down) = projection::forward(&b.cx, b.layer, p, w.linear(p)?, &act)?;
    Ok((y, Saved { x, up, first, down }))
}

/// `dy [tokens, hidden]` → the input's gradient. `n2`: the input, where [`needs_input`] asks for it.
pub fn backward(
    b: &BlockContext<'_>,
    w: &LayerWeights,
    trained: &BlockParams,
    saved: Saved,
    dy: &Tensor,
    n2: Option<&Tensor>,
    grads: &mut GradSet,
) -> Result<Tensor> {
    let Saved { x, up, first, down } = saved;
    let (exec, act, p) = (b.cx.exec, b.spec.activation, Projection::Down);
    let (x, up) = (widened(&x)?, up.map(|up| widened(&up)).transpose()?);
    let n2 = n2.map(|n2| exec.rounded(n2)).transpose()?;
    let n2 = n2.as_ref();
    let wanted = |t: Option<Tensor>| {
        t.ok_or_else(|| candle_core::Error::Msg("a wanted gradient did not come".into()))
    };
    let place = trained.linears[p as usize];
    let input =
        b.cx.needs_input(b.layer, p, place)
            .then(|| activation::forward(exec, act, &x, up.as_ref()))
            .transpose()?;
    let backward =
        BackwardInput { dy, x: input.as_ref(), saved: down.as_ref(), dx: None, want_dx: true };
    let dact = projection::backward(&b.cx, b.layer, p, w.linear(p)?, place, backward, grads)?;
    drop(input);
    let (dx, dup) = activation::backward(exec, act, &wanted(dact)?, &x, up.as_ref())?;
    drop((x, up));
    let gradients = match (b.spec.gate, dup) {
        (GateLayout::Fused, Some(dup)) => vec![Tensor::cat(&[dx, dup], 1)?],
        (_, Some(dup)) => vec![dx, dup],
        (_, None) => vec![dx],
    };
    let mut dn2 = None;
    for ((&p, dy), lora) in first_half(b.spec.gate).iter().zip(&gradients).zip(&first) {
        let place = trained.linears[p as usize];
        let input = BackwardInput { dy, x: n2, saved: lora.as_ref(), dx: dn2, want_dx: true };
        dn2 = projection::backward(&b.cx, b.layer, p, w.linear(p)?, place, input, grads)?;
    }
    wanted(dn2)
}
