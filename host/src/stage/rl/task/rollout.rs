//! What happens before an update: completions are sampled, judged, scored by policy and reference,
//! turned into advantages, and described.

use std::collections::BTreeMap;

use super::PolicyTask;
use crate::config::{KlControl, Stage};
use crate::error::{Error, Result};
use crate::model::generate::{Request, SamplingOptions};
use crate::model::score_head;
use crate::objective::policy::{
    adapted_coefficient, generalised_advantages, group_advantages, leave_one_out, mean_std, whiten,
};
use crate::rng::mix64;
use crate::stage::rl::alarm::{Signs, correlation, repeated_share};
use crate::stage::rl::completions::Completions;
use crate::stage::rl::prompt::Prompt;
use crate::stage::rl::reward::{Answer, Judged};
use crate::stage::rl::sample::{Sample, Samples};

/// Tokens of a completion, and the one that ended it.
pub(super) type Sampled = (Vec<u32>, Option<u32>);

/// Sums of a completion's log-probabilities' differences.
fn divergence(sample: &Sample) -> f64 {
    let pairs = sample.old_logps.iter().zip(&sample.ref_logps);
    pairs.map(|(a, b)| f64::from(*a) - f64::from(*b)).sum()
}

fn f32s(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&v| v as f32).collect()
}

/// The last turn of a prompt, for people.
fn last_turn(prompt: &Prompt) -> String {
    prompt.conversation.messages.last().map_or_else(String::new, |m| m.content.clone())
}

impl PolicyTask {
    /// Samples and judges the completions of `update`; false when interrupted.
    pub(super) fn generate(
        &mut self,
        update: &[Vec<u32>],
        generation: u64,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<bool> {
        let elements: Vec<u32> = update.concat();
        let seed = mix64(self.parts.learner.seed() ^ mix64(generation ^ 0x5A3D_1E00_0000_0001));
        let requests: Vec<Request<'_>> = elements
            .iter()
            .map(|&e| Request { prompt: &self.prompt_of(e).ids, row: e.into() })
            .collect();
        let sampled = self.sample(&requests, &self.options(seed, false), interrupted)?;
        let Some(sampled) = sampled else { return Ok(false) };
        let texts: Vec<String> =
            sampled.iter().map(|(ids, _)| self.text(ids)).collect::<Result<_>>()?;
        let answers: Vec<Answer<'_>> = elements
            .iter()
            .zip(&texts)
            .map(|(&e, text)| Answer { prompt: self.prompt_of(e), completion: text })
            .collect();
        let judged = self.parts.rewards.judge(&answers, self.parts.learner.world())?;
        let prompts: Vec<String> = elements.iter().map(|&e| last_turn(self.prompt_of(e))).collect();
        let masked = self.parts.settings.mask_truncated_completions;
        let by_element =
            elements.iter().zip(sampled).zip(&judged.total).map(|((&e, (ids, stop)), reward)| {
                let terminated = stop.is_some();
                let mut ids = ids;
                ids.extend(stop);
                let trained = reward.is_some() && (terminated || !masked);
                (e, Sample { ids, terminated, trained, ..Sample::default() })
            });
        self.samples = Samples { generation: Some(generation), by_element: by_element.collect() };
        self.metrics.clear();
        self.score_beforehand(update)?;
        let total = self.advantages(&elements, &judged.total);
        self.describe(generation, &elements, &judged, &total);
        if !self.parts.learner.world().is_main() {
            // Logged once.
            self.metrics.clear();
        }
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

    /// Completions of `requests`, of which each rank makes its part: the tokens, and the one that ended
    /// them; `None` when interrupted.
    pub(super) fn sample(
        &self,
        requests: &[Request<'_>],
        options: &SamplingOptions,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<Option<Vec<Sampled>>> {
        let learner = &self.parts.learner;
        let mut complete = true;
        let sampled = learner.world().map(requests, "completions", |own| {
            let sampled = learner.decoder.generate_batch(
                &learner.params,
                own,
                options,
                self.parts.settings.sampling.generation_batch_size,
                |_, _| true,
                interrupted,
            )?;
            complete = sampled.is_some();
            let each = sampled.unwrap_or_default().into_iter();
            Ok::<Vec<Sampled>, Error>(each.map(|g| (g.ids, g.stop_token)).collect())
        })?;
        Ok(complete.then_some(sampled))
    }

    /// Log-probabilities by policy and reference, and values, of all completions; by micro-batch,
    /// as they will be trained, so that the first ratios are 1 to the bit. Each rank scores what it
    /// will train, and all know everything.
    fn score_beforehand(&mut self, update: &[Vec<u32>]) -> Result<()> {
        let world = self.parts.learner.world().clone();
        let own = &update[world.share(update.len())];
        self.score_own(own)?;
        if world.is_single() {
            return Ok(());
        }
        let scored: Vec<(u32, Sample)> = own
            .iter()
            .flatten()
            .filter_map(|e| Some((*e, self.samples.by_element.get(e)?.clone())))
            .collect();
        let all = world.gather(&scored, "scored completions")?;
        self.samples.by_element.extend(all.into_iter().flatten());
        Ok(())
    }

    fn score_own(&mut self, update: &[Vec<u32>]) -> Result<()> {
        let s = &self.parts.settings;
        let temperature = s.sampling.temperature;
        let own = s.num_iterations > 1 || self.parts.stage != Stage::Grpo;
        for elements in update {
            let batch = self.batch(elements);
            let trained = |e: &&u32| self.samples.by_element[*e].trained;
            let elements: Vec<u32> = elements.iter().filter(trained).copied().collect();
            let mut parts: [Option<Vec<f32>>; 3] = [None, None, None];
            if own {
                let decoder = &self.parts.learner.decoder;
                let scored =
                    decoder.score_with_states(&self.parts.learner.params, &batch, temperature)?;
                let Some((scored, states)) = scored else { continue };
                if let Some(index) = self.parts.value_head {
                    let head = &self.parts.learner.params.params[index].tensor;
                    parts[2] = Some(score_head::forward(decoder.exec(), head, &states)?);
                }
                parts[0] = Some(scored.scores.logprobs);
            }
            if let Some(reference) = &self.parts.reference {
                let scored =
                    reference.score(&mut self.parts.learner.decoder, &batch, temperature)?;
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
}
