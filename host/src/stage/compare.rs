//! How far a merged model is from the base and adapter that it was merged from.

use std::path::Path;

use candle_core::Device;

use crate::adapter::{self, peft};
use crate::config::Precision;
use crate::error::Result;
use crate::fs;
use crate::limits::MODEL_CONFIG_BYTES_MAX;
use crate::model::reader::WeightFiles;
use crate::model::{Decoder, HfConfig, ModelError, ParamSet, Storage, TokenBatch, Weights};
use crate::text::TextTokenizer;

/// What both models read.
const PROBE: &str = "The river rises in the hills north of the town, and by the time it reaches the sea it has \
                     crossed three countries. 12 + 30 = 42.";

/// Logits of two models over the same text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// Largest difference of a logit.
    pub largest: f64,
    /// Largest magnitude of a logit.
    pub scale: f64,
    /// Tokens read.
    pub tokens: usize,
}

/// How an adapter's base was kept while it was trained, by the configuration beside it.
pub fn trained_precision(adapter_dir: &Path) -> Option<Precision> {
    let bytes =
        fs::read_limited(&adapter_dir.join("trainer_config.json"), MODEL_CONFIG_BYTES_MAX).ok()?;
    let config: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
    let flag = |name: &str| config["precision"][name].as_bool();
    Some(Precision {
        bfloat16: flag("bfloat16")?,
        load_in_8bit: flag("load_in_8bit")?,
        load_in_4bit: flag("load_in_4bit")?,
        device: crate::device::DeviceChoice::Cpu,
    })
}

/// Bytes of the merged model in memory, the larger of the two.
///
/// # Errors
/// When a folder can't be read.
pub fn bytes(merged: &Path) -> Result<usize> {
    let spec = HfConfig::read_any(merged)?.spec;
    Ok(Storage::whole(candle_core::DType::F32).footprint(&WeightFiles::open(merged)?, &spec).bytes)
}

fn logits(decoder: &Decoder, params: &ParamSet, ids: &[u32]) -> Result<Vec<f32>> {
    let hidden = decoder.hidden(params, &TokenBatch::from_ids(&[ids]))?;
    Ok(decoder.logits(&hidden)?.flatten_all()?.to_vec1()?)
}

/// Reads the base as `storage` says with the adapter, then the merged folder, one after the other.
///
/// # Errors
/// When a folder can't be read; for a reward model, which has no logits.
pub fn difference(
    base: &Path,
    storage: Storage,
    adapter_dir: &Path,
    merged: &Path,
) -> Result<Difference> {
    let config = HfConfig::read(merged)?;
    let tokenizer = TextTokenizer::load(merged, [None; 3])?;
    let ids = tokenizer.encode(PROBE, true)?.ids;
    let ids = &ids[..ids.len().min(config.spec.max_position_embeddings)];
    let load = |dir: &Path, storage: Storage, rows: usize| -> Result<Decoder> {
        let mut config = HfConfig::read(dir)?;
        config.grow(rows);
        let spec = config.spec;
        let (weights, _) = Weights::load(dir, &spec, storage, &Device::Cpu)?;
        Ok(Decoder::new(spec, weights, &Device::Cpu, ids.len().max(1)).map_err(ModelError::from)?)
    };
    let apart = {
        let adapter = peft::read(adapter_dir)?;
        // Tokens that the adapter added have rows in the merged folder.
        let mut decoder = load(base, storage, config.spec.vocab_size)?;
        let params = adapter::attach_loaded(&mut decoder, &adapter)?;
        logits(&decoder, &params, ids)?
    };
    let whole = load(merged, Storage::whole(candle_core::DType::F32), 0)?;
    let whole = logits(&whole, &ParamSet::default(), ids)?;
    let greatest = |values: &mut dyn Iterator<Item = f32>| {
        f64::from(values.fold(0f32, |most, v| most.max(v.abs())))
    };
    Ok(Difference {
        largest: greatest(&mut apart.iter().zip(&whole).map(|(a, b)| a - b)),
        scale: greatest(&mut whole.iter().copied()),
        tokens: ids.len(),
    })
}
