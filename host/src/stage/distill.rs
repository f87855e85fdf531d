//! Distillation: at every token of an answer the student moves towards what the teacher would say.
//! The answers are the student's own, the teacher's, or the data's.

mod lesson;

use std::collections::BTreeMap;

use self::lesson::Lesson;
use super::chat::stop_ids;
use super::reference;
use super::sampling;
use super::setup::{self, Inputs, Prepared, Sizes};
use super::{base, record, trained};
use crate::config::{ConfigError, Distillation, RunConfig};
use crate::device;
use crate::dist::World;
use crate::error::Result;
use crate::model::generate::Request;
use crate::model::memory::num_parameters;
use crate::model::{Decoder, HfConfig, ParamSet, Teacher, TokenBatch, Weights, cache};
use crate::objective::{StepSums, add_metrics};
use crate::ops::divergence::Divergences;
use crate::rng::{Purpose, Stream};
use crate::run::learner::evaluate_batches;
use crate::run::task::name_rows;
use crate::run::{EvalSums, Learner, MicroStep, RunError, Task};
use crate::text::{TextTokenizer, TokenizedExample, pack::Plan};

/// Whose answers an update compares.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Speaker {
    Student,
    Teacher,
    Data,
}

/// Lessons, a teacher, and the student that is trained.
pub struct DistillTask {
    learner: Learner,
    teacher: Teacher,
    settings: Distillation,
    stop_ids: Vec<u32>,
    /// Tokens that both models have.
    vocab: usize,
    train: Vec<Lesson>,
    eval: Vec<Vec<Lesson>>,
    /// Answers sampled for the coming update, by lesson; the data's are used where there are none.
    sampled: BTreeMap<u32, TokenizedExample>,
    /// Metrics of the newest answers, until the update takes them.
    metrics: BTreeMap<String, (f64, f64)>,
}

fn sums(found: &Divergences, batch: &TokenBatch) -> StepSums {
    let n = found.divergences.len() as f64;
    let mut sums = StepSums {
        loss_sum: found.divergences.iter().map(|&d| f64::from(d)).sum(),
        weight_sum: n,
        num_tokens: batch.len() as u64,
        ..StepSums::default()
    };
    let entropy = found.entropies.iter().map(|&e| f64::from(e)).sum();
    let agreement = found.agrees.iter().map(|&a| f64::from(u8::from(a))).sum();
    sums.metrics.insert("entropy".into(), (entropy, n));
    sums.metrics.insert("teacher_agreement".into(), (agreement, n));
    sums
}

impl DistillTask {
    /// Who speaks in an update: a pure function of the seed and the update.
    fn speaker(&self, global_step: u64) -> Speaker {
        let drawn = Stream::new(self.learner.seed(), Purpose::OnPolicy, global_step).uniform(0);
        match (drawn < self.settings.on_policy, self.settings.teacher_answers) {
            (true, _) => Speaker::Student,
            (false, true) => Speaker::Teacher,
            (false, false) => Speaker::Data,
        }
    }

    /// Answers by student or teacher, each behind its prompt; `None` when interrupted.
    fn answers(
        &self,
        lessons: &[(u64, &Lesson)],
        speaker: Speaker,
        seed: Option<u64>,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<Option<Vec<(TokenizedExample, bool)>>> {
        let requests: Vec<Request<'_>> =
            lessons.iter().map(|&(row, l)| Request { prompt: &l.prompt, row }).collect();
        let none = ParamSet::default();
        let (decoder, params) = match speaker {
            Speaker::Teacher => (&self.teacher.decoder, &none),
            _ => (&self.learner.decoder, &self.learner.params),
        };
        let s = &self.settings.sampling;
        let greedy = seed.is_none();
        let options = sampling::options(s, self.stop_ids.clone(), seed.unwrap_or_default(), greedy);
        let answered = decoder.generate_batch(
            params,
            &requests,
            &options,
            s.generation_batch_size,
            |_, _| true,
            interrupted,
        )?;
        Ok(answered.map(|answered| {
            let each = lessons.iter().zip(answered);
            each.map(|((_, lesson), generation)| {
                let mut ids = generation.ids;
                ids.extend(generation.stop_token);
                // Rows that pad a head beyond the tokenizer may exist in one model only.
                ids.truncate(
                    ids.iter().position(|&id| id as usize >= self.vocab).unwrap_or(ids.len()),
                );
                (lesson.answered_by(&ids), generation.stop_token.is_some())
            })
            .collect()
        }))
    }

    /// What a lesson's comparison is made over.
    fn sequence(&self, index: u32) -> Option<&TokenizedExample> {
        match self.sampled.get(&index) {
            Some(sampled) => Some(sampled),
            None => self.train[index as usize].answered.as_ref(),
        }
    }
}

impl Task for DistillTask {
    fn learner(&self) -> &Learner {
        &self.learner
    }

