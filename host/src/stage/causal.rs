//! Causal language modelling (`pt` and `sft`), readable from top to bottom: load, prepare the data,
//! attach what is trained, run, write the results.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use candle_core::{DType, Device};
use serde_json::{Value, json};

use super::causal_task::{CausalTask, Persist};
use super::dataset::{self, Dataset, Pipeline};
use super::persist::{AdapterFiles, ModelFiles};
use super::pt;
use crate::adapter::peft::{LoraConfig, TargetModules};
use crate::adapter::{self, peft};
use crate::config::{ConfigError, Packing, RunConfig};
use crate::error::Result;
use crate::fs::io_error;
use crate::model::memory::{Workload, estimate, num_parameters};
use crate::model::save::write_json;
use crate::model::{Decoder, HfConfig, Weights};
use crate::ops::head::CHUNK_BYTES;
use crate::run::card::{self, Card};
use crate::run::manifest::{Manifest, UsedPlugin, hash_files};
use crate::run::progress::Progress;
use crate::run::{Outcome, RunError, Task, Trainer};
use crate::text::TextTokenizer;
use crate::text::pack::{self, Plan};

/// What a run will do: the first screen.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Name of the stage's command.
    pub stage: &'static str,
    /// Base model and its family.
    pub model: String,
    /// Values of the base.
    pub parameters: usize,
    /// Type of the frozen weights.
    pub dtype: &'static str,
    /// Values trained.
    pub trained: usize,
    /// Training rows, in words.
    pub train_rows: Vec<String>,
    /// Training sequences.
    pub sequences: usize,
    /// Tokens of one epoch.
    pub tokens: usize,
    /// Trained tokens of one epoch.
    pub trained_tokens: usize,
    /// Share of packed sequences that is filled; `None` without packing.
    pub packing_fill: Option<f64>,
    /// Validation sequences, and in words where they come from.
    pub validation: String,
    /// Updates planned.
    pub steps: u64,
    /// Updates made before (resumed).
    pub done: u64,
    /// Estimated peak memory, bytes.
    pub memory_bytes: usize,
    /// Seed.
    pub seed: u64,
    /// CPU threads.
    pub threads: usize,
    /// Output folder.
    pub output_dir: PathBuf,
    /// What the user should know.
    pub notices: Vec<String>,
}

/// What a finished run left.
#[derive(Clone, Debug)]
pub struct Report {
    /// How it ended.
    pub outcome: Outcome,
    /// Metrics of the results files.
    pub metrics: BTreeMap<String, Value>,
    /// Peak resident memory of this process, bytes.
    pub peak_memory_bytes: Option<u64>,
}

/// A run whose data are ready and whose model is loaded.
pub struct Prepared<'a> {
    config: &'a RunConfig,
    task: CausalTask,
    identity: BTreeMap<String, Value>,
    manifest: Manifest,
    lock: std::fs::File,
    /// Everything the first screen says but the steps.
    pub summary: Summary,
}

