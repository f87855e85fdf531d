//! AdamW's update.

use candle_core::cuda_backend::cudarc::driver::DeviceRepr;
use candle_core::{Result, Tensor};

use super::{Module, distinct, flat, launch, modify, module, view};

const ADAMW: Module = module!("adamw");

/// The numbers of one update of [`crate::optim::adamw`].
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct Numbers {
    /// `1 - learning rate · weight decay`.
    pub keep: f32,
    /// `1 - β₁`.
    pub one_minus_beta1: f32,
    /// `β₂`.
    pub beta2: f32,
    /// `1 - β₂`.
    pub one_minus_beta2: f32,
    /// `learning rate / (1 - β₁ᵗ)`.
    pub step_size: f32,
    /// `sqrt(1 - β₂ᵗ)`.
    pub bias2_sqrt: f32,
    /// Added to the denominator.
    pub eps: f32,
    /// Factor on the gradient.
    pub grad_scale: f32,
}

// SAFETY: eight f32 in C's order, as `struct Numbers` of `adamw.cu`.
unsafe impl DeviceRepr for Numbers {}

/// Updates `p`, `m` and `v` in place by the gradient `g`; all of the same size, any shape, and each with
/// memory of its own (a contiguous part of a tensor will do). The bits are the CPU's.
///
/// The tensors are locked one inside the other in this order: two threads must not update the same
/// ones at once.
///
/// # Errors
/// When sizes differ, tensors share their memory, a tensor is not contiguous f32 of one CUDA device,
/// or the device fails. Nothing has changed then, unless the device failed.
pub fn update(p: &Tensor, m: &Tensor, v: &Tensor, g: &Tensor, numbers: Numbers) -> Result<()> {
    let n = p.elem_count();
    if [m, v, g].iter().any(|t| t.elem_count() != n) {
        candle_core::bail!(
            "moments {:?} and {:?} and a gradient {:?} don't fit a parameter {:?}",
            m.dims(),
            v.dims(),
            g.dims(),
            p.dims()
        );
    }
    distinct(&[p, m, v, g])?;
    if n == 0 {
        return Ok(());
    }
    let same = [m, v, g].iter().all(|t| t.device().same_device(p.device()));
    if !same {
        candle_core::bail!("a parameter, its moments and its gradient are on different devices");
    }
    let config = flat(n);
    modify::<f32>(p, |mut p, device| {
        modify::<f32>(m, |mut m, _| {
            modify::<f32>(v, |mut v, _| {
                let locked = g.storage_and_layout();
                let g = view::<f32>(&locked, device)?;
                // SAFETY: as `adamw.cu` declares it; all have n values, in four places.
                unsafe {
                    launch!(
                        device, ADAMW, "adamw", config, &mut p, &mut m, &mut v, &g, &n, &numbers
                    );
                }
                Ok(())
            })
        })
    })
}
