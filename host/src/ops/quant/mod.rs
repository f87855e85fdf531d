//! Frozen matrices in 8 and 4 bits, and in GGUF's blocks. They are widened block by block where they
//! are multiplied; no whole matrix in f32 ever exists on the CPU.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};

use super::cpu::slices::with_f32;
use super::cpu::widened::{Narrow, widen};

pub mod blocks;
pub mod int8;
pub mod nf4;
pub mod resident;

pub use blocks::Blocks;
pub use int8::Int8;
pub use nf4::Nf4;
pub use resident::Resident;

/// How a matrix is made narrower at loading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// One byte a value, one scale a row.
    Int8,
    /// Four bits a value, one scale for 64 of them, the scales in 8 bits.
    Nf4,
}

impl Scheme {
    /// How it is named.
    pub fn name(self) -> &'static str {
        match self {
            Scheme::Int8 => "int8",
            Scheme::Nf4 => "nf4",
        }
    }

    /// Bytes of a matrix `[out, in]`.
    pub fn bytes(self, rows: usize, width: usize) -> usize {
        match self {
            Scheme::Int8 => rows * width + 4 * rows,
            // Half a byte a value, a byte for 64 of them, four for 64 · 256, and a table.
            Scheme::Nf4 => {
                let scales = (rows * width).div_ceil(nf4::BLOCK);
                (rows * width).div_ceil(2) + scales + 4 * scales.div_ceil(nf4::NESTED_BLOCK) + 1024
            }
        }
    }
}

/// A narrow matrix, `[out, in]`.
#[derive(Debug)]
pub enum Quantized {
    /// Vector-wise 8 bits.
    Int8(Int8),
    /// 4-bit NormalFloat.
    Nf4(Nf4),
    /// GGUF's blocks.
    Blocks(Blocks),
}

impl Quantized {
    /// From f32 values `[out, in]`.
    ///
    /// # Errors
    /// When the tensor is no f32 matrix on the CPU.
    pub fn from_tensor(scheme: Scheme, tensor: &Tensor) -> Result<Self> {
        let (rows, width) = tensor.dims2()?;
        with_f32(tensor, |values| {
            Ok(match scheme {
                Scheme::Int8 => Quantized::Int8(Int8::quantize(values, rows, width)),
                Scheme::Nf4 => Quantized::Nf4(Nf4::quantize(values, rows, width)),
            })
        })
    }

    /// `(out, in)`.
    pub fn dims(&self) -> (usize, usize) {
        match self {
            Quantized::Int8(m) => m.dims(),
            Quantized::Nf4(m) => m.dims(),
            Quantized::Blocks(m) => m.dims(),
        }
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        match self {
            Quantized::Int8(m) => m.bytes(),
            Quantized::Nf4(m) => m.bytes(),
            Quantized::Blocks(m) => m.bytes(),
        }
    }

    /// All values as f32, `[out, in]`.
    ///
    /// # Errors
    /// When the device has no memory for them.
    pub fn dequantize(&self, device: &Device) -> Result<Tensor> {
        let (rows, width) = self.dims();
        let mut values = vec![0f32; rows * width];
        widen(self, 0, width, &mut values);
        Tensor::from_vec(values, (rows, width), device)
    }
}

impl Narrow for Quantized {
    fn widen_row(&self, row: usize, to: &mut [f32]) {
        match self {
            Quantized::Int8(m) => m.widen_row(row, to),
            Quantized::Nf4(m) => m.widen_row(row, to),
            Quantized::Blocks(m) => m.widen_row(row, to),
        }
    }
}

/// The matrix of a linear layer, `[out, in]`.
#[derive(Clone, Debug)]
pub enum Matrix {
    /// f32 or bf16.
    Dense(Tensor),
    /// Narrower, and never trained.
    Quantized(Arc<Quantized>),
    /// Narrow, on a GPU.
    Resident(Arc<Resident>),
}

impl Matrix {
    /// A narrow matrix where it is used: in the memory of a GPU, if `device` is one.
    ///
    /// # Errors
    /// When its memory can't be had.
    pub fn placed(matrix: Quantized, device: &Device) -> Result<Self> {
        Ok(match device.is_cpu() {
            true => Matrix::Quantized(Arc::new(matrix)),
            false => Matrix::Resident(Arc::new(Resident::new(&matrix, device)?)),
        })
    }

    /// The tensor, unless it is narrower.
    pub fn dense(&self) -> Option<&Tensor> {
        match self {
            Matrix::Dense(tensor) => Some(tensor),
            Matrix::Quantized(_) | Matrix::Resident(_) => None,
        }
    }

    /// As [`Matrix::dense`], to be replaced.
    pub fn dense_mut(&mut self) -> Option<&mut Tensor> {
        match self {
            Matrix::Dense(tensor) => Some(tensor),
            Matrix::Quantized(_) | Matrix::Resident(_) => None,
        }
    }

    /// Bytes of a narrower matrix; 0 for a dense one.
    pub fn narrow_bytes(&self) -> usize {
        match self {
            Matrix::Dense(_) => 0,
            Matrix::Quantized(quantized) => quantized.bytes(),
            Matrix::Resident(resident) => resident.bytes(),
        }
    }
}

/// A matrix that a product reads.
#[derive(Clone, Copy, Debug)]
pub enum Frozen<'a> {
    /// f32 or bf16.
    Dense(&'a Tensor),
    /// Narrower.
    Quantized(&'a Quantized),
    /// Narrow, on a GPU.
    Resident(&'a Resident),
}

impl<'a> From<&'a Tensor> for Frozen<'a> {
    fn from(tensor: &'a Tensor) -> Self {
        Frozen::Dense(tensor)
    }
}

impl<'a> From<&'a Matrix> for Frozen<'a> {
    fn from(matrix: &'a Matrix) -> Self {
        match matrix {
            Matrix::Dense(tensor) => Frozen::Dense(tensor),
            Matrix::Quantized(quantized) => Frozen::Quantized(quantized),
            Matrix::Resident(resident) => Frozen::Resident(resident),
        }
    }
}

impl Frozen<'_> {
    /// `(out, in)`.
    ///
    /// # Errors
    /// When a dense tensor is no matrix.
    pub fn dims(&self) -> Result<(usize, usize)> {
        match self {
            Frozen::Dense(tensor) => tensor.dims2(),
            Frozen::Quantized(quantized) => Ok(quantized.dims()),
            Frozen::Resident(resident) => Ok(resident.dims()),
        }
    }

    /// The whole matrix as `dtype`, on `device`; a dense one, and one that is there already, as it is.
    ///
    /// # Errors
    /// When its memory can't be had.
    pub fn widen(&self, device: &Device, dtype: DType) -> Result<Tensor> {
        match self {
            Frozen::Dense(tensor) => tensor.to_device(device)?.to_dtype(dtype),
            Frozen::Quantized(matrix) => matrix.dequantize(device)?.to_dtype(dtype),
            Frozen::Resident(matrix) => matrix.widen(dtype)?.to_device(device),
        }
    }
}
