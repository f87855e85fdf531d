//! Rotary position embedding.

use candle_core::{Result, Tensor};

use super::{Module, by_rows, cuda, launch, module, output, tensor, view};
use crate::ops::rope::Layout;

const ROPE: Module = module!("rope");

/// Rotates every head of `x [tokens, heads · head_dim]` by its token's row of `cos` and `sin
/// [positions, pairs]`; `rows [tokens]`, u32. What is beyond the first `2 · pairs` values of a head is
/// kept. `backward` applies the transpose. The bits are the CPU's. A row beyond the table, which only
/// the device could notice, makes NaN of its token.
///
/// # Errors
/// When shapes don't fit, a tensor is not contiguous f32 of one CUDA device, or the device fails.
pub fn apply(
    x: &Tensor,
    cos: &Tensor,
    sin: &Tensor,
    rows: &Tensor,
    layout: Layout,
    head_dim: usize,
    backward: bool,
) -> Result<Tensor> {
    let ((tokens, width), (positions, pairs)) = (x.dims2()?, cos.dims2()?);
    let fits = pairs > 0
        && head_dim >= 2 * pairs
        && width % head_dim == 0
        && sin.dims() == cos.dims()
        && rows.dims() == [tokens];
    let halves = layout != Layout::TwoHalves || (pairs % 2 == 0 && head_dim == 2 * pairs);
    let small = u32::try_from(width).is_ok() && u32::try_from(positions).is_ok();
    if !fits || !halves || !small {
        candle_core::bail!(
            "{:?} rows of {pairs} pairs don't fit {:?} of heads of {head_dim}",
            rows.dims(),
            x.dims()
        );
    }
    let (device, shape) = (cuda(x)?, x.shape());
    let mut y = output::<f32>(device, tokens * width)?;
    if tokens * width > 0 {
        let locked = (x.storage_and_layout(), cos.storage_and_layout(), sin.storage_and_layout());
        let (x, cos) = (view::<f32>(&locked.0, device)?, view::<f32>(&locked.1, device)?);
        let sin = view::<f32>(&locked.2, device)?;
        let locked = rows.storage_and_layout();
        let rows = view::<u32>(&locked, device)?;
        let name = match layout {
            Layout::Halves => "rope_halves",
            Layout::Interleaved => "rope_interleaved",
            Layout::TwoHalves => "rope_two_halves",
        };
        let config = by_rows(tokens, width, 8)?;
        let (head_dim, pairs, positions) = (head_dim as u32, pairs as u32, positions as u32);
        let sign = if backward { -1f32 } else { 1.0 };
        // SAFETY: as `rope.cu` declares it; a block a token of x and y, heads that divide the width,
        // pairs within them; rows are checked against the table by the kernel.
        unsafe {
            launch!(
                device, ROPE, name, config, &x, &cos, &sin, &rows, &mut y, &width, &head_dim,
                &pairs, &positions, &sign
            );
        }
    }
    Ok(tensor(y, device, shape))
}
