//! Direct preference optimisation: pairs of answers, a policy, and the reference it is held to.

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device};

use super::causal_task::{EpochPlanner, Persist};
use super::dataset::{self, Dataset, Item, Pipeline};
use super::setup::{self, Prepared, Summary};
use crate::config::{ConfigError, Preferences, RunConfig};
use crate::data::{Conversation, Example, Message};
use crate::error::Result;
use crate::model::decoder::dropout_key;
use crate::model::memory::{Workload, estimate, num_parameters};
use crate::model::{Decoder, GradSet, HfConfig, ParamSet, TokenBatch, Trained, Weights};
use crate::objective::StepSums;
use crate::objective::dpo::Pair;
use crate::ops::head::CHUNK_BYTES;
use crate::run::manifest::hash_files;
use crate::run::task::name_rows;
use crate::run::{EvalSums, MicroStep, RunError, Task};
use crate::text::pack::Plan;
use crate::text::{Encoded, TokenizedExample};

/// Two answers to one prompt, each with the prompt; only the answers are labelled.
#[derive(Clone, Debug)]
pub struct PreferencePair {
    /// The better one.
    pub chosen: TokenizedExample,
    /// The worse one.
    pub rejected: TokenizedExample,
}

impl PreferencePair {
    fn tokens(&self) -> usize {
        self.chosen.input_ids.len() + self.rejected.input_ids.len()
    }
}

impl Item for PreferencePair {
    fn conversations(example: &Example) -> std::result::Result<Vec<Conversation>, String> {
        let Example::Preference { prompt, chosen, rejected, .. } = example else {
            return Err("is no pair of answers; use a formatter that makes preferences, such as \
                        preference"
                .into());
        };
        let side = |answer: &[Message], name: &str| {
            if answer.iter().all(|m| m.role != "assistant") {
                return Err(format!("its {name} answer holds no assistant's turn"));
            }
            let masked = |m: &Message| Message { weight: Some(0.0), ..m.clone() };
            let mut messages: Vec<Message> = prompt.messages.iter().map(masked).collect();
            messages.extend(answer.iter().cloned());
            Ok(Conversation { messages, tools: prompt.tools.clone() })
        };
        Ok(vec![side(chosen, "chosen")?, side(rejected, "rejected")?])
    }

    fn collect(sequences: Vec<Encoded>) -> std::result::Result<Vec<Self>, &'static str> {
        let mut pairs = Vec::with_capacity(sequences.len() / 2);
        let mut sequences = sequences.into_iter();
        while let (Some(chosen), Some(rejected)) = (sequences.next(), sequences.next()) {
            if chosen.truncated_tokens + rejected.truncated_tokens > 0 {
                return Err("longer than max_source_length + max_target_length");
            }
            let (chosen, rejected) = (chosen.example, rejected.example);
            if chosen.num_trained() == 0 || rejected.num_trained() == 0 {
                return Err("an answer without a token");
            }
            if chosen.input_ids == rejected.input_ids {
                return Err("both answers are the same");
            }
            pairs.push(Self { chosen, rejected });
        }
        Ok(pairs)
    }
}

/// What the policy is held to.
enum Reference {
    /// The policy's base: its adapter switched off.
    AdapterOff,
    /// The policy's base under the adapter that training began with.
    Adapter(ParamSet),
    /// A model of its own.
    Model(Box<Decoder>),
}

/// Log-probabilities of both answers by the reference.
type RefLogps = (f64, f64);

/// Pairs, a policy and its reference.
pub struct DpoTask {
    decoder: Decoder,
    params: ParamSet,
    grads: GradSet,
    reference: Reference,
    train: Vec<PreferencePair>,
    eval: Vec<Vec<PreferencePair>>,
    /// Of all training pairs, when scored beforehand.
    train_ref: Option<Vec<RefLogps>>,
    planner: EpochPlanner,
    persist: Box<dyn Persist>,
    preferences: Preferences,
    seed: u64,
}

/// Sums of the log-probabilities of each sequence's targets.
fn sequence_sums(batch: &TokenBatch, logprobs: &[f32]) -> Vec<f64> {
    let mut sums = vec![0.0; batch.bounds.len() - 1];
    for (target, logprob) in batch.targets().iter().zip(logprobs) {
        sums[sequence_of(batch, target.position)] += f64::from(*logprob);
    }
    sums
}

fn sequence_of(batch: &TokenBatch, position: u32) -> usize {
    batch.bounds.partition_point(|&bound| bound <= position as usize) - 1
}

