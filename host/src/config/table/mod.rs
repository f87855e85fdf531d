//! The settings of a command: name, type, default, help. Flags, file keys, `--help` and
//! validation are all made from these rows.

mod adapters;
mod stages;

pub use stages::of;

/// What a setting takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Any text.
    Text,
    /// A path.
    Path,
    /// One or more texts; the flag may be repeated.
    List,
    /// True or False; the bare flag means True.
    Bool,
    /// A whole number from `.0` on.
    Int(i64),
    /// A number within `.0..=.1`.
    Float(f64, f64),
    /// One of these.
    Choice(&'static [&'static str]),
}

/// One row.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Name of the flag and of the file key.
    pub name: &'static str,
    /// Other spellings.
    pub aliases: &'static [&'static str],
    /// Type.
    pub kind: Kind,
    /// Default, as it would be typed; empty: none.
    pub default: &'static str,
    /// Heading in the help.
    pub group: &'static str,
    /// What it does.
    pub help: &'static str,
}

pub(crate) const fn row(
    group: &'static str,
    name: &'static str,
    kind: Kind,
    default: &'static str,
    aliases: &'static [&'static str],
    help: &'static str,
) -> Setting {
    Setting { name, aliases, kind, default, group, help }
}

pub(super) const MODEL: &str = "Model";
pub(super) const DATA: &str = "Data";
const LORA: &str = "LoRA";
const PROCESSES: &str = "Several processes";
const TRAINING: &str = "Training";
pub(super) const LOGS: &str = "Logging, evaluation, checkpoints";

const STRATEGY: Kind = Kind::Choice(&["no", "steps", "epoch"]);
const SCHEDULES: Kind = Kind::Choice(&["linear", "cosine", "constant", "constant_with_warmup"]);
pub(super) const ANY: f64 = f64::MAX;
pub(super) const POSITIVE: f64 = f64::MIN_POSITIVE;
pub(super) const BELOW_ONE: f64 = 0.999_999;

