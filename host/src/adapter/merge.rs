//! Merging: `W + scale · B A` into the base, tensor by tensor.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Tensor};
use serde::Serialize;

use super::peft;
use crate::fs;
use crate::model::reader::WeightFiles;
use crate::model::save::{Entry, SHARD_BYTES, config_for, write_json, write_weights};
use crate::model::score_head::SCORE;
use crate::model::{HfConfig, ModelError, bitsandbytes};

/// Files of a tokenizer, copied as they stand.
pub const TOKENIZER_FILES: [&str; 9] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
];

/// What a merge did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MergeReport {
    /// Matrices that were changed.
    pub merged_modules: usize,
    /// Largest absolute change of a weight.
    pub largest_change: f64,
    /// Type of the written weights.
    pub dtype: String,
    /// Tensors copied unchanged.
    pub copied_tensors: usize,
}

/// Merges the adapter of `adapter_dir` into `base_dir` and writes a model folder. Sums are taken
/// in f32 and stored in `dtype`, or in each tensor's own type; matrices that the base holds in 8 or 4
/// bits are widened to f32. Never more than one tensor is in
/// memory. The folder appears whole or not at all.
///
/// # Errors
/// When the adapter does not fit the base, a file is damaged, or the disk is full.
pub fn merge(
    base_dir: &Path,
    adapter_dir: &Path,
    output_dir: &Path,
    dtype: Option<DType>,
) -> Result<MergeReport, ModelError> {
    let mut config = HfConfig::read_any(base_dir)?;
    let adapter = peft::read(adapter_dir)?;
    let fault = |reason: String| ModelError::Adapter { path: adapter_dir.into(), reason };
    let files = WeightFiles::open(base_dir)?;
    // Older files leave out what stands before every name of the body.
    let base = config.spec.names.base;
    let in_file = |module: &str| {
        let name = format!("{module}.weight");
        match name.strip_prefix(base).filter(|s| !files.contains(&name) && files.contains(s)) {
            Some(short) => short.to_string(),
            None => name,
        }
    };
    let pairs: BTreeMap<String, (&str, &(Tensor, Tensor))> =
        adapter.tensors.iter().map(|(m, pair)| (in_file(m), (m.as_str(), pair))).collect();
    for module in adapter.tensors.keys() {
        if !files.contains(&in_file(module)) {
            return Err(fault(format!(
                "`{module}` is not in {}; the adapter belongs to another model",
                base_dir.display()
            )));
        }
    }
    let largest = std::cell::Cell::new(0f64);
    let mut entries = Vec::new();
    let mut stored = None;
    let names: Vec<String> = files.names().map(str::to_string).collect();
    let head = crate::model::slots::Slot::LmHead.name(&config.spec);
    // A reward model has its own head in place of the one with words.
    let score = adapter.score.as_ref();
    if let Some(score) = score {
        if score.dims()[1] != config.spec.hidden_size {
            return Err(fault(format!(
                "its score head is made for a width of {}, the base has {}; it belongs to another model",
                score.dims()[1],
                config.spec.hidden_size
            )));
        }
        config = config.as_reward_model();
    } else if config.is_reward_model() {
        return Err(fault(
            "it adapts a language model, and the base is a reward model; give its own base".into(),
        ));
    }
    let (tied, transposed) = (config.spec.tie_word_embeddings, config.spec.transposed);
    let replaced = |n: &str| {
        (tied && n == head) || (score.is_some() && n == SCORE) || bitsandbytes::is_part(n)
    };
    for name in names.into_iter().filter(|n| !replaced(n)) {
        // Types and shapes are needed before the values; reading twice keeps memory at one tensor.
        let probe = bitsandbytes::read_dense(&files, base_dir, &name)?;
        let own = dtype.filter(|_| probe.dtype().is_float()).unwrap_or(probe.dtype());
        stored = stored.or(Some(own));
        let pair = pairs.get(&name).copied();
        let (files, fault, largest, lora) = (&files, &fault, &largest, &adapter.config);
        let read_name = name.clone();
        let tensor = move || -> Result<Tensor, ModelError> {
            let base = bitsandbytes::read_dense(files, base_dir, &read_name)?;
            let Some((module, (a, b))) = pair else { return Ok(base) };
            let scale = lora.rank_and_scale(module).1;
            let delta = (b.matmul(a)? * scale)?;
            let delta = if transposed { delta.t()?.contiguous()? } else { delta };
            if delta.dims() != base.dims() {
                return Err(fault(format!(
                    "`{module}` makes a change of {:?} for a weight of {:?}; it belongs to \
                     another model",
                    delta.dims(),
                    base.dims()
                )));
            }
            let change = delta.abs()?.max_all()?.to_scalar::<f32>()?;
            if !change.is_finite() {
                return Err(fault(format!("`{module}` holds values that are not finite")));
            }
            largest.set(largest.get().max(f64::from(change)));
            Ok((base.to_dtype(DType::F32)? + delta)?)
        };
        let shape = probe.dims().to_vec();
        entries.push(Entry::later(name, own, shape, tensor));
    }
    let copied_tensors = entries.len() - adapter.tensors.len();
    if let Some(score) = score {
        let dtype = stored.unwrap_or(DType::F32);
        let (shape, score) = (score.dims().to_vec(), score.clone());
        entries.push(Entry::later(SCORE, dtype, shape, || Ok(score)));
    }
    let out = fs::AtomicDir::create(output_dir)?;
    write_weights(out.path(), entries, SHARD_BYTES)?;
    let stored = stored.unwrap_or(DType::F32);
    let value = config_for(&config.raw, stored, config.spec.vocab_size);
    write_json(&out.path().join("config.json"), &value, 2)?;
    copy_if_there(base_dir, out.path(), &["generation_config.json"])?;
    let tokenizer_from =
        if adapter_dir.join("tokenizer.json").is_file() { adapter_dir } else { base_dir };
    copy_if_there(tokenizer_from, out.path(), &TOKENIZER_FILES)?;
    out.commit()?;
    Ok(MergeReport {
        merged_modules: adapter.tensors.len(),
        largest_change: largest.get(),
        dtype: stored.as_str().to_string(),
        copied_tensors,
    })
}

/// Copies those of `names` that are in `from`.
///
/// # Errors
/// A file operation.
pub fn copy_if_there(from: &Path, to: &Path, names: &[&str]) -> Result<(), ModelError> {
    for name in names {
        let source = from.join(name);
        if source.is_file() {
            std::fs::copy(&source, to.join(name)).map_err(fs::io_error("copy", &source))?;
        }
    }
    Ok(())
}
