//! Narrow matrices in the memory of a GPU, widened there where they are multiplied.

use std::borrow::Cow;

use candle_core::quantized::{QStorage, QTensor};
use candle_core::{DType, Device, Result, Tensor};

use super::nf4::{self, Scales};
use super::{Quantized, int8};

/// A matrix `[out, in]` on a device.
#[derive(Debug)]
pub struct Resident {
    form: Form,
    rows: usize,
    width: usize,
    bytes: usize,
}

#[derive(Debug)]
enum Form {
    /// Bytes in two's complement `[out, in]`, scales `[out]`.
    Int8 { values: Tensor, scales: Tensor },
    /// Two values a byte.
    Nf4 { packed: Tensor, scales: BlockScales },
    /// GGUF's blocks.
    Blocks(QTensor),
}

/// Scales of NF4's blocks.
#[derive(Debug)]
enum BlockScales {
    Plain(Tensor),
    Nested { indices: Tensor, code: Tensor, nested: Tensor, offset: f32 },
}

impl Resident {
    /// The matrix on `device`.
    ///
    /// # Errors
    /// When its memory can't be had.
    pub fn new(matrix: &Quantized, device: &Device) -> Result<Self> {
        let (rows, width) = matrix.dims();
        let row = |values: &[f32]| Tensor::new(values, device);
        let form = match matrix {
            Quantized::Int8(m) => {
                let (values, scales) = m.parts();
                let values: Vec<u8> = values.iter().map(|v| v.cast_unsigned()).collect();
                let values = Tensor::from_vec(values, (rows, width), device)?;
                Form::Int8 { values, scales: row(scales)? }
            }
            Quantized::Nf4(m) => {
                let (packed, scales) = m.parts();
                let scales = match scales {
                    Scales::Plain(scales) => BlockScales::Plain(row(scales)?),
                    Scales::Nested { indices, code, nested, offset } => BlockScales::Nested {
                        indices: Tensor::new(indices.as_slice(), device)?,
                        code: row(code)?,
                        nested: row(nested)?,
                        offset: *offset,
                    },
                };
                Form::Nf4 { packed: Tensor::new(packed, device)?, scales }
            }
            Quantized::Blocks(m) => {
                let storage = QStorage::from_data(Cow::Borrowed(m.data()), device, m.dtype())?;
                Form::Blocks(QTensor::new(storage, (rows, width))?)
            }
        };
        Ok(Self { form, rows, width, bytes: matrix.bytes() })
    }

    /// `(out, in)`.
    pub fn dims(&self) -> (usize, usize) {
        (self.rows, self.width)
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The whole matrix as `dtype`, on its device.
    ///
    /// # Errors
    /// When the device fails.
    pub fn widen(&self, dtype: DType) -> Result<Tensor> {
        match &self.form {
            Form::Int8 { values, scales } => {
                #[cfg(feature = "cuda")]
                if values.device().is_cuda() {
                    return crate::ops::cuda::quant::int8(values, scales, dtype);
                }
                widen_int8(values, scales)?.to_dtype(dtype)
            }
            Form::Nf4 { packed, scales } => {
                #[cfg(feature = "cuda")]
                if packed.device().is_cuda() {
                    use crate::ops::cuda::quant::{Nf4Scales, nf4};
                    let scales = match scales {
                        BlockScales::Plain(scales) => Nf4Scales::Plain(scales),
                        BlockScales::Nested { indices, code, nested, offset } => {
                            Nf4Scales::Nested { indices, code, nested, offset: *offset }
                        }
                    };
                    return nf4(packed, scales, self.rows, self.width, dtype);
                }
                widen_nf4(packed, scales, self.rows, self.width)?.to_dtype(dtype)
            }
            Form::Blocks(blocks) => blocks.dequantize(&blocks.device())?.to_dtype(dtype),
        }
    }
}

fn widen_int8(values: &Tensor, scales: &Tensor) -> Result<Tensor> {
    let values = values.to_dtype(DType::F32)?;
    let signed = (&values - (values.ge(128f32)?.to_dtype(DType::F32)? * 256.0)?)?;
    signed.broadcast_mul(&scales.unsqueeze(1)?)? * f64::from(int8::STEP)
}

fn widen_nf4(packed: &Tensor, scales: &BlockScales, rows: usize, width: usize) -> Result<Tensor> {
    let device = packed.device();
    let (count, blocks) = (rows * width, (rows * width).div_ceil(nf4::BLOCK));
    let bytes = packed.to_dtype(DType::F32)?;
    let high = (&bytes / 16.0)?.floor()?;
    let low = (&bytes - (&high * 16.0)?)?;
    let index = Tensor::stack(&[high, low], 1)?.flatten_all()?.to_dtype(DType::U32)?;
    let code = Tensor::new(&nf4::CODE, device)?;
    let scales = match scales {
        BlockScales::Plain(scales) => scales.clone(),
        BlockScales::Nested { indices, code, nested, offset } => {
            let of = (0..blocks as u32).map(|block| block / nf4::NESTED_BLOCK as u32);
            let of = Tensor::from_iter(of, device)?;
            let values = code.index_select(&indices.to_dtype(DType::U32)?, 0)?;
            ((values * nested.index_select(&of, 0)?)? + f64::from(*offset))?
        }
    };
    let padded = blocks * nf4::BLOCK;
    let values = code.index_select(&index, 0)?;
    let values = values.pad_with_zeros(0, 0, padded - values.dim(0)?)?;
    let values = values.reshape((blocks, nf4::BLOCK))?.broadcast_mul(&scales.unsqueeze(1)?)?;
    values.flatten_all()?.narrow(0, 0, count)?.reshape((rows, width))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::{Blocks, Scheme};
    use super::*;
    use candle_core::quantized::GgmlDType;

    #[test]
    fn resident_matrices_are_widened_to_the_same_values() {
        let values: Vec<f32> = (0..5 * 96).map(|i| (i as f32 * 0.37).sin() * 0.2).collect();
        let dense = Tensor::from_vec(values, (5, 96), &Device::Cpu).unwrap();
        let blocks = QTensor::quantize(&dense, GgmlDType::Q8_0).unwrap();
        let blocks = Blocks::from_bytes(&blocks.data().unwrap(), GgmlDType::Q8_0, 5, 96).unwrap();
        for matrix in [
            Quantized::from_tensor(Scheme::Int8, &dense).unwrap(),
            Quantized::from_tensor(Scheme::Nf4, &dense).unwrap(),
            Quantized::Blocks(blocks),
        ] {
            let want = matrix.dequantize(&Device::Cpu).unwrap().to_vec2::<f32>().unwrap();
            let resident = Resident::new(&matrix, &Device::Cpu).unwrap();
            let got = resident.widen(DType::F32).unwrap().to_vec2::<f32>().unwrap();
            for (got, want) in got.iter().flatten().zip(want.iter().flatten()) {
                assert!((got - want).abs() <= 1e-7 * want.abs().max(1e-3), "{got} {want}");
            }
            assert_eq!((resident.dims(), resident.bytes()), (matrix.dims(), matrix.bytes()));
        }
    }
}