    fn learner_mut(&mut self) -> &mut Learner {
        &mut self.learner
    }

    fn before_update(
        &mut self,
        update: &[Vec<u32>],
        global_step: u64,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<bool> {
        self.sampled.clear();
        self.metrics.clear();
        let speaker = self.speaker(global_step);
        let own = f64::from(u8::from(speaker == Speaker::Student));
        if speaker != Speaker::Data {
            let seed = Stream::new(self.learner.seed(), Purpose::OnPolicy, global_step).at(1);
            let indices: Vec<u32> = update.concat();
            let lessons: Vec<(u64, &Lesson)> =
                indices.iter().map(|&i| (i.into(), &self.train[i as usize])).collect();
            // Each rank makes its part of the answers, and all know all of them.
            let mut complete = true;
            let answers = self.learner.world().map(&lessons, "answers", |own| {
                let answers = self.answers(own, speaker, Some(seed), interrupted)?;
                complete = answers.is_some();
                let new = |((_, lesson), (answer, ended)): (
                    &(u64, &Lesson),
                    (TokenizedExample, bool),
                )| {
                    (answer.input_ids[lesson.prompt.len()..].to_vec(), ended)
                };
                let new = own.iter().zip(answers.unwrap_or_default()).map(new);
                Ok::<Vec<(Vec<u32>, bool)>, crate::Error>(new.collect())
            })?;
            if !complete {
                return Ok(false);
            }
            let answered = lessons.iter().zip(answers);
            let answers: Vec<(TokenizedExample, bool)> =
                answered.map(|((_, l), (ids, ended))| (l.answered_by(&ids), ended)).collect();
            let n = answers.len() as f64;
            let length: usize = answers.iter().map(|(a, _)| a.num_trained()).sum();
            let clipped = answers.iter().filter(|(_, ended)| !ended).count();
            self.metrics.insert("completions/mean_length".into(), (length as f64, n));
            self.metrics.insert("completions/clipped_ratio".into(), (clipped as f64, n));
            self.sampled = indices.into_iter().zip(answers.into_iter().map(|(a, _)| a)).collect();
        }
        self.metrics.insert("on_policy".into(), (own, 1.0));
        if !self.learner.world().is_main() {
            // Logged once.
            self.metrics.clear();
        }
        Ok(true)
    }

    fn loss_weight(&self, batch: &[u32]) -> f64 {
        let trained = |&i: &u32| self.sequence(i).map_or(0, TokenizedExample::num_trained);
        batch.iter().map(trained).sum::<usize>() as f64
    }

    fn extra_forwards(&self) -> f64 {
        let of = |decoder: &Decoder| num_parameters(&decoder.spec) as f64;
        of(&self.teacher.decoder) / of(&self.learner.decoder)
    }

    fn accumulate(&mut self, indices: &[u32], at: MicroStep) -> Result<StepSums> {
        let given = indices.iter().filter(|&&i| self.sequence(i).is_some());
        let batch = TokenBatch::from_examples(indices.iter().filter_map(|&i| self.sequence(i)))
            .named(given.map(|&i| i.into()));
        let key = self.learner.dropout_key(at);
        let Learner { decoder, params, grads, .. } = &mut self.learner;
        let coefficient = (1.0 / at.denominator) as f32;
        let found =
            decoder.compare_and_backward(params, &batch, key, &self.teacher, coefficient, grads)?;
        let mut total = sums(&found, &batch);
        add_metrics(&mut total.metrics, &std::mem::take(&mut self.metrics));
        Ok(total)
    }

    /// Divergences over the validation data's answers, or, where a row has none, over the
    /// student's most likely one.
    fn evaluate(&mut self, interrupted: &dyn Fn() -> bool) -> Result<Option<EvalSums>> {
        let Learner { decoder, params, .. } = &self.learner;
        let mut stopped = false;
        let world = self.learner.world();
        let evaluated = evaluate_batches(world, &self.eval, interrupted, |lessons| {
            let unanswered: Vec<(u64, &Lesson)> =
                lessons.iter().filter(|l| l.answered.is_none()).map(|l| (0, l)).collect();
            let mut own = Vec::new();
            if !unanswered.is_empty() {
                match self.answers(&unanswered, Speaker::Student, None, interrupted)? {
                    Some(answers) => own = answers.into_iter().map(|(a, _)| a).collect(),
                    None => stopped = true,
                }
            }
            let given = lessons.iter().filter_map(|l| l.answered.as_ref());
            let batch = TokenBatch::from_examples(given.chain(&own));
            Ok(sums(&decoder.compare(params, &batch, &self.teacher)?, &batch))
        })?;
        Ok(evaluated.filter(|_| !stopped))
    }

    fn describe_batch(&self, batch: &[u32]) -> String {
        name_rows(batch.iter().map(|&i| &self.train[i as usize].provenance))
    }
}

/// Loads the teacher and checks that it speaks the student's tokens.
fn load_teacher(
    config: &RunConfig,
    settings: &Distillation,
    tokenizer: &TextTokenizer,
) -> Result<Decoder> {
    let dir = &settings.teacher;
    let own = HfConfig::read(dir)?;
    let ids = [own.bos_token_id, own.eos_token_ids.first().copied(), own.pad_token_id];
    if let Some(token) = TextTokenizer::load(dir, ids)?.differs_from(tokenizer) {
        let token = crate::error::excerpt(&token);
        return Err(ConfigError::one(format!(
            "the teacher in {} has another tokenizer than the student (token `{token}`); its \
             distributions can't be compared: choose a teacher of the same family",
            dir.display()
        ))
        .into());
    }
    let device = device::open(config.precision.device)?;
    let (weights, _) = Weights::load(dir, &own.spec, config.precision, &device)?;
    Ok(Decoder::new(own.spec, weights, &device, config.model_max_length)?)
}

/// Loads both models and prepares the lessons.
///
/// # Errors
/// Whatever is wrong with models, tokenizers, plugins or data.
pub fn prepare<'a>(
    config: &'a RunConfig,
    command: Vec<String>,
    world: &World,
) -> Result<Prepared<'a, DistillTask>> {
    let Some(settings) = config.distillation.clone() else {
        return Err(ConfigError::one("the configuration is of another stage").into());
    };
    let inputs: Inputs<Lesson> =
        setup::inputs(config, command, world, HfConfig::read, "a prompt or a conversation")?;
    let lessons = &inputs.train.examples;
    if settings.needs_answers()
        && let Some(lesson) = lessons.iter().find(|l| l.answered.is_none())
    {
        return Err(RunError::NothingToTrain(format!(
            "{} has no answer, and some updates need it; use conversations (--plugin sharegpt or \
             alpaca), or set --lmbda 1 or --seq_kd True",
            lesson.provenance
        ))
        .into());
    }
    let teacher = load_teacher(config, &settings, &inputs.tokenizer)?;
    let model_config = &inputs.model_config;
    let mut decoder = base::load(config, &model_config.spec)?;
    let (params, persist) =
        trained::trainable(config, &mut decoder, model_config, &inputs.tokenizer)?;
    let s = &settings.sampling;
    let most = |l: &Lesson| {
        let answered = l.answered.as_ref().map_or(0, |a| a.input_ids.len());
        answered.max(l.prompt.len() + s.max_completion_length)
    };
    let longest = lessons.iter().map(most).max().unwrap_or(0);
    let speaker = if settings.on_policy > 0.0 { &decoder } else { &teacher };
    let teacher_bytes = teacher.weights.bytes(&teacher.spec);
    let args = &config.training;
    let sizes = Sizes {
        sequences: lessons.len(),
        tokens: lessons.iter().map(|l| l.prompt.len()).sum(),
        trained_tokens: 0,
        most_tokens: args.per_device_train_batch_size * longest,
        other_bytes: teacher_bytes + cache::bytes(&speaker.spec, s.generation_batch_size, longest),
    };
    let mut summary = setup::summary(config, &decoder.spec, &params, &inputs, &sizes)?;
    summary.notices.push(format!(
        "teacher: {} ({} parameters)",
        settings.teacher.display(),
        num_parameters(&teacher.spec)
    ));
    let mut identity = record::identity(config, &inputs.manifest);
    identity.insert("distillation".into(), serde_json::json!(settings));
    identity.insert("teacher".into(), reference::fingerprint(&settings.teacher)?);
    let plan = Plan {
        batch_size: args.per_device_train_batch_size,
        pack_to: None,
        shuffle: args.shuffle,
        seed: args.seed,
    };
    let lengths: Vec<usize> = lessons.iter().map(|l| l.prompt.len()).collect();
    let planner = Box::new(move |epoch| plan.epoch(&lengths, epoch));
    let task = DistillTask {
        vocab: decoder.spec.vocab_size.min(teacher.spec.vocab_size),
        learner: Learner::new(decoder, params, planner, persist, args.seed, world.clone()),
        teacher: Teacher {
            decoder: teacher,
            beta: settings.beta,
            temperature: settings.temperature,
        },
        stop_ids: stop_ids(model_config, &inputs.tokenizer),
        train: inputs.train.examples,
        eval: setup::eval_batches(config, inputs.eval),
        sampled: BTreeMap::new(),
        metrics: BTreeMap::new(),
        settings,
    };
    Ok(Prepared { config, task, identity, manifest: inputs.manifest, lock: inputs.lock, summary })
}
