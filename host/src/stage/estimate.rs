//! Memory of a stage before anything is loaded: from its settings and the model's configuration.

use std::path::Path;

use serde::Serialize;

use super::{base, trained};
use crate::adapter::{peft, targets};
use crate::config::{ConfigError, RunConfig, Stage};
use crate::device;
use crate::error::Result;
use crate::model::memory::{Workload, estimate, num_parameters};
use crate::model::reader::WeightFiles;
use crate::model::slots::Slot;
use crate::model::{DecoderSpec, HfConfig, ModelError, Storage, cache};
use crate::ops::head::chunk_bytes;
use crate::run::memory::process_bytes;

/// Bytes by purpose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Forecast {
    /// How the base's weights are kept.
    pub dtype: String,
    /// Values of the base.
    pub parameters: usize,
    /// Values that are trained.
    pub trained: usize,
    /// Most tokens that go through the model at once.
    pub tokens: usize,
    /// Weights of the base.
    pub weights: usize,
    /// LoRA matrices, gradients, and both moments of AdamW.
    pub training: usize,
    /// What the forward keeps for the backward.
    pub activations: usize,
    /// Logits of one chunk.
    pub head: usize,
    /// Weights of references, teachers and reward models.
    pub others: usize,
    /// Keys and values of what is generated.
    pub cache: usize,
    /// The program itself.
    pub process: usize,
    /// All of it.
    pub total: usize,
}

/// Weights of another model of the run, kept as the base's are.
fn other(config: &RunConfig, dir: &Path) -> Result<usize> {
    // An adapter's folder names its base.
    let (base, own) = match dir.join("adapter_config.json").is_file() {
        true => {
            let adapter = peft::read(dir)?;
            let values = |(a, b): &(_, _)| -> usize {
                let (a, b): (&candle_core::Tensor, &candle_core::Tensor) = (a, b);
                a.elem_count() + b.elem_count()
            };
            let own = adapter.tensors.values().map(values).sum::<usize>() * 4;
            (adapter.config.base_model_name_or_path.into(), own)
        }
        false => (dir.to_path_buf(), 0),
    };
    let model = HfConfig::read_any(&base)?;
    let spec = if model.is_reward_model() { model.spec.body() } else { model.spec };
    let storage = Storage::from(config.precision);
    Ok(own + storage.footprint(&WeightFiles::open(&base)?, &spec).bytes)
}

/// Values that training changes.
pub(super) fn trained_values(config: &RunConfig, spec: &DecoderSpec) -> Result<usize, ModelError> {
    if !config.use_peft {
        return Ok(num_parameters(spec));
    }
    let lora = match &config.peft_path {
        Some(path) => peft::read(path)?.config,
        None => trained::lora_config(config, spec, peft::TaskType::CausalLm),
    };
    let pair = |(layer, projection)| {
        let (rows, width) = crate::model::slots::projection_shape(spec, projection);
        let module = spec.names.module_path(layer, projection);
        let magnitudes = if lora.use_dora { rows } else { 0 };
        lora.rank_and_scale(&module).0 * (rows + width) + magnitudes
    };
    let pairs: usize = targets::matching(spec, &lora)?.into_iter().map(pair).sum();
    let whole = |slot: Slot| slot.shape(spec).iter().product::<usize>();
    let modules: usize = targets::modules_to_save(spec, &lora)?.into_iter().map(whole).sum();
    let added = config.adapter.add_tokens.len() + config.adapter.add_special_tokens.len();
    let tables = if spec.tie_word_embeddings { 1 } else { 2 };
    Ok(pairs + modules + added * tables * spec.hidden_size)
}

/// What `config`'s stage will need.
///
/// # Errors
/// When a model's folder can't be read; for a model from scratch.
pub fn forecast(config: &RunConfig) -> Result<Forecast> {
    let dir = &config.model_name_or_path;
    if dir.as_os_str().is_empty() {
        return Err(ConfigError::one(
            "a model from scratch has no folder to read; its first screen says what it needs",
        )
        .into());
    }
    let model = HfConfig::read_any(dir)?;
    let stage = config.stage;
    let spec = match stage == Stage::Rm || model.is_reward_model() {
        true => model.spec.body(),
        false => model.spec,
    };
    let footprint = base::storage(config).footprint(&WeightFiles::open(dir)?, &spec);
    let rows = match stage {
        Stage::Rm | Stage::Dpo | Stage::Orpo | Stage::Simpo => 2,
        _ => 1,
    };
    let tokens = rows * config.training.per_device_train_batch_size * config.model_max_length;
    let trained = trained_values(config, &spec)?;
    let device = device::open(config.precision.device)?;
    let work = Workload {
        tokens,
        weight_bytes: footprint.bytes,
        trained_values: trained,
        full: !config.use_peft,
        lora_rank: if config.use_peft { config.lora_rank } else { 0 },
        gradient_checkpointing: config.gradient_checkpointing,
        product_bytes: base::product_bytes(config, &device),
        head_chunk_bytes: if stage == Stage::Rm { 0 } else { chunk_bytes(&device) },
    };
    let parts = estimate(&spec, &work);
    let mut others = 0;
    let preference = config.preferences.as_ref();
    let named = preference.and_then(|p| p.ref_model_name_or_path.as_deref());
    let compares = match stage {
        Stage::Dpo | Stage::Kto => true,
        stage if stage.samples() => config.reinforcement.as_ref().is_some_and(|r| r.beta > 0.0),
        _ => false,
    };
    match named {
        Some(named) => others += other(config, named)?,
        None if compares && !config.use_peft => others += other(config, dir)?,
        None if compares && config.peft_path.is_some() => others += 4 * trained,
        None => {}
    }
    let mut slots = 0;
    if let Some(settings) = &config.reinforcement {
        slots = settings.sampling.generation_batch_size;
        for model in &settings.reward_model {
            others += other(config, model)?;
        }
    }
    if let Some(settings) = &config.distillation {
        others += other(config, &settings.teacher)?;
        slots = settings.sampling.generation_batch_size;
    }
    let cache = cache::bytes(&spec, slots, config.model_max_length);
    let process = process_bytes(spec.vocab_size);
    let total = parts.total() + others + cache + process;
    Ok(Forecast {
        dtype: footprint.name,
        parameters: num_parameters(&spec),
        trained,
        tokens,
        weights: parts.weights,
        training: parts.training,
        activations: parts.activations,
        head: parts.head,
        others,
        cache,
        process,
        total,
    })
}
