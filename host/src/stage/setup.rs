//! What stages share: the output folder's lock, the tokenizer, what is trained, the run itself with
//! its manifest and card.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device};
use serde_json::{Value, json};

use super::dataset::{Item, Part, Pipeline};
use super::estimate;
use super::persist::{AdapterFiles, ModelFiles};
use super::sources::{self, Dataset};
use crate::adapter::peft::{Initialization, LoraConfig, TargetModules, TaskType};
use crate::adapter::{self, peft};
use crate::config::{AdapterSettings, ConfigError, RunConfig};
use crate::device;
use crate::dist::{World, environment};
use crate::error::Result;
use crate::fs::io_error;
use crate::model::gguf;
use crate::model::memory::{self as model_memory, Workload, num_parameters};
use crate::model::reader::WeightFiles;
use crate::model::save::write_json;
use crate::model::slots::Slot;
use crate::model::{Decoder, DecoderSpec, HfConfig, ModelError, ParamSet, Storage, Weights};
use crate::ops::head::chunk_bytes;
use crate::ops::{Exec, Half};
use crate::run::card::{self, Card};
use crate::run::manifest::{Manifest, UsedPlugin, hash_files};
use crate::run::memory;
use crate::run::progress::Progress;
use crate::run::{EpochPlanner, Outcome, Persist, RunError, Task, Trainer};
use crate::text::TextTokenizer;
use crate::text::pack::Plan;

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
    pub dtype: String,
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
    /// Where it is computed.
    pub device: String,
    /// CPU threads of a process.
    pub threads: usize,
    /// Processes that train together.
    pub processes: usize,
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
    /// The most that tensors took of a GPU's memory.
    pub peak_device_bytes: Option<u64>,
}

/// A run whose data are ready and whose model is loaded.
pub struct Prepared<'a, T: Task> {
    pub(super) config: &'a RunConfig,
    pub(super) task: T,
    pub(super) identity: BTreeMap<String, Value>,
    pub(super) manifest: Manifest,
    pub(super) lock: Option<std::fs::File>,
    /// Everything the first screen says but the steps.
    pub summary: Summary,
}

impl<'a, T: Task> Prepared<'a, T> {
    /// The run's configuration.
    pub fn config(&self) -> &'a RunConfig {
        self.config
    }

    /// Whether this process is the one that prints and writes.
    pub fn is_main(&self) -> bool {
        self.task.learner().world().is_main()
    }

    /// Trains, then writes the model, the results, the manifest and the card. `started` is called
    /// with the summary once the number of updates is known. Rank 0 writes, for all.
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
        let main = task.learner().world().is_main();
        if main {
            write_json(&dir.join("trainer_config.json"), &manifest.config, 2)?;
        }
        let logs = config.tensorboard.then(|| dir.join("logs").join("run"));
        let mut trainer =
            Trainer::new(task, &config.training, identity, logs.as_deref(), progress, interrupted)?;
        trainer.describe("args", &manifest.config.to_string())?;
        (summary.steps, summary.done) = (trainer.max_steps(), trainer.global_step());
        started(&summary);
        let outcome = trainer.run()?;
        let mut metrics = BTreeMap::new();
        if outcome == Outcome::Finished && main {
            trainer.task.learner().save(dir)?;
            manifest.write(dir)?;
            metrics = std::fs::read(dir.join("all_results.json"))
                .ok()
                .and_then(|bytes| serde_json::from_slice(&bytes).ok())
                .unwrap_or_default();
            card::write(dir, &model_card(config, &manifest, &metrics))?;
        }
        drop(lock);
        let device = device::open(config.precision.device)?;
        Ok(Report {
            outcome,
            metrics,
            peak_memory_bytes: memory::peak_bytes(),
            peak_device_bytes: device::peak_bytes(&device),
        })
    }
}

/// Uses this many threads from now on; 0 leaves the choice to the machine. Later calls change
/// nothing.
pub fn set_threads(threads: usize) {
    share_threads(threads, 1);
}

