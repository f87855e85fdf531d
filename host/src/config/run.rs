//! The resolved configuration of a training stage.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::adapter::AdapterSettings;
use super::distillation::Distillation;
use super::precision::Precision;
use super::reinforcement::Reinforcement;
use super::sampling::Sampling;
use super::sources::DataSources;
use super::stage::{PreferenceLoss, Preferences, Pretraining, RewardModelling, Stage};
use super::values::Values;
use super::{ConfigError, DeepSpeed, LrScheduler, Reproducible, SaveStrategy, TrainingArguments};

/// What a broken row does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnBadRow {
    /// Ends the run.
    Fail,
    /// Is left out and counted.
    Skip,
}

/// Everything a training stage needs, validated.
#[derive(Clone, Debug, Serialize)]
pub struct RunConfig {
    /// The stage.
    pub stage: Stage,
    /// What only pre-training knows; `None` in other stages.
    pub pretraining: Option<Pretraining>,
    /// What only preference optimisation knows; `None` in other stages.
    pub preferences: Option<Preferences>,
    /// What only reward modelling knows; `None` in other stages.
    pub reward_modelling: Option<RewardModelling>,
    /// What only reinforcement learning knows; `None` in other stages.
    pub reinforcement: Option<Reinforcement>,
    /// What only distillation knows; `None` in other stages.
    pub distillation: Option<Distillation>,
    /// Base model folder; empty when the model begins from scratch.
    pub model_name_or_path: PathBuf,
    /// Folder of another tokenizer.
    pub tokenizer_name_or_path: Option<PathBuf>,
    /// How frozen weights are kept.
    pub precision: Precision,
    /// Weight of the loss that balances experts; `None`: the model's own.
    pub router_aux_loss_coef: Option<f64>,
    /// CPU threads; 0: all.
    pub num_threads: usize,
    /// Training data.
    pub train_file_dir: Vec<String>,
    /// Data beside these files, and how all of them are mixed.
    pub sources: DataSources,
    /// Validation data.
    pub validation_file_dir: Vec<String>,
    /// Share of the training rows kept for evaluation, percent.
    pub validation_split_percentage: f64,
    /// Plugins.
    pub plugin: Vec<String>,
    /// Their options, by name, JSON text.
    pub plugin_options: BTreeMap<String, String>,
    /// Most tokens of a sequence.
    pub model_max_length: usize,
    /// Use only so many training rows.
    pub max_train_samples: Option<usize>,
    /// Use only so many validation rows.
    pub max_eval_samples: Option<usize>,
    /// Train the prompt's tokens too.
    pub train_on_inputs: bool,
    /// Fill sequences with several rows.
    pub packing: bool,
    /// What a broken row does.
    pub on_bad_row: OnBadRow,
    /// LoRA, or every weight.
    pub use_peft: bool,
    /// LoRA rank.
    pub lora_rank: usize,
    /// LoRA alpha.
    pub lora_alpha: f64,
    /// LoRA dropout.
    pub lora_dropout: f64,
    /// LoRA layers.
    pub target_modules: String,
    /// How the adapter differs from plain LoRA, and noise on embeddings.
    pub adapter: AdapterSettings,
    /// Adapter to train further.
    pub peft_path: Option<PathBuf>,
    /// Keep only each block's input.
    pub gradient_checkpointing: bool,
    /// Write into a folder that holds an earlier run.
    pub overwrite_output_dir: bool,
    /// Write event files.
    pub tensorboard: bool,
    /// What the loop needs.
    pub training: TrainingArguments,
}

