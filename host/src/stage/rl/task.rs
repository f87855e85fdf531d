//! The loop's view of GRPO, RLOO and PPO: before an update completions are sampled, judged and
//! turned into advantages; the update's micro-batches then follow the clipped objective.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::alarm::{Alarms, Signs, correlation, repeated_share};
use super::completions::Completions;
use super::prompt::Prompt;
use super::reward::{Answer, Judged, Rewards};
use super::sample::{Sample, Samples};
use crate::config::{KlControl, PolicyLoss, RatioLevel, Reinforcement, Stage};
use crate::error::Result;
use crate::fs;
use crate::model::generate::{Generation, Request, SamplingOptions};
use crate::model::memory::num_parameters;
use crate::model::save::write_json;
use crate::model::{Decoder, GradSet, ParamSet, Scored, TokenBatch, Trained, score_head};
use crate::objective::policy::{
    ClippedLoss, Sequence, adapted_coefficient, denominator_share, generalised_advantages,
    group_advantages, leave_one_out, mean_std, token_weight, value_loss, whiten,
};
use crate::objective::{StepSums, add_metrics};
use crate::ops::head::Scores;
use crate::rng::mix64;
use crate::run::task::{Update, name_rows};
use crate::run::{EvalSums, MicroStep, RunError, Task};
use crate::stage::causal_task::{EpochPlanner, Persist};
use crate::stage::reference::Reference;
use crate::text::{IGNORE_INDEX, TextTokenizer};

/// What a checkpoint keeps beside parameters and optimiser.
const STATE: &str = "rollout.json";

/// What a stage's task is made of.
pub(super) struct Parts {
    pub stage: Stage,
    pub settings: Reinforcement,
    pub decoder: Decoder,
    pub params: ParamSet,
    /// Index of PPO's value head among the parameters.
    pub value_head: Option<usize>,
    pub reference: Option<Reference>,
    pub rewards: Rewards,
    pub tokenizer: Arc<TextTokenizer>,
    pub stop_ids: Vec<u32>,
    pub prompts: Vec<Prompt>,
    pub eval: Vec<Prompt>,
    /// Prompts of each generation.
    pub planner: EpochPlanner,
    pub batch_size: usize,
    pub persist: Box<dyn Persist>,
    pub output_dir: PathBuf,
    pub seed: u64,
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
    grads: GradSet,
    samples: Samples,
    /// Weight of the divergence now.
    beta: f64,
    alarms: Alarms,
    /// Metrics of the newest generation, until its first update takes them.
    metrics: BTreeMap<String, (f64, f64)>,
    notes: Vec<String>,
    completions: Option<Completions>,
}

/// Sums of a completion's log-probabilities' differences.
fn divergence(sample: &Sample) -> f64 {
    let pairs = sample.old_logps.iter().zip(&sample.ref_logps);
    pairs.map(|(a, b)| f64::from(*a) - f64::from(*b)).sum()
}

fn f32s(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&v| v as f32).collect()
}

