//! The numeric primitives: each a forward/backward pair, portable (candle operations, any
//! device) and fused (our kernels, on the CPU and on CUDA).
//!
//! Tensors are contiguous and two-dimensional, `[tokens, width]`, f32, unless said otherwise.
//! Frozen weights may be f32 or bf16; products accumulate in f32. Nothing here knows a model.

use candle_core::{DType, Device, Result, Tensor};

pub mod activation;
pub mod attention;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod divergence;
pub mod dora;
pub mod dropout;
pub mod elementwise;
pub mod embedding;
pub mod head;
pub mod layer_norm;
pub mod linear;
pub mod lora;
pub mod neftune;
pub mod quant;
pub mod rms_norm;
pub mod rope;
pub mod transfer;

/// Which implementation runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exec {
    /// candle operations in f32: every device; the reference.
    Portable,
    /// Our kernels where the device has them, candle's operations elsewhere.
    Fused,
    /// As `Fused`, with the products of large matrices in 16 bits and everything between them in f32,
    /// as PyTorch's autocast has it. On GPUs only.
    Autocast(Half),
}

/// A 16-bit type of products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// bfloat16.
    Bf16,
    /// IEEE half precision; its losses are scaled.
    F16,
}

impl Half {
    /// candle's name.
    pub fn dtype(self) -> DType {
        match self {
            Half::Bf16 => DType::BF16,
            Half::F16 => DType::F16,
        }
    }
}

#[cfg(test)]
mod tests;

impl Exec {
    /// The fastest implementation that `device` has, for frozen weights kept as `dtype`.
    pub fn new(device: &Device, dtype: DType) -> Self {
        match dtype {
            _ if device.is_cpu() => Exec::Fused,
            DType::BF16 => Exec::Autocast(Half::Bf16),
            DType::F16 => Exec::Autocast(Half::F16),
            _ => Exec::Fused,
        }
    }

    /// The fastest implementation that `device` has, in f32.
    pub fn for_device(device: &Device) -> Self {
        Self::new(device, DType::F32)
    }

    /// Whether our CPU kernels work on `tensor`.
    pub(crate) fn on_cpu(self, tensor: &Tensor) -> bool {
        self != Exec::Portable && tensor.device().is_cpu()
    }

    /// Whether our CUDA kernels work on `tensor`.
    #[cfg(feature = "cuda")]
    pub(crate) fn on_cuda(self, tensor: &Tensor) -> bool {
        self != Exec::Portable && tensor.device().is_cuda()
    }

    /// The type of products with `x`.
    pub(crate) fn product_type(self, x: &Tensor) -> DType {
        match self {
            Exec::Autocast(half) => half.dtype(),
            Exec::Portable | Exec::Fused => x.dtype(),
        }
    }

    /// `x` as products read it: half of the memory under autocast, as it is otherwise.
    ///
    /// # Errors
    /// When the device fails.
    pub fn rounded(self, x: &Tensor) -> Result<Tensor> {
        x.to_dtype(self.product_type(x))
    }
}

/// The type of what is between products of `dtype`.
pub(crate) fn wide(dtype: DType) -> DType {
    match dtype {
        DType::BF16 | DType::F16 => DType::F32,
        other => other,
    }
}

/// What [`Exec::rounded`] made, as everything but products reads it.
///
/// # Errors
/// When the device fails.
pub(crate) fn widened(x: &Tensor) -> Result<Tensor> {
    x.to_dtype(wide(x.dtype()))
}
