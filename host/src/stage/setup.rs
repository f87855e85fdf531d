//! What stages share: the output folder's lock, the tokenizer, what is trained, the run itself with
//! its manifest and card.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::dataset::{Item, Part, Pipeline};
use super::sources::{self, Dataset};
use super::{base, record, trained};
use crate::config::{ConfigError, RunConfig};
use crate::device;
use crate::dist::{World, environment};
use crate::error::Result;
use crate::fs::io_error;
use crate::model::memory::{self as model_memory, Workload, num_parameters};
use crate::model::reader::WeightFiles;
use crate::model::save::write_json;
use crate::model::{DecoderSpec, HfConfig, ModelError, ParamSet};
use crate::ops::head::chunk_bytes;
use crate::run::card::{self};
use crate::run::manifest::Manifest;
use crate::run::memory;
use crate::run::progress::Progress;
use crate::run::{EpochPlanner, Outcome, RunError, Task, Trainer};
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
            card::write(dir, &record::model_card(config, &manifest, &metrics))?;
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
    let tokenizer = Arc::new(trained::load_tokenizer(config, &mut model_config)?);
    let pipeline = Pipeline::load(config, &tokenizer)?;
    let Dataset::<T> { train, eval, validation, notices: mut of_data } =
        sources::load(config, &pipeline)?;
    if train.examples.is_empty() {
        let reasons = train.ledger.lines().join("; ");
        let fault = format!("no row gave {wanted} ({reasons})");
        return Err(RunError::NothingToTrain(fault).into());
    }
    let manifest = record::manifest(config, command, &pipeline, &tokenizer, &train, eval.as_ref())?;
    of_data.extend(model_config.notices.iter().cloned());
    let mut notices = of_data;
    notices.extend(tokenizer.notices.iter().cloned());
    notices.extend(base::dtype_notice(config));
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

/// What the user should know of a DeepSpeed configuration.
pub(super) fn deepspeed_notices(config: &RunConfig) -> Vec<String> {
    config.training.deepspeed.as_ref().map_or_else(Vec::new, |d| d.notices.clone())
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
    let footprint = base::storage(config).footprint(&files, spec);
    let device = device::open(config.precision.device)?;
    let work = Workload {
        tokens: sizes.most_tokens,
        weight_bytes: footprint.bytes,
        trained_values: params.num_values(),
        full: !config.use_peft,
        lora_rank: if config.use_peft { config.lora_rank } else { 0 },
        gradient_checkpointing: config.gradient_checkpointing,
        product_bytes: base::product_bytes(config, &device),
        head_chunk_bytes: chunk_bytes(&device),
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
        device: device::describe(&device),
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