impl PolicyTask {
    /// A task that has sampled nothing yet.
    pub(super) fn new(parts: Parts) -> Self {
        Self {
            grads: GradSet::new(parts.params.params.len()),
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
        let s = &self.parts.settings;
        SamplingOptions {
            temperature: if greedy { 0.0 } else { s.temperature },
            top_p: s.top_p,
            top_k: s.top_k,
            repetition_penalty: s.repetition_penalty as f32,
            max_new_tokens: s.max_completion_length,
            stop_ids: self.parts.stop_ids.clone(),
            seed,
        }
    }

    fn text(&self, generation: &Generation) -> Result<String> {
        Ok(self.parts.tokenizer.decode(&generation.ids, true)?)
    }

    /// Samples and judges the completions of `update`; false when interrupted.
    fn generate(
        &mut self,
        update: &[Vec<u32>],
        generation: u64,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<bool> {
        let elements: Vec<u32> = update.concat();
        let seed = mix64(self.parts.seed ^ mix64(generation ^ 0x5A3D_1E00_0000_0001));
        let requests: Vec<Request<'_>> = elements
            .iter()
            .map(|&e| Request { prompt: &self.prompt_of(e).ids, row: e.into() })
            .collect();
        let sampled = self.parts.decoder.generate_batch(
            &self.parts.params,
            &requests,
            &self.options(seed, false),
            self.parts.settings.generation_batch_size,
            |_, _| true,
            interrupted,
        )?;
        let Some(sampled) = sampled else { return Ok(false) };
        let texts: Vec<String> = sampled.iter().map(|g| self.text(g)).collect::<Result<_>>()?;
        let answers: Vec<Answer<'_>> = elements
            .iter()
            .zip(&texts)
            .map(|(&e, text)| Answer { prompt: self.prompt_of(e), completion: text })
            .collect();
        let judged = self.parts.rewards.judge(&answers)?;
        let prompts: Vec<String> = elements.iter().map(|&e| last_turn(self.prompt_of(e))).collect();
        let masked = self.parts.settings.mask_truncated_completions;
        let by_element =
            elements.iter().zip(sampled).zip(&judged.total).map(|((&e, g), reward)| {
                let terminated = g.stop_token.is_some();
                let mut ids = g.ids;
                ids.extend(g.stop_token);
                let trained = reward.is_some() && (terminated || !masked);
                (e, Sample { ids, terminated, trained, ..Sample::default() })
            });
        self.samples = Samples { generation: Some(generation), by_element: by_element.collect() };
        self.metrics.clear();
        self.score_beforehand(update)?;
        let total = self.advantages(&elements, &judged.total);
        self.describe(generation, &elements, &judged, &total);
        let advantage = |e: &u32| {
            let a = &self.samples.by_element[e].advantages;
            a.iter().map(|&v| f64::from(v)).sum::<f64>() / a.len().max(1) as f64
        };
        let mut rewards: Vec<(String, Vec<Option<f64>>)> =
            self.parts.rewards.names().map(str::to_string).zip(judged.values).collect();
        if rewards.len() > 1 {
            rewards.push(("reward".into(), judged.total));
        }
        let advantages = elements.iter().map(advantage).collect();
        self.completions = Some(Completions { prompts, texts, rewards, advantages });
        Ok(true)
    }

    /// Log-probabilities by policy and reference, and values, of all completions; by micro-batch,
    /// as they will be trained, so that the first ratios are 1 to the bit.
    fn score_beforehand(&mut self, update: &[Vec<u32>]) -> Result<()> {
        let s = &self.parts.settings;
        let temperature = s.temperature;
        let own = s.num_iterations > 1 || self.parts.stage != Stage::Grpo;
        for elements in update {
            let batch = self.batch(elements);
            let trained = |e: &&u32| self.samples.by_element[*e].trained;
            let elements: Vec<u32> = elements.iter().filter(trained).copied().collect();
            let mut parts: [Option<Vec<f32>>; 3] = [None, None, None];
            if own {
                let decoder = &self.parts.decoder;
                let scored = decoder.score_with_states(&self.parts.params, &batch, temperature)?;
                let Some((scored, states)) = scored else { continue };
                if let Some(index) = self.parts.value_head {
                    let head = &self.parts.params.params[index].tensor;
                    parts[2] = Some(score_head::forward(decoder.exec(), head, &states)?);
                }
                parts[0] = Some(scored.scores.logprobs);
            }
            if let Some(reference) = &self.parts.reference {
                let scored = reference.score(&mut self.parts.decoder, &batch, temperature)?;
                parts[1] = Some(scored.scores.logprobs);
            }
            let [old, reference, values] = parts;
            let mut at = 0;
            for element in elements {
                let Some(sample) = self.samples.by_element.get_mut(&element) else { continue };
                let own = at..at + sample.ids.len();
                at = own.end;
                let cut = |all: &Option<Vec<f32>>| {
                    all.as_ref().map_or_else(Vec::new, |all| all[own.clone()].to_vec())
                };
                sample.old_logps = cut(&old);
                sample.ref_logps = cut(&reference);
                sample.values = cut(&values);
            }
        }
        Ok(())
    }

    /// Gives every completion its advantages; answers the rewards they were made of.
    fn advantages(&mut self, elements: &[u32], total: &[Option<f64>]) -> Vec<Option<f64>> {
        let s = self.parts.settings.clone();
        let size = s.num_generations;
        let samples = &mut self.samples.by_element;
        let single = |samples: &mut BTreeMap<u32, Sample>, advantages: Vec<f64>| {
            for (element, advantage) in elements.iter().zip(advantages) {
                if let Some(sample) = samples.get_mut(element) {
                    sample.advantages = vec![advantage as f32];
                }
            }
        };
        match (self.parts.stage, &s.ppo) {
            (Stage::Rloo, _) => {
                let beta = self.beta;
                let held =
                    |(e, r): (&u32, &Option<f64>)| r.map(|r| r - beta * divergence(&samples[e]));
                let rewards: Vec<Option<f64>> = elements.iter().zip(total).map(held).collect();
                single(samples, leave_one_out(&rewards, size, s.normalize_advantages));
                rewards
            }
            (Stage::Ppo, Some(ppo)) => {
                let mut by_token: Vec<Vec<f64>> = Vec::with_capacity(elements.len());
                let mut scores = Vec::with_capacity(elements.len());
                for (element, total) in elements.iter().zip(total) {
                    let sample = &samples[element];
                    let penalty = if sample.terminated { 0.0 } else { ppo.missing_eos_penalty };
                    let score = total.map(|r| r - penalty);
                    scores.push(score);
                    let mut rewards = vec![0.0; sample.num_trained()];
                    let pairs = sample.old_logps.iter().zip(&sample.ref_logps);
                    for (reward, (old, reference)) in rewards.iter_mut().zip(pairs) {
                        *reward = -self.beta * (f64::from(*old) - f64::from(*reference));
                    }
                    if let (Some(last), Some(score)) = (rewards.last_mut(), score) {
                        *last += score;
                    }
                    by_token.push(rewards);
                }
                if ppo.whiten_rewards {
                    whiten(&mut by_token, false);
                }
                let mut advantages = Vec::with_capacity(elements.len());
                for (element, rewards) in elements.iter().zip(&by_token) {
                    let Some(sample) = samples.get_mut(element) else { continue };
                    let (own, returns) = if sample.trained {
                        generalised_advantages(rewards, &sample.values, ppo.gamma, ppo.lambda)
                    } else {
                        Default::default()
                    };
                    sample.returns = f32s(&returns);
                    advantages.push(own);
                }
                whiten(&mut advantages, true);
                for (element, own) in elements.iter().zip(&advantages) {
                    if let Some(sample) = samples.get_mut(element) {
                        sample.advantages = f32s(own);
                    }
                }
                scores
            }
            _ => {
                single(samples, group_advantages(total, size, s.scale));
                total.to_vec()
            }
        }
    }

    /// Metrics, alarms and the new coefficient of a generation.
    fn describe(
        &mut self,
        generation: u64,
        elements: &[u32],
        judged: &Judged,
        total: &[Option<f64>],
    ) {
        let mut metrics: Vec<(String, f64)> = Vec::new();
        let mut add = |name: &str, value: f64| metrics.push((name.to_string(), value));
        let known =
            |values: &[Option<f64>]| -> Vec<f64> { values.iter().copied().flatten().collect() };
        for (name, values) in self.parts.rewards.names().zip(&judged.values) {
            let (mean, std) = mean_std(known(values).into_iter());
            add(&format!("rewards/{name}/mean"), mean);
            add(&format!("rewards/{name}/std"), std);
        }
        for (name, failed) in self.parts.rewards.names().zip(&judged.failures) {
            if *failed > 0 {
                add(&format!("rewards/{name}/failures"), *failed as f64);
            }
        }
        let all = known(&judged.total);
        let (reward, _) = mean_std(all.iter().copied());
        let size = self.parts.settings.num_generations;
        let samples: Vec<&Sample> = elements.iter().map(|e| &self.samples.by_element[e]).collect();
        let n = samples.len().max(1) as f64;
        let mut signs = Signs { reward, ..Signs::default() };
        if self.parts.stage == Stage::Ppo {
            let beta = self.beta;
            let trained: Vec<&&Sample> = samples.iter().filter(|s| s.trained).collect();
            let mean = |f: &dyn Fn(&Sample) -> f64| {
                trained.iter().map(|s| f(s)).sum::<f64>() / trained.len().max(1) as f64
            };
            let kl = mean(&divergence);
            let surprise = |s: &Sample| -s.old_logps.iter().map(|&l| f64::from(l)).sum::<f64>();
            let (scores, _) = mean_std(known(total).into_iter());
            add("objective/kl", kl);
            add("objective/entropy", mean(&surprise));
            add("objective/non_score_reward", -beta * kl);
            add("objective/scores", scores);
            add("objective/rlhf_reward", scores - beta * kl);
            add("objective/kl_coef", beta);
            add("val/num_eos_tokens", samples.iter().filter(|s| s.terminated).count() as f64);
        } else {
            add("reward", reward);
            add("reward_std", mean_std(all.iter().copied()).1);
            let same = |g: &[Option<f64>]| mean_std(known(g).into_iter()).1 < 1e-8;
            let groups = judged.total.chunks(size);
            let zero =
                groups.clone().filter(|g| same(g)).count() as f64 / groups.len().max(1) as f64;
            add("frac_reward_zero_std", zero);
            signs.zero_std = Some(zero);
        }
        let lengths: Vec<f64> = samples.iter().map(|s| s.ids.len() as f64).collect();
        let ended: Vec<f64> =
            samples.iter().filter(|s| s.terminated).map(|s| s.ids.len() as f64).collect();
        for (kind, lengths) in [("", &lengths), ("terminated_", &ended)] {
            let least = lengths.iter().copied().fold(f64::INFINITY, f64::min);
            let most = lengths.iter().copied().fold(0.0, f64::max);
            add(&format!("completions/mean_{kind}length"), mean_std(lengths.iter().copied()).0);
            add(
                &format!("completions/min_{kind}length"),
                if lengths.is_empty() { 0.0 } else { least },
            );
            add(&format!("completions/max_{kind}length"), most);
        }
        signs.clipped = 1.0 - ended.len() as f64 / n;
        add("completions/clipped_ratio", signs.clipped);
        signs.length = lengths.iter().sum::<f64>() / n;
        let pairs: Vec<(f64, f64)> = lengths
            .iter()
            .zip(&judged.total)
            .filter_map(|(length, reward)| Some((*length, (*reward)?)))
            .collect();
        signs.length_reward = correlation(&pairs);
        signs.repeated = samples.iter().map(|s| repeated_share(&s.ids)).sum::<f64>() / n;
        let held =
            self.parts.reference.is_some() && samples.iter().any(|s| !s.old_logps.is_empty());
        if held {
            let kl = samples.iter().map(|s| divergence(s)).sum::<f64>() / n;
            signs.kl = Some(kl);
            if self.parts.stage == Stage::Rloo {
                add("kl", kl);
            }
            if let Some(KlControl::Adaptive { target, horizon }) =
                self.parts.settings.ppo.as_ref().map(|p| p.kl_control)
            {
                self.beta = adapted_coefficient(self.beta, kl, target, horizon, samples.len());
            }
        }
        self.metrics.extend(metrics.into_iter().map(|(name, value)| (name, (value, 1.0))));
        self.notes.extend(self.alarms.take(generation, signs));
    }

    /// Factor on the sum of a completion's token losses.
    fn weight(&self, sample: &Sample, batch_tokens: usize) -> f64 {
        let s = &self.parts.settings;
        match s.level {
            RatioLevel::Sum => 1.0,
            _ => token_weight(s.loss, sample.num_trained(), batch_tokens, s.max_completion_length),
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
        let exec = self.parts.decoder.exec();
        let head = &self.parts.params.params[index].tensor;
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
        self.grads.add(index, dhead)?;
        Ok(Some(dnormed))
    }
}

/// The last turn of a prompt, for people.
fn last_turn(prompt: &Prompt) -> String {
    prompt.conversation.messages.last().map_or_else(String::new, |m| m.content.clone())
}

impl Task for PolicyTask {
    fn plan_epoch(&self, epoch: u64) -> Vec<Vec<u32>> {
        self.plan_updates(epoch, 1).concat()
    }

    fn plan_updates(&self, epoch: u64, _: usize) -> Vec<Update> {
        let size = self.parts.settings.num_generations as u32;
        let mut updates = Vec::new();
        for prompts in (self.parts.planner)(epoch) {
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

    fn flos_per_token(&self) -> f64 {
        let weights = num_parameters(&self.parts.decoder.spec) as f64;
        let scored = if self.parts.reference.is_some() { 2.0 } else { 0.0 };
        match self.parts.decoder.trained {
            Trained::Full(_) => (6.0 + scored) * weights,
            _ => (4.0 + scored) * weights,
        }
    }

    fn accumulate(&mut self, elements: &[u32], at: MicroStep) -> Result<StepSums> {
        let batch = self.batch(elements);
        let (decoder, params) = (&self.parts.decoder, &self.parts.params);
        let temperature = self.parts.settings.temperature;
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
        self.parts.decoder.backward_scored(
            &self.parts.params,
            &batch,
            scored,
            &dlogprobs,
            dnormed.as_ref(),
            &mut self.grads,
        )?;
        Ok(total)
    }

    fn params(&self) -> &ParamSet {
        &self.parts.params
    }

    fn params_and_grads(&mut self) -> (&mut ParamSet, &mut GradSet) {
        (&mut self.parts.params, &mut self.grads)
    }

    fn params_changed(&mut self) -> Result<()> {
        self.parts.decoder.relink(&self.parts.params);
        Ok(())
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
        let answered = self.parts.decoder.generate_batch(
            &self.parts.params,
            &requests,
            &self.options(self.parts.seed, true),
            self.parts.settings.generation_batch_size,
            |_, _| true,
            interrupted,
        )?;
        let Some(answered) = answered else { return Ok(None) };
        let texts: Vec<String> = answered.iter().map(|g| self.text(g)).collect::<Result<_>>()?;
        let answers: Vec<Answer<'_>> = eval
            .iter()
            .zip(&texts)
            .map(|(prompt, completion)| Answer { prompt, completion })
            .collect();
        let judged = self.parts.rewards.judge(&answers)?;
        let mut sums = StepSums::default();
        judged.total.iter().flatten().for_each(|&r| sums.metric("reward", r));
        for (name, values) in self.parts.rewards.names().zip(&judged.values) {
            values.iter().flatten().for_each(|&v| sums.metric(&format!("rewards/{name}/mean"), v));
        }
        for generation in &answered {
            sums.metric("completions/mean_length", generation.ids.len() as f64);
            let clipped = f64::from(u8::from(generation.stop_token.is_none()));
            sums.metric("completions/clipped_ratio", clipped);
        }
        Ok(Some(EvalSums { sums, num_examples: eval.len() as u64, num_batches: 1 }))
    }

    fn save(&self, dir: &Path) -> Result<()> {
        self.parts.persist.save(&self.parts.decoder, &self.parts.params, dir)
    }

    fn load(&mut self, dir: &Path) -> Result<()> {
        self.parts.persist.load(&mut self.parts.params, dir)?;
        self.parts.decoder.relink(&self.parts.params);
        Ok(())
    }

    fn save_state(&self, dir: &Path) -> Result<()> {
        // With one update to a generation its completions are used up.
        let samples = match self.parts.settings.num_iterations {
            1 => Samples::default(),
            _ => self.samples.clone(),
        };
        let state = State { samples, beta: self.beta.to_bits(), alarms: self.alarms.clone() };
        let value = serde_json::to_value(&state)
            .map_err(|e| RunError::Checkpoint { path: dir.into(), reason: e.to_string() })?;
        Ok(write_json(&dir.join(STATE), &value, 0)?)
    }

    fn load_state(&mut self, dir: &Path) -> Result<()> {
        let bytes = fs::read_limited(&dir.join(STATE), 1 << 32)?;
        let state: State = serde_json::from_slice(&bytes).map_err(|e| {
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