/// Loads the model and prepares the data.
///
/// # Errors
/// Whatever is wrong with model, tokenizer, plugins or data.
pub fn prepare<'a>(config: &'a RunConfig, command: Vec<String>) -> Result<Prepared<'a>> {
    let args = &config.training;
    set_threads(config.num_threads);
    let lock = claim(config)?;
    let device = Device::Cpu;
    let scratch = config.pretraining.as_ref().filter(|p| p.from_scratch());
    let (model_config, tokenizer) = match scratch {
        Some(scratch) => pt::fresh(config, scratch)?,
        None => {
            let model_config = HfConfig::read(&config.model_name_or_path)?;
            let tokenizer = load_tokenizer(config, &model_config)?;
            (model_config, tokenizer)
        }
    };
    let tokenizer = Arc::new(tokenizer);
    let pipeline = Pipeline::load(config, &tokenizer)?;
    let Dataset { mut train, mut eval, validation } = dataset::load(config, &pipeline)?;
    if let Some(pretraining) = &config.pretraining {
        let cut = |examples| pt::blocks(examples, config.model_max_length, pretraining.packing);
        train.examples = cut(std::mem::take(&mut train.examples));
        if let Some(eval) = &mut eval {
            eval.examples = cut(std::mem::take(&mut eval.examples));
        }
    }
    if train.examples.is_empty() {
        let reasons = train.ledger.lines().join("; ");
        return Err(RunError::NothingToTrain(format!(
            "no row gave a sequence with a trained token ({reasons}); look at them with `trainer preview`"
        ))
        .into());
    }
    let mut notices = model_config.notices.clone();
    notices.extend(tokenizer.notices.iter().cloned());
    if config.model_max_length > model_config.spec.max_position_embeddings {
        notices.push(format!(
            "model_max_length {} is beyond the {} positions the model was made for",
            config.model_max_length, model_config.spec.max_position_embeddings
        ));
    }
    let manifest = manifest(config, command, &pipeline, &tokenizer, &train, eval.as_ref())?;

    let dtype = if config.bfloat16 { DType::BF16 } else { DType::F32 };
    let (weights, unused) = match scratch {
        Some(_) => {
            (Weights::random(&model_config.spec, args.seed, dtype, &device)?, Default::default())
        }
        None => Weights::load(&config.model_name_or_path, &model_config.spec, dtype, &device)?,
    };
    if !unused.is_empty() {
        notices.push(format!("{} tensors of the folder are not used: {}", unused.len(), unused[0]));
    }
    let spec = model_config.spec.clone();
    let longest = config.model_max_length;
    let mut decoder = Decoder::new(spec.clone(), weights, &device, longest)?;
    decoder.gradient_checkpointing = config.gradient_checkpointing;
    let (params, persist) = trainable(config, &mut decoder, &model_config, &tokenizer)?;

    let lengths: Vec<usize> = train.examples.iter().map(|e| e.input_ids.len()).collect();
    let plan = Plan {
        batch_size: args.per_device_train_batch_size,
        pack_to: packs(config).then_some(config.model_max_length),
        shuffle: args.shuffle,
        seed: args.seed,
    };
    let most_tokens = most_tokens(&plan, &lengths);
    let work = Workload {
        tokens: most_tokens,
        weight_bytes: dtype.size_in_bytes(),
        trained_values: params.num_values(),
        full: !config.use_peft,
        lora_rank: if config.use_peft { config.lora_rank } else { 0 },
        gradient_checkpointing: config.gradient_checkpointing,
        head_chunk_bytes: CHUNK_BYTES,
    };
    let model = match scratch {
        Some(_) => format!("{} from scratch", spec.model_type),
        None => format!("{} ({})", config.model_name_or_path.display(), spec.model_type),
    };
    let summary = Summary {
        stage: config.stage.name(),
        model,
        parameters: num_parameters(&spec),
        dtype: if config.bfloat16 { "bfloat16" } else { "float32" },
        trained: params.num_values(),
        train_rows: train.ledger.lines(),
        sequences: train.examples.len(),
        tokens: lengths.iter().sum(),
        trained_tokens: train.examples.iter().map(|e| e.num_trained()).sum(),
        packing_fill: plan.pack_to.map(|_| pack::fill(&plan, &lengths)),
        validation,
        steps: 0,
        done: 0,
        memory_bytes: estimate(&spec, &work).total(),
        seed: args.seed,
        threads: rayon::current_num_threads(),
        output_dir: args.output_dir.clone(),
        notices,
    };
    let identity = identity(config, &manifest);
    let planner = Box::new(move |epoch| plan.epoch(&lengths, epoch));
    let task = CausalTask::new(
        decoder,
        params,
        train.examples,
        eval.map_or_else(Vec::new, |e| e.examples),
        args.per_device_eval_batch_size,
        planner,
        persist,
        args.seed,
    );
    Ok(Prepared { config, task, identity, manifest, lock, summary })
}

