//! A model folder with its linear layers in 8 or 4 bits, as bitsandbytes saves them.

use std::path::Path;

use candle_core::{DType, Device};

use super::save::{Entry, SHARD_BYTES, config_for, write_json, write_weights};
use super::slots::Slot;
use super::storage::Storage;
use super::weights::Weights;
use super::{HfConfig, ModelError, bitsandbytes};
use crate::fs::AtomicDir;
use crate::ops::quant::{Matrix, Scheme};

/// What [`quantize`] wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuantizeReport {
    /// Matrices made narrow.
    pub num_matrices: usize,
    /// Bytes of all weights.
    pub bytes: usize,
}

/// Writes the model of `base_dir` into a new folder, linear layers by `scheme`, all else as `dtype`; a
/// folder that is narrow already stays as it is. `companions` writes what else belongs to the folder. The
/// folder appears whole or not at all; in memory is never more than the narrow model and one matrix.
///
/// # Errors
/// When the base can't be read, or the disk is full.
pub fn quantize(
    base_dir: &Path,
    output_dir: &Path,
    scheme: Scheme,
    dtype: DType,
    companions: impl FnOnce(&Path) -> Result<(), ModelError>,
) -> Result<QuantizeReport, ModelError> {
    let config = HfConfig::read_any(base_dir)?;
    let spec = if config.is_reward_model() { config.spec.body() } else { config.spec.clone() };
    let storage = Storage { dtype, scheme: Some(scheme), keep_narrow: true };
    let (weights, unused) = Weights::load(base_dir, &spec, storage, &Device::Cpu)?;
    if let Some(name) = unused.first() {
        let reason = format!("tensor `{name}` is not one of a {} model", spec.model_type);
        return Err(ModelError::Weights { path: base_dir.into(), reason });
    }
    let mut entries = Vec::new();
    let mut num_matrices = 0;
    for slot in Slot::all(&spec) {
        let name = slot.name(&spec);
        if let Some(Matrix::Quantized(matrix)) = weights.matrix(slot) {
            entries.extend(bitsandbytes::entries(&name, matrix)?);
            num_matrices += 1;
        } else if let Some(tensor) = weights.get(slot) {
            entries.push(Entry::of(name, slot.turned(&spec, tensor.clone())?));
        }
    }
    let bytes = weights.bytes(&spec);
    let out = AtomicDir::create(output_dir)?;
    write_weights(out.path(), entries, SHARD_BYTES)?;
    let mut value = config_for(&config.raw, dtype, config.spec.vocab_size);
    value["quantization_config"] = bitsandbytes::quantization_config(scheme);
    write_json(&out.path().join("config.json"), &value, 2)?;
    companions(out.path())?;
    out.commit()?;
    Ok(QuantizeReport { num_matrices, bytes })
}