impl RunConfig {
    /// Resolves `values`. With `train` false (for `preview`) no output folder is needed.
    ///
    /// # Errors
    /// Every fault at once.
    pub fn resolve(stage: Stage, mut values: Values, train: bool) -> Result<Self, ConfigError> {
        let v = &mut values;
        // First: its fields become settings.
        let deepspeed = v.text("deepspeed").map(|path| DeepSpeed::read(Path::new(&path), v));
        let pretraining = (stage == Stage::Pt).then(|| Pretraining::resolve(v));
        let from_scratch = pretraining.as_ref().is_some_and(Pretraining::from_scratch);
        let need = |v: &mut Values, name: &str, what: &str| match v.text(name) {
            Some(text) => text,
            None => {
                v.faults.push(format!("`--{name}` is missing: {what}"));
                String::new()
            }
        };
        let model_name_or_path = PathBuf::from(match from_scratch {
            false => need(v, "model_name_or_path", "give the base model's folder"),
            true => {
                if v.is_given("model_name_or_path") {
                    v.faults.push(
                        "`--model_name_or_path` names a base, but `--config_name` and the sizes \
                         begin a model from scratch; leave one of them out"
                            .into(),
                    );
                }
                need(
                    v,
                    "tokenizer_name_or_path",
                    "a model from scratch needs a tokenizer; make one with `trainer tokenizer train`",
                );
                String::new()
            }
        });
        let output_dir = match train {
            true => PathBuf::from(need(v, "output_dir", "say where results go")),
            false => PathBuf::new(),
        };
        let train_file_dir = v.list("train_file_dir");
        let sources = DataSources::resolve(v, train_file_dir.len());
        if train_file_dir.is_empty() && sources.dataset_name.is_empty() {
            v.faults.push(
                "`--train_file_dir` is missing: give training data (file or folder), or a data set \
                 of the hub by --dataset_name"
                    .into(),
            );
        }
        let training = training(v, output_dir, deepspeed);
        // Weights that nobody trained yet are trained as a whole.
        let use_peft = match v.optional_bool("use_peft") {
            Some(true) if from_scratch => {
                if v.is_given("use_peft") {
                    v.faults.push(
                        "`--use_peft True` adapts a trained base; a model from scratch is trained \
                         as a whole"
                            .into(),
                    );
                }
                false
            }
            given => given.unwrap_or(true),
        };
        // Documents need no other formatter; other files name theirs.
        let mut plugin = v.list("plugin");
        if stage == Stage::Pt && plugin.is_empty() {
            plugin.push("text".into());
        }
        let model_max_length = match stage {
            Stage::Pt | Stage::Sft => v.size("model_max_length"),
            stage if stage.samples() || stage == Stage::Distill => {
                v.size("max_source_length") + v.size("max_completion_length")
            }
            _ => v.size("max_source_length") + v.size("max_target_length"),
        };
        let config = Self {
            stage,
            pretraining,
            preferences: Preferences::resolve(stage, v),
            reward_modelling: RewardModelling::resolve(stage, v),
            reinforcement: Reinforcement::resolve(stage, v),
            distillation: Distillation::resolve(stage, v),
            model_name_or_path,
            tokenizer_name_or_path: v.text("tokenizer_name_or_path").map(PathBuf::from),
            precision: Precision::resolve(v),
            router_aux_loss_coef: match v.is_known("router_aux_loss_coef") {
                true => Some(v.float("router_aux_loss_coef")).filter(|&c| c > 0.0),
                false => None,
            },
            num_threads: v.size("num_threads"),
            train_file_dir,
            sources,
            validation_file_dir: v.list("validation_file_dir"),
            validation_split_percentage: v.float("validation_split_percentage"),
            plugin,
            plugin_options: plugin_options(v),
            model_max_length,
            max_train_samples: v.limit("max_train_samples"),
            max_eval_samples: v.limit("max_eval_samples"),
            train_on_inputs: stage == Stage::Pt || v.bool("train_on_inputs"),
            packing: stage == Stage::Sft && v.bool("packing"),
            on_bad_row: if v.choice("on_bad_row") == "skip" {
                OnBadRow::Skip
            } else {
                OnBadRow::Fail
            },
            use_peft,
            lora_rank: v.size("lora_rank"),
            lora_alpha: v.float("lora_alpha"),
            lora_dropout: v.float("lora_dropout"),
            target_modules: v.text("target_modules").unwrap_or_default(),
            adapter: AdapterSettings::resolve(v, use_peft),
            peft_path: v.text("peft_path").map(PathBuf::from),
            gradient_checkpointing: v.bool("gradient_checkpointing"),
            overwrite_output_dir: v.bool("overwrite_output_dir"),
            tensorboard: v.choice("report_to") == "tensorboard",
            training,
        };
        let mut config = config;
        if config.training.reproducible == Reproducible::Strict {
            config.one_at_a_time();
        }
        config.cross_check(v);
        if values.faults.is_empty() { Ok(config) } else { Err(ConfigError::Faults(values.faults)) }
    }

