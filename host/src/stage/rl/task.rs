//! The loop's view of GRPO, RLOO and PPO: before an update completions are sampled, judged and
//! turned into advantages; the update's micro-batches then follow the clipped objective.

mod rollout;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::alarm::Alarms;
use super::completions::Completions;
use super::prompt::Prompt;
use super::reward::{Answer, Rewards};
use super::sample::{Sample, Samples};
use crate::config::{PolicyLoss, RatioLevel, Reinforcement, Stage};
use crate::error::Result;
use crate::model::generate::{Request, SamplingOptions};
use crate::model::{Scored, TokenBatch, score_head};
use crate::objective::policy::{
    ClippedLoss, Sequence, denominator_share, token_weight, value_loss,
};
use crate::objective::{StepSums, add_metrics};
use crate::ops::head::Scores;
use crate::run::task::{Update, name_rows};
use crate::run::{EvalSums, Learner, MicroStep, RunError, Task};
use crate::stage::reference::Reference;
use crate::stage::sampling;
use crate::text::{IGNORE_INDEX, TextTokenizer};

/// What a checkpoint keeps beside parameters and optimiser.
const STATE: &str = "rollout.json";

/// What a stage's task is made of.
pub(super) struct Parts {
    pub stage: Stage,
    pub settings: Reinforcement,
    pub learner: Learner,
    /// Index of PPO's value head among the parameters.
    pub value_head: Option<usize>,
    pub reference: Option<Reference>,
    pub rewards: Rewards,
    pub tokenizer: Arc<TextTokenizer>,
    pub stop_ids: Vec<u32>,
    pub prompts: Vec<Prompt>,
    pub eval: Vec<Prompt>,
    pub batch_size: usize,
    pub output_dir: PathBuf,
}

/// What changes beside the parameters, and must be there again when a run is resumed.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
struct State {
    samples: Samples,
    /// Bits of the divergence's coefficient.
    beta: u64,
    alarms: Alarms,
}

/// See the module.
pub struct PolicyTask {
    parts: Parts,
    samples: Samples,
    /// Weight of the divergence now.
    beta: f64,
    alarms: Alarms,
    /// Metrics of the newest generation, until its first update takes them.
    metrics: BTreeMap<String, (f64, f64)>,
    notes: Vec<String>,
    completions: Option<Completions>,
}

impl PolicyTask {
    /// A task that has sampled nothing yet.
    pub(super) fn new(parts: Parts) -> Self {
        Self {
            samples: Samples::default(),
            beta: parts.settings.beta,
            alarms: Alarms::default(),
            metrics: BTreeMap::new(),
            notes: Vec::new(),
            completions: None,
            parts,
        }
    }

    fn prompt_of(&self, element: u32) -> &Prompt {
        &self.parts.prompts[element as usize / self.parts.settings.num_generations]
    }

    /// Prompts with their completions, end to end; tokens of trained completions are labelled.
    fn batch(&self, elements: &[u32]) -> TokenBatch {
        let mut batch = TokenBatch { bounds: vec![0], ..TokenBatch::default() };
        for element in elements {
            let Some(sample) = self.samples.by_element.get(element) else { continue };
            let prompt = &self.prompt_of(*element).ids;
            let n = prompt.len() + sample.ids.len();
            batch.input_ids.extend(prompt.iter().chain(&sample.ids));
            batch.position_ids.extend(0..n as u32);
            batch.labels.extend(std::iter::repeat_n(IGNORE_INDEX, prompt.len()));
            let label = |&id: &u32| if sample.trained { id as i32 } else { IGNORE_INDEX };
            batch.labels.extend(sample.ids.iter().map(label));
            batch.loss_weights.extend(std::iter::repeat_n(1.0, n));
            batch.bounds.push(batch.input_ids.len());
        }
        batch
    }

    fn options(&self, seed: u64, greedy: bool) -> SamplingOptions {
        let stop_ids = self.parts.stop_ids.clone();
        sampling::options(&self.parts.settings.sampling, stop_ids, seed, greedy)
    }