/// The better answers, then the worse ones, end to end.
fn laid_out(pairs: &[&PreferencePair]) -> TokenBatch {
    let chosen = pairs.iter().map(|p| &p.chosen);
    TokenBatch::from_examples(chosen.chain(pairs.iter().map(|p| &p.rejected)))
}

impl DpoTask {
    /// Reference log-probabilities of `pairs`.
    fn reference_logps(&mut self, pairs: &[&PreferencePair]) -> Result<Vec<RefLogps>> {
        let batch = laid_out(pairs);
        let none = ParamSet::default();
        let scored = match &self.reference {
            Reference::AdapterOff => self.decoder.with_adapter_off(|d| d.score(&none, &batch))?,
            Reference::Adapter(initial) => self.decoder.score(initial, &batch)?,
            Reference::Model(model) => model.score(&none, &batch)?,
        };
        let sums = sequence_sums(&batch, &scored.scores.logprobs);
        Ok((0..pairs.len()).map(|i| (sums[i], sums[pairs.len() + i])).collect())
    }

    /// Losses and metrics of scored pairs, and each sequence's derivative (chosen, then rejected).
    fn judge(
        &self,
        pairs: &[&PreferencePair],
        sums: &[f64],
        reference: &[RefLogps],
        scores: &crate::ops::head::Scores,
        num_tokens: usize,
    ) -> (StepSums, Vec<f64>) {
        let Preferences { loss, beta, label_smoothing, .. } = self.preferences;
        let n = pairs.len();
        let mut total = StepSums {
            weight_sum: n as f64,
            num_tokens: num_tokens as u64,
            num_correct: scores.correct.iter().map(|&c| u64::from(c)).sum(),
            num_targets: scores.correct.len() as u64,
            entropy_sum: scores.entropies.iter().map(|&e| f64::from(e)).sum(),
            ..StepSums::default()
        };
        let mut derivatives = vec![0.0; 2 * n];
        for (i, (item, (ref_chosen, ref_rejected))) in pairs.iter().zip(reference).enumerate() {
            let pair = Pair {
                chosen: sums[i],
                rejected: sums[n + i],
                ref_chosen: *ref_chosen,
                ref_rejected: *ref_rejected,
                chosen_tokens: item.chosen.num_trained(),
                rejected_tokens: item.rejected.num_trained(),
            };
            let judged = pair.loss(loss, beta, label_smoothing);
            total.loss_sum += judged.loss;
            (derivatives[i], derivatives[n + i]) = (judged.dchosen, judged.drejected);
            let (better, worse) = (pair.chosen_reward(beta), pair.rejected_reward(beta));
            for (name, value) in [
                ("rewards/chosen", better),
                ("rewards/rejected", worse),
                ("rewards/margins", better - worse),
                ("rewards/accuracies", f64::from(u8::from(better > worse))),
                ("logps/chosen", pair.chosen),
                ("logps/rejected", pair.rejected),
            ] {
                let entry = total.metrics.entry(name.to_string()).or_default();
                *entry = (entry.0 + value, entry.1 + 1.0);
            }
        }
        (total, derivatives)
    }
}

impl Task for DpoTask {
    fn plan_epoch(&self, epoch: u64) -> Vec<Vec<u32>> {
        (self.planner)(epoch)
    }

    fn loss_weight(&self, batch: &[u32]) -> f64 {
        batch.len() as f64
    }

    fn flos_per_token(&self) -> f64 {
        // As in causal training, and the reference's forward.
        let weights = num_parameters(&self.decoder.spec) as f64;
        let scored = if self.train_ref.is_some() { 0.0 } else { 2.0 };
        match self.decoder.trained {
            Trained::Full(_) => (6.0 + scored) * weights,
            _ => (4.0 + scored) * weights,
        }
    }

    fn accumulate(&mut self, batch: &[u32], at: MicroStep) -> Result<StepSums> {
        let train = std::mem::take(&mut self.train);
        let result = self.accumulate_pairs(&train, batch, at);
        self.train = train;
        result
    }

    fn params(&self) -> &ParamSet {
        &self.params
    }

    fn params_and_grads(&mut self) -> (&mut ParamSet, &mut GradSet) {
        (&mut self.params, &mut self.grads)
    }

    fn params_changed(&mut self) -> Result<()> {
        self.decoder.relink(&self.params);
        Ok(())
    }

    fn evaluate(&mut self, interrupted: &dyn Fn() -> bool) -> Result<Option<EvalSums>> {
        if self.eval.is_empty() {
            return Ok(None);
        }
        let batches = std::mem::take(&mut self.eval);
        let result = self.evaluate_pairs(&batches, interrupted);
        self.eval = batches;
        result
    }

