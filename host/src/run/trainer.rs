//! The loop: micro-batches, updates, logs, evaluations, checkpoints. All of its state is in
//! [`Resume`] and the optimiser; times go into metrics only.

mod gradients;
mod resume;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Map, Value, json};

use super::checkpoint::{self, Resume, Window};
use super::progress::Progress;
use super::results::{self, Metrics};
use super::state::{TrainerState, row};
use super::task::Update;
use super::tensorboard::EventWriter;
use super::{Learner, RunError, Task, reduce};
use crate::config::{ConfigError, Reproducible, SaveStrategy, TrainingArguments};
use crate::dist::{Reduce, World};
use crate::error::Result;
use crate::objective::{StepSums, add_metrics};
use crate::optim::adamw::Settings;
use crate::optim::schedule::Schedule;
use crate::optim::{AdamW, LossScale, Partition, clip};

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// All updates were made, or early stopping ended it.
    Finished,
    /// A signal ended it after this checkpoint.
    Interrupted(PathBuf),
}

/// A run of a [`Task`].
pub struct Trainer<'a, T: Task> {
    /// What is trained.
    pub task: T,
    args: &'a TrainingArguments,
    progress: &'a mut dyn Progress,
    interrupted: &'a dyn Fn() -> bool,
    optimizer: AdamW,
    schedule: Schedule,
    resume: Resume,
    events: Option<EventWriter>,
    /// Best checkpoint, if evaluations choose one.
    best: Option<PathBuf>,
    started: Instant,
    tokens_this_process: u64,
    steps_this_process: u64,
    examples_this_process: u64,
    stop: bool,
    world: World,
    /// Whether a signal came to some rank, as all know since the newest update.
    agreed_to_stop: bool,
}

impl<'a, T: Task> Trainer<'a, T> {
    /// Prepares a run. `identity` names what must not change when it is resumed. Checkpoints are
    /// looked for when `args.resume_from_checkpoint` says so. `tensorboard` is the folder of the
    /// event files. The ranks of the learner's world run it together; only rank 0 writes.
    ///
    /// # Errors
    /// Nothing to train on, a checkpoint that can't be used, a full disk.
    pub fn new(
        mut task: T,
        args: &'a TrainingArguments,
        mut identity: BTreeMap<String, Value>,
        tensorboard: Option<&Path>,
        progress: &'a mut dyn Progress,
        interrupted: &'a dyn Fn() -> bool,
    ) -> Result<Self> {
        let world = task.learner().world().clone();
        if world.is_main() {
            checkpoint::remove_leftovers(&args.output_dir)?;
        }
        let updates = task.plan_updates(0, args.gradient_accumulation_steps * world.size()).len();
        if updates == 0 {
            return Err(RunError::NothingToTrain(
                "the plan of the first epoch is empty; check the data".into(),
            )
            .into());
        }
        let steps_per_epoch = updates as u64;
        let max_steps = match u64::try_from(args.max_steps) {
            Ok(steps) if steps > 0 => steps,
            _ => (args.num_train_epochs * steps_per_epoch as f64).ceil().max(1.0) as u64,
        };
        let warmup_steps = match args.warmup_steps {
            0 => (args.warmup_ratio * max_steps as f64).ceil() as u64,
            steps => steps,
        };
        let deepspeed = args.deepspeed.as_ref();
        let rows = rows_per_update(args, world.size());
        if let Some(theirs) = deepspeed.and_then(|d| d.train_batch_size).filter(|&n| n != rows) {
            return Err(ConfigError::one(format!(
                "`train_batch_size` of the DeepSpeed configuration is {theirs}, but \
                 per_device_train_batch_size · gradient_accumulation_steps · processes is {} · {} · {} \
                 = {rows}; change one, or write \"auto\"",
                args.per_device_train_batch_size,
                args.gradient_accumulation_steps,
                world.size()
            ))
            .into());
        }
        let schedule = Schedule {
            kind: args.lr_scheduler_type,
            learning_rate: args.learning_rate,
            warmup_steps,
            total_steps: max_steps,
            deepspeed: deepspeed.and_then(|d| d.schedule),
        };
        identity.extend(decisive(args, max_steps, world.size()));
        world.check_same(&identity)?;
        let settings = Settings {
            beta1: args.adam_beta1,
            beta2: args.adam_beta2,
            eps: args.adam_epsilon,
            weight_decay: args.weight_decay,
        };
        let params = &task.learner().params;
        let partition = match args.zero_stage {
            0 => Partition::whole(params),
            _ => Partition::sharded(params, world.rank(), world.size()),
        };
        let mut optimizer = AdamW::sharded(settings, params, partition)?;
        let mut resume = Resume {
            version: 0,
            global_step: 0,
            epoch: 0,
            next_update: 0,
            loss_sum: 0.0,
            window: Window::default(),
            loss_scale: deepspeed.and_then(|d| d.loss_scaling).as_ref().map(LossScale::new),
            skipped: 0,
            identity: identity.clone(),
            state: TrainerState {
                max_steps,
                num_train_epochs: max_steps.div_ceil(steps_per_epoch),
                ..TrainerState::default()
            },
            files: BTreeMap::new(),
        };
        if let Some((from, found)) = resume::find(args, &world, &identity)? {
            resume = found;
            checkpoint::restore(&from, &mut task, &mut optimizer)?;
            progress.note(&format!(
                "resumed from {} at step {}",
                from.display(),
                resume.global_step
            ));
        }
        let best = resume.state.best_model_checkpoint.as_ref().map(PathBuf::from);
        let events = match tensorboard.filter(|_| world.is_main()) {
            Some(dir) => {
                let first = if resume.global_step == 0 { 0 } else { resume.global_step + 1 };
                Some(EventWriter::create(dir, first)?)
            }
            None => None,
        };
        Ok(Self {
            task,
            args,
            progress,
            interrupted,
            optimizer,
            schedule,
            resume,
            events,
            best,
            started: Instant::now(),
            tokens_this_process: 0,
            steps_this_process: 0,
            examples_this_process: 0,
            stop: false,
            world,
            agreed_to_stop: false,
        })
    }

