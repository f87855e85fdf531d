//! Preference optimisation on pairs of answers (DPO and its kin, ORPO, SimPO): a policy, and the
//! reference it is held to, if the loss has one.

use super::pairs::{PreferencePair, sequence_of, sequence_sums};
use super::reference::{self, Reference};
use super::setup::{self, Inputs, Prepared, Sizes};
use super::{base, record, trained};
use crate::config::{ConfigError, PreferenceLoss, Preferences, Reproducible, RunConfig};
use crate::dist::World;
use crate::error::Result;
use crate::model::{HfConfig, TokenBatch};
use crate::objective::StepSums;
use crate::objective::preference::Pair;
use crate::run::learner::{Predicted, evaluate_batches};
use crate::run::task::name_rows;
use crate::run::{EvalSums, Learner, MicroStep, Task};
use crate::text::IGNORE_INDEX;

/// Log-probabilities of both answers by the reference.
type RefLogps = (f64, f64);

/// Pairs, and what is trained on them.
pub struct PreferenceTask {
    learner: Learner,
    train: Vec<PreferencePair>,
    eval: Vec<Vec<PreferencePair>>,
    judge: Judge,
    /// Of all training pairs, when scored beforehand.
    train_ref: Option<Vec<RefLogps>>,
}

/// The loss with all it needs beside the policy.
struct Judge {
    /// `None`: the loss has none.
    reference: Option<Reference>,
    preferences: Preferences,
}

impl Judge {
    /// Reference log-probabilities of `pairs`; zeros where the loss has no reference.
    fn reference_logps(
        &self,
        learner: &mut Learner,
        pairs: &[&PreferencePair],
    ) -> Result<Vec<RefLogps>> {
        let Some(reference) = &self.reference else { return Ok(vec![(0.0, 0.0); pairs.len()]) };
        let batch = PreferencePair::laid_out(pairs);
        let scored = reference.score(&mut learner.decoder, &batch, 1.0)?;
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
        Predicted { scores, mean_logits }: &Predicted,
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
        // Sums and numbers of the mean logits of both sides' answers.
        let mut logits = [(0.0, 0.0); 2];
        for (i, (s, _)) in places.iter().enumerate().filter(|(_, (_, answer))| *answer) {
            sums[*s] += f64::from(scores.logprobs[i]);
            let side = &mut logits[usize::from(*s >= n)];
            *side = (side.0 + f64::from(mean_logits[i]), side.1 + 1.0);
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
        total.metrics.insert("logits/chosen".into(), logits[0]);
        total.metrics.insert("logits/rejected".into(), logits[1]);
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
            // Its likelihood is a mean over the batch's tokens.
            PreferenceLoss::Orpo => vec![batch.to_vec()],
            _ => batch.iter().map(|&i| vec![i]).collect(),
        }
    }

    fn extra_forwards(&self) -> f64 {
        f64::from(u8::from(self.judge.reference.is_some() && self.train_ref.is_none()))
    }

    fn accumulate(&mut self, batch: &[u32], at: MicroStep) -> Result<StepSums> {
        let Self { learner, train, judge, .. } = self;
        let pairs: Vec<&PreferencePair> = batch.iter().map(|&i| &train[i as usize]).collect();
        let reference = match &self.train_ref {
            Some(known) => batch.iter().map(|&i| known[i as usize]).collect(),
            None => judge.reference_logps(learner, &pairs)?,
        };
        let batch = judge.batch(&pairs).named(PreferencePair::names(batch));
        learner
            .accumulate_scored(&batch, at, |scores| judge.judge(&pairs, &batch, scores, &reference))
    }

    fn evaluate(&mut self, interrupted: &dyn Fn() -> bool) -> Result<Option<EvalSums>> {
        let Self { learner, eval, judge, .. } = self;
        let world = learner.world().clone();
        evaluate_batches(&world, eval, interrupted, |pairs| {
            let pairs: Vec<&PreferencePair> = pairs.iter().collect();
            let reference = judge.reference_logps(learner, &pairs)?;
            let batch = judge.batch(&pairs);
            Ok(judge.judge(&pairs, &batch, &learner.score(&batch)?, &reference).0)
        })
    }

    fn describe_batch(&self, batch: &[u32]) -> String {
        name_rows(batch.iter().map(|&i| &self.train[i as usize].chosen.provenance))
    }
}

/// Loads the models and prepares the pairs.
///
/// # Errors
/// Whatever is wrong with models, tokenizer, plugins or data.
pub fn prepare<'a>(
    config: &'a RunConfig,
    command: Vec<String>,
    world: &World,
) -> Result<Prepared<'a, PreferenceTask>> {
    let Some(preferences) = config.preferences.clone() else {
        return Err(ConfigError::one("the configuration is of another stage").into());
    };
    let inputs: Inputs<PreferencePair> =
        setup::inputs(config, command, world, HfConfig::read, "a pair of answers")?;
    let model_config = &inputs.model_config;
    let mut decoder = base::load(config, &model_config.spec)?;
    let (params, persist) =
        trained::trainable(config, &mut decoder, model_config, &inputs.tokenizer)?;
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
        other_bytes: reference.as_ref().map_or(0, |r| r.bytes()),
    };
    let mut summary = setup::summary(config, &decoder.spec, &params, &inputs, &sizes)?;
    let margins = pairs.iter().filter(|pair| pair.margin.is_some()).count();
    if margins > 0 {
        let stage = config.stage.name();
        summary.notices.push(format!(
            "{margins} pairs have a margin, which {stage} does not use; `trainer rm` asks for it"
        ));
    }
    let mut identity = record::identity(config, &inputs.manifest);
    if let Some(dir) = named {
        identity.insert("ref_model".into(), reference::fingerprint(dir)?);
    }
    let precompute = preferences.precompute_ref_log_probs;
    let mut learner =
        Learner::new(decoder, params, planner, persist, config.training.seed, world.clone());
    let (train, judge) = (inputs.train.examples, Judge { reference, preferences });
    let mut train_ref = None;
    if precompute {
        // In batches of training's size, which bounds the memory; a sequence's sum does not depend
        // on its neighbours.
        let size = match config.training.reproducible {
            Reproducible::Standard => config.training.per_device_train_batch_size.max(1),
            Reproducible::Strict => 1,
        };
        train_ref = Some(world.map(&train, "reference log-probabilities", |own| {
            let mut known = Vec::with_capacity(own.len());
            for chunk in own.chunks(size) {
                let pairs: Vec<&PreferencePair> = chunk.iter().collect();
                known.extend(judge.reference_logps(&mut learner, &pairs)?);
            }
            Ok::<Vec<RefLogps>, crate::Error>(known)
        })?);
    }
    let eval = setup::eval_batches(config, inputs.eval);
    let task = PreferenceTask { learner, train, eval, judge, train_ref };
    Ok(Prepared { config, task, identity, manifest: inputs.manifest, lock: inputs.lock, summary })
}