    fn save(&self, dir: &Path) -> Result<()> {
        self.persist.save(&self.decoder, &self.params, dir)
    }

    fn load(&mut self, dir: &Path) -> Result<()> {
        self.persist.load(&mut self.params, dir)?;
        self.decoder.relink(&self.params);
        Ok(())
    }

    fn describe_batch(&self, batch: &[u32]) -> String {
        name_rows(batch.iter().map(|&i| &self.train[i as usize].chosen.provenance))
    }
}

impl DpoTask {
    fn accumulate_pairs(
        &mut self,
        train: &[PreferencePair],
        indices: &[u32],
        at: MicroStep,
    ) -> Result<StepSums> {
        let pairs: Vec<&PreferencePair> = indices.iter().map(|&i| &train[i as usize]).collect();
        let reference = match &self.train_ref {
            Some(known) => indices.iter().map(|&i| known[i as usize]).collect(),
            None => self.reference_logps(&pairs)?,
        };
        let batch = laid_out(&pairs);
        let key = dropout_key(self.seed, at.global_step, at.micro_step);
        let Some((scores, kept)) = self.decoder.forward_scored(&self.params, &batch, Some(key))?
        else {
            return Ok(StepSums::default());
        };
        let sums = sequence_sums(&batch, &scores.logprobs);
        let (total, derivatives) = self.judge(&pairs, &sums, &reference, &scores, batch.len());
        let dlogprobs: Vec<f32> = kept
            .targets
            .iter()
            .map(|t| (derivatives[sequence_of(&batch, t.position)] / at.denominator) as f32)
            .collect();
        self.decoder.backward_scored(&self.params, &batch, kept, &dlogprobs, &mut self.grads)?;
        Ok(total)
    }

    fn evaluate_pairs(
        &mut self,
        batches: &[Vec<PreferencePair>],
        interrupted: &dyn Fn() -> bool,
    ) -> Result<Option<EvalSums>> {
        let mut total = EvalSums::default();
        for pairs in batches {
            if interrupted() {
                return Ok(None);
            }
            let pairs: Vec<&PreferencePair> = pairs.iter().collect();
            let reference = self.reference_logps(&pairs)?;
            let batch = laid_out(&pairs);
            let scored = self.decoder.score(&self.params, &batch)?;
            let sums = sequence_sums(&batch, &scored.scores.logprobs);
            let (judged, _) = self.judge(&pairs, &sums, &reference, &scored.scores, batch.len());
            total.sums.add(&judged);
            total.num_examples += pairs.len() as u64;
            total.num_batches += 1;
        }
        Ok(Some(total))
    }
}

/// The reference that the configuration asks for.
fn reference(
    config: &RunConfig,
    preferences: &Preferences,
    policy: &HfConfig,
    params: &ParamSet,
) -> Result<Reference> {
    if preferences.ref_model_name_or_path.is_none() && config.use_peft {
        if config.peft_path.is_none() {
            return Ok(Reference::AdapterOff);
        }
        // The optimiser changes parameters in place: the reference keeps its own.
        let mut initial = params.clone();
        for param in &mut initial.params {
            param.tensor = param.tensor.copy()?;
        }
        return Ok(Reference::Adapter(initial));
    }
    let dir = preferences.ref_model_name_or_path.as_ref().unwrap_or(&config.model_name_or_path);
    let own = HfConfig::read(dir)?;
    if own.spec.vocab_size != policy.spec.vocab_size {
        return Err(ConfigError::one(format!(
            "the reference model has {} tokens and the policy {}; they must share a tokenizer",
            own.spec.vocab_size, policy.spec.vocab_size
        ))
        .into());
    }
    let dtype = if config.bfloat16 { DType::BF16 } else { DType::F32 };
    let (weights, _) = Weights::load(dir, &own.spec, dtype, &Device::Cpu)?;
    let decoder = Decoder::new(own.spec, weights, &Device::Cpu, config.model_max_length)?;
    Ok(Reference::Model(Box::new(decoder)))
}

