//! The base as a run keeps it and computes with it.

use candle_core::{DType, Device};

use super::estimate;
use crate::config::RunConfig;
use crate::device;
use crate::error::Result;
use crate::model::reader::WeightFiles;
use crate::model::{Decoder, DecoderSpec, Storage, Weights};
use crate::ops::{Exec, Half};
use crate::run::RunError;
use crate::run::memory;

/// How the base's weights are kept. Trained ones are float32: an update is often less than the last
/// bit of a bfloat16, and would be lost.
pub(super) fn storage(config: &RunConfig) -> Storage {
    if config.use_peft { config.precision.into() } else { Storage::whole(DType::F32) }
}

/// What the user should know of the types.
pub(super) fn dtype_notice(config: &RunConfig) -> Option<String> {
    (config.precision.bfloat16 && !config.use_peft).then(|| {
        "all weights are trained, so they stay in float32 although --torch_dtype is bfloat16: \
         smaller updates than a bfloat16 can hold would be lost (on a GPU their products are bfloat16)"
            .into()
    })
}

/// Refuses a run of `needed` bytes that `device` plainly does not have. An estimate may be off by a
/// tenth.
pub(super) fn check_fits(needed: usize, device: &Device) -> Result<()> {
    let needed = needed as u64;
    match device::free_bytes(device).or_else(memory::available_bytes) {
        Some(available) if needed / 10 * 9 > available => {
            Err(RunError::DoesNotFit { needed, available }.into())
        }
        _ => Ok(()),
    }
}

/// A decoder as the run wants it.
pub(super) fn decoder(
    config: &RunConfig,
    spec: DecoderSpec,
    weights: Weights,
    device: &Device,
) -> Result<Decoder> {
    let mut decoder = Decoder::new(spec, weights, device, config.model_max_length)?;
    decoder.gradient_checkpointing = config.gradient_checkpointing;
    decoder.neftune_alpha = config.adapter.neftune_noise_alpha;
    decoder.set_exec(exec(config, device));
    Ok(decoder)
}

/// How a run computes. Trained weights are float32; on a GPU their products need not be.
pub(super) fn exec(config: &RunConfig, device: &Device) -> Exec {
    let scaled = config.training.deepspeed.as_ref().is_some_and(|d| d.loss_scaling.is_some());
    match device.is_cpu() {
        true => Exec::Fused,
        false if scaled => Exec::Autocast(Half::F16),
        false if config.precision.bfloat16 => Exec::Autocast(Half::Bf16),
        false => Exec::Fused,
    }
}

/// Bytes of a value that only products read.
pub(super) fn product_bytes(config: &RunConfig, device: &Device) -> usize {
    match exec(config, device) {
        Exec::Autocast(_) => 2,
        Exec::Fused | Exec::Portable => 4,
    }
}

/// The base's decoder; `spec` may leave out its head.
pub(super) fn load(config: &RunConfig, spec: &DecoderSpec) -> Result<Decoder> {
    let base = &config.model_name_or_path;
    let footprint = storage(config).footprint(&WeightFiles::open(base)?, spec);
    let device = device::open(config.precision.device)?;
    check_fits(footprint.bytes + 16 * estimate::trained_values(config, spec)?, &device)?;
    let (weights, _) = Weights::load(base, spec, storage(config), &device)?;
    decoder(config, spec.clone(), weights, &device)
}
