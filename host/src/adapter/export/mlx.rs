//! Adapters as mlx-lm reads them: `adapters.safetensors` with A `[in, rank]` and B `[rank, out]`, both
//! the transposes of PEFT's, and `adapter_config.json` with one rank and one factor for all.

use std::path::Path;

use candle_core::{DType, Tensor};
use serde_json::json;

use super::{only_pairs, placed};
use crate::adapter::peft::PeftAdapter;
use crate::fs::AtomicDir;
use crate::model::save::{Entry, write_json, write_safetensors};
use crate::model::{DecoderSpec, ModelError};

/// Writes `adapter`, of a base `spec` called `base`, into the new folder `output`. Smaller ranks are
/// filled up with zeros; where a pair's scale is not the first one's, the rest goes into B.
///
/// # Errors
/// An adapter that the format can't hold or that belongs to another base; a full disk.
pub fn export(
    adapter: &PeftAdapter,
    spec: &DecoderSpec,
    base: &str,
    output: &Path,
) -> Result<usize, ModelError> {
    only_pairs(adapter, "MLX")?;
    let pairs = placed(spec, adapter)?;
    let rank = pairs.iter().map(|p| p.a.dims()[0]).max().unwrap_or(1);
    let scale = pairs.first().map_or(1.0, |p| p.scale);
    let mut entries = Vec::new();
    let mut keys = Vec::new();
    for pair in &pairs {
        let key = spec.names.linear(pair.projection);
        if !keys.contains(&key) {
            keys.push(key);
        }
        let a = filled(&pair.a.t()?.contiguous()?, 1, rank)?;
        let mut b = filled(&pair.b.t()?.contiguous()?, 0, rank)?;
        if pair.scale != scale {
            b = (b * (pair.scale / scale))?;
        }
        let mut put = |suffix: &str, tensor: Tensor| {
            entries.push(Entry::of(format!("{}.{suffix}", pair.module), tensor));
        };
        put("lora_a", a);
        put("lora_b", b);
        if let Some(magnitude) = adapter.magnitudes.get(pair.module) {
            put("m", magnitude.clone());
        }
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    let config = json!({
        "model": base,
        "fine_tune_type": if adapter.magnitudes.is_empty() { "lora" } else { "dora" },
        // All blocks; a pair that the file lacks begins at nothing and stays there.
        "num_layers": spec.num_layers,
        "lora_parameters": {
            "rank": rank, "dropout": adapter.config.lora_dropout, "scale": scale, "keys": keys,
        },
    });
    let out = AtomicDir::create(output)?;
    write_safetensors(&out.path().join("adapters.safetensors"), entries, &[])?;
    write_json(&out.path().join("adapter_config.json"), &config, 4)?;
    out.commit()?;
    Ok(pairs.len())
}

/// With zeros up to `size` along `dim`.
fn filled(tensor: &Tensor, dim: usize, size: usize) -> candle_core::Result<Tensor> {
    let mut shape = tensor.dims().to_vec();
    let missing = size - shape[dim];
    if missing == 0 {
        return Ok(tensor.clone());
    }
    shape[dim] = missing;
    let zeros = Tensor::zeros(shape, DType::F32, tensor.device())?;
    Tensor::cat(&[tensor, &zeros], dim)
}
