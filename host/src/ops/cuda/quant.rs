//! Frozen matrices in 8 and 4 bits, widened on the device.

use candle_core::{DType, Result, Tensor};

use super::{Module, Value, by_dtype, by_rows, config, cuda, launch, module, output, tensor, view};
use crate::ops::quant::nf4::{BLOCK, NESTED_BLOCK};

const QUANT: Module = module!("quant");

/// `values [rows, width]`, u8 (bytes of two's complement), with `scales [rows]`, f32 → `[rows, width]` of
/// `dtype` (f32, bf16 or f16): the bits of [`crate::ops::quant::Int8::widen_row`], rounded to it.
///
/// # Errors
/// When shapes don't fit, a tensor is not contiguous of one CUDA device and of its type, or the
/// device fails.
pub fn int8(values: &Tensor, scales: &Tensor, dtype: DType) -> Result<Tensor> {
    by_dtype!(dtype, int8_of(values, scales))
}

fn int8_of<T: Value>(values: &Tensor, scales: &Tensor) -> Result<Tensor> {
    let ((rows, width), device) = (values.dims2()?, cuda(values)?);
    if scales.dims() != [rows] {
        candle_core::bail!("scales {:?} for a matrix of {rows} rows", scales.dims());
    }
    let mut out = output::<T>(device, rows * width)?;
    if rows * width > 0 {
        let locked = (values.storage_and_layout(), scales.storage_and_layout());
        let (values, scales) = (view::<u8>(&locked.0, device)?, view::<f32>(&locked.1, device)?);
        let config = by_rows(rows, width, 16 / size_of::<T>())?;
        let name = format!("int8_{}", T::NAME);
        // SAFETY: as `quant.cu` declares it; a block a row of values and out, which has a scale.
        unsafe { launch!(device, QUANT, &name, config, &values, &scales, &mut out, &width) }
    }
    Ok(tensor(out, device, (rows, width)))
}

/// Scales of blocks of 64 values, as [`crate::ops::quant::nf4::Scales`] on the device.
#[derive(Clone, Copy, Debug)]
pub enum Nf4Scales<'a> {
    /// As they are: `[blocks]`, f32.
    Plain(&'a Tensor),
    /// In 8 bits.
    Nested {
        /// A number of `code` for each block: `[blocks]`, u8.
        indices: &'a Tensor,
        /// What the numbers stand for: `[256]`, f32.
        code: &'a Tensor,
        /// Scale of every 256 scales: f32.
        nested: &'a Tensor,
        /// Added to all.
        offset: f32,
    },
}

/// `packed`, u8, two values a byte of a matrix `[rows, width]`, the first in the high half → the matrix
/// in `dtype` (f32, bf16 or f16): the bits of [`crate::ops::quant::Nf4::widen_row`], rounded to it.
///
/// # Errors
/// As [`int8`].
pub fn nf4(
    packed: &Tensor,
    scales: Nf4Scales<'_>,
    rows: usize,
    width: usize,
    dtype: DType,
) -> Result<Tensor> {
    let count = rows * width;
    let blocks = count.div_ceil(BLOCK);
    let fits = packed.elem_count() == count.div_ceil(2)
        && match scales {
            Nf4Scales::Plain(scales) => scales.elem_count() == blocks,
            Nf4Scales::Nested { indices, code, nested, .. } => {
                indices.elem_count() == blocks
                    && code.elem_count() == 256
                    && nested.elem_count() == blocks.div_ceil(NESTED_BLOCK)
            }
        };
    if !fits {
        candle_core::bail!(
            "{:?} packed bytes or their scales don't fit a matrix of {rows} by {width}",
            packed.dims()
        );
    }
    by_dtype!(dtype, nf4_of(packed, scales, rows, width))
}

fn nf4_of<T: Value>(
    packed: &Tensor,
    scales: Nf4Scales<'_>,
    rows: usize,
    width: usize,
) -> Result<Tensor> {
    let (device, n) = (cuda(packed)?, rows * width);
    let mut out = output::<T>(device, n)?;
    if n > 0 {
        let threads = n.div_ceil(16 / size_of::<T>());
        let config = config(threads.div_ceil(256).min(8192) as u32, 256);
        let locked = packed.storage_and_layout();
        let packed = view::<u8>(&locked, device)?;
        match scales {
            Nf4Scales::Plain(scales) => {
                let locked = scales.storage_and_layout();
                let scales = view::<f32>(&locked, device)?;
                let name = format!("nf4_plain_{}", T::NAME);
                // SAFETY: as `quant.cu` declares it; out has n values, packed half as many bytes,
                // and every 64 values a scale: checked above.
                unsafe { launch!(device, QUANT, &name, config, &packed, &scales, &mut out, &n) }
            }
            Nf4Scales::Nested { indices, code, nested, offset } => {
                let locked = (
                    indices.storage_and_layout(),
                    code.storage_and_layout(),
                    nested.storage_and_layout(),
                );
                let indices = view::<u8>(&locked.0, device)?;
                let code = view::<f32>(&locked.1, device)?;
                let nested = view::<f32>(&locked.2, device)?;
                let name = format!("nf4_nested_{}", T::NAME);
                // SAFETY: as above; a byte can't index beyond the 256 values of the code.
                unsafe {
                    launch!(
                        device, QUANT, &name, config, &packed, &indices, &code, &nested, &offset,
                        &mut out, &n
                    );
                }
            }
        }
    }
    Ok(tensor(out, device, (rows, width)))
}
