//! Preference optimisation on pairs of answers (DPO and its kin, ORPO, SimPO): a policy, and the
//! reference it is held to, if the loss has one.

use std::path::Path;

use super::causal_task::{EpochPlanner, Persist};
use super::pairs::{PreferencePair, sequence_of, sequence_sums};
use super::reference::{self, Reference};
use super::setup::{self, Inputs, Prepared, Sizes};
use crate::config::{ConfigError, PreferenceLoss, Preferences, RunConfig};
use crate::error::Result;
use crate::model::decoder::dropout_key;
use crate::model::memory::num_parameters;
use crate::model::{Decoder, GradSet, HfConfig, ParamSet, TokenBatch, Trained};
use crate::objective::StepSums;
use crate::objective::preference::Pair;
use crate::ops::head::Scores;
use crate::run::task::name_rows;
use crate::run::{EvalSums, MicroStep, Task};
use crate::text::IGNORE_INDEX;

/// Log-probabilities of both answers by the reference.
type RefLogps = (f64, f64);

/// Pairs, a policy and its reference, if the loss has one.
pub struct PreferenceTask {
    decoder: Decoder,
    params: ParamSet,
    grads: GradSet,
    /// `None`: the loss has none.
    reference: Option<Reference>,
    train: Vec<PreferencePair>,
    eval: Vec<Vec<PreferencePair>>,
    /// Of all training pairs, when scored beforehand.
    train_ref: Option<Vec<RefLogps>>,
    planner: EpochPlanner,
    persist: Box<dyn Persist>,
    preferences: Preferences,
    seed: u64,
}

impl PreferenceTask {
    /// Reference log-probabilities of `pairs`; zeros where the loss has no reference.
    fn reference_logps(&mut self, pairs: &[&PreferencePair]) -> Result<Vec<RefLogps>> {
        let Some(reference) = &self.reference else { return Ok(vec![(0.0, 0.0); pairs.len()]) };
        let batch = PreferencePair::laid_out(pairs);
        let scored = reference.score(&mut self.decoder, &batch, 1.0)?;
        let sums = sequence_sums(&batch, &scored.scores.logprobs);
        Ok((0..pairs.len()).map(|i| (sums[i], sums[pairs.len() + i])).collect())
    }

    /// The batch that the policy sees. ORPO takes the likelihood of the better answers over their
    /// prompts too, as its authors' and TRL's programs do.
    fn batch(&self, pairs: &[&PreferencePair]) -> TokenBatch {
        let mut batch = PreferencePair::laid_out(pairs);
        if self.preferences.loss == PreferenceLoss::Orpo {
            for at in 0..batch.bounds[pairs.len()] {
                batch.labels[at] = batch.input_ids[at] as i32;
                batch.loss_weights[at] = 1.0;
            }
        }
        batch
    }

    /// Losses and metrics of scored pairs, and the derivative by every target's log-probability.
    fn judge(
        &self,
        pairs: &[&PreferencePair],
        batch: &TokenBatch,
        scores: &Scores,
        reference: &[RefLogps],
    ) -> (StepSums, Vec<f64>) {
        let kind = self.preferences.loss;
        let n = pairs.len();
        let targets = batch.targets();
        // Which sequence a target belongs to, and whether it is of the answer.
        let place = |position: u32| {
            let s = sequence_of(batch, position);
            let item = if s < n { &pairs[s].chosen } else { &pairs[s - n].rejected };
            (s, item.labels[position as usize + 1 - batch.bounds[s]] != IGNORE_INDEX)
        };
        let places: Vec<(usize, bool)> = targets.iter().map(|t| place(t.position)).collect();
        let mut sums = vec![0.0; 2 * n];
        for ((s, answer), logprob) in places.iter().zip(&scores.logprobs) {
            if *answer {
                sums[*s] += f64::from(*logprob);
            }
        }
        let answers = || places.iter().enumerate().filter(|(_, (_, answer))| *answer);
        let mut total = StepSums {
            weight_sum: n as f64,
            num_tokens: batch.len() as u64,
            num_correct: answers().map(|(i, _)| u64::from(scores.correct[i])).sum(),
            num_targets: answers().count() as u64,
            entropy_sum: answers().map(|(i, _)| f64::from(scores.entropies[i])).sum(),
            ..StepSums::default()
        };
        let mut by_sequence = vec![0.0; 2 * n];
        for (i, (item, (ref_chosen, ref_rejected))) in pairs.iter().zip(reference).enumerate() {
            let pair = Pair {
                chosen: sums[i],
                rejected: sums[n + i],
                ref_chosen: *ref_chosen,
                ref_rejected: *ref_rejected,
                chosen_tokens: item.chosen.num_trained(),
                rejected_tokens: item.rejected.num_trained(),
            };
            let judged = pair.loss(&self.preferences);
            total.loss_sum += judged.loss;
            (by_sequence[i], by_sequence[n + i]) = (judged.dchosen, judged.drejected);
            let (better, worse) = pair.rewards(kind, self.preferences.beta);
            let logps = pair.logps(kind);
            total.metric("rewards/chosen", better);
            total.metric("rewards/rejected", worse);
            total.metric("rewards/margins", better - worse);
            total.metric("rewards/accuracies", f64::from(u8::from(better > worse)));
            total.metric("logps/chosen", logps.0);
            total.metric("logps/rejected", logps.1);
            if kind == PreferenceLoss::Orpo {
                let odds = pair.log_odds();
                total.metric("log_odds_chosen", odds);
                total.metric("log_odds_ratio", crate::objective::log_sigmoid(odds));
            }
        }
        let of_answer = |(s, answer): &(usize, bool)| if *answer { by_sequence[*s] } else { 0.0 };
        let mut derivatives: Vec<f64> = places.iter().map(of_answer).collect();
        if kind == PreferenceLoss::Orpo {
            // The mean over the batch's tokens counts as much as its pairs do.
            let tokens = places.iter().filter(|(s, _)| *s < n).count().max(1);
            let likelihood = places.iter().zip(&scores.logprobs).filter(|((s, _), _)| *s < n);
            let nll = -likelihood.map(|(_, l)| f64::from(*l)).sum::<f64>() / tokens as f64;
            total.loss_sum += n as f64 * nll;
            total.metric("nll_loss", nll);
            for ((s, _), derivative) in places.iter().zip(&mut derivatives) {
                if *s < n {
                    *derivative -= n as f64 / tokens as f64;
                }
            }
        }
        (total, derivatives)
    }
}

