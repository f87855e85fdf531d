//! Inverted dropout with the masks of the CPU.

use candle_core::{Result, Tensor};

use super::{Module, by_rows, cuda, launch, module, output, tensor, view};

const DROPOUT: Module = module!("dropout");

/// `x [rows, width]` times `scale` where the hash of the row's key (`keys [rows]`, u32) and the column
/// is at least `threshold`, 0 elsewhere: the bits of [`crate::ops::dropout::apply`]. Its own backward.
///
/// # Errors
/// When shapes don't fit, a tensor is not contiguous of one CUDA device and of its type, or the
/// device fails.
pub fn apply(x: &Tensor, keys: &Tensor, threshold: u32, scale: f32) -> Result<Tensor> {
    let ((rows, width), device, shape) = (x.dims2()?, cuda(x)?, x.shape());
    if keys.dims() != [rows] {
        candle_core::bail!("{:?} keys for a mask of {rows} rows", keys.dims());
    }
    let mut y = output::<f32>(device, rows * width)?;
    if rows * width > 0 {
        let locked = (x.storage_and_layout(), keys.storage_and_layout());
        let (x, keys) = (view::<f32>(&locked.0, device)?, view::<u32>(&locked.1, device)?);
        let config = by_rows(rows, width, 4)?;
        let (threshold, scale) = (&threshold, &scale);
        // SAFETY: as `dropout.cu` declares it; a block a row of x and y, which has a key.
        unsafe {
            launch!(
                device, DROPOUT, "dropout", config, &x, &keys, &mut y, &width, threshold, scale
            );
        }
    }
    Ok(tensor(y, device, shape))
}
