//! Causal language modelling (`pt` and `sft`), readable from top to bottom: load, prepare the data,
//! attach what is trained.

use std::sync::Arc;

use super::causal_task::CausalTask;
use super::dataset::Pipeline;
use super::pt;
use super::setup::{self, Prepared, Summary};
use super::sources::{self, Dataset};
use super::{base, record, trained};
use crate::config::{ConfigError, Packing, Pretraining, RunConfig};
use crate::device;
use crate::dist::World;
use crate::error::Result;
use crate::model::memory::{Workload, estimate, num_parameters};
use crate::model::reader::WeightFiles;
use crate::model::{HfConfig, Weights};
use crate::ops::head::chunk_bytes;
use crate::run::memory::process_bytes;
use crate::run::{Learner, RunError};
use crate::text::TokenizedExample;
use crate::text::pack::{self, Plan};

/// Loads the model and prepares the data.
///
/// # Errors
/// Whatever is wrong with model, tokenizer, plugins or data.
pub fn prepare<'a>(
    config: &'a RunConfig,
    command: Vec<String>,
    world: &World,
) -> Result<Prepared<'a, CausalTask>> {
    let args = &config.training;
    setup::share_threads(config.num_threads, world.local_size());
    let lock = setup::claim(config, world)?;
    let device = device::open(config.precision.device)?;
    let scratch = config.pretraining.as_ref().filter(|p| p.from_scratch());
    let (mut model_config, tokenizer) = match scratch {
        Some(scratch) => pt::fresh(config, scratch)?,
        None => {
            let mut model_config = HfConfig::read(&config.model_name_or_path)?;
            let tokenizer = trained::load_tokenizer(config, &mut model_config)?;
            (model_config, tokenizer)
        }
    };
    if let Some(weight) = config.router_aux_loss_coef {
        let mixture = model_config.spec.mixture.as_mut().ok_or_else(|| {
            ConfigError::one(
                "`--router_aux_loss_coef` balances the experts of a mixture, and this model has none; leave it out",
            )
        })?;
        mixture.balance = Some(weight);
    }
    let tokenizer = Arc::new(tokenizer);
    let pipeline = Pipeline::load(config, &tokenizer)?;
    let Dataset::<TokenizedExample> { mut train, mut eval, validation, notices: of_data } =
        sources::load(config, &pipeline)?;
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
    let known = model_config.spec.vocab_size;
    for example in train.examples.iter().chain(eval.iter().flat_map(|part| &part.examples)) {
        if let Some(&token) = example.input_ids.iter().find(|&&id| id as usize >= known) {
            let row = example.provenance.to_string();
            return Err(RunError::UnknownToken { row, token, known }.into());
        }
    }
    let mut notices = of_data;
    notices.extend(model_config.notices.iter().cloned());
    notices.extend(tokenizer.notices.iter().cloned());
    notices.extend(base::dtype_notice(config));
    notices.extend(device::notice(config.precision.device));
    notices.extend(setup::deepspeed_notices(config));
    if config.pretraining.is_some() && tokenizer.eos().is_none() {
        notices.push(
            "the tokenizer has no end-of-text token: documents follow each other unmarked".into(),
        );
    }
    if config.model_max_length > model_config.spec.max_position_embeddings {
        notices.push(format!(
            "model_max_length {} is beyond the {} positions the model was made for",
            config.model_max_length, model_config.spec.max_position_embeddings
        ));
    }
    let manifest = record::manifest(config, command, &pipeline, &tokenizer, &train, eval.as_ref())?;

    let lengths: Vec<usize> = train.examples.iter().map(|e| e.input_ids.len()).collect();
    let plan = Plan {
        batch_size: args.per_device_train_batch_size,
        pack_to: packs(config).then_some(config.model_max_length),
        shuffle: args.shuffle,
        seed: args.seed,
    };
    let (dir, spec) = (&config.model_name_or_path, model_config.spec.clone());
    let storage = base::storage(config);
    let footprint = match scratch {
        Some(_) => storage.fresh(&spec),
        None => storage.footprint(&WeightFiles::open(dir)?, &spec),
    };
    let work = Workload {
        tokens: most_tokens(&plan, &lengths),
        weight_bytes: footprint.bytes,
        trained_values: super::estimate::trained_values(config, &spec)?,
        full: !config.use_peft,
        lora_rank: if config.use_peft { config.lora_rank } else { 0 },
        gradient_checkpointing: config.gradient_checkpointing,
        product_bytes: base::product_bytes(config, &device),
        head_chunk_bytes: chunk_bytes(&device),
    };
    let memory_bytes = estimate(&spec, &work).total() + process_bytes(spec.vocab_size);
    base::check_fits(memory_bytes, &device)?;
    let (weights, unused) = match scratch {
        Some(_) => (Weights::random(&spec, args.seed, storage.dtype, &device)?, Vec::new()),
        None => Weights::load(dir, &spec, storage, &device)?,
    };
    if !unused.is_empty() {
        notices.push(format!("{} tensors of the folder are not used: {}", unused.len(), unused[0]));
    }
    let mut decoder = base::decoder(config, spec.clone(), weights, &device)?;
    let (params, persist) = trained::trainable(config, &mut decoder, &model_config, &tokenizer)?;

    let model = match scratch {
        Some(_) => format!("{} from scratch", spec.model_type),
        None => format!("{} ({})", config.model_name_or_path.display(), spec.model_type),
    };
    let summary = Summary {
        stage: config.stage.name(),
        model,
        parameters: num_parameters(&spec),
        dtype: footprint.name,
        trained: params.num_values(),
        train_rows: train.ledger.lines(),
        sequences: train.examples.len(),
        tokens: lengths.iter().sum(),
        trained_tokens: train.examples.iter().map(|e| e.num_trained()).sum(),
        packing_fill: plan.pack_to.map(|_| pack::fill(&plan, &lengths)),
        validation,
        steps: 0,
        done: 0,
        memory_bytes,
        seed: args.seed,
        device: device::describe(&device),
        threads: rayon::current_num_threads(),
        processes: world.size(),
        output_dir: args.output_dir.clone(),
        notices,
    };
    let identity = record::identity(config, &manifest);
    let planner = Box::new(move |epoch| plan.epoch(&lengths, epoch));
    let learner = Learner::new(decoder, params, planner, persist, args.seed, world.clone());
    let eval = eval.map_or_else(Vec::new, |e| e.examples);
    let task = CausalTask::new(learner, train.examples, eval, args.per_device_eval_batch_size);
    Ok(Prepared { config, task, identity, manifest, lock, summary })
}

/// Whether several sequences share a bin of `model_max_length` tokens.
fn packs(config: &RunConfig) -> bool {
    let documents = |p: &Pretraining| p.packing == Packing::Documents;
    config.packing || config.pretraining.as_ref().is_some_and(documents)
}

/// Most tokens that a micro-batch of the first epoch holds.
fn most_tokens(plan: &Plan, lengths: &[usize]) -> usize {
    let batches = plan.epoch(lengths, 0);
    let tokens = |b: &Vec<u32>| b.iter().map(|&i| lengths[i as usize]).sum::<usize>();
    batches.iter().map(tokens).max().unwrap_or(0)
}