    /// Updates planned in all.
    pub fn max_steps(&self) -> u64 {
        self.schedule.total_steps
    }

    /// Updates made.
    pub fn global_step(&self) -> u64 {
        self.resume.global_step
    }

    /// The loop's state, for summaries.
    pub fn state(&self) -> &TrainerState {
        &self.resume.state
    }

    /// Texts for the event file.
    ///
    /// # Errors
    /// A full disk.
    pub fn describe(&mut self, tag: &str, text: &str) -> Result<()> {
        if let Some(events) = &mut self.events {
            events.text(tag, text)?;
        }
        Ok(())
    }

    /// Trains to the end, or until interrupted; writes results and state into the output folder.
    ///
    /// # Errors
    /// [`RunError::NotFinite`], a full disk, a failing device.
    pub fn run(&mut self) -> Result<Outcome> {
        self.progress.start(self.resume.global_step, self.schedule.total_steps);
        let outcome = self.updates();
        self.progress.finish();
        let outcome = outcome?;
        if outcome == Outcome::Finished {
            self.finish()?;
        }
        Ok(outcome)
    }

    fn updates(&mut self) -> Result<Outcome> {
        while self.resume.global_step < self.schedule.total_steps && !self.stop {
            let accumulation = self.args.gradient_accumulation_steps * self.world.size();
            let updates = self.task.plan_updates(self.resume.epoch, accumulation);
            let per_epoch: usize = updates.iter().map(Vec::len).sum();
            let mut last = 0;
            for (i, update) in updates.iter().enumerate() {
                last += update.len();
                if i < self.resume.next_update {
                    continue;
                }
                let whole: Update;
                let update = match self.args.reproducible {
                    Reproducible::Standard => update,
                    Reproducible::Strict => {
                        whole = update.iter().flat_map(|b| self.task.split(b)).collect();
                        &whole
                    }
                };
                let step = self.resume.global_step;
                if !self.task.before_update(update, step, self.polled())? {
                    return Ok(Outcome::Interrupted(self.save()?));
                }
                // Counted by all ranks' micro-batches, so that the number of ranks changes nothing.
                let passed = last as f64 / per_epoch as f64;
                let logged = self.update(update, i + 1, passed)?;
                for note in self.task.take_notes(self.resume.global_step, logged)? {
                    self.progress.note(&note);
                }
                self.after_update(i + 1 == updates.len())?;
                if self.resume.global_step == self.schedule.total_steps || self.stop {
                    return Ok(Outcome::Finished);
                }
                if self.agreed_to_stop || self.polled()() {
                    return Ok(Outcome::Interrupted(self.save()?));
                }
            }
            self.resume.epoch += 1;
            self.resume.next_update = 0;
        }
        Ok(Outcome::Finished)
    }