impl Prepared<'_> {
    /// Trains, then writes the model, the results, the manifest and the card. `started` is called
    /// with the summary once the number of updates is known.
    ///
    /// # Errors
    /// A loss that is not finite, a full disk, a checkpoint that does not fit.
    pub fn train(
        self,
        progress: &mut dyn Progress,
        interrupted: &dyn Fn() -> bool,
        started: impl FnOnce(&Summary),
    ) -> Result<Report> {
        let Prepared { config, task, identity, manifest, lock, mut summary } = self;
        let dir = &config.training.output_dir;
        write_json(&dir.join("trainer_config.json"), &manifest.config, 2)?;
        let logs = config.tensorboard.then(|| dir.join("logs").join("run"));
        let mut trainer =
            Trainer::new(task, &config.training, identity, logs.as_deref(), progress, interrupted)?;
        trainer.describe("args", &manifest.config.to_string())?;
        (summary.steps, summary.done) = (trainer.max_steps(), trainer.global_step());
        started(&summary);
        let outcome = trainer.run()?;
        let mut metrics = BTreeMap::new();
        if outcome == Outcome::Finished {
            trainer.task.save(dir)?;
            manifest.write(dir)?;
            metrics = std::fs::read(dir.join("all_results.json"))
                .ok()
                .and_then(|bytes| serde_json::from_slice(&bytes).ok())
                .unwrap_or_default();
            card::write(dir, &model_card(config, &manifest, &metrics))?;
        }
        drop(lock);
        Ok(Report { outcome, metrics, peak_memory_bytes: peak_memory_bytes() })
    }
}

/// Peak resident memory of this process, bytes, as the kernel counts it.
pub fn peak_memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes * 1024)
}

/// Uses this many threads from now on; 0 leaves the choice to the machine. Later calls change
/// nothing.
pub fn set_threads(threads: usize) {
    if threads > 0 {
        // Fails only when the pool exists already.
        let _ = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    }
}

/// Makes the output folder and locks it for this process.
fn claim(config: &RunConfig) -> Result<std::fs::File> {
    let dir = &config.training.output_dir;
    std::fs::create_dir_all(dir).map_err(io_error("create", dir))?;
    let resuming = config.training.resume_from_checkpoint.is_some();
    if dir.join("trainer_manifest.json").is_file() && !config.overwrite_output_dir && !resuming {
        return Err(ConfigError::one(format!(
            "{} holds a finished run; choose another --output_dir, or --overwrite_output_dir True",
            dir.display()
        ))
        .into());
    }
    let path = dir.join(".lock");
    let file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .map_err(io_error("create", &path))?;
    if file.try_lock().is_err() {
        let holder = std::fs::read_to_string(&path).unwrap_or_default();
        let holder = crate::error::excerpt(holder.trim());
        return Err(RunError::Locked { path: dir.clone(), holder }.into());
    }
    std::fs::write(&path, format!("process {}", std::process::id()))
        .map_err(io_error("write", &path))?;
    Ok(file)
}

fn load_tokenizer(config: &RunConfig, model: &HfConfig) -> Result<TextTokenizer> {
    let dir = config.tokenizer_name_or_path.as_ref().unwrap_or(&config.model_name_or_path);
    let ids = [model.bos_token_id, model.eos_token_ids.first().copied(), model.pad_token_id];
    let tokenizer = TextTokenizer::load(dir, ids)?;
    tokenizer.check_fits(model.spec.vocab_size)?;
    Ok(tokenizer)
}