    /// The inputs of each source of training data.
    pub fn train_sources(&self) -> Vec<Vec<String>> {
        let files = self.train_file_dir.iter().map(|input| vec![input.clone()]);
        files.chain(self.sources.fetched.iter().cloned()).collect()
    }

    /// What `--reproducible strict` needs beside single examples in training: nothing is computed
    /// beside something else.
    fn one_at_a_time(&mut self) {
        let together = |loss| matches!(loss, PreferenceLoss::Kto | PreferenceLoss::Orpo);
        if !self.preferences.as_ref().is_some_and(|p| together(p.loss)) {
            self.training.per_device_eval_batch_size = 1;
        }
        if let Some(reinforcement) = &mut self.reinforcement {
            reinforcement.sampling.generation_batch_size = 1;
        }
        if let Some(distillation) = &mut self.distillation {
            distillation.sampling.generation_batch_size = 1;
        }
    }

    /// How the stage samples, if it does.
    pub fn sampling(&self) -> Option<&Sampling> {
        let of_rewards = self.reinforcement.as_ref().map(|r| &r.sampling);
        of_rewards.or(self.distillation.as_ref().map(|d| &d.sampling))
    }

    /// What no single setting can tell.
    fn cross_check(&self, v: &mut Values) {
        let args = &self.training;
        let mut faults = Vec::new();
        if self.stage.samples() && self.lora_dropout > 0.0 {
            faults.push(
                "`--lora_dropout` would make the policy another one than the one that sampled; leave it out",
            );
        }
        let adds =
            !self.adapter.add_tokens.is_empty() || !self.adapter.add_special_tokens.is_empty();
        if adds && self.model_name_or_path.as_os_str().is_empty() {
            faults
                .push("`--add_tokens` is for a trained base; train the tokenizer with its tokens");
        }
        if adds && self.stage == Stage::Distill {
            faults.push("`--add_tokens` would part the student's tokenizer from the teacher's; leave it out");
        }
        if self.adapter.pissa && self.precision.is_narrow() {
            faults.push("`--init_lora_weights pissa` takes parts out of the base, which `--load_in_8bit` and `--load_in_4bit` keep as it is");
        }
        // The base without the adapter is no longer there.
        let refers =
            matches!(self.stage, Stage::Dpo | Stage::Kto | Stage::Grpo | Stage::Rloo | Stage::Ppo);
        if self.adapter.pissa && refers {
            faults.push("`--init_lora_weights pissa` takes parts out of the base, which this stage compares with");
        }
        if self.stage.samples() && self.adapter.neftune_noise_alpha > 0.0 {
            faults.push(
                "`--neftune_noise_alpha` would make the policy another one than the one that sampled; leave it out",
            );
        }
        if self.peft_path.is_some() && !self.use_peft {
            faults.push("`--peft_path` trains an adapter further; leave `--use_peft False` out");
        }
        if self.precision.is_narrow() && !self.use_peft {
            faults.push(
                "`--load_in_8bit` and `--load_in_4bit` keep the base frozen; leave `--use_peft False` out",
            );
        }
        let base = &self.model_name_or_path;
        if !base.as_os_str().is_empty() && args.output_dir == *base {
            faults.push("`--output_dir` is the base model's folder; choose another");
        }
        if args.reproducible == Reproducible::Strict && args.zero_stage > 1 {
            faults.push(
                "`--reproducible strict` adds whole gradients up, and `--zero_stage 2` keeps parts of them; use `--zero_stage 1`",
            );
        }
        let evaluates = args.eval_strategy != SaveStrategy::No
            && (!self.validation_file_dir.is_empty() || self.validation_split_percentage > 0.0);
        if args.load_best_model_at_end && !evaluates {
            faults.push("`--load_best_model_at_end` needs evaluations: set `--eval_strategy` and validation data");
        }
        if args.early_stopping_patience.is_some() && !evaluates {
            faults.push("`--early_stopping_patience` needs evaluations: set `--eval_strategy` and validation data");
        }
        v.faults.extend(faults.into_iter().map(str::to_string));
    }
}