    /// What is polled within an update. Several ranks stop together, after one.
    fn polled(&self) -> &'a dyn Fn() -> bool {
        const NEVER: &dyn Fn() -> bool = &|| false;
        if self.world.is_single() { self.interrupted } else { NEVER }
    }

    /// One update over some micro-batches, the last of which ends `passed` of the epoch; answers
    /// whether it was logged. Parameters are touched only after loss and gradients were found finite.
    fn update(&mut self, batches: &[Vec<u32>], next_update: usize, passed: f64) -> Result<bool> {
        let step = self.resume.global_step;
        let denominator: f64 = batches.iter().map(|b| self.task.loss_weight(b)).sum();
        let sums = self.gradients(batches, denominator)?;
        let learning_rate = self.schedule.at(step - self.resume.skipped);
        let scale = self.resume.loss_scale.map_or(1.0, |s| s.scale);
        let (sharded, bucket) = (self.shards_gradients(), self.buckets().1);
        let Learner { params, grads, .. } = self.task.learner_mut();
        let mut squares = [clip::square_sums(grads)?];
        if sharded {
            self.world.collective().all_reduce_f64(&mut squares, Reduce::Sum, "gradients' norm")?;
        }
        let grad_norm = squares[0].sqrt() / scale;
        if grad_norm.is_finite() {
            let factor = clip::factor(grad_norm, self.args.max_grad_norm) / scale;
            self.optimizer.update(params, grads, learning_rate, factor)?;
            grads.clear();
            let partition = self.optimizer.partition();
            if partition.is_sharded() {
                reduce::gather_parameters(&self.world, params, partition, bucket)?;
            }
        }
        if !self.scale_follows(grad_norm.is_finite()) {
            self.check_finite("grad_norm", grad_norm, step, batches)?;
        }
        self.task.learner_mut().relink()?;
        let loss = if denominator > 0.0 { sums.loss_sum / denominator } else { 0.0 };
        let resume = &mut self.resume;
        resume.global_step += 1;
        resume.next_update = next_update;
        resume.loss_sum += loss;
        resume.window.steps += 1;
        resume.window.loss_sum += loss;
        resume.window.num_correct += sums.num_correct;
        resume.window.num_targets += sums.num_targets;
        resume.window.entropy_sum += sums.entropy_sum;
        add_metrics(&mut resume.window.metrics, &sums.metrics);
        resume.state.global_step = resume.global_step;
        resume.state.epoch = resume.epoch as f64 + passed;
        resume.state.num_input_tokens_seen += sums.num_tokens;
        resume.state.total_flos +=
            sums.num_tokens as f64 * self.task.learner().flos_per_token(self.task.extra_forwards());
        self.tokens_this_process += sums.num_tokens;
        self.steps_this_process += 1;
        self.examples_this_process += batches.iter().map(|b| b.len() as u64).sum::<u64>();
        let seconds = self.started.elapsed().as_secs_f64().max(1e-9);
        let speed = self.tokens_this_process as f64 / seconds;
        self.progress.step(self.resume.global_step, loss, learning_rate, speed);
        let first = self.resume.global_step == 1 && self.args.logging_first_step;
        let due = self.args.logging_steps > 0
            && self.resume.global_step.is_multiple_of(self.args.logging_steps);
        if first || due {
            self.log_training(grad_norm, learning_rate)?;
        }
        Ok(first || due)
    }

    /// Moves the loss's scale, where there is one; answers whether gradients that overflowed are made
    /// up for by a lower one.
    fn scale_follows(&mut self, finite: bool) -> bool {
        let settings = self.args.deepspeed.as_ref().and_then(|d| d.loss_scaling);
        let (Some(settings), Some(scale)) = (settings, &mut self.resume.loss_scale) else {
            return false;
        };
        let followed = scale.follow(&settings, !finite).is_some();
        if followed && !finite {
            self.resume.skipped += 1;
            let text = format!(
                "step {}: the scaled gradients overflowed; the update is left out, the scale is {}",
                self.resume.global_step + 1,
                scale.scale
            );
            self.progress.note(&text);
        }
        followed
    }

    fn check_finite(
        &self,
        what: &'static str,
        value: f64,
        step: u64,
        batches: &[Vec<u32>],
    ) -> Result<()> {
        if value.is_finite() {
            return Ok(());
        }
        let rows: Vec<String> = batches.iter().map(|b| self.task.describe_batch(b)).collect();
        Err(RunError::NotFinite { what, value, step: step + 1, rows: rows.join(", ") }.into())
    }

    fn log_training(&mut self, grad_norm: f64, learning_rate: f64) -> Result<()> {
        let window = std::mem::take(&mut self.resume.window);
        let state = &self.resume.state;
        let mut entries = vec![
            ("loss", json!(window.loss_sum / window.steps.max(1) as f64)),
            ("grad_norm", json!(grad_norm)),
            ("loss_scale", json!(self.resume.loss_scale.map(|s| s.scale))),
            ("learning_rate", json!(learning_rate)),
            ("epoch", json!(state.epoch)),
            ("step", json!(state.global_step)),
            ("num_tokens", json!(state.num_input_tokens_seen)),
        ];
        if window.num_targets > 0 {
            let n = window.num_targets as f64;
            entries.push(("mean_token_accuracy", json!(window.num_correct as f64 / n)));
            entries.push(("entropy", json!(window.entropy_sum / n)));
        }
        for (name, (sum, count)) in &window.metrics {
            entries.push((name, json!(sum / count.max(1.0))));
        }
        entries.retain(|(name, value)| *name != "loss_scale" || !value.is_null());
        self.log(row(&entries))
    }

    fn log(&mut self, entry: Map<String, Value>) -> Result<()> {
        self.progress.log(&entry);
        if let Some(events) = &mut self.events {
            for (key, value) in &entry {
                if let (Some(value), false) = (value.as_f64(), key == "step") {
                    let tag = match key.strip_prefix("eval_") {
                        Some(rest) => format!("eval/{rest}"),
                        None => format!("train/{key}"),
                    };
                    events.scalar(&tag, value, self.resume.global_step)?;
                }
            }
        }
        self.resume.state.log_history.push(entry);
        Ok(())
    }

    fn after_update(&mut self, epoch_ends: bool) -> Result<()> {
        let step = self.resume.global_step;
        let last = step == self.schedule.total_steps;
        let due = |strategy: SaveStrategy, every: u64| match strategy {
            SaveStrategy::No => false,
            SaveStrategy::Steps => every > 0 && step.is_multiple_of(every),
            SaveStrategy::Epoch => epoch_ends || last,
        };
        let evaluated = due(self.args.eval_strategy, self.args.eval_steps);
        let improved = if evaluated { self.evaluate()? } else { false };
        if due(self.args.save_strategy, self.args.save_steps) || improved {
            self.save()?;
        }
        Ok(())
    }

    /// Evaluates, logs, and judges; answers whether a checkpoint must be kept for it.
    fn evaluate(&mut self) -> Result<bool> {
        let begun = Instant::now();
        let Some(eval) = self.task.evaluate(self.polled())? else { return Ok(false) };
        let seconds = begun.elapsed().as_secs_f64().max(1e-9);
        let sums = eval.sums;
        let loss = if sums.weight_sum > 0.0 { sums.loss_sum / sums.weight_sum } else { 0.0 };
        let state = &self.resume.state;
        let mut entries = vec![
            ("eval_runtime", json!(seconds)),
            ("eval_samples_per_second", json!(eval.num_examples as f64 / seconds)),
            ("eval_steps_per_second", json!(eval.num_batches as f64 / seconds)),
            ("epoch", json!(state.epoch)),
            ("step", json!(state.global_step)),
        ];
        if sums.weight_sum > 0.0 {
            entries.push(("eval_loss", json!(loss)));
        }
        if sums.num_targets > 0 {
            let accuracy = sums.num_correct as f64 / sums.num_targets as f64;
            entries.push(("eval_mean_token_accuracy", json!(accuracy)));
        }
        let own: Vec<(String, f64)> = own_metrics(&sums);
        entries.extend(own.iter().map(|(name, value)| (name.as_str(), json!(value))));
        let entry = row(&entries);
        self.log(entry.clone())?;
        if !loss.is_finite() {
            self.progress.note("the evaluation's loss is not finite; it does not count as best");
            return Ok(false);
        }
        self.judge(&entry)
    }

    fn judge(&mut self, entry: &Map<String, Value>) -> Result<bool> {
        let wants_best =
            self.args.load_best_model_at_end || self.args.early_stopping_patience.is_some();
        if !wants_best {
            return Ok(false);
        }
        let name = &self.args.metric_for_best_model;
        let key = if name.starts_with("eval_") { name.clone() } else { format!("eval_{name}") };
        let Some(value) = entry.get(&key).and_then(Value::as_f64) else {
            let known = entry.keys().filter(|k| k.starts_with("eval_")).cloned().collect();
            return Err(RunError::NoSuchMetric { name: name.clone(), known }.into());
        };
        let state = &mut self.resume.state;
        let gain = match state.best_metric {
            None => f64::INFINITY,
            Some(best) if self.args.greater_is_better => value - best,
            Some(best) => best - value,
        };
        if gain > self.args.early_stopping_threshold {
            state.early_stopping_patience_counter = 0;
        } else {
            state.early_stopping_patience_counter += 1;
        }
        if gain > 0.0 {
            state.best_metric = Some(value);
            state.best_global_step = Some(state.global_step);
            let path = self.args.output_dir.join(checkpoint::name(state.global_step));
            state.best_model_checkpoint = Some(path.display().to_string());
            self.best = Some(path);
        }
        if let Some(patience) = self.args.early_stopping_patience
            && self.resume.state.early_stopping_patience_counter >= patience
        {
            self.stop = true;
            let text = format!("stopping early: {key} did not improve in {patience} evaluations");
            self.progress.note(&text);
        }
        Ok(gain > 0.0 && self.args.load_best_model_at_end)
    }

    fn save(&mut self) -> Result<PathBuf> {
        let dir = &self.args.output_dir;
        let resume = self.resume.clone();
        let path = checkpoint::save(dir, &self.task, &self.optimizer, self.args, resume)?;
        if self.world.is_main() {
            checkpoint::rotate(dir, self.args.save_total_limit, self.best.as_deref())?;
        }
        Ok(path)
    }

    fn finish(&mut self) -> Result<()> {
        if self.args.load_best_model_at_end
            && let Some(best) = self.best.clone()
            && self.world.any(self.world.is_main() && best.is_dir(), "the best checkpoint")?
        {
            checkpoint::load_model(self.task.learner_mut(), &best)?;
            self.progress.note(&format!("loaded the best checkpoint, {}", best.display()));
        }
        let seconds = self.started.elapsed().as_secs_f64().max(1e-9);
        let resume = &self.resume;
        let train_loss = resume.loss_sum / resume.global_step.max(1) as f64;
        let samples = self.examples_this_process as f64 / seconds;
        let entry = row(&[
            ("epoch", json!(resume.state.epoch)),
            ("step", json!(resume.global_step)),
            ("total_flos", json!(resume.state.total_flos)),
            ("train_loss", json!(train_loss)),
            ("train_runtime", json!(seconds)),
            ("train_samples_per_second", json!(samples)),
            ("train_steps_per_second", json!(self.steps_this_process as f64 / seconds)),
        ]);
        let mut metrics: Metrics = entry
            .iter()
            .filter(|(k, _)| *k != "step")
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        let speed = self.tokens_this_process as f64 / seconds;
        metrics.insert("num_input_tokens_seen".into(), json!(resume.state.num_input_tokens_seen));
        metrics.insert("train_tokens_per_second".into(), json!(speed));
        let dir = self.args.output_dir.clone();
        if self.world.is_main() {
            results::write(&dir, "train", &metrics)?;
        }
        self.log(entry)?;
        if self.args.eval_strategy != SaveStrategy::No {
            self.final_evaluation(&dir)?;
        }
        match self.world.is_main() {
            true => self.resume.state.write(&dir, self.args, self.stop),
            false => Ok(()),
        }
    }

    fn final_evaluation(&mut self, dir: &Path) -> Result<()> {
        let begun = Instant::now();
        let Some(eval) = self.task.evaluate(&|| false)? else { return Ok(()) };
        if !self.world.is_main() {
            return Ok(());
        }
        let seconds = begun.elapsed().as_secs_f64().max(1e-9);
        let sums = eval.sums;
        let loss = if sums.weight_sum > 0.0 { sums.loss_sum / sums.weight_sum } else { 0.0 };
        let mut metrics = Metrics::from([
            ("epoch".to_string(), json!(self.resume.state.epoch)),
            ("eval_runtime".into(), json!(seconds)),
            ("eval_samples".into(), json!(eval.num_examples)),
            ("eval_samples_per_second".into(), json!(eval.num_examples as f64 / seconds)),
            ("eval_steps_per_second".into(), json!(eval.num_batches as f64 / seconds)),
        ]);
        if sums.weight_sum > 0.0 {
            metrics.insert("eval_loss".into(), json!(loss));
        }
        // Only a loss per token has a perplexity.
        if sums.metrics.is_empty() {
            metrics.insert("perplexity".into(), json!(loss.exp()));
        }
        metrics.extend(own_metrics(&sums).into_iter().map(|(name, value)| (name, json!(value))));
        if sums.num_targets > 0 {
            let accuracy = sums.num_correct as f64 / sums.num_targets as f64;
            metrics.insert("eval_mean_token_accuracy".into(), json!(accuracy));
        }
        results::write(dir, "eval", &metrics)
    }
}