    fn text(&self, ids: &[u32]) -> Result<String> {
        Ok(self.parts.tokenizer.decode(ids, true)?)
    }

    /// Factor on the sum of a completion's token losses.
    fn weight(&self, sample: &Sample, batch_tokens: usize) -> f64 {
        let s = &self.parts.settings;
        match s.level {
            RatioLevel::Sum => 1.0,
            _ => token_weight(
                s.loss,
                sample.num_trained(),
                batch_tokens,
                s.sampling.max_completion_length,
            ),
        }
    }

    /// Loss and metrics of a scored micro-batch, and the derivative by each log-probability.
    fn clipped(&mut self, elements: &[u32], scores: &Scores, total: &mut StepSums) -> Vec<f64> {
        let s = &self.parts.settings;
        let loss = ClippedLoss {
            level: s.level,
            epsilon: s.epsilon,
            epsilon_high: s.epsilon_high,
            // Other stages put the divergence into the rewards.
            beta: if self.parts.stage == Stage::Grpo { self.beta } else { 0.0 },
        };
        let tokens = scores.logprobs.len();
        let mut derivatives = Vec::with_capacity(tokens);
        let (mut kl, mut terms, mut low, mut high) = (0.0, 0.0, 0.0, 0.0);
        let (mut ratio, mut square, mut approx) = (0.0, 0.0, 0.0);
        for element in elements {
            let Some(sample) = self.samples.by_element.get(element) else { continue };
            if !sample.trained {
                continue;
            }
            let own = derivatives.len()..derivatives.len() + sample.ids.len();
            let logps = &scores.logprobs[own];
            let sequence = Sequence {
                logps,
                old_logps: if sample.old_logps.is_empty() { logps } else { &sample.old_logps },
                ref_logps: &sample.ref_logps,
                advantages: &sample.advantages,
            };
            let of = loss.of(&sequence);
            let weight = self.weight(sample, tokens);
            total.loss_sum += weight * of.loss_sum;
            derivatives.extend(of.derivatives.iter().map(|d| weight * d));
            kl += of.kl_sum;
            terms += of.terms as f64;
            low += of.low_clipped as f64;
            high += of.high_clipped as f64;
            ratio += of.ratio_sum;
            square += of.ratio_square_sum;
            approx += of.approx_kl_sum;
        }
        let terms = f64::max(terms, 1.0);
        if self.parts.stage == Stage::Ppo {
            let mean = ratio / terms;
            total.metric("policy/approxkl_avg", approx / terms);
            total.metric("policy/clipfrac_avg", (low + high) / terms);
            total.metric("policy/entropy_avg", total.entropy_sum / tokens.max(1) as f64);
            total.metric("val/ratio", mean);
            total.metric("val/ratio_var", (square / terms - mean * mean).max(0.0));
        } else {
            if loss.beta > 0.0 {
                total.metric("kl", kl / tokens.max(1) as f64);
            }
            for (name, value) in [
                ("clip_ratio/low_mean", low),
                ("clip_ratio/low_min", low),
                ("clip_ratio/high_mean", high),
                ("clip_ratio/high_max", high),
                ("clip_ratio/region_mean", low + high),
            ] {
                total.metric(name, value / terms);
            }
        }
        derivatives
    }

