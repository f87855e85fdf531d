//! Reward modelling: a head with one output at the end of prompt and answer, trained on pairs.

use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::pairs::PreferencePair;
use super::persist::{AdapterFiles, ModelFiles};
use super::setup::{self, Inputs, Prepared, Sizes};
use super::{base, record, trained};
use crate::adapter::peft::{Initialization, SCORE_KEY, TaskType};
use crate::adapter::{self, peft};
use crate::config::{ConfigError, RunConfig};
use crate::dist::World;
use crate::error::Result;
use crate::model::reader::WeightFiles;
use crate::model::score_head::{self, SCORE};
use crate::model::{Decoder, HfConfig, ModelError, NamedTensor, ParamSet, TokenBatch};
use crate::objective::StepSums;
use crate::objective::reward::RewardPair;
use crate::rng::{Purpose, Stream};
use crate::run::learner::evaluate_batches;
use crate::run::task::name_rows;
use crate::run::{EvalSums, Learner, MicroStep, Persist, Task};

/// Pairs, and a learner whose last parameter is a head for scores.
pub struct RmTask {
    learner: Learner,
    train: Vec<PreferencePair>,
    eval: Vec<Vec<PreferencePair>>,
    centring: f64,
    pad: Option<u32>,
}

/// Where each sequence of a batch is scored: at its last token that is not `pad`, which is where
/// transformers reads a sequence classifier. Where a tokenizer pads with its end-of-text token,
/// that is the token before it.
pub fn scored_positions(batch: &TokenBatch, pad: Option<u32>) -> Vec<u32> {
    let last = |bound: &[usize]| {
        let own = &batch.input_ids[bound[0]..bound[1]];
        let at = own.iter().rposition(|&id| Some(id) != pad).unwrap_or(0);
        (bound[0] + at) as u32
    };
    batch.bounds.windows(2).map(last).collect()
}

/// Index of the head among the parameters.
fn head(params: &ParamSet) -> usize {
    params.params.len() - 1
}

/// Sums over scored pairs, and the derivative of each reward (better ones, then worse ones).
fn judge(centring: f64, pairs: &[&PreferencePair], rewards: &[f32]) -> (StepSums, Vec<f64>) {
    let n = pairs.len();
    let mut total = StepSums { weight_sum: n as f64, ..StepSums::default() };
    total.num_tokens = pairs.iter().map(|p| p.tokens() as u64).sum();
    let mut derivatives = vec![0.0; 2 * n];
    for (i, item) in pairs.iter().enumerate() {
        let pair = RewardPair {
            chosen: f64::from(rewards[i]),
            rejected: f64::from(rewards[n + i]),
            margin: item.margin.unwrap_or(0.0),
        };
        let loss;
        (loss, derivatives[i], derivatives[n + i]) = pair.loss(centring);
        total.loss_sum += loss;
        total.metric("accuracy", f64::from(u8::from(pair.chosen > pair.rejected)));
        total.metric("margin", pair.chosen - pair.rejected);
    }
    let all = || rewards.iter().map(|&r| f64::from(r));
    total.metric("min_reward", all().fold(f64::INFINITY, f64::min));
    total.metric("mean_reward", all().sum::<f64>() / rewards.len().max(1) as f64);
    total.metric("max_reward", all().fold(f64::NEG_INFINITY, f64::max));
    (total, derivatives)
}

impl Task for RmTask {
    fn learner(&self) -> &Learner {
        &self.learner
    }

    fn learner_mut(&mut self) -> &mut Learner {
        &mut self.learner
    }

    fn loss_weight(&self, batch: &[u32]) -> f64 {
        batch.len() as f64
    }

    fn accumulate(&mut self, batch: &[u32], at: MicroStep) -> Result<StepSums> {
        let pairs: Vec<&PreferencePair> = batch.iter().map(|&i| &self.train[i as usize]).collect();
        let batch = PreferencePair::laid_out(&pairs).named(PreferencePair::names(batch));
        let key = self.learner.dropout_key(at);
        let last = scored_positions(&batch, self.pad);
        let Learner { decoder, params, grads, .. } = &mut self.learner;
        let kept = decoder.forward_at(params, &batch, last, key)?;
        let index = head(params);
        let head = &params.params[index].tensor;
        let rewards = score_head::forward(decoder.exec(), head, &kept.normed)?;
        let (total, derivatives) = judge(self.centring, &pairs, &rewards);
        let dvalues: Vec<f32> = derivatives.iter().map(|d| (d / at.denominator) as f32).collect();
        let (dnormed, dhead) = score_head::backward(decoder.exec(), head, &kept.normed, &dvalues)?;
        grads.add(index, dhead)?;
        decoder.backward_at(params, &batch, kept, &dnormed, grads)?;
        Ok(total)
    }

    fn evaluate(&mut self, interrupted: &dyn Fn() -> bool) -> Result<Option<EvalSums>> {
        let world = self.learner.world();
        let Learner { decoder, params, .. } = &self.learner;
        evaluate_batches(world, &self.eval, interrupted, |pairs| {
            let pairs: Vec<&PreferencePair> = pairs.iter().collect();
            let batch = PreferencePair::laid_out(&pairs);
            let normed = decoder.hidden_at(params, &batch, scored_positions(&batch, self.pad))?;
            let head = &params.params[head(params)].tensor;
            let rewards = score_head::forward(decoder.exec(), head, &normed)?;
            let (mut judged, _) = judge(self.centring, &pairs, &rewards);
            for i in 0..pairs.len() {
                let gap = f64::from(rewards[i]) - f64::from(rewards[pairs.len() + i]);
                judged.metric("mse", gap * gap);
                judged.metric("mae", gap.abs());
            }
            Ok(judged)
        })
    }