/// The stage's own metrics of an evaluation, by the names under which they are logged.
fn own_metrics(sums: &StepSums) -> Vec<(String, f64)> {
    let mean = |(name, (sum, count)): (&String, &(f64, f64))| {
        (format!("eval_{name}"), sum / count.max(1.0))
    };
    sums.metrics.iter().map(mean).collect()
}

/// The arguments that decide the numbers of a run, whatever the number of ranks.
fn decisive(args: &TrainingArguments, max_steps: u64, ranks: usize) -> BTreeMap<String, Value> {
    let deepspeed = args.deepspeed.as_ref();
    let entries = [
        ("rows_per_update", json!(rows_per_update(args, ranks))),
        ("deepspeed_schedule", json!(deepspeed.and_then(|d| d.schedule))),
        ("loss_scaling", json!(deepspeed.and_then(|d| d.loss_scaling))),
        ("reproducible", json!(args.reproducible)),
        ("max_steps", json!(max_steps)),
        ("learning_rate", json!(args.learning_rate)),
        ("lr_scheduler_type", json!(args.lr_scheduler_type)),
        ("warmup_steps", json!(args.warmup_steps)),
        ("warmup_ratio", json!(args.warmup_ratio)),
        ("weight_decay", json!(args.weight_decay)),
        ("adam_beta1", json!(args.adam_beta1)),
        ("adam_beta2", json!(args.adam_beta2)),
        ("adam_epsilon", json!(args.adam_epsilon)),
        ("max_grad_norm", json!(args.max_grad_norm)),
        ("seed", json!(args.seed)),
        ("shuffle", json!(args.shuffle)),
    ];
    entries.into_iter().map(|(k, v)| (k.to_string(), v)).collect()
}

/// Rows of an update, by all ranks together.
fn rows_per_update(args: &TrainingArguments, ranks: usize) -> usize {
    args.per_device_train_batch_size * args.gradient_accumulation_steps * ranks
}