/// Attaches LoRA (fresh or loaded) or makes every weight trainable.
fn trainable(
    config: &RunConfig,
    decoder: &mut Decoder,
    model: &HfConfig,
    tokenizer: &Arc<TextTokenizer>,
) -> Result<(crate::model::ParamSet, Box<dyn Persist>)> {
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
        let params = adapter::attach_loaded(decoder, &adapter)?;
        return Ok((params, Box::new(AdapterFiles { config: adapter.config, tokenizer })));
    }
    let lora = LoraConfig {
        r: config.lora_rank,
        lora_alpha: config.lora_alpha,
        lora_dropout: config.lora_dropout,
        target_modules: TargetModules::parse(&config.target_modules),
        rank_pattern: BTreeMap::new(),
        alpha_pattern: BTreeMap::new(),
        use_rslora: false,
        fan_in_fan_out: false,
        base_model_name_or_path: base,
    };
    let params = adapter::attach_fresh(decoder, &lora, config.training.seed)?;
    Ok((params, Box::new(AdapterFiles { config: lora, tokenizer })))
}

/// Whether several sequences share a bin of `model_max_length` tokens.
fn packs(config: &RunConfig) -> bool {
    let documents = |p: &crate::config::Pretraining| p.packing == Packing::Documents;
    config.packing || config.pretraining.as_ref().is_some_and(documents)
}

/// Most tokens that a micro-batch of the first epoch holds.
fn most_tokens(plan: &Plan, lengths: &[usize]) -> usize {
    let batches = plan.epoch(lengths, 0);
    let tokens = |b: &Vec<u32>| b.iter().map(|&i| lengths[i as usize]).sum::<usize>();
    batches.iter().map(tokens).max().unwrap_or(0)
}

/// What must not change when a run is resumed, beside the loop's own arguments.
fn identity(config: &RunConfig, manifest: &Manifest) -> BTreeMap<String, Value> {
    let hashes = |files: &[crate::run::manifest::HashedFile]| -> Value {
        json!(files.iter().map(|f| f.sha256.as_str()).collect::<Vec<_>>())
    };
    let entries = [
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
        ("use_peft", json!(config.use_peft)),
        ("lora_rank", json!(config.lora_rank)),
        ("lora_alpha", json!(config.lora_alpha)),
        ("lora_dropout", json!(config.lora_dropout)),
        ("target_modules", json!(config.target_modules)),
        ("torch_dtype", json!(config.bfloat16)),
    ];
    entries.into_iter().map(|(k, v)| (k.to_string(), v)).collect()
}

fn manifest(
    config: &RunConfig,
    command: Vec<String>,
    pipeline: &Pipeline,
    tokenizer: &TextTokenizer,
    train: &dataset::Part,
    eval: Option<&dataset::Part>,
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
    let tokenizer_json = tokenizer.dir().join("tokenizer.json");
    Ok(Manifest {
        version: env!("CARGO_PKG_VERSION"),
        stage: config.stage.name(),
        command,
        model: match base_files(config) {
            files if files.is_empty() => Vec::new(),
            files => hash_files(files.iter().map(PathBuf::as_path))?,
        },
        tokenizer: hash_files([tokenizer_json.as_path()])?,
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
    let dir = &config.model_name_or_path;
    if dir.as_os_str().is_empty() {
        return Vec::new();
    }
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path())
        .filter(|p| {
            let name = p.file_name().and_then(|n| n.to_str()).unwrap_or("");
            name == "config.json" || name.ends_with(".safetensors") || name.ends_with(".bin")
        })
        .collect();
    files.sort();
    files
}

fn model_card(config: &RunConfig, manifest: &Manifest, metrics: &BTreeMap<String, Value>) -> Card {
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
    let results = ["train_loss", "eval_loss", "perplexity", "eval_mean_token_accuracy"]
        .iter()
        .filter_map(|k| Some((k.to_string(), format!("{:.4}", metrics.get(*k)?.as_f64()?))))
        .collect();
    let base = &config.model_name_or_path;
    Card {
        base_model: match base.as_os_str().is_empty() {
            true => "none: trained from scratch".into(),
            false => base.display().to_string(),
        },
        adapter: config.use_peft,
        settings,
        results,
        manifest_sha256: manifest.sha256(),
        command: manifest.command.join(" "),
    }
}
