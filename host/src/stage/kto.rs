//! Kahneman-Tversky optimisation: single answers that are known to be good or bad, a policy and
//! its reference.

use std::path::Path;

use super::causal_task::{EpochPlanner, Persist};
use super::pairs::{JudgedAnswer, sequence_sums};
use super::reference::{self, Reference};
use super::setup::{self, Inputs, Prepared, Sizes};
use crate::config::{ConfigError, PreferenceLoss, Preferences, RunConfig};
use crate::error::Result;
use crate::model::decoder::dropout_key;
use crate::model::memory::num_parameters;
use crate::model::{Decoder, GradSet, HfConfig, ParamSet, TokenBatch, Trained};
use crate::objective::StepSums;
use crate::objective::preference::Single;
use crate::ops::head::Scores;
use crate::run::task::name_rows;
use crate::run::{EvalSums, MicroStep, Task};

/// Judged answers, a policy and its reference.
pub struct KtoTask {
    decoder: Decoder,
    params: ParamSet,
    grads: GradSet,
    reference: Reference,
    train: Vec<JudgedAnswer>,
    eval: Vec<Vec<JudgedAnswer>>,
    planner: EpochPlanner,
    persist: Box<dyn Persist>,
    preferences: Preferences,
    max_length: usize,
    seed: u64,
}

fn laid_out(answers: &[&JudgedAnswer]) -> TokenBatch {
    TokenBatch::from_examples(answers.iter().map(|a| &a.example))
}

impl KtoTask {
    /// The batch's estimate of the divergence from the reference: the mean over prompts with
    /// another prompt's answer, and not below zero (section 4.1 of the paper). A single row has no
    /// other, and is held to zero.
    fn divergence(&mut self, answers: &[&JudgedAnswer]) -> Result<f64> {
        if self.preferences.loss != PreferenceLoss::Kto || answers.len() < 2 {
            return Ok(0.0);
        }
        let others = answers.iter().cycle().skip(answers.len() - 1);
        let mismatched: Vec<_> = answers
            .iter()
            .zip(others)
            .map(|(own, other)| own.with_answer_of(other, self.max_length))
            .collect();
        let batch = TokenBatch::from_examples(&mismatched);
        let policy = self.decoder.score(&self.params, &batch)?.scores;
        let reference = self.reference.score(&mut self.decoder, &batch, 1.0)?.scores;
        let sum = |scores: &Scores| sequence_sums(&batch, &scores.logprobs).iter().sum::<f64>();
        Ok(((sum(&policy) - sum(&reference)) / answers.len() as f64).max(0.0))
    }

    fn reference_logps(&mut self, batch: &TokenBatch) -> Result<Vec<f64>> {
        let scored = self.reference.score(&mut self.decoder, batch, 1.0)?;
        Ok(sequence_sums(batch, &scored.scores.logprobs))
    }

    /// Losses and metrics of scored answers, and each one's derivative.
    fn judge(
        &self,
        answers: &[&JudgedAnswer],
        batch: &TokenBatch,
        scores: &Scores,
        reference: &[f64],
        kl: f64,
    ) -> (StepSums, Vec<f64>) {
        let mut total = StepSums {
            weight_sum: answers.len() as f64,
            num_tokens: batch.len() as u64,
            num_correct: scores.correct.iter().map(|&c| u64::from(c)).sum(),
            num_targets: scores.correct.len() as u64,
            entropy_sum: scores.entropies.iter().map(|&e| f64::from(e)).sum(),
            ..StepSums::default()
        };
        let beta = self.preferences.beta;
        let mut derivatives = Vec::with_capacity(answers.len());
        // Sum and number of the rewards of the bad and of the good answers.
        let mut rewards = [(0.0, 0.0); 2];
        let sums = sequence_sums(batch, &scores.logprobs);
        for ((answer, logp), ref_logp) in answers.iter().zip(sums).zip(reference) {
            let single = Single { logp, ref_logp: *ref_logp, good: answer.good };
            let (loss, derivative) = single.loss(&self.preferences, kl);
            total.loss_sum += loss;
            derivatives.push(derivative);
            let side = if answer.good { "chosen" } else { "rejected" };
            let reward = single.reward(beta);
            total.metric(&format!("rewards/{side}"), reward);
            total.metric(&format!("logps/{side}"), logp);
            let of_side = &mut rewards[usize::from(answer.good)];
            *of_side = (of_side.0 + reward, of_side.1 + 1.0);
        }
        let [bad, good] = rewards;
        if bad.1 > 0.0 && good.1 > 0.0 {
            total.metric("rewards/margins", good.0 / good.1 - bad.0 / bad.1);
        }
        total.metric("kl", kl);
        (total, derivatives)
    }