    fn describe_batch(&self, batch: &[u32]) -> String {
        name_rows(batch.iter().map(|&i| &self.train[i as usize].chosen.provenance))
    }
}

/// The head to begin with: the base's own, where it is a reward model, else small random values,
/// as transformers makes them.
fn initial_head(config: &RunConfig, base: &HfConfig) -> Result<Tensor> {
    let hidden = base.spec.hidden_size;
    if base.is_reward_model() {
        return Ok(read_head(&config.model_name_or_path, hidden)?);
    }
    let stream = Stream::new(config.training.seed, Purpose::Init, 2 << 32);
    let value = |i: u64| (stream.normal(i) * base.spec.initializer_range) as f32;
    let values: Vec<f32> = (0..hidden as u64).map(value).collect();
    Ok(Tensor::from_vec(values, (1, hidden), &Device::Cpu)?)
}

/// The head of a reward model's folder, `[1, hidden]`, f32.
///
/// # Errors
/// When there is none, or it has several outputs.
pub fn read_head(dir: &Path, hidden: usize) -> std::result::Result<Tensor, ModelError> {
    let files = WeightFiles::open(dir)?;
    if !files.contains(SCORE) {
        return Err(ModelError::MissingTensors { path: dir.into(), names: vec![SCORE.into()] });
    }
    let head = files.read(SCORE)?.to_dtype(DType::F32)?;
    if head.dims() != [1, hidden] {
        return Err(ModelError::Shape {
            path: dir.into(),
            name: SCORE.into(),
            got: head.dims().to_vec(),
            expected: vec![1, hidden],
        });
    }
    Ok(head)
}

/// What is trained: LoRA pairs or every weight, and the head.
fn trainable(
    config: &RunConfig,
    decoder: &mut Decoder,
    inputs: &Inputs<PreferencePair>,
) -> Result<(ParamSet, Box<dyn Persist>)> {
    let tokenizer = inputs.tokenizer.clone();
    if let (true, Some(path)) = (config.use_peft, &config.peft_path) {
        let mut adapter = peft::read(path)?;
        adapter.config.base_model_name_or_path = config.model_name_or_path.display().to_string();
        adapter.config.lora_dropout = config.lora_dropout;
        let mut params = adapter::attach_reward(decoder, &adapter)?;
        trained::set_learning_rates(config, &mut params);
        return Ok((params, Box::new(AdapterFiles::new(adapter.config, tokenizer, None)?)));
    }
    let head = initial_head(config, &inputs.model_config)?;
    let head = head.to_device(decoder.device())?;
    let named = |name: &str| NamedTensor::new(name, head);
    if config.use_peft {
        let mut lora = trained::lora_config(config, &decoder.spec, TaskType::SeqCls);
        lora.trainable_token_indices =
            trained::token_rows(config, &decoder.spec, &tokenizer, &lora)?;
        let mut params = adapter::attach_fresh(decoder, &lora, config.training.seed)?;
        params.params.push(named(SCORE_KEY));
        trained::set_learning_rates(config, &mut params);
        let initial = (lora.initialization == Initialization::Pissa).then_some(&params);
        let files = AdapterFiles::new(lora, tokenizer, initial)?;
        return Ok((params, Box::new(files)));
    }
    let mut params = decoder.train_all();
    params.params.push(named(SCORE));
    let files = ModelFiles {
        config: inputs.model_config.as_reward_model(),
        base_dir: Some(config.model_name_or_path.clone()),
        tokenizer,
    };
    Ok((params, Box::new(files)))
}

/// Loads the model and prepares the pairs.
///
/// # Errors
/// Whatever is wrong with model, tokenizer, plugins or data.
pub fn prepare<'a>(
    config: &'a RunConfig,
    command: Vec<String>,
    world: &World,
) -> Result<Prepared<'a, RmTask>> {
    let Some(settings) = &config.reward_modelling else {
        return Err(ConfigError::one("the configuration is of another stage").into());
    };
    let inputs: Inputs<PreferencePair> =
        setup::inputs(config, command, world, HfConfig::read_any, "a pair of answers")?;
    let mut decoder = base::load(config, &inputs.model_config.spec.body())?;
    let (params, persist) = trainable(config, &mut decoder, &inputs)?;
    let pairs = &inputs.train.examples;
    let lengths: Vec<usize> = pairs.iter().map(PreferencePair::tokens).collect();
    let tokens = lengths.iter().sum();
    let (planner, most_tokens) = setup::plan(config, lengths);
    let sizes = Sizes {
        sequences: 2 * pairs.len(),
        tokens,
        trained_tokens: 2 * pairs.len(),
        most_tokens,
        other_bytes: 0,
    };
    let summary = setup::summary(config, &decoder.spec, &params, &inputs, &sizes)?;
    let identity = record::identity(config, &inputs.manifest);
    let learner =
        Learner::new(decoder, params, planner, persist, config.training.seed, world.clone());
    let task = RmTask {
        learner,
        train: inputs.train.examples,
        eval: setup::eval_batches(config, inputs.eval),
        centring: settings.center_rewards_coefficient,
        pad: inputs.model_config.as_reward_model().pad_token_id,
    };
    Ok(Prepared { config, task, identity, manifest: inputs.manifest, lock: inputs.lock, summary })
}
