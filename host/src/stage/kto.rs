//! Kahneman-Tversky optimisation: single answers that are known to be good or bad, a policy and
//! its reference.

use super::pairs::{JudgedAnswer, sequence_of, sequence_sums};
use super::reference::{self, Reference};
use super::setup::{self, Inputs, Prepared, Sizes};
use super::{base, record, trained};
use crate::config::{ConfigError, PreferenceLoss, Preferences, RunConfig};
use crate::dist::World;
use crate::error::Result;
use crate::model::batch::Target;
use crate::model::{HfConfig, TokenBatch};
use crate::objective::StepSums;
use crate::objective::preference::Single;
use crate::ops::head::Scores;
use crate::run::learner::{Predicted, evaluate_batches};
use crate::run::task::name_rows;
use crate::run::{EvalSums, Learner, MicroStep, Task};

/// Judged answers, and what is trained on them.
pub struct KtoTask {
    learner: Learner,
    train: Vec<JudgedAnswer>,
    eval: Vec<Vec<JudgedAnswer>>,
    judge: Judge,
}

/// The loss with all it needs beside the policy.
struct Judge {
    reference: Reference,
    preferences: Preferences,
    max_length: usize,
}

fn laid_out(answers: &[&JudgedAnswer]) -> TokenBatch {
    TokenBatch::from_examples(answers.iter().map(|a| &a.example))
}

impl Judge {
    /// The batch's estimate of the divergence from the reference: the mean over prompts with
    /// another prompt's answer, and not below zero (section 4.1 of the paper). A single row has no
    /// other, and is held to zero.
    fn divergence(&self, learner: &mut Learner, answers: &[&JudgedAnswer]) -> Result<f64> {
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
        let policy = learner.decoder.score(&learner.params, &batch)?.scores;
        let reference = self.reference.score(&mut learner.decoder, &batch, 1.0)?.scores;
        let sum = |scores: &Scores| sequence_sums(&batch, &scores.logprobs).iter().sum::<f64>();
        Ok(((sum(&policy) - sum(&reference)) / answers.len() as f64).max(0.0))
    }

    /// The divergence, and the answers' log-probabilities by the reference.
    fn beside(
        &self,
        learner: &mut Learner,
        answers: &[&JudgedAnswer],
        batch: &TokenBatch,
    ) -> Result<(f64, Vec<f64>)> {
        let kl = self.divergence(learner, answers)?;
        let scored = self.reference.score(&mut learner.decoder, batch, 1.0)?;
        Ok((kl, sequence_sums(batch, &scored.scores.logprobs)))
    }

    /// Losses and metrics of scored answers, and each one's derivative.
    fn judge(
        &self,
        answers: &[&JudgedAnswer],
        batch: &TokenBatch,
        Predicted { scores, mean_logits }: &Predicted,
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
        for (target, &mean) in batch.targets().iter().zip(mean_logits) {
            let good = answers[sequence_of(batch, target.position)].good;
            let name = if good { "logits/chosen" } else { "logits/rejected" };
            total.metric(name, f64::from(mean));
        }
        let [bad, good] = rewards;
        if bad.1 > 0.0 && good.1 > 0.0 {
            total.metric("rewards/margins", good.0 / good.1 - bad.0 / bad.1);
        }
        total.metric("kl", kl);
        (total, derivatives)
    }
}

impl Task for KtoTask {
    fn learner(&self) -> &Learner {
        &self.learner
    }

    fn learner_mut(&mut self) -> &mut Learner {
        &mut self.learner
    }

    fn loss_weight(&self, batch: &[u32]) -> f64 {
        batch.len() as f64
    }

    fn split(&self, batch: &[u32]) -> Vec<Vec<u32>> {
        match self.judge.preferences.loss {
            // The divergence is an estimate over the batch.
            PreferenceLoss::Kto => vec![batch.to_vec()],
            _ => batch.iter().map(|&i| vec![i]).collect(),
        }
    }

    fn extra_forwards(&self) -> f64 {
        // The reference's, and both models' on the mismatched rows.
        if self.judge.preferences.loss == PreferenceLoss::Kto { 3.0 } else { 1.0 }
    }

    fn accumulate(&mut self, batch: &[u32], at: MicroStep) -> Result<StepSums> {
        let Self { learner, train, judge, .. } = self;
        let answers: Vec<&JudgedAnswer> = batch.iter().map(|&i| &train[i as usize]).collect();
        let batch = laid_out(&answers).named(batch.iter().map(|&i| i.into()));
        let (kl, reference) = judge.beside(learner, &answers, &batch)?;
        learner.accumulate_scored(&batch, at, |scores| {
            let (sums, by_answer) = judge.judge(&answers, &batch, scores, &reference, kl);
            let of_target = |t: &Target| by_answer[sequence_of(&batch, t.position)];
            (sums, batch.targets().iter().map(of_target).collect())
        })
    }

    fn evaluate(&mut self, interrupted: &dyn Fn() -> bool) -> Result<Option<EvalSums>> {
        let Self { learner, eval, judge, .. } = self;
        let world = learner.world().clone();
        evaluate_batches(&world, eval, interrupted, |answers| {
            let answers: Vec<&JudgedAnswer> = answers.iter().collect();
            let batch = laid_out(&answers);
            let (kl, reference) = judge.beside(learner, &answers, &batch)?;
            Ok(judge.judge(&answers, &batch, &learner.score(&batch)?, &reference, kl).0)
        })
    }

    fn describe_batch(&self, batch: &[u32]) -> String {
        name_rows(batch.iter().map(|&i| &self.train[i as usize].example.provenance))
    }
}

/// Loads the models and prepares the answers.
///
/// # Errors
/// Whatever is wrong with models, tokenizer, plugins or data.
pub fn prepare<'a>(
    config: &'a RunConfig,
    command: Vec<String>,
    world: &World,
) -> Result<Prepared<'a, KtoTask>> {
    let Some(preferences) = config.preferences.clone() else {
        return Err(ConfigError::one("the configuration is of another stage").into());
    };
    let inputs: Inputs<JudgedAnswer> =
        setup::inputs(config, command, world, HfConfig::read, "a judged answer")?;
    let model_config = &inputs.model_config;
    let mut decoder = base::load(config, &model_config.spec)?;
    let (params, persist) =
        trained::trainable(config, &mut decoder, model_config, &inputs.tokenizer)?;
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
        other_bytes: reference.bytes(),
    };
    let mut summary = setup::summary(config, &decoder.spec, &params, &inputs, &sizes)?;
    let good = answers.iter().filter(|a| a.good).count();
    summary.notices.push(format!("{good} good answers, {} bad ones", answers.len() - good));
    if preferences.loss == PreferenceLoss::Kto && config.training.per_device_train_batch_size == 1 {
        summary.notices.push(
            "a batch of one row has no other prompt's answer to estimate the divergence with; it is \
             held at zero: raise --per_device_train_batch_size"
                .into(),
        );
    }
    let mut identity = record::identity(config, &inputs.manifest);
    if let Some(dir) = named {
        identity.insert("ref_model".into(), reference::fingerprint(dir)?);
    }
    let learner =
        Learner::new(decoder, params, planner, persist, config.training.seed, world.clone());
    let task = KtoTask {
        learner,
        train: inputs.train.examples,
        eval: setup::eval_batches(config, inputs.eval),
        judge: Judge { reference, preferences, max_length: config.model_max_length },
    };
    Ok(Prepared { config, task, identity, manifest: inputs.manifest, lock: inputs.lock, summary })
}