/// As [`set_threads`], on a machine that `processes` share: left to it, each takes its part.
pub fn share_threads(threads: usize, processes: usize) {
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = match threads {
        0 if processes > 1 => (all / processes).max(1),
        threads => threads,
    };
    if threads > 0 {
        // Fails only when the pool exists already.
        let _ = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    }
}

/// Makes the output folder and locks it for this process; rank 0 does, for all.
pub(super) fn claim(config: &RunConfig, world: &World) -> Result<Option<std::fs::File>> {
    if !world.is_main() {
        return Ok(None);
    }
    let dir = &config.training.output_dir;
    std::fs::create_dir_all(dir).map_err(io_error("create", dir))?;
    let restarted = environment::restart_count() > 0;
    let resuming = config.training.resume_from_checkpoint.is_some() || restarted;
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
    Ok(Some(file))
}

/// The data of a stage, and what is known before any weight is loaded.
pub(super) struct Inputs<T> {
    pub world: World,
    pub lock: Option<std::fs::File>,
    pub model_config: HfConfig,
    pub tokenizer: Arc<TextTokenizer>,
    pub pipeline: Pipeline,
    pub train: Part<T>,
    pub eval: Option<Part<T>>,
    pub validation: String,
    pub manifest: Manifest,
    pub notices: Vec<String>,
}

/// Claims the output folder and reads everything but the weights. `read` reads the base's
/// configuration; `wanted` names what a row should have given.
pub(super) fn inputs<T: Item>(
    config: &RunConfig,
    command: Vec<String>,
    world: &World,
    read: fn(&Path) -> std::result::Result<HfConfig, ModelError>,
    wanted: &str,
) -> Result<Inputs<T>> {
    share_threads(config.num_threads, world.local_size());
    let lock = claim(config, world)?;
    let mut model_config = read(&config.model_name_or_path)?;
    let tokenizer = Arc::new(load_tokenizer(config, &mut model_config)?);
    let pipeline = Pipeline::load(config, &tokenizer)?;
    let Dataset::<T> { train, eval, validation, notices: mut of_data } =
        sources::load(config, &pipeline)?;
    if train.examples.is_empty() {
        let reasons = train.ledger.lines().join("; ");
        let fault = format!("no row gave {wanted} ({reasons})");
        return Err(RunError::NothingToTrain(fault).into());
    }
    let manifest = manifest(config, command, &pipeline, &tokenizer, &train, eval.as_ref())?;
    of_data.extend(model_config.notices.iter().cloned());
    let mut notices = of_data;
    notices.extend(tokenizer.notices.iter().cloned());
    notices.extend(dtype_notice(config));
    notices.extend(device::notice(config.precision.device));
    notices.extend(deepspeed_notices(config));
    Ok(Inputs {
        world: world.clone(),
        lock,
        model_config,
        tokenizer,
        pipeline,
        train,
        eval,
        validation,
        manifest,
        notices,
    })
}

/// How the base's weights are kept. Trained ones are float32: an update is often less than the last
/// bit of a bfloat16, and would be lost.
pub(super) fn base_storage(config: &RunConfig) -> Storage {
    if config.use_peft { config.precision.into() } else { Storage::whole(DType::F32) }
}

/// What the user should know of a DeepSpeed configuration.
pub(super) fn deepspeed_notices(config: &RunConfig) -> Vec<String> {
    config.training.deepspeed.as_ref().map_or_else(Vec::new, |d| d.notices.clone())
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
    if !device.is_cpu() {
        // Trained weights are float32; their products need not be.
        let scaled = config.training.deepspeed.as_ref().is_some_and(|d| d.loss_scaling.is_some());
        match scaled {
            true => decoder.set_exec(Exec::Autocast(Half::F16)),
            false if config.precision.bfloat16 => decoder.set_exec(Exec::Autocast(Half::Bf16)),
            false => {}
        }
    }
    Ok(decoder)
}