    /// The value head's loss of a scored micro-batch: adds it, and answers the gradient that
    /// reaches the states.
    fn values(
        &mut self,
        elements: &[u32],
        scored: &Scored,
        denominator: f64,
        total: &mut StepSums,
    ) -> Result<Option<candle_core::Tensor>> {
        let (Some(index), Some(ppo)) = (self.parts.value_head, &self.parts.settings.ppo) else {
            return Ok(None);
        };
        let Learner { decoder, params, grads, .. } = &mut self.parts.learner;
        let exec = decoder.exec();
        let head = &params.params[index].tensor;
        let values = score_head::forward(exec, head, scored.normed())?;
        let mut dvalues = Vec::with_capacity(values.len());
        let (mut sum, mut clipped) = (0.0, 0.0);
        for element in elements {
            let Some(sample) = self.samples.by_element.get(element) else { continue };
            if !sample.trained {
                continue;
            }
            for (&old, &target) in sample.values.iter().zip(&sample.returns) {
                let value = f64::from(values[dvalues.len()]);
                let (old, target) = (f64::from(old), f64::from(target));
                let (loss, d) = value_loss(value, old, target, ppo.cliprange_value);
                sum += loss;
                clipped += f64::from(u8::from(d == 0.0 && loss > 0.0));
                dvalues.push((ppo.vf_coef * d / denominator) as f32);
            }
        }
        let n = dvalues.len().max(1) as f64;
        total.metric("loss/policy_avg", total.loss_sum / n);
        total.metric("loss/value_avg", sum / n);
        total.metric("val/clipfrac_avg", clipped / n);
        total.loss_sum += ppo.vf_coef * sum;
        let (dnormed, dhead) = score_head::backward(exec, head, scored.normed(), &dvalues)?;
        grads.add(index, dhead)?;
        Ok(Some(dnormed))
    }
}

impl Task for PolicyTask {
    fn learner(&self) -> &Learner {
        &self.parts.learner
    }

    fn learner_mut(&mut self) -> &mut Learner {
        &mut self.parts.learner
    }

    fn plan_updates(&self, epoch: u64, _: usize) -> Vec<Update> {
        let size = self.parts.settings.num_generations as u32;
        let mut updates = Vec::new();
        for prompts in self.parts.learner.plan(epoch) {
            let elements: Vec<u32> =
                prompts.iter().flat_map(|p| p * size..(p + 1) * size).collect();
            let update: Update =
                elements.chunks(self.parts.batch_size.max(1)).map(<[_]>::to_vec).collect();
            updates.extend(std::iter::repeat_n(update, self.parts.settings.num_iterations));
        }
        updates
    }