/// Loads the models and prepares the pairs.
///
/// # Errors
/// Whatever is wrong with models, tokenizer, plugins or data.
pub fn prepare<'a>(config: &'a RunConfig, command: Vec<String>) -> Result<Prepared<'a, DpoTask>> {
    let args = &config.training;
    let Some(preferences) = config.preferences.clone() else {
        return Err(ConfigError::one("the configuration is of another stage").into());
    };
    setup::set_threads(config.num_threads);
    let lock = setup::claim(config)?;
    let device = Device::Cpu;
    let model_config = HfConfig::read(&config.model_name_or_path)?;
    let tokenizer = Arc::new(setup::load_tokenizer(config, &model_config)?);
    let pipeline = Pipeline::load(config, &tokenizer)?;
    let Dataset::<PreferencePair> { train, eval, validation } = dataset::load(config, &pipeline)?;
    if train.examples.is_empty() {
        let reasons = train.ledger.lines().join("; ");
        return Err(
            RunError::NothingToTrain(format!("no row gave a pair of answers ({reasons})")).into()
        );
    }
    let manifest = setup::manifest(config, command, &pipeline, &tokenizer, &train, eval.as_ref())?;
    let mut notices = model_config.notices.clone();
    notices.extend(tokenizer.notices.iter().cloned());

    let dtype = if config.bfloat16 { DType::BF16 } else { DType::F32 };
    let spec = model_config.spec.clone();
    let (weights, _) = Weights::load(&config.model_name_or_path, &spec, dtype, &device)?;
    let mut decoder = Decoder::new(spec.clone(), weights, &device, config.model_max_length)?;
    decoder.gradient_checkpointing = config.gradient_checkpointing;
    let (params, persist) = setup::trainable(config, &mut decoder, &model_config, &tokenizer)?;
    let reference = reference(config, &preferences, &model_config, &params)?;

    let lengths: Vec<usize> = train.examples.iter().map(PreferencePair::tokens).collect();
    let batch_size = args.per_device_train_batch_size;
    let plan = Plan { batch_size, pack_to: None, shuffle: args.shuffle, seed: args.seed };
    let of_batch = |b: &Vec<u32>| b.iter().map(|&i| lengths[i as usize]).sum::<usize>();
    let work = Workload {
        tokens: plan.epoch(&lengths, 0).iter().map(of_batch).max().unwrap_or(0),
        weight_bytes: dtype.size_in_bytes(),
        trained_values: params.num_values(),
        full: !config.use_peft,
        lora_rank: if config.use_peft { config.lora_rank } else { 0 },
        gradient_checkpointing: config.gradient_checkpointing,
        head_chunk_bytes: CHUNK_BYTES,
    };
    let ref_bytes = match &reference {
        Reference::Model(model) => num_parameters(&model.spec) * dtype.size_in_bytes(),
        _ => 0,
    };
    let trained = |p: &PreferencePair| p.chosen.num_trained() + p.rejected.num_trained();
    let summary = Summary {
        stage: config.stage.name(),
        model: format!("{} ({})", config.model_name_or_path.display(), spec.model_type),
        parameters: num_parameters(&spec),
        dtype: if config.bfloat16 { "bfloat16" } else { "float32" },
        trained: params.num_values(),
        train_rows: train.ledger.lines(),
        sequences: 2 * train.examples.len(),
        tokens: lengths.iter().sum(),
        trained_tokens: train.examples.iter().map(trained).sum(),
        packing_fill: None,
        validation,
        steps: 0,
        done: 0,
        memory_bytes: estimate(&spec, &work).total() + ref_bytes,
        seed: args.seed,
        threads: rayon::current_num_threads(),
        output_dir: args.output_dir.clone(),
        notices,
    };
    let mut identity = setup::identity(config, &manifest);
    if let Some(dir) = &preferences.ref_model_name_or_path {
        let files = hash_files(setup::model_files(dir).iter().map(std::path::PathBuf::as_path))?;
        let hashes: Vec<&str> = files.iter().map(|f| f.sha256.as_str()).collect();
        identity.insert("ref_model".into(), serde_json::json!(hashes));
    }
    let grads = GradSet::new(params.params.len());
    let planner = Box::new(move |epoch| plan.epoch(&lengths, epoch));
    let eval = eval.map_or_else(Vec::new, |e| e.examples);
    let precompute = preferences.precompute_ref_log_probs;
    let mut task = DpoTask {
        decoder,
        params,
        grads,
        reference,
        train: train.examples,
        eval: eval.chunks(args.per_device_eval_batch_size.max(1)).map(<[_]>::to_vec).collect(),
        train_ref: None,
        planner,
        persist,
        preferences,
        seed: args.seed,
    };
    if precompute {
        // In batches of training's size, which bounds the memory; a sequence's sum does not depend on
        // its neighbours.
        let pairs = std::mem::take(&mut task.train);
        let mut known = Vec::with_capacity(pairs.len());
        for chunk in pairs.chunks(batch_size.max(1)) {
            known.extend(task.reference_logps(&chunk.iter().collect::<Vec<_>>())?);
        }
        task.train = pairs;
        task.train_ref = Some(known);
    }
    Ok(Prepared { config, task, identity, manifest, lock, summary })
}