/// Options of plugins by name, JSON text.
pub fn plugin_options(v: &mut Values) -> BTreeMap<String, String> {
    let mut options = BTreeMap::new();
    for text in v.list("plugin_options") {
        let parsed = text.split_once('=').filter(|(name, json)| {
            !name.is_empty()
                && serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(json).is_ok()
        });
        match parsed {
            Some((name, json)) => {
                let name = name.trim_end_matches(".wasm").to_string();
                if options.insert(name.clone(), json.to_string()).is_some() {
                    v.faults.push(format!("`--plugin_options` names `{name}` twice"));
                }
            }
            None => {
                let text = crate::error::excerpt(&text);
                v.faults.push(format!(
                    "`--plugin_options` is `{text}`, expected NAME={{\"key\": value}}"
                ));
            }
        }
    }
    options
}

fn strategy(text: &str) -> SaveStrategy {
    match text {
        "no" => SaveStrategy::No,
        "epoch" => SaveStrategy::Epoch,
        _ => SaveStrategy::Steps,
    }
}

fn training(
    v: &mut Values,
    output_dir: PathBuf,
    deepspeed: Option<DeepSpeed>,
) -> TrainingArguments {
    let metric = v.text("metric_for_best_model").unwrap_or_default();
    let warmup = v.float("warmup_steps");
    let ratio = v.float("warmup_ratio");
    TrainingArguments {
        output_dir,
        per_device_train_batch_size: v.size("per_device_train_batch_size"),
        per_device_eval_batch_size: v.size("per_device_eval_batch_size"),
        gradient_accumulation_steps: v.size("gradient_accumulation_steps"),
        num_train_epochs: v.float("num_train_epochs"),
        max_steps: v.int("max_steps"),
        learning_rate: v.float("learning_rate"),
        lr_scheduler_type: match v.choice("lr_scheduler_type").as_str() {
            "cosine" => LrScheduler::Cosine,
            "constant" => LrScheduler::Constant,
            "constant_with_warmup" => LrScheduler::ConstantWithWarmup,
            _ => LrScheduler::Linear,
        },
        // A value below 1 is a ratio, as in transformers 5.
        warmup_steps: if warmup >= 1.0 { warmup as u64 } else { 0 },
        warmup_ratio: if warmup > 0.0 && warmup < 1.0 { warmup } else { ratio },
        weight_decay: v.float("weight_decay"),
        adam_beta1: v.float("adam_beta1"),
        adam_beta2: v.float("adam_beta2"),
        adam_epsilon: v.float("adam_epsilon"),
        max_grad_norm: v.float("max_grad_norm"),
        seed: v.int("seed").unsigned_abs(),
        logging_steps: v.int("logging_steps").unsigned_abs(),
        logging_first_step: v.bool("logging_first_step"),
        eval_strategy: strategy(&v.choice("eval_strategy")),
        eval_steps: v.int("eval_steps").unsigned_abs(),
        save_strategy: strategy(&v.choice("save_strategy")),
        save_steps: v.int("save_steps").unsigned_abs(),
        save_total_limit: v.limit("save_total_limit"),
        resume_from_checkpoint: v.text("resume_from_checkpoint"),
        load_best_model_at_end: v.bool("load_best_model_at_end"),
        greater_is_better: v
            .optional_bool("greater_is_better")
            .unwrap_or_else(|| !metric.ends_with("loss")),
        metric_for_best_model: metric,
        early_stopping_patience: v.limit("early_stopping_patience").map(|n| n as u32),
        early_stopping_threshold: v.float("early_stopping_threshold"),
        shuffle: v.bool("shuffle"),
        reproducible: match v.choice("reproducible").as_str() {
            "strict" => Reproducible::Strict,
            _ => Reproducible::Standard,
        },
        zero_stage: v.choice("zero_stage").parse().unwrap_or(0),
        ddp_timeout: v.int("ddp_timeout").unsigned_abs(),
        deepspeed,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::table::SFT;
    use crate::config::values::Given;

    fn resolve(entries: &[(&str, &str)]) -> Result<RunConfig, String> {
        let mut values = Values::new(SFT);
        let base = [("model_name_or_path", "m"), ("output_dir", "o"), ("train_file_dir", "d")];
        let given = |(name, text): &(&str, &str)| {
            (name.to_string(), Given { text: text.to_string(), origin: format!("--{name}") })
        };
        values.take(base.iter().map(given).collect());
        values.take(entries.iter().map(given).collect());
        RunConfig::resolve(Stage::Sft, values, true).map_err(|e| e.to_string())
    }

    #[test]
    fn defaults_are_the_seeds() {
        let config = resolve(&[]).unwrap();
        assert_eq!((config.lora_rank, config.lora_alpha, config.lora_dropout), (8, 32.0, 0.05));
        assert_eq!(config.training.learning_rate, 2e-5);
        assert_eq!(config.training.weight_decay, 0.05);
        assert_eq!(config.training.seed, 42);
        assert_eq!(config.model_max_length, 512);
        assert_eq!(config.validation_split_percentage, 1.0);
        assert_eq!(config.max_train_samples, None);
        assert!(config.use_peft && !config.packing);
    }

    #[test]
    fn every_fault_is_reported_at_once() {
        let error = resolve(&[
            ("learning_rte", "1"),
            ("learning_rate", "fast"),
            ("lora_dropout", "1.5"),
            ("seed", "-3"),
            ("lr_scheduler_type", "zigzag"),
            ("packing", "maybe"),
            ("bf16", "True"),
            ("plugin_options", "sharegpt"),
        ])
        .unwrap_err();
        for part in [
            "did you mean `learning_rate`?",
            "`learning_rate` is `fast`",
            "`lora_dropout` is `1.5`, expected a number from 0 to",
            "`seed` is `-3`, expected a whole number from 0 on",
            "one of linear, cosine",
            "expected True or False",
            "`bf16` is not supported",
            "expected NAME={",
        ] {
            assert!(error.contains(part), "no `{part}` in {error}");
        }
        assert!(resolve(&[("bf16", "False")]).is_ok());
    }

    #[test]
    fn impossible_combinations_are_refused() {
        let best = [("load_best_model_at_end", "True"), ("eval_strategy", "no")];
        assert!(resolve(&best).unwrap_err().contains("needs evaluations"));
        assert!(resolve(&[("output_dir", "m")]).unwrap_err().contains("choose another"));
    }

    #[test]
    fn warmup_below_one_is_a_ratio() {
        let args = resolve(&[("warmup_steps", "0.1")]).unwrap().training;
        assert_eq!((args.warmup_steps, args.warmup_ratio), (0, 0.1));
        let args = resolve(&[("warmup_steps", "7")]).unwrap().training;
        assert_eq!(args.warmup_steps, 7);
    }
}