/// The base's decoder; `spec` may leave out its head.
pub(super) fn load_decoder(config: &RunConfig, spec: &DecoderSpec) -> Result<Decoder> {
    let base = &config.model_name_or_path;
    let footprint = base_storage(config).footprint(&WeightFiles::open(base)?, spec);
    let device = device::open(config.precision.device)?;
    check_fits(footprint.bytes + 16 * estimate::trained_values(config, spec)?, &device)?;
    let (weights, _) = Weights::load(base, spec, base_storage(config), &device)?;
    decoder(config, spec.clone(), weights, &device)
}

/// How much a stage's items are.
pub(super) struct Sizes {
    pub sequences: usize,
    /// Tokens of an epoch.
    pub tokens: usize,
    pub trained_tokens: usize,
    /// Most tokens of a micro-batch.
    pub most_tokens: usize,
    /// Bytes of what is in memory beside the trained model.
    pub other_bytes: usize,
}

/// The plan of micro-batches of whole items with these lengths, in tokens, and the most tokens of
/// a micro-batch.
pub(super) fn plan(config: &RunConfig, lengths: Vec<usize>) -> (EpochPlanner, usize) {
    let args = &config.training;
    let batch_size = args.per_device_train_batch_size;
    let plan = Plan { batch_size, pack_to: None, shuffle: args.shuffle, seed: args.seed };
    let of_batch = |b: &Vec<u32>| b.iter().map(|&i| lengths[i as usize]).sum::<usize>();
    let most = plan.epoch(&lengths, 0).iter().map(of_batch).max().unwrap_or(0);
    (Box::new(move |epoch| plan.epoch(&lengths, epoch)), most)
}

/// The first screen of a stage that trains `params` of `spec`.
pub(super) fn summary<T>(
    config: &RunConfig,
    spec: &DecoderSpec,
    params: &ParamSet,
    inputs: &Inputs<T>,
    sizes: &Sizes,
) -> Result<Summary> {
    let files = WeightFiles::open(&config.model_name_or_path)?;
    let footprint = base_storage(config).footprint(&files, spec);
    let work = Workload {
        tokens: sizes.most_tokens,
        weight_bytes: footprint.bytes,
        trained_values: params.num_values(),
        full: !config.use_peft,
        lora_rank: if config.use_peft { config.lora_rank } else { 0 },
        gradient_checkpointing: config.gradient_checkpointing,
        head_chunk_bytes: chunk_bytes(&device::open(config.precision.device)?),
    };
    Ok(Summary {
        stage: config.stage.name(),
        model: format!("{} ({})", config.model_name_or_path.display(), spec.model_type),
        parameters: num_parameters(spec),
        dtype: footprint.name,
        trained: params.num_values(),
        train_rows: inputs.train.ledger.lines(),
        sequences: sizes.sequences,
        tokens: sizes.tokens,
        trained_tokens: sizes.trained_tokens,
        packing_fill: None,
        validation: inputs.validation.clone(),
        steps: 0,
        done: 0,
        memory_bytes: model_memory::estimate(spec, &work).total()
            + sizes.other_bytes
            + memory::process_bytes(spec.vocab_size),
        seed: config.training.seed,
        device: device::describe(&device::open(config.precision.device)?),
        threads: rayon::current_num_threads(),
        processes: inputs.world.size(),
        output_dir: config.training.output_dir.clone(),
        notices: inputs.notices.clone(),
    })
}

/// The validation items in batches.
pub(super) fn eval_batches<T: Clone>(config: &RunConfig, eval: Option<Part<T>>) -> Vec<Vec<T>> {
    let examples = eval.map_or_else(Vec::new, |e| e.examples);
    let size = config.training.per_device_eval_batch_size.max(1);
    examples.chunks(size).map(<[T]>::to_vec).collect()
}

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
