//! The MLP's non-linearity, alone or on a gate.

use candle_core::{Result, Tensor};

use super::{Module, cuda, flat, launch, module, output, tensor, view};
use crate::ops::activation::Activation;

const ACTIVATION: Module = module!("activation");

fn name(act: Activation) -> &'static str {
    match act {
        Activation::Silu => "silu",
        Activation::Gelu => "gelu",
        Activation::GeluTanh => "gelu_tanh",
        Activation::Relu => "relu",
    }
}

fn check(x: &Tensor, other: Option<&Tensor>) -> Result<()> {
    if let Some(other) = other.filter(|other| other.elem_count() != x.elem_count()) {
        candle_core::bail!("an activation of {:?} was given {:?}", x.dims(), other.dims());
    }
    Ok(())
}

/// `act(x)`, or `act(x) · up`; `x` and `up` of the same size, any shape → `x`'s shape.
///
/// # Errors
/// When sizes differ, a tensor is not contiguous f32 of one CUDA device, or the device fails.
pub fn forward(act: Activation, x: &Tensor, up: Option<&Tensor>) -> Result<Tensor> {
    check(x, up)?;
    let (device, n, shape) = (cuda(x)?, x.elem_count(), x.shape());
    let mut y = output::<f32>(device, n)?;
    if n > 0 {
        let locked = x.storage_and_layout();
        let (x, config) = (view::<f32>(&locked, device)?, flat(n));
        if let Some(up) = up {
            let locked = up.storage_and_layout();
            let up = view::<f32>(&locked, device)?;
            let name = format!("forward_{}_gated", name(act));
            // SAFETY: as `activation.cu` declares it; all have n values.
            unsafe { launch!(device, ACTIVATION, &name, config, &x, &up, &mut y, &n) }
        } else {
            let name = format!("forward_{}", name(act));
            // SAFETY: as `activation.cu` declares it; both have n values.
            unsafe { launch!(device, ACTIVATION, &name, config, &x, &mut y, &n) }
        }
    }
    Ok(tensor(y, device, shape))
}

/// `dy` of `x`'s size → `dx`, and `dup` where there is an `up`; of the shapes of `x` and `up`.
///
/// # Errors
/// As [`forward`].
pub fn backward(
    act: Activation,
    dy: &Tensor,
    x: &Tensor,
    up: Option<&Tensor>,
) -> Result<(Tensor, Option<Tensor>)> {
    check(x, Some(dy))?;
    check(x, up)?;
    let (device, n, shape) = (cuda(x)?, x.elem_count(), x.shape());
    let mut dx = output::<f32>(device, n)?;
    let mut dup = up.map(|_| output::<f32>(device, n)).transpose()?;
    if n > 0 {
        let locked = (dy.storage_and_layout(), x.storage_and_layout());
        let (dy, x) = (view::<f32>(&locked.0, device)?, view::<f32>(&locked.1, device)?);
        let config = flat(n);
        if let (Some(up), Some(dup)) = (up, &mut dup) {
            let locked = up.storage_and_layout();
            let up = view::<f32>(&locked, device)?;
            let name = format!("backward_{}_gated", name(act));
            // SAFETY: as `activation.cu` declares it; all have n values.
            unsafe { launch!(device, ACTIVATION, &name, config, &dy, &x, &up, &mut dx, dup, &n) }
        } else {
            let name = format!("backward_{}", name(act));
            // SAFETY: as `activation.cu` declares it; all have n values.
            unsafe { launch!(device, ACTIVATION, &name, config, &dy, &x, &mut dx, &n) }
        }
    }
    let dup = up.zip(dup).map(|(up, dup)| tensor(dup, device, up.shape()));
    Ok((tensor(dx, device, shape), dup))
}