    fn accumulate_answers(
        &mut self,
        train: &[JudgedAnswer],
        indices: &[u32],
        at: MicroStep,
    ) -> Result<StepSums> {
        let answers: Vec<&JudgedAnswer> = indices.iter().map(|&i| &train[i as usize]).collect();
        let batch = laid_out(&answers);
        let kl = self.divergence(&answers)?;
        let reference = self.reference_logps(&batch)?;
        let key = dropout_key(self.seed, at.global_step, at.micro_step);
        let forward = self.decoder.forward_scored(&self.params, &batch, Some(key), 1.0)?;
        let Some((scores, scored)) = forward else { return Ok(StepSums::default()) };
        let (total, derivatives) = self.judge(&answers, &batch, &scores, &reference, kl);
        let of_target = |position| derivatives[super::pairs::sequence_of(&batch, position)];
        let dlogprobs: Vec<f32> = scored
            .targets
            .iter()
            .map(|t| (of_target(t.position) / at.denominator) as f32)
            .collect();
        let (params, grads) = (&self.params, &mut self.grads);
        self.decoder.backward_scored(params, &batch, scored, &dlogprobs, None, grads)?;
        Ok(total)
    }

    fn evaluate_answers(
        &mut self,
        batches: &[Vec<JudgedAnswer>],
        interrupted: &dyn Fn() -> bool,
    ) -> Result<Option<EvalSums>> {
        let mut total = EvalSums::default();
        for answers in batches {
            if interrupted() {
                return Ok(None);
            }
            let answers: Vec<&JudgedAnswer> = answers.iter().collect();
            let batch = laid_out(&answers);
            let kl = self.divergence(&answers)?;
            let reference = self.reference_logps(&batch)?;
            let scored = self.decoder.score(&self.params, &batch)?;
            total.sums.add(&self.judge(&answers, &batch, &scored.scores, &reference, kl).0);
            total.num_examples += answers.len() as u64;
            total.num_batches += 1;
        }
        Ok(Some(total))
    }
}

impl Task for KtoTask {
    fn plan_epoch(&self, epoch: u64) -> Vec<Vec<u32>> {
        (self.planner)(epoch)
    }

    fn loss_weight(&self, batch: &[u32]) -> f64 {
        batch.len() as f64
    }

    fn flos_per_token(&self) -> f64 {
        // Beside the training, the reference's forward and both models' on the mismatched rows.
        let weights = num_parameters(&self.decoder.spec) as f64;
        let scored = if self.preferences.loss == PreferenceLoss::Kto { 6.0 } else { 2.0 };
        match self.decoder.trained {
            Trained::Full(_) => (6.0 + scored) * weights,
            _ => (4.0 + scored) * weights,
        }
    }

    fn accumulate(&mut self, batch: &[u32], at: MicroStep) -> Result<StepSums> {
        let train = std::mem::take(&mut self.train);
        let result = self.accumulate_answers(&train, batch, at);
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
        let result = self.evaluate_answers(&batches, interrupted);
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
        name_rows(batch.iter().map(|&i| &self.train[i as usize].example.provenance))
    }
}

/// Loads the models and prepares the answers.
///
/// # Errors
/// Whatever is wrong with models, tokenizer, plugins or data.
pub fn prepare<'a>(config: &'a RunConfig, command: Vec<String>) -> Result<Prepared<'a, KtoTask>> {
    let Some(preferences) = config.preferences.clone() else {
        return Err(ConfigError::one("the configuration is of another stage").into());
    };
    let inputs: Inputs<JudgedAnswer> =
        setup::inputs(config, command, HfConfig::read, "a judged answer")?;
    let model_config = &inputs.model_config;
    let mut decoder = setup::load_decoder(config, &model_config.spec)?;
    let (params, persist) =
        setup::trainable(config, &mut decoder, model_config, &inputs.tokenizer)?;
    let named = preferences.ref_model_name_or_path.as_ref();
    let reference = Reference::of(config, named, model_config, &params)?;
    let answers = &inputs.train.examples;
    let lengths: Vec<usize> = answers.iter().map(|a| a.example.input_ids.len()).collect();
    let tokens = lengths.iter().sum();
    let (planner, most_tokens) = setup::plan(config, lengths);
    let sizes = Sizes {
        sequences: answers.len(),
        tokens,
        trained_tokens: answers.iter().map(|a| a.example.num_trained()).sum(),
        most_tokens,
        other_bytes: reference.bytes(setup::dtype(config)),
    };
    let mut summary = setup::summary(config, &decoder.spec, &params, &inputs, &sizes);
    let good = answers.iter().filter(|a| a.good).count();
    summary.notices.push(format!("{good} good answers, {} bad ones", answers.len() - good));
    if preferences.loss == PreferenceLoss::Kto && config.training.per_device_train_batch_size == 1 {
        summary.notices.push(
            "a batch of one row has no other prompt's answer to estimate the divergence with; it is \
             held at zero: raise --per_device_train_batch_size"
                .into(),
        );
    }
    let mut identity = setup::identity(config, &inputs.manifest);
    if let Some(dir) = named {
        identity.insert("ref_model".into(), reference::fingerprint(dir)?);
    }
    let task = KtoTask {
        grads: GradSet::new(params.params.len()),
        decoder,
        params,
        reference,
        train: inputs.train.examples,
        eval: setup::eval_batches(config, inputs.eval),
        planner,
        persist,
        preferences,
        max_length: config.model_max_length,
        seed: config.training.seed,
    };
    Ok(Prepared { config, task, identity, manifest: inputs.manifest, lock: inputs.lock, summary })
}