/// Settings of `trainer sft` (and `preview`). Defaults are MedicalGPT's for SFT where it has its
/// own, else the Hugging Face trainer's.
pub const SFT: &[Setting] = &[
    row(
        MODEL,
        "model_name_or_path",
        Kind::Path,
        "",
        &["model", "model_name"],
        "base model: a Hugging Face folder",
    ),
    row(
        MODEL,
        "tokenizer_name_or_path",
        Kind::Path,
        "",
        &["tokenizer_name"],
        "folder of another tokenizer",
    ),
    row(
        MODEL,
        "torch_dtype",
        Kind::Choice(&["float32", "bfloat16"]),
        "float32",
        &["dtype"],
        "type of the frozen weights; bfloat16 halves their memory (trained ones stay in float32)",
    ),
    row(
        MODEL,
        "device",
        Kind::Text,
        "auto",
        &[],
        "auto (a GPU where there is one), cpu, cuda or cuda:N",
    ),
    row(
        MODEL,
        "load_in_8bit",
        Kind::Bool,
        "false",
        &[],
        "keep frozen linear layers in 8 bits, one scale a row",
    ),
    row(
        MODEL,
        "load_in_4bit",
        Kind::Bool,
        "false",
        &["qlora"],
        "keep frozen linear layers in 4-bit NormalFloat, their scales in 8 bits",
    ),
    row(MODEL, "num_threads", Kind::Int(0), "0", &[], "CPU threads; 0: all"),
    row(
        DATA,
        "train_file_dir",
        Kind::List,
        "",
        &["train_file", "dataset"],
        "training data: file, folder or pattern; may be repeated",
    ),
    row(
        DATA,
        "dataset_name",
        Kind::List,
        "",
        &[],
        "training data: name of a data set on the Hugging Face hub; may be repeated",
    ),
    row(
        DATA,
        "dataset_config_name",
        Kind::Text,
        "",
        &["dataset_config", "subset"],
        "configuration of the hub's data set",
    ),
    row(DATA, "dataset_split", Kind::Text, "train", &[], "split of it to train on"),
    row(
        DATA,
        "dataset_revision",
        Kind::Text,
        "",
        &[],
        "its branch, tag or commit; without it the hub's Parquet conversion, else main",
    ),
    row(
        DATA,
        "dataset_weights",
        Kind::List,
        "",
        &["interleave_probs"],
        "how often each source of training data is drawn, such as 0.7,0.3",
    ),
    row(
        DATA,
        "mix_strategy",
        Kind::Choice(crate::config::MixStrategy::NAMES),
        "concat",
        &["stopping_strategy"],
        "what ends a mix of sources: the first that is used up; all (used up ones begin again); all, \
         every row once; concat: no mix (with weights: first_exhausted)",
    ),
    row(
        DATA,
        "preprocessing_cache",
        Kind::Choice(&["auto", "on", "off"]),
        "auto",
        &[],
        "keep tokenized rows for later runs with the same data and settings; auto: from 64 MB of \
         data on",
    ),
    row(
        DATA,
        "validation_file_dir",
        Kind::List,
        "",
        &["validation_file", "eval_dataset"],
        "validation data; without it a share of the training rows",
    ),
    row(
        DATA,
        "validation_split_percentage",
        Kind::Float(0.0, 99.0),
        "1",
        &[],
        "share of the training rows kept for evaluation, percent",
    ),
    row(
        DATA,
        "plugin",
        Kind::List,
        "",
        &["plugins"],
        "formatter or template: path or name of a shipped plugin (sharegpt, messages, alpaca, qa, text, chatml, vicuna, classic); may be repeated",
    ),
    row(
        DATA,
        "plugin_options",
        Kind::List,
        "",
        &[],
        "options of a plugin: NAME={\"key\": value}; may be repeated",
    ),
    row(
        DATA,
        "model_max_length",
        Kind::Int(2),
        "512",
        &["cutoff_len", "max_seq_length", "max_seq_len", "max_length"],
        "most tokens of a sequence; the rest is cut off and counted",
    ),
    row(
        DATA,
        "max_train_samples",
        Kind::Int(-1),
        "-1",
        &["max_samples"],
        "use only so many training rows; -1: all",
    ),
    row(
        DATA,
        "max_eval_samples",
        Kind::Int(-1),
        "-1",
        &[],
        "use only so many validation rows; -1: all",
    ),
    row(
        DATA,
        "train_on_inputs",
        Kind::Bool,
        "False",
        &["train_on_prompt"],
        "train the prompt's tokens too",
    ),
    row(
        DATA,
        "packing",
        Kind::Bool,
        "False",
        &["neat_packing"],
        "fill sequences of model_max_length with several rows, which never see each other",
    ),
    row(
        DATA,
        "shuffle",
        Kind::Bool,
        "True",
        &[],
        "shuffle the rows each epoch; False keeps the files' order",
    ),
    row(
        DATA,
        "on_bad_row",
        Kind::Choice(&["fail", "skip"]),
        "fail",
        &[],
        "what a broken row does: end the run, or be left out and counted",
    ),
    row(LORA, "use_peft", Kind::Bool, "True", &[], "train LoRA; False trains every weight"),
    row(LORA, "lora_rank", Kind::Int(1), "8", &["lora_r"], "rank"),
    row(
        LORA,
        "lora_alpha",
        Kind::Float(POSITIVE, ANY),
        "32",
        &[],
        "numerator of the scale alpha / rank",
    ),
    row(
        LORA,
        "lora_dropout",
        Kind::Float(0.0, BELOW_ONE),
        "0.05",
        &[],
        "dropout on the input of the LoRA pair",
    ),
    row(
        LORA,
        "target_modules",
        Kind::Text,
        "all",
        &["lora_target", "lora_target_modules"],
        "layers: all, names separated by commas, or a regular expression",
    ),
    adapters::INIT,
    adapters::USE_RSLORA,
    adapters::USE_DORA,
    adapters::RANK_PATTERN,
    adapters::ALPHA_PATTERN,
    adapters::LAYERS_TO_TRANSFORM,
    adapters::MODULES_TO_SAVE,
    adapters::ADD_TOKENS,
    adapters::ADD_SPECIAL_TOKENS,
    adapters::LORAPLUS,
    adapters::NEFTUNE,
    row(LORA, "peft_path", Kind::Path, "", &["adapter_name_or_path"], "adapter to train further"),
    row(TRAINING, "output_dir", Kind::Path, "", &[], "where results go"),
    row(
        TRAINING,
        "overwrite_output_dir",
        Kind::Bool,
        "False",
        &[],
        "write into a folder that holds an earlier run",
    ),
    row(
        TRAINING,
        "per_device_train_batch_size",
        Kind::Int(1),
        "8",
        &["micro_batch_size"],
        "sequences per micro-batch",
    ),
    row(
        TRAINING,
        "per_device_eval_batch_size",
        Kind::Int(1),
        "8",
        &[],
        "sequences per evaluation batch",
    ),
    row(
        TRAINING,
        "gradient_accumulation_steps",
        Kind::Int(1),
        "1",
        &["grad_accum_steps"],
        "micro-batches per update",
    ),
    row(
        TRAINING,
        "num_train_epochs",
        Kind::Float(POSITIVE, 1e6),
        "3",
        &["epochs"],
        "passes over the data",
    ),
    row(
        TRAINING,
        "max_steps",
        Kind::Int(-1),
        "-1",
        &[],
        "updates; overrides the epochs when positive",
    ),
    row(
        TRAINING,
        "learning_rate",
        Kind::Float(POSITIVE, 10.0),
        "2e-5",
        &["lr"],
        "peak learning rate",
    ),
    row(TRAINING, "lr_scheduler_type", SCHEDULES, "linear", &["lr_scheduler"], "schedule"),
    row(
        TRAINING,
        "warmup_steps",
        Kind::Float(0.0, 1e9),
        "0",
        &[],
        "updates of warm-up; below 1: a share of all",
    ),
    row(
        TRAINING,
        "warmup_ratio",
        Kind::Float(0.0, 1.0),
        "0",
        &[],
        "warm-up as a share of all updates",
    ),
    row(TRAINING, "weight_decay", Kind::Float(0.0, 10.0), "0.05", &[], "AdamW's weight decay"),
    row(TRAINING, "adam_beta1", Kind::Float(0.0, BELOW_ONE), "0.9", &[], "AdamW beta1"),
    row(TRAINING, "adam_beta2", Kind::Float(0.0, 0.999_999_9), "0.999", &[], "AdamW beta2"),
    row(TRAINING, "adam_epsilon", Kind::Float(0.0, 1.0), "1e-8", &[], "AdamW epsilon"),
    row(
        TRAINING,
        "max_grad_norm",
        Kind::Float(0.0, 1e9),
        "1.0",
        &[],
        "clip the gradient's norm to this; 0: don't",
    ),
    row(
        TRAINING,
        "router_aux_loss_coef",
        Kind::Float(0.0, 100.0),
        "0",
        &["moe_aux_loss_coef"],
        "weight of the loss that balances the experts of a mixture; 0: as the model's configuration says",
    ),
    row(
        TRAINING,
        "gradient_checkpointing",
        Kind::Bool,
        "False",
        &[],
        "keep only each block's input and compute the rest again: less memory, more time",
    ),
    row(TRAINING, "seed", Kind::Int(0), "42", &[], "seed of everything random"),
    row(
        TRAINING,
        "reproducible",
        Kind::Choice(&["standard", "strict"]),
        "standard",
        &[],
        "strict: one example at a time, so that any number of processes gives the same bits; slower",
    ),
    row(
        TRAINING,
        "resume_from_checkpoint",
        Kind::Text,
        "",
        &[],
        "checkpoint folder, or True for the newest of output_dir",
    ),
    row(
        PROCESSES,
        "zero_stage",
        Kind::Choice(&["0", "1", "2"]),
        "0",
        &[],
        "what is sharded over the processes: nothing, the optimiser's state, gradients too",
    ),
    row(
        PROCESSES,
        "deepspeed",
        Kind::Path,
        "",
        &[],
        "configuration file of DeepSpeed; every field is honoured or refused",
    ),
    row(
        PROCESSES,
        "ddp_timeout",
        Kind::Int(1),
        "1800",
        &[],
        "longest that an operation over all processes may take, seconds; then the missing one is named",
    ),
    row(LOGS, "logging_steps", Kind::Int(0), "10", &[], "updates between log rows"),
    row(LOGS, "logging_first_step", Kind::Bool, "True", &[], "log the first update too"),
    row(LOGS, "eval_strategy", STRATEGY, "steps", &["evaluation_strategy"], "when to evaluate"),
    row(LOGS, "eval_steps", Kind::Int(1), "50", &[], "updates between evaluations"),
    row(LOGS, "save_strategy", STRATEGY, "steps", &[], "when to save checkpoints"),
    row(LOGS, "save_steps", Kind::Int(1), "500", &[], "updates between checkpoints"),
    row(
        LOGS,
        "save_total_limit",
        Kind::Int(1),
        "13",
        &[],
        "checkpoints kept; the best and the newest always are",
    ),
    row(LOGS, "load_best_model_at_end", Kind::Bool, "False", &[], "end with the best checkpoint"),
    row(
        LOGS,
        "metric_for_best_model",
        Kind::Text,
        "loss",
        &[],
        "evaluation's figure that says which checkpoint is best",
    ),
    row(
        LOGS,
        "greater_is_better",
        Kind::Bool,
        "",
        &[],
        "whether a greater metric is better; by default as the metric is",
    ),
    row(
        LOGS,
        "early_stopping_patience",
        Kind::Int(1),
        "",
        &[],
        "stop after so many evaluations without improvement",
    ),
    row(
        LOGS,
        "early_stopping_threshold",
        Kind::Float(0.0, ANY),
        "0",
        &[],
        "improvement that counts",
    ),
    row(
        LOGS,
        "report_to",
        Kind::Choice(&["tensorboard", "none"]),
        "tensorboard",
        &[],
        "event files",
    ),
];

