//! The quick start's pieces: a tokenizer and a tiny LLaMA from scratch on shipped text, so that
//! fine-tuning has something to stand on without a download.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device};

use super::causal_task::CausalTask;
use super::dataset::load_plugin;
use super::persist::ModelFiles;
use super::tokenizer::texts;
use crate::config::{LrScheduler, SaveStrategy, TrainingArguments};
use crate::data::source;
use crate::error::Result;
use crate::fs::io_error;
use crate::model::spec::Sizes;
use crate::model::{Decoder, DecoderSpec, HfConfig, Weights};
use crate::run::progress::Progress;
use crate::run::{Learner, Outcome, Task, Trainer};
use crate::text::pack::Plan;
use crate::text::train::{END_OF_TEXT, train_bpe};
use crate::text::{Encoder, TextTokenizer};

/// The shipped data, inside the binary.
const ENCYCLOPEDIA: &str = include_str!("../../../datasets/pretrain/encyclopedia.txt");
const CONVERSATIONS: &str = include_str!("../../../datasets/sft/conversations.jsonl");

/// Tokens of the quick start's vocabulary.
const VOCAB_SIZE: usize = 1024;
/// Tokens of its sequences.
const SEQUENCE: usize = 128;

/// Where the quick start puts things.
#[derive(Clone, Debug)]
pub struct Folders {
    /// Text to pre-train on.
    pub pretrain_data: PathBuf,
    /// Conversations to fine-tune on.
    pub sft_data: PathBuf,
    /// The model from scratch.
    pub base: PathBuf,
    /// The adapter.
    pub adapter: PathBuf,
    /// The merged model.
    pub merged: PathBuf,
}

impl Folders {
    /// Within `root`.
    pub fn within(root: &Path) -> Self {
        Self {
            pretrain_data: root.join("data/pretrain"),
            sft_data: root.join("data/sft"),
            base: root.join("base"),
            adapter: root.join("adapter"),
            merged: root.join("merged"),
        }
    }
}

/// Writes the shipped data into the folders.
///
/// # Errors
/// A full disk and the like.
pub fn write_data(folders: &Folders) -> Result<()> {
    for (dir, name, text) in [
        (&folders.pretrain_data, "encyclopedia.txt", ENCYCLOPEDIA),
        (&folders.sft_data, "conversations.jsonl", CONVERSATIONS),
    ] {
        std::fs::create_dir_all(dir).map_err(io_error("create", dir))?;
        crate::fs::write_atomic(&dir.join(name), text.as_bytes())?;
    }
    Ok(())
}

fn tiny(vocab_size: usize) -> DecoderSpec {
    DecoderSpec::llama(Sizes {
        vocab_size,
        hidden_size: 192,
        intermediate_size: 512,
        num_layers: 4,
        num_heads: 6,
        num_kv_heads: 3,
        max_position_embeddings: 512,
    })
}

fn arguments(output_dir: &Path, epochs: f64, seed: u64) -> TrainingArguments {
    TrainingArguments {
        output_dir: output_dir.to_path_buf(),
        per_device_train_batch_size: 8,
        per_device_eval_batch_size: 8,
        gradient_accumulation_steps: 1,
        num_train_epochs: epochs,
        max_steps: -1,
        learning_rate: 4e-3,
        lr_scheduler_type: LrScheduler::Cosine,
        warmup_steps: 20,
        warmup_ratio: 0.0,
        weight_decay: 0.01,
        adam_beta1: 0.9,
        adam_beta2: 0.95,
        adam_epsilon: 1e-8,
        max_grad_norm: 1.0,
        seed,
        logging_steps: 50,
        logging_first_step: true,
        eval_strategy: SaveStrategy::No,
        eval_steps: 50,
        save_strategy: SaveStrategy::No,
        save_steps: 500,
        save_total_limit: None,
        resume_from_checkpoint: None,
        load_best_model_at_end: false,
        metric_for_best_model: "loss".into(),
        greater_is_better: false,
        early_stopping_patience: None,
        early_stopping_threshold: 0.0,
        reproducible: crate::config::Reproducible::Standard,
        zero_stage: 0,
        ddp_timeout: 1800,
        deepspeed: None,
        shuffle: true,
    }
}

/// Trains a tokenizer and a LLaMA of two million values from scratch on `folders.pretrain_data`,
/// into `folders.base`. Answers how it ended and the number of values.
///
/// # Errors
/// A full disk, a missing `text` plugin.
pub fn pretrain(
    folders: &Folders,
    epochs: f64,
    seed: u64,
    progress: &mut dyn Progress,
    interrupted: &dyn Fn() -> bool,
) -> Result<(Outcome, usize)> {
    let dir = &folders.base;
    std::fs::create_dir_all(dir).map_err(io_error("create", dir))?;
    let files = source::discover(&[folders.pretrain_data.display().to_string()])?.files;
    let (documents, _) = texts(files, &load_plugin("text", "", seed)?)?;
    // Conversations share the vocabulary, so that their words are not cut into bytes.
    let texts = documents.iter().map(|(_, text)| text.as_str());
    train_bpe(texts.chain(std::iter::once(CONVERSATIONS)), VOCAB_SIZE, dir)?;
    let tokenizer = Arc::new(TextTokenizer::load(dir, [None; 3])?);
    let end = tokenizer.id(END_OF_TEXT).unwrap_or(0);
    let spec = tiny(tokenizer.largest_id() as usize + 1);
    let config = HfConfig::fresh(spec.clone(), None, end, end);
    let encoder = Encoder { tokenizer: &tokenizer, max_length: SEQUENCE, train_on_inputs: true };
    let examples = documents
        .into_iter()
        .map(|(at, text)| Ok(encoder.text(&text, at)?.example))
        .collect::<Result<Vec<_>>>()?;
    let lengths: Vec<usize> = examples.iter().map(|e| e.input_ids.len()).collect();
    let weights = Weights::random(&spec, seed, DType::F32, &Device::Cpu)?;
    let mut decoder = Decoder::new(spec, weights, &Device::Cpu, SEQUENCE)?;
    let params = decoder.train_all();
    let values = params.num_values();
    let plan = Plan { batch_size: 8, pack_to: Some(SEQUENCE), shuffle: true, seed };
    let persist = Box::new(ModelFiles { config, base_dir: None, tokenizer });
    let planner = Box::new(move |epoch| plan.epoch(&lengths, epoch));
    let learner =
        Learner::new(decoder, params, planner, persist, seed, crate::dist::World::default());
    let task = CausalTask::new(learner, examples, Vec::new(), 8);
    let args = arguments(dir, epochs, seed);
    let mut trainer = Trainer::new(task, &args, Default::default(), None, progress, interrupted)?;
    let outcome = trainer.run()?;
    trainer.task.learner().save(dir)?;
    Ok((outcome, values))
}
