//! What is trained: LoRA pairs or every weight, and the rows of added tokens.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::persist::{AdapterFiles, ModelFiles};
use crate::adapter::peft::{Initialization, LoraConfig, TargetModules, TaskType};
use crate::adapter::{self, peft};
use crate::config::{ConfigError, RunConfig};
use crate::error::Result;
use crate::model::slots::Slot;
use crate::model::{Decoder, DecoderSpec, HfConfig, ParamSet};
use crate::run::Persist;
use crate::text::TextTokenizer;

/// The tokenizer, with the tokens that the run adds; `model` grows where they or the adapter to be
/// trained further need rows that its files lack.
pub(super) fn load_tokenizer(config: &RunConfig, model: &mut HfConfig) -> Result<TextTokenizer> {
    let mut dir = config.tokenizer_name_or_path.as_ref().unwrap_or(&config.model_name_or_path);
    if let Some(path) = &config.peft_path {
        let adapter = peft::read(path)?;
        if adapter.brings_tokens(&model.spec) && config.tokenizer_name_or_path.is_none() {
            dir = path;
        }
        model.grow(adapter.rows_needed(&model.spec));
    }
    let ids = [model.bos_token_id, model.eos_token_ids.first().copied(), model.pad_token_id];
    let mut tokenizer = TextTokenizer::load(dir, ids)?;
    tokenizer.check_fits(model.spec.vocab_size)?;
    let before = model.spec.vocab_size;
    let fresh = tokenizer.add_tokens(&config.adapter.add_tokens, false)?;
    let special = tokenizer.add_tokens(&config.adapter.add_special_tokens, true)?;
    let largest = fresh.iter().chain(&special).max();
    model.grow(largest.map_or(0, |&id| id as usize + 1));
    if model.spec.vocab_size > before {
        let rows = model.spec.vocab_size;
        tokenizer.notices.push(format!(
            "the embedding has {rows} rows now; a program that loads the adapter must resize the base to \
             them, or load the merged model"
        ));
    }
    Ok(tokenizer)
}

/// The tables whose rows are trained for added tokens, beside those that are trained whole.
pub(super) fn token_rows(
    config: &RunConfig,
    spec: &DecoderSpec,
    tokenizer: &TextTokenizer,
    lora: &LoraConfig,
) -> Result<BTreeMap<String, Vec<u32>>> {
    let tokens = config.adapter.add_tokens.iter().chain(&config.adapter.add_special_tokens);
    let mut ids: Vec<u32> = tokens.filter_map(|token| tokenizer.id(token)).collect();
    ids.sort_unstable();
    ids.dedup();
    let mut tables = BTreeMap::new();
    if ids.is_empty() {
        return Ok(tables);
    }
    let whole = adapter::targets::modules_to_save(spec, lora)?;
    let last = |name: &str| name.rsplit('.').next().unwrap_or(name).to_string();
    let (embed, head) = (last(spec.names.embed), last(spec.names.lm_head));
    let (saves_embed, saves_head) = (whole.contains(&Slot::Embed), whole.contains(&Slot::LmHead));
    match (spec.tie_word_embeddings, saves_embed, saves_head) {
        (true, false, false) => drop(tables.insert(String::new(), ids)),
        (true, ..) => {
            if !(saves_embed && saves_head) {
                let fault = "the head is the embedding, and added tokens need both: give \
                             `--modules_to_save` both or neither";
                return Err(ConfigError::one(fault).into());
            }
        }
        (false, ..) => {
            if !saves_embed {
                tables.insert(embed, ids.clone());
            }
            if !saves_head {
                tables.insert(head, ids);
            }
        }
    }
    Ok(tables)
}

/// Attaches LoRA (fresh or loaded) or makes every weight trainable.
pub(super) fn trainable(
    config: &RunConfig,
    decoder: &mut Decoder,
    model: &HfConfig,
    tokenizer: &Arc<TextTokenizer>,
) -> Result<(ParamSet, Box<dyn Persist>)> {
    let tokenizer = tokenizer.clone();
    if !config.use_peft {
        let params = decoder.train_all();
        let base = &config.model_name_or_path;
        let base_dir = (!base.as_os_str().is_empty()).then(|| base.clone());
        return Ok((params, Box::new(ModelFiles { config: model.clone(), base_dir, tokenizer })));
    }
    let base = config.model_name_or_path.display().to_string();
    if let Some(path) = &config.peft_path {
        let mut adapter = peft::read(path)?;
        adapter.config.base_model_name_or_path = base;
        adapter.config.lora_dropout = config.lora_dropout;
        let mut params = adapter::attach_loaded(decoder, &adapter)?;
        set_learning_rates(config, &mut params);
        return Ok((params, Box::new(AdapterFiles::new(adapter.config, tokenizer, None)?)));
    }
    let mut lora = lora_config(config, &decoder.spec, TaskType::CausalLm);
    lora.trainable_token_indices = token_rows(config, &decoder.spec, &tokenizer, &lora)?;
    let mut params = adapter::attach_fresh(decoder, &lora, config.training.seed)?;
    set_learning_rates(config, &mut params);
    let initial = (lora.initialization == Initialization::Pissa).then_some(&params);
    let files = AdapterFiles::new(lora, tokenizer, initial)?;
    Ok((params, Box::new(files)))
}

/// LoRA+ (Hayou et al. 2024, arXiv 2402.12354): B, and as in PEFT every vector, learns at a rate of its
/// own.
pub(super) fn set_learning_rates(config: &RunConfig, params: &mut ParamSet) {
    for param in &mut params.params {
        if param.name.ends_with(".lora_B.weight") || param.tensor.dims().len() == 1 {
            param.learning_rate_ratio = config.adapter.loraplus_lr_ratio;
        }
    }
}

/// A fresh adapter's configuration.
pub(super) fn lora_config(
    config: &RunConfig,
    spec: &DecoderSpec,
    task_type: TaskType,
) -> LoraConfig {
    LoraConfig {
        task_type,
        r: config.lora_rank,
        lora_alpha: config.lora_alpha,
        lora_dropout: config.lora_dropout,
        target_modules: TargetModules::parse(&config.target_modules),
        rank_pattern: config.adapter.rank_pattern.clone(),
        alpha_pattern: config.adapter.alpha_pattern.clone(),
        modules_to_save: config.adapter.modules_to_save.clone(),
        trainable_token_indices: BTreeMap::new(),
        layers_to_transform: config.adapter.layers_to_transform.clone(),
        use_dora: config.adapter.use_dora,
        initialization: match config.adapter.pissa {
            true => Initialization::Pissa,
            false => Initialization::Random,
        },
        use_rslora: config.adapter.use_rslora,
        fan_in_fan_out: spec.transposed,
        base_model_name_or_path: config.model_name_or_path.display().to_string(),
    }
}