/// Names that users of other trainers may type and that mean nothing here: accepted, no effect.
pub const ACCEPTED: &[&str] = &[
    "do_train",
    "do_eval",
    "logging_strategy",
    "remove_unused_columns",
    "preprocessing_num_workers",
    "ddp_find_unused_parameters",
    "overwrite_cache",
    "cache_dir",
    "device_map",
    "use_fast_tokenizer",
    "stage",
    "finetuning_type",
    "plot_loss",
];

const USE_CLASSIC: &str =
    "use a template plugin: --plugin classic --plugin_options 'classic={\"name\": \"llama3\"}'";

/// Names that other trainers have and this version does not, with what to do.
pub const UNSUPPORTED: &[(&str, &str)] = &[
    ("fp16", "use --torch_dtype bfloat16"),
    ("bf16", "use --torch_dtype bfloat16"),
    ("fsdp", "use --zero_stage or --deepspeed"),
    ("template_name", USE_CLASSIC),
    ("template", USE_CLASSIC),
    ("rope_scaling", "set it in the model's config.json"),
    ("trust_remote_code", "code that comes with a model is never run"),
    ("optim", "AdamW is always used; leave it out"),
];

/// The row of a name or alias.
pub fn find(table: &'static [Setting], name: &str) -> Option<&'static Setting> {
    table.iter().find(|s| s.name == name || s.aliases.contains(&name))
}

/// The known name nearest to a misspelt one, if any is near.
pub fn nearest(table: &'static [Setting], name: &str) -> Option<&'static str> {
    let names = table.iter().flat_map(|s| std::iter::once(&s.name).chain(s.aliases));
    let scored = names.map(|n| (strsim::damerau_levenshtein(n, name), *n));
    scored.min().filter(|(distance, n)| *distance <= 1 + n.len() / 3).map(|(_, n)| n)
}

/// What to say of a name that is in no table.
pub fn unknown(table: &'static [Setting], name: &str, origin: &str) -> String {
    if let Some((_, remedy)) = UNSUPPORTED.iter().find(|(n, _)| *n == name) {
        return format!("{origin}: `{name}` is not supported by this version; {remedy}");
    }
    let name = crate::error::excerpt(name);
    match nearest(table, &name) {
        Some(near) => format!("{origin}: unknown setting `{name}`; did you mean `{near}`?"),
        None => format!("{origin}: unknown setting `{name}`; `--help` lists all"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Stage;

    #[test]
    fn every_name_is_unique_in_its_table() {
        for table in Stage::ALL.map(of) {
            let mut names: Vec<&str> = table
                .iter()
                .flat_map(|s| std::iter::once(&s.name).chain(s.aliases))
                .copied()
                .collect();
            names.extend(ACCEPTED);
            names.extend(UNSUPPORTED.iter().map(|(n, _)| n));
            let count = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), count);
            assert!(table.iter().all(|s| !s.help.is_empty() && !s.group.is_empty()));
        }
    }

    #[test]
    fn misspelt_names_find_their_neighbour() {
        assert_eq!(nearest(SFT, "learning_rte"), Some("learning_rate"));
        assert_eq!(nearest(SFT, "lora_ranks"), Some("lora_rank"));
        assert_eq!(nearest(SFT, "zzzzzzzzzz"), None);
        assert!(unknown(SFT, "bf16", "flag").contains("bfloat16"));
    }
}
