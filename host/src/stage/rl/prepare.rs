//! Loads what reinforcement learning needs: policy, reference, rewards, prompts.

use std::path::Path;

use candle_core::{DType, Tensor};

use super::prompt::Prompt;
use super::reward::Rewards;
use super::reward_model::RewardModel;
use super::task::{Parts, PolicyTask};
use crate::config::{ConfigError, Reproducible, RunConfig};
use crate::dist::World;
use crate::error::Result;
use crate::model::reader::SafetensorsFile;
use crate::model::save::{Entry, write_safetensors};
use crate::model::{Decoder, HfConfig, NamedTensor, ParamSet};
use crate::run::{Learner, Persist, RunError};
use crate::stage::chat::stop_ids;
use crate::stage::dataset::load_plugin;
use crate::stage::reference::{self, Reference};
use crate::stage::setup::{self, Inputs, Prepared, Sizes};
use crate::stage::{base, record, trained};
use crate::text::pack::Plan;

/// Name of the value head among the parameters, and of its file.
const VALUE_HEAD: &str = "value_head";

/// Keeps the value head, the last parameter, in a file of its own: adapter and model stay what
/// other programs read.
struct WithValueHead(Box<dyn Persist>);

impl Persist for WithValueHead {
    fn save(&self, decoder: &Decoder, params: &ParamSet, dir: &Path) -> Result<()> {
        let mut own = params.clone();
        if let Some(head) = own.params.pop() {
            let path = dir.join(format!("{VALUE_HEAD}.safetensors"));
            write_safetensors(&path, vec![Entry::of(head.name, head.tensor)], &[])?;
        }
        self.0.save(decoder, &own, dir)
    }

    fn load(&self, params: &mut ParamSet, dir: &Path) -> Result<()> {
        let Some(mut head) = params.params.pop() else { return Ok(()) };
        let loaded = self.0.load(params, dir);
        let path = dir.join(format!("{VALUE_HEAD}.safetensors"));
        let tensor = SafetensorsFile::open(&path)?.read(&head.name)?;
        if tensor.dims() != head.tensor.dims() || tensor.dtype() != DType::F32 {
            let reason = format!("the value head has shape {:?}", tensor.dims());
            return Err(RunError::Checkpoint { path: dir.into(), reason }.into());
        }
        head.tensor = tensor.to_device(head.tensor.device())?;
        params.params.push(head);
        loaded
    }
}

/// Loads the models and prepares the prompts.
///
/// # Errors
/// Whatever is wrong with models, tokenizer, plugins or data.
pub fn prepare<'a>(
    config: &'a RunConfig,
    command: Vec<String>,
    world: &World,
) -> Result<Prepared<'a, PolicyTask>> {
    let Some(settings) = config.reinforcement.clone() else {
        return Err(ConfigError::one("the configuration is of another stage").into());
    };
    let mut inputs: Inputs<Prompt> =
        setup::inputs(config, command, world, HfConfig::read, "a prompt")?;
    let template = match inputs.pipeline.template() {
        // A second one of the same options: the first renders the prompts.
        Some(plugin) => {
            Some(load_plugin(&plugin.inspection().file, plugin.options(), config.training.seed)?)
        }
        None => None,
    };
    let mut models = Vec::new();
    for dir in &settings.reward_model {
        let name = dir.file_name().map_or("reward_model".into(), |n| n.to_string_lossy().into());
        let mut model = RewardModel::load(dir, config.precision)?;
        model.alone = config.training.reproducible == Reproducible::Strict;
        models.push((name, model));
    }
    let rewards = Rewards::new(
        inputs.pipeline.take_rewards(),
        models,
        &settings.reward_weights,
        template,
        settings.reward_failure,
        settings.reward_clip_range,
    )?;
    let model_config = &inputs.model_config;
    let mut decoder = base::load(config, &model_config.spec)?;
    let (mut params, mut persist) =
        trained::trainable(config, &mut decoder, model_config, &inputs.tokenizer)?;
    let named = settings.ref_model_name_or_path.as_ref();
    let reference = match settings.beta > 0.0 {
        true => Some(Reference::of(config, named, model_config, &params)?),
        false => None,
    };
    let mut value_head = None;
    if settings.ppo.is_some() {
        // All states are worth nothing at first.
        let tensor =
            Tensor::zeros((1, model_config.spec.hidden_size), DType::F32, decoder.device())?;
        value_head = Some(params.params.len());
        let name = format!("{VALUE_HEAD}.weight");
        params.params.push(NamedTensor::new(name, tensor));
        persist = Box::new(WithValueHead(persist));
    }
    let prompts = &inputs.train.examples;
    let (batch, longest) =
        (config.training.per_device_train_batch_size, settings.sampling.max_completion_length);
    let lengths: Vec<usize> = prompts.iter().map(|p| p.ids.len()).collect();
    let most = lengths.iter().max().copied().unwrap_or(0) + longest;
    let slots = settings.sampling.generation_batch_size;
    let cache = crate::model::cache::bytes(&decoder.spec, slots, most);
    let sizes = Sizes {
        sequences: prompts.len() * settings.num_generations,
        tokens: lengths.iter().sum(),
        trained_tokens: 0,
        most_tokens: batch * most,
        other_bytes: cache + reference.as_ref().map_or(0, |r| r.bytes()) + rewards.bytes(),
    };
    let mut summary = setup::summary(config, &decoder.spec, &params, &inputs, &sizes)?;
    let names: Vec<&str> = rewards.names().collect();
    summary.notices.push(format!("rewards: {}", names.join(", ")));
    let mut identity = record::identity(config, &inputs.manifest);
    identity.insert("reinforcement".into(), serde_json::json!(settings));
    let mut folders: Vec<&std::path::PathBuf> = settings.reward_model.iter().collect();
    folders.extend(named);
    for (i, dir) in folders.into_iter().enumerate() {
        identity.insert(format!("model_beside_{i}"), reference::fingerprint(dir)?);
    }
    let args = &config.training;
    let per_update =
        batch * args.gradient_accumulation_steps * world.size() / settings.num_generations;
    let plan = Plan {
        batch_size: per_update.max(1),
        pack_to: None,
        shuffle: args.shuffle,
        seed: args.seed,
    };
    let planner = Box::new(move |epoch| plan.epoch(&lengths, epoch));
    let task = PolicyTask::new(Parts {
        stage: config.stage,
        stop_ids: stop_ids(model_config, &inputs.tokenizer),
        learner: Learner::new(decoder, params, planner, persist, args.seed, world.clone()),
        value_head,
        reference,
        rewards,
        tokenizer: inputs.tokenizer.clone(),
        prompts: inputs.train.examples,
        eval: inputs.eval.map_or_else(Vec::new, |e| e.examples),
        batch_size: batch,
        output_dir: args.output_dir.clone(),
        settings,
    });
    Ok(Prepared { config, task, identity, manifest: inputs.manifest, lock: inputs.lock, summary })
}
