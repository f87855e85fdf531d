//! What a run leaves of itself: its identity (what a resumed run must share), its manifest, its card.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::dataset::{Part, Pipeline};
use crate::config::{AdapterSettings, RunConfig};
use crate::error::Result;
use crate::model::gguf;
use crate::run::card::Card;
use crate::run::manifest::{Manifest, UsedPlugin, hash_files};
use crate::text::TextTokenizer;

/// What must not change when a run is resumed, beside the loop's own arguments.
pub(super) fn identity(config: &RunConfig, manifest: &Manifest) -> BTreeMap<String, Value> {
    let hashes = |files: &[crate::run::manifest::HashedFile]| -> Value {
        json!(files.iter().map(|f| f.sha256.as_str()).collect::<Vec<_>>())
    };
    // Left out where plain, so that checkpoints of runs without such settings go on fitting.
    let own = (config.adapter != AdapterSettings::default()).then_some(&config.adapter);
    let entries = [
        ("adapter", json!(own)),
        ("model", hashes(&manifest.model)),
        ("tokenizer", hashes(&manifest.tokenizer)),
        ("train_data", hashes(&manifest.train)),
        ("validation_data", hashes(&manifest.validation)),
        ("plugins", json!(manifest.plugins)),
        ("model_max_length", json!(config.model_max_length)),
        ("max_train_samples", json!(config.max_train_samples)),
        ("validation_split_percentage", json!(config.validation_split_percentage)),
        ("train_on_inputs", json!(config.train_on_inputs)),
        ("packing", json!(config.packing)),
        ("stage", json!(config.stage)),
        ("pretraining", json!(config.pretraining)),
        ("preferences", json!(config.preferences)),
        ("reward_modelling", json!(config.reward_modelling)),
        ("use_peft", json!(config.use_peft)),
        ("lora_rank", json!(config.lora_rank)),
        ("lora_alpha", json!(config.lora_alpha)),
        ("lora_dropout", json!(config.lora_dropout)),
        ("target_modules", json!(config.target_modules)),
        ("torch_dtype", json!(config.precision.bfloat16)),
        ("load_in_8bit", json!(config.precision.load_in_8bit)),
        ("load_in_4bit", json!(config.precision.load_in_4bit)),
        ("router_aux_loss_coef", json!(config.router_aux_loss_coef)),
    ];
    // Runs without a mix know nothing of one.
    let mix = config.sources.mixing.as_ref().map(|mixing| ("mix", json!(mixing)));
    entries.into_iter().chain(mix).map(|(k, v)| (k.to_string(), v)).collect()
}

pub(super) fn manifest<T>(
    config: &RunConfig,
    command: Vec<String>,
    pipeline: &Pipeline,
    tokenizer: &TextTokenizer,
    train: &Part<T>,
    eval: Option<&Part<T>>,
) -> Result<Manifest> {
    let plugins = pipeline
        .plugins()
        .map(|p| UsedPlugin {
            name: p.name().to_string(),
            version: p.version().to_string(),
            kind: p.world().name().to_string(),
            sha256: p.sha256().to_string(),
            options: p.options().to_string(),
        })
        .collect();
    let mut rows = json!({"train": train.ledger});
    if let Some(eval) = eval {
        rows["validation"] = json!(eval.ledger);
    }
    Ok(Manifest {
        version: env!("CARGO_PKG_VERSION"),
        stage: config.stage.name(),
        command,
        model: match base_files(config) {
            files if files.is_empty() => Vec::new(),
            files => hash_files(files.iter().map(PathBuf::as_path))?,
        },
        tokenizer: hash_files([tokenizer.source()])?,
        train: hash_files(train.files.iter().map(PathBuf::as_path))?,
        validation: match eval {
            Some(eval) => hash_files(eval.files.iter().map(PathBuf::as_path))?,
            None => Vec::new(),
        },
        plugins,
        rows,
        config: json!(config),
    })
}

/// Configuration and weights of the base, sorted; none when the model begins from scratch.
fn base_files(config: &RunConfig) -> Vec<PathBuf> {
    match config.model_name_or_path.as_os_str().is_empty() {
        true => Vec::new(),
        false => model_files(&config.model_name_or_path),
    }
}

/// Configuration and weights of a model folder, sorted.
pub(super) fn model_files(dir: &std::path::Path) -> Vec<PathBuf> {
    if gguf::is_file(dir) {
        return vec![dir.into()];
    }
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path())
        .filter(|p| {
            let name = p.file_name().and_then(|n| n.to_str()).unwrap_or("");
            let weights = [".safetensors", ".bin", ".gguf"];
            name == "config.json" || weights.iter().any(|end| name.ends_with(end))
        })
        .collect();
    files.sort();
    files
}

pub(super) fn model_card(
    config: &RunConfig,
    manifest: &Manifest,
    metrics: &BTreeMap<String, Value>,
) -> Card {
    let args = &config.training;
    let setting = |name: &str, value: String| (name.to_string(), value);
    let mut settings = vec![
        setting("learning_rate", args.learning_rate.to_string()),
        setting("per_device_train_batch_size", args.per_device_train_batch_size.to_string()),
        setting("gradient_accumulation_steps", args.gradient_accumulation_steps.to_string()),
        setting("model_max_length", config.model_max_length.to_string()),
        setting("packing", config.packing.to_string()),
        setting("seed", args.seed.to_string()),
    ];
    if config.use_peft {
        settings.push(setting("lora_rank", config.lora_rank.to_string()));
        settings.push(setting("lora_alpha", config.lora_alpha.to_string()));
        settings.push(setting("target_modules", config.target_modules.clone()));
    }
    settings.extend(config.adapter.differences());
    let figures = [
        "train_loss",
        "eval_loss",
        "perplexity",
        "eval_mean_token_accuracy",
        "eval_accuracy",
        "eval_rewards/accuracies",
        "eval_reward",
    ];
    let results = figures
        .iter()
        .filter_map(|k| Some((k.to_string(), format!("{:.4}", metrics.get(*k)?.as_f64()?))))
        .collect();
    let base = &config.model_name_or_path;
    Card {
        base_model: match base.as_os_str().is_empty() {
            true => "none: trained from scratch".into(),
            false => base.display().to_string(),
        },
        stage: config.stage.name(),
        adapter: config.use_peft,
        settings,
        results,
        manifest_sha256: manifest.sha256(),
        command: manifest.command.join(" "),
    }
}