    fn before_update(
        &mut self,
        update: &[Vec<u32>],
        global_step: u64,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<bool> {
        let generation = global_step / self.parts.settings.num_iterations as u64;
        if self.samples.generation == Some(generation) {
            return Ok(true);
        }
        self.generate(update, generation, interrupted)
    }

    fn take_notes(&mut self, global_step: u64, logged: bool) -> Result<Vec<String>> {
        let mut notes = std::mem::take(&mut self.notes);
        let s = &self.parts.settings;
        let logged = logged && self.parts.learner.world().is_main();
        if let (true, true, Some(completions)) = (logged, s.log_completions, &self.completions) {
            completions.write(&self.parts.output_dir.join("completions"), global_step)?;
            notes.extend(completions.table(global_step, s.num_completions_to_print));
            self.completions = None;
        }
        Ok(notes)
    }

    fn loss_weight(&self, batch: &[u32]) -> f64 {
        let s = &self.parts.settings;
        if s.loss == PolicyLoss::Bnpo {
            return 1.0;
        }
        let of = |e: &u32| self.samples.by_element.get(e).map_or(0, Sample::num_trained);
        batch.iter().map(|e| denominator_share(s.loss, of(e))).sum()
    }

    fn split(&self, batch: &[u32]) -> Vec<Vec<u32>> {
        match self.parts.settings.loss {
            // A mean over the batch's tokens.
            PolicyLoss::Bnpo => vec![batch.to_vec()],
            _ => batch.iter().map(|&e| vec![e]).collect(),
        }
    }

    fn extra_forwards(&self) -> f64 {
        f64::from(u8::from(self.parts.reference.is_some()))
    }

    fn accumulate(&mut self, elements: &[u32], at: MicroStep) -> Result<StepSums> {
        let batch = self.batch(elements);
        let Learner { decoder, params, .. } = &self.parts.learner;
        let temperature = self.parts.settings.sampling.temperature;
        let mut total = StepSums { num_tokens: batch.len() as u64, ..StepSums::default() };
        add_metrics(&mut total.metrics, &std::mem::take(&mut self.metrics));
        let forward = decoder.forward_scored(params, &batch, None, temperature)?;
        let Some((scores, scored)) = forward else { return Ok(total) };
        total.weight_sum = self.loss_weight(elements);
        total.num_targets = scores.correct.len() as u64;
        total.num_correct = scores.correct.iter().map(|&c| u64::from(c)).sum();
        total.entropy_sum = scores.entropies.iter().map(|&e| f64::from(e)).sum();
        let derivatives = self.clipped(elements, &scores, &mut total);
        let dnormed = self.values(elements, &scored, at.denominator, &mut total)?;
        let dlogprobs: Vec<f32> = derivatives.iter().map(|d| (d / at.denominator) as f32).collect();
        let Learner { decoder, params, grads, .. } = &mut self.parts.learner;
        decoder.backward_scored(params, &batch, scored, &dlogprobs, dnormed.as_ref(), grads)?;
        Ok(total)
    }

    /// The most likely answer to every validation prompt, judged.
    fn evaluate(&mut self, interrupted: &dyn Fn() -> bool) -> Result<Option<EvalSums>> {
        let eval = &self.parts.eval;
        if eval.is_empty() {
            return Ok(None);
        }
        let requests: Vec<Request<'_>> = eval
            .iter()
            .enumerate()
            .map(|(i, p)| Request { prompt: &p.ids, row: i as u64 })
            .collect();
        let options = self.options(self.parts.learner.seed(), true);
        let Some(answered) = self.sample(&requests, &options, interrupted)? else {
            return Ok(None);
        };
        let texts: Vec<String> =
            answered.iter().map(|(ids, _)| self.text(ids)).collect::<Result<_>>()?;
        let answers: Vec<Answer<'_>> = eval
            .iter()
            .zip(&texts)
            .map(|(prompt, completion)| Answer { prompt, completion })
            .collect();
        let judged = self.parts.rewards.judge(&answers, self.parts.learner.world())?;
        let mut sums = StepSums::default();
        judged.total.iter().flatten().for_each(|&r| sums.metric("reward", r));
        for (name, values) in self.parts.rewards.names().zip(&judged.values) {
            values.iter().flatten().for_each(|&v| sums.metric(&format!("rewards/{name}/mean"), v));
        }
        for (ids, stop) in &answered {
            sums.metric("completions/mean_length", ids.len() as f64);
            let clipped = f64::from(u8::from(stop.is_none()));
            sums.metric("completions/clipped_ratio", clipped);
        }
        Ok(Some(EvalSums { sums, num_examples: eval.len() as u64, num_batches: 1 }))
    }

    fn state_file(&self) -> Option<&'static str> {
        Some(STATE)
    }

    fn save_state(&self) -> Result<Option<(&'static str, Vec<u8>)>> {
        // With one update to a generation its completions are used up.
        let samples = match self.parts.settings.num_iterations {
            1 => Samples::default(),
            _ => self.samples.clone(),
        };
        let state = State { samples, beta: self.beta.to_bits(), alarms: self.alarms.clone() };
        let path = self.parts.output_dir.clone();
        let bytes = serde_json::to_vec(&state)
            .map_err(|e| RunError::Checkpoint { path, reason: e.to_string() })?;
        Ok(Some((STATE, bytes)))
    }

    fn load_state(&mut self, bytes: &[u8], dir: &Path) -> Result<()> {
        let state: State = serde_json::from_slice(bytes).map_err(|e| {
            let reason = format!("{STATE} is damaged ({e})");
            RunError::Checkpoint { path: dir.into(), reason }
        })?;
        self.samples = state.samples;
        self.beta = f64::from_bits(state.beta);
        self.alarms = state.alarms;
        Ok(())
    }

    fn describe_batch(&self, batch: &[u32]) -> String {
        let mut prompts: Vec<u32> =
            batch.iter().map(|e| e / self.parts.settings.num_generations as u32).collect();
        prompts.dedup();
        name_rows(prompts.iter().map(|&p| &self.parts.prompts[p as usize].provenance))
    }
}