impl Task for PreferenceTask {
    fn plan_epoch(&self, epoch: u64) -> Vec<Vec<u32>> {
        (self.planner)(epoch)
    }

    fn loss_weight(&self, batch: &[u32]) -> f64 {
        batch.len() as f64
    }

    fn flos_per_token(&self) -> f64 {
        // As in causal training, and the reference's forward.
        let weights = num_parameters(&self.decoder.spec) as f64;
        let scores = self.reference.is_some() && self.train_ref.is_none();
        let scored = if scores { 2.0 } else { 0.0 };
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

impl PreferenceTask {
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
        let batch = self.batch(&pairs);
        let key = dropout_key(self.seed, at.global_step, at.micro_step);
        let forward = self.decoder.forward_scored(&self.params, &batch, Some(key), 1.0)?;
        let Some((scores, scored)) = forward else { return Ok(StepSums::default()) };
        let (total, derivatives) = self.judge(&pairs, &batch, &scores, &reference);
        let dlogprobs: Vec<f32> = derivatives.iter().map(|d| (d / at.denominator) as f32).collect();
        let (params, grads) = (&self.params, &mut self.grads);
        self.decoder.backward_scored(params, &batch, scored, &dlogprobs, None, grads)?;
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
            let batch = self.batch(&pairs);
            let scored = self.decoder.score(&self.params, &batch)?;
            let (judged, _) = self.judge(&pairs, &batch, &scored.scores, &reference);
            total.sums.add(&judged);
            total.num_examples += pairs.len() as u64;
            total.num_batches += 1;
        }
        Ok(Some(total))
    }
}

/// Loads the models and prepares the pairs.
///
/// # Errors
/// Whatever is wrong with models, tokenizer, plugins or data.
pub fn prepare<'a>(
    config: &'a RunConfig,
    command: Vec<String>,
) -> Result<Prepared<'a, PreferenceTask>> {
    let Some(preferences) = config.preferences.clone() else {
        return Err(ConfigError::one("the configuration is of another stage").into());
    };
    let inputs: Inputs<PreferencePair> =
        setup::inputs(config, command, HfConfig::read, "a pair of answers")?;
    let model_config = &inputs.model_config;
    let mut decoder = setup::load_decoder(config, &model_config.spec)?;
    let (params, persist) =
        setup::trainable(config, &mut decoder, model_config, &inputs.tokenizer)?;
    let named = preferences.ref_model_name_or_path.as_ref();
    let reference = match preferences.loss.has_reference() {
        true => Some(Reference::of(config, named, model_config, &params)?),
        false => None,
    };
    let pairs = &inputs.train.examples;
    let lengths: Vec<usize> = pairs.iter().map(PreferencePair::tokens).collect();
    let tokens = lengths.iter().sum();
    let (planner, most_tokens) = setup::plan(config, lengths);
    let sizes = Sizes {
        sequences: 2 * pairs.len(),
        tokens,
        trained_tokens: pairs.iter().map(PreferencePair::num_trained).sum(),
        most_tokens,
        other_bytes: reference.as_ref().map_or(0, |r| r.bytes(setup::dtype(config))),
    };
    let summary = setup::summary(config, &decoder.spec, &params, &inputs, &sizes);
    let mut identity = setup::identity(config, &inputs.manifest);
    if let Some(dir) = named {
        identity.insert("ref_model".into(), reference::fingerprint(dir)?);
    }
    let precompute = preferences.precompute_ref_log_probs;
    let mut task = PreferenceTask {
        grads: GradSet::new(params.params.len()),
        decoder,
        params,
        reference,
        train: inputs.train.examples,
        eval: setup::eval_batches(config, inputs.eval),
        train_ref: None,
        planner,
        persist,
        preferences,
        seed: config.training.seed,
    };
    if precompute {
        // In batches of training's size, which bounds the memory; a sequence's sum does not depend
        // on its neighbours.
        let pairs = std::mem::take(&mut task.train);
        let mut known = Vec::with_capacity(pairs.len());
        for chunk in pairs.chunks(config.training.per_device_train_batch_size.max(1)) {
            known.extend(task.reference_logps(&chunk.iter().collect::<Vec<_>>())?);
        }
        task.train = pairs;
        task.train_ref = Some(known);
    }
    Ok(Prepared { config, task, identity, manifest: inputs.manifest, lock: inputs.lock, summary })
}
