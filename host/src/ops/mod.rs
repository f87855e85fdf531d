//! The numeric primitives: each a forward/backward pair, portable (candle operations, any
//! device) and fused (CPU, f32).
//!
//! Tensors are contiguous and two-dimensional, `[tokens, width]`, f32, unless said otherwise.
//! Frozen weights may be f32 or bf16; products accumulate in f32. Nothing here knows a model.

use candle_core::Device;

pub mod activation;
pub mod attention;
pub mod cpu;
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

/// Which implementation runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exec {
    /// candle operations: every device; the reference.
    Portable,
    /// Our CPU kernels.
    Fused,
}

#[cfg(test)]
mod tests;

impl Exec {
    /// The fastest implementation that `device` has.
    pub fn for_device(device: &Device) -> Self {
        if device.is_cpu() { Exec::Fused } else { Exec::Portable }
    }
}
