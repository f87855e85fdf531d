//! The settings of each stage: those of SFT, without some, with other defaults, and its own.

use std::sync::OnceLock;

use super::{ANY, DATA, Kind, LOGS, MODEL, POSITIVE, SFT, Setting, row};
use crate::config::Stage;

const SCRATCH: &str = "Model from scratch";
const PREFERENCE: &str = "Preferences";
const REWARD: &str = "Reward model";

/// What `trainer pt` has beside, or instead of, the settings of [`SFT`].
const PT_OWN: &[Setting] = &[
    row(
        MODEL,
        "config_name",
        Kind::Path,
        "",
        &[],
        "begin from scratch with this config.json (file or folder) and --tokenizer_name_or_path",
    ),
    row(SCRATCH, "hidden_size", Kind::Int(1), "", &["n_embd"], "width; from scratch"),
    row(
        SCRATCH,
        "intermediate_size",
        Kind::Int(1),
        "",
        &[],
        "width of the MLP; 8/3 of hidden_size",
    ),
    row(SCRATCH, "num_hidden_layers", Kind::Int(1), "", &["n_layer"], "blocks"),
    row(SCRATCH, "num_attention_heads", Kind::Int(1), "", &["n_head"], "heads of the queries"),
    row(
        SCRATCH,
        "num_key_value_heads",
        Kind::Int(1),
        "",
        &[],
        "heads of keys and values; as many as the queries have",
    ),
    row(
        SCRATCH,
        "max_position_embeddings",
        Kind::Int(2),
        "",
        &[],
        "positions the model is made for; block_size",
    ),
    row(
        SCRATCH,
        "tie_word_embeddings",
        Kind::Bool,
        "",
        &[],
        "use the embedding as the head too; True for sizes given by flags",
    ),
    row(
        DATA,
        "block_size",
        Kind::Int(2),
        "1024",
        &["model_max_length", "cutoff_len", "max_seq_length", "max_seq_len", "max_length"],
        "tokens of a sequence; longer documents go on in the next one",
    ),
    row(
        DATA,
        "packing",
        Kind::Choice(&["concat", "documents", "none", "True", "False"]),
        "concat",
        &[],
        "documents end to end (concat, True), several in a block that never see each other \
         (documents), or each by itself (none, False)",
    ),
];

/// Rows of [`SFT`] whose default `trainer pt` changes.
const PT_DEFAULTS: &[(&str, &str)] = &[("learning_rate", "2e-4"), ("weight_decay", "0.01")];

/// Rows on the length of pairs, shared by all that train on pairs.
const fn source_length(default: &'static str) -> Setting {
    row(
        DATA,
        "max_source_length",
        Kind::Int(1),
        default,
        &[],
        "with max_target_length, most tokens of prompt and answer; longer rows are left out and counted",
    )
}

const fn target_length(default: &'static str) -> Setting {
    row(DATA, "max_target_length", Kind::Int(1), default, &[], "see max_source_length")
}

const fn beta(default: &'static str, help: &'static str) -> Setting {
    row(PREFERENCE, "beta", Kind::Float(POSITIVE, ANY), default, &["pref_beta", "dpo_beta"], help)
}

const REFERENCE: Setting = row(
    PREFERENCE,
    "ref_model_name_or_path",
    Kind::Path,
    "",
    &["ref_model"],
    "folder of the reference model; by default the model as it is before training",
);

const LABEL_SMOOTHING: Setting = row(
    PREFERENCE,
    "label_smoothing",
    Kind::Float(0.0, 0.499_999),
    "0",
    &["dpo_label_smoothing"],
    "share of pairs expected to be swapped",
);

const HELD: &str = "how strongly the policy is held to the reference";

/// What `trainer dpo` has instead of some settings of [`SFT`].
const DPO_OWN: &[Setting] = &[
    row(
        PREFERENCE,
        "loss_type",
        Kind::Choice(&["sigmoid", "hinge", "ipo", "robust"]),
        "sigmoid",
        &["pref_loss"],
        "loss on a pair",
    ),
    beta("0.1", HELD),
    LABEL_SMOOTHING,
    REFERENCE,
    row(
        PREFERENCE,
        "precompute_ref_log_probs",
        Kind::Bool,
        "False",
        &[],
        "score all pairs by the reference before training",
    ),
    source_length("1024"),
    target_length("512"),
];

const ORPO_OWN: &[Setting] = &[
    beta("0.1", "weight of the odds ratio beside the likelihood of the better answers"),
    source_length("1024"),
    target_length("512"),
];

const SIMPO_OWN: &[Setting] = &[
    beta("2.0", "scale of the answers' mean log-probabilities"),
    row(
        PREFERENCE,
        "simpo_gamma",
        Kind::Float(0.0, ANY),
        "0.5",
        &["gamma"],
        "margin that the better answer should have",
    ),
    LABEL_SMOOTHING,
    source_length("1024"),
    target_length("512"),
];

const KTO_OWN: &[Setting] = &[
    row(
        PREFERENCE,
        "loss_type",
        Kind::Choice(&["kto", "apo_zero_unpaired"]),
        "kto",
        &[],
        "loss on an answer",
    ),
    beta("0.1", HELD),
    row(
        PREFERENCE,
        "desirable_weight",
        Kind::Float(0.0, ANY),
        "1.0",
        &["kto_chosen_weight"],
        "weight of the good answers' losses",
    ),
    row(
        PREFERENCE,
        "undesirable_weight",
        Kind::Float(0.0, ANY),
        "1.0",
        &["kto_rejected_weight"],
        "weight of the bad answers' losses",
    ),
    REFERENCE,
    source_length("1024"),
    target_length("512"),
];

const RM_OWN: &[Setting] = &[
    row(
        REWARD,
        "center_rewards_coefficient",
        Kind::Float(0.0, ANY),
        "0",
        &[],
        "pull the rewards of a pair towards a mean of zero, this strongly",
    ),
    source_length("1024"),
    target_length("256"),
];

/// Rows of [`SFT`] whose default preference stages change. Dropout would make policy and
/// reference differ before the first update.
const PAIR_DEFAULTS: &[(&str, &str)] = &[
    ("learning_rate", "5e-4"),
    ("lr_scheduler_type", "cosine"),
    ("lora_alpha", "16"),
    ("lora_dropout", "0"),
];

const RM_DEFAULTS: &[(&str, &str)] = &[("weight_decay", "0.001"), ("save_total_limit", "3")];

const SAMPLING: &str = "Sampling";
const REWARDS: &str = "Rewards";
const POLICY: &str = "Policy";

/// Settings of all stages that sample.
const SAMPLED: &[Setting] = &[
    row(
        DATA,
        "max_source_length",
        Kind::Int(1),
        "1024",
        &["max_prompt_length"],
        "most tokens of a prompt; longer ones are left out and counted",
    ),
    row(
        SAMPLING,
        "max_completion_length",
        Kind::Int(1),
        "256",
        &["max_target_length", "response_length", "max_new_tokens"],
        "most tokens of a completion",
    ),
    row(SAMPLING, "temperature", Kind::Float(POSITIVE, 100.0), "1.0", &[], "temperature"),
    row(
        SAMPLING,
        "top_p",
        Kind::Float(POSITIVE, 1.0),
        "1.0",
        &[],
        "keep the likeliest tokens up to this probability",
    ),
    row(SAMPLING, "top_k", Kind::Int(0), "0", &[], "keep so many likeliest tokens; 0: all"),
    row(
        SAMPLING,
        "repetition_penalty",
        Kind::Float(POSITIVE, 100.0),
        "1.0",
        &[],
        "above 1: less repetition",
    ),
    row(
        SAMPLING,
        "generation_batch_size",
        Kind::Int(1),
        "64",
        &[],
        "completions generated at a time; fewer need less memory",
    ),
];

/// Settings of all stages that judge what they sampled.
const JUDGED: &[Setting] = &[
    row(
        REWARDS,
        "reward_model_name_or_path",
        Kind::List,
        "",
        &["reward_model_path", "reward_model"],
        "reward model: folder of a model or of an adapter; may be repeated",
    ),
    row(
        REWARDS,
        "reward_weights",
        Kind::List,
        "",
        &[],
        "weights of the rewards, separated by commas: plugins in their order, then models; 1 each",
    ),
    row(
        REWARDS,
        "reward_clip_range",
        Kind::List,
        "",
        &[],
        "bounds of the total reward, such as -1,1",
    ),
    row(
        REWARDS,
        "reward_failure",
        Kind::Choice(&["fail", "null", "zero"]),
        "fail",
        &[],
        "what a reward plugin that fails on a completion does: end the run, give no value, or 0; \
         more than 5 % of a batch end the run in any case",
    ),
    REFERENCE,
    row(
        LOGS,
        "log_completions",
        Kind::Bool,
        "True",
        &[],
        "write completions as Parquet and show some of them, as often as the log",
    ),
    row(LOGS, "num_completions_to_print", Kind::Int(0), "2", &[], "completions shown at a time"),
];

const fn num_generations(default: &'static str) -> Setting {
    row(SAMPLING, "num_generations", Kind::Int(2), default, &[], "completions of each prompt")
}

const fn iterations(default: &'static str, aliases: &'static [&'static str]) -> Setting {
    let help = "updates made with each batch of completions";
    row(POLICY, "num_iterations", Kind::Int(1), default, aliases, help)
}

const fn kl(default: &'static str, aliases: &'static [&'static str]) -> Setting {
    let help = "weight of the divergence from the reference; 0: no reference";
    row(POLICY, "beta", Kind::Float(0.0, ANY), default, aliases, help)
}

const fn epsilon(aliases: &'static [&'static str]) -> Setting {
    let help = "how far below 1 the ratio of new to old probability pulls";
    row(POLICY, "epsilon", Kind::Float(0.0, 1.0), "0.2", aliases, help)
}

const EPSILON_HIGH: Setting = row(
    POLICY,
    "epsilon_high",
    Kind::Float(0.0, ANY),
    "",
    &[],
    "how far above 1 it pulls; epsilon",
);

const GRPO_OWN: &[Setting] = &[
    num_generations("4"),
    iterations("1", &[]),
    kl("0.001", &[]),
    epsilon(&[]),
    EPSILON_HIGH,
    row(
        POLICY,
        "loss_type",
        Kind::Choice(&["grpo", "bnpo", "dr_grpo", "dapo"]),
        "dapo",
        &[],
        "mean over each completion's tokens, the micro-batch's tokens, a constant, or the update's \
         tokens",
    ),
    row(
        POLICY,
        "importance_sampling_level",
        Kind::Choice(&["token", "sequence"]),
        "token",
        &[],
        "ratios of tokens, or of sequences (GSPO)",
    ),
    row(
        POLICY,
        "scale_rewards",
        Kind::Choice(&["group", "batch", "none", "True", "False"]),
        "group",
        &[],
        "divide advantages by the standard deviation of the group or the batch (none: Dr. GRPO)",
    ),
    row(
        POLICY,
        "mask_truncated_completions",
        Kind::Bool,
        "False",
        &[],
        "train only completions that ended by themselves",
    ),
];

const RLOO_OWN: &[Setting] = &[
    num_generations("2"),
    iterations("1", &[]),
    kl("0.05", &[]),
    epsilon(&[]),
    EPSILON_HIGH,
    row(
        POLICY,
        "normalize_advantages",
        Kind::Bool,
        "False",
        &[],
        "give the advantages of a batch mean 0 and variance 1",
    ),
];

const PPO_OWN: &[Setting] = &[
    iterations("4", &["num_ppo_epochs", "ppo_epochs"]),
    kl("0.05", &["kl_coef", "init_kl_coef"]),
    epsilon(&["cliprange"]),
    EPSILON_HIGH,
    row(POLICY, "gamma", Kind::Float(0.0, 1.0), "1.0", &[], "discount"),
    row(POLICY, "lam", Kind::Float(0.0, 1.0), "0.95", &[], "decay of the generalised advantage"),
    row(
        POLICY,
        "cliprange_value",
        Kind::Float(POSITIVE, ANY),
        "0.2",
        &[],
        "range around the old value beyond which its loss pulls no further",
    ),
    row(POLICY, "vf_coef", Kind::Float(0.0, ANY), "0.1", &[], "weight of the value's loss"),
    row(POLICY, "whiten_rewards", Kind::Bool, "False", &[], "give the rewards variance 1"),
    row(
        REWARDS,
        "missing_eos_penalty",
        Kind::Float(0.0, ANY),
        "0",
        &[],
        "taken from the score of a completion that did not end by itself",
    ),
    row(
        POLICY,
        "adap_kl_ctrl",
        Kind::Bool,
        "False",
        &[],
        "let beta follow the divergence to --target",
    ),
    row(POLICY, "target", Kind::Float(POSITIVE, ANY), "6", &[], "divergence wanted, nats"),
    row(
        POLICY,
        "horizon",
        Kind::Float(POSITIVE, ANY),
        "10000",
        &[],
        "completions over which beta follows",
    ),
];

const DISTILLATION: &str = "Distillation";

const DISTILL_OWN: &[Setting] = &[
    row(
        DISTILLATION,
        "teacher_model_name_or_path",
        Kind::Path,
        "",
        &["teacher_model", "teacher_model_path"],
        "folder of the teacher, a model with the same tokenizer",
    ),
    row(
        DISTILLATION,
        "beta",
        Kind::Float(0.0, 1.0),
        "0.5",
        &["opd_beta"],
        "from KL(teacher, student) at 0, which covers all that the teacher says, to KL(student, \
         teacher) at 1, which avoids what it would not say",
    ),
    row(
        DISTILLATION,
        "lmbda",
        Kind::Float(0.0, 1.0),
        "0.5",
        &["opd_lambda"],
        "share of the updates made with the student's own answers; the others use the data's",
    ),
    row(
        DISTILLATION,
        "seq_kd",
        Kind::Bool,
        "False",
        &[],
        "let the teacher answer in the other updates, and not the data",
    ),
    row(
        DISTILLATION,
        "distill_temperature",
        Kind::Float(POSITIVE, 100.0),
        "1.0",
        &[],
        "temperature of both distributions that are compared",
    ),
];

/// Dropout would make the policy another one than the one that sampled.
const GRPO_DEFAULTS: &[(&str, &str)] = &[
    ("learning_rate", "5e-7"),
    ("lr_scheduler_type", "cosine"),
    ("warmup_ratio", "0.03"),
    ("lora_rank", "16"),
    ("lora_dropout", "0"),
    ("weight_decay", "0"),
    ("num_train_epochs", "1"),
];
const RLOO_DEFAULTS: &[(&str, &str)] = &[
    ("learning_rate", "1e-6"),
    ("lora_dropout", "0"),
    ("weight_decay", "0"),
    ("num_train_epochs", "1"),
];
const DISTILL_DEFAULTS: &[(&str, &str)] = &[
    ("learning_rate", "2e-5"),
    ("lora_alpha", "16"),
    ("lora_dropout", "0"),
    ("weight_decay", "0"),
    ("num_train_epochs", "1"),
    ("max_completion_length", "128"),
    ("temperature", "0.9"),
];
const PPO_DEFAULTS: &[(&str, &str)] = &[
    ("learning_rate", "1e-5"),
    ("lora_dropout", "0"),
    ("weight_decay", "0"),
    ("num_train_epochs", "1"),
    ("eval_steps", "100"),
];

/// [`SFT`] without some rows, with other defaults and some rows more.
fn derived(
    without: &[&str],
    defaults: &[(&'static str, &'static str)],
    own: &[&[Setting]],
) -> Vec<Setting> {
    let mut rows: Vec<Setting> =
        SFT.iter().filter(|s| !without.contains(&s.name)).copied().collect();
    rows.extend(own.iter().copied().flatten());
    for (name, default) in defaults {
        let row = rows.iter_mut().find(|row| row.name == *name);
        debug_assert!(row.is_some(), "no setting `{name}`");
        if let Some(row) = row {
            row.default = default;
        }
    }
    rows
}

const SEQUENCES: &[&str] = &["model_max_length", "packing", "train_on_inputs"];

/// Rows of [`SFT`] that only losses over all tokens know.
const CAUSAL: &[&str] = &["model_max_length", "packing", "train_on_inputs", "router_aux_loss_coef"];

/// Settings of a stage's command.
pub fn of(stage: Stage) -> &'static [Setting] {
    static TABLES: [OnceLock<Vec<Setting>>; Stage::ALL.len()] =
        [const { OnceLock::new() }; Stage::ALL.len()];
    TABLES[stage as usize].get_or_init(|| match stage {
        Stage::Sft => SFT.to_vec(),
        Stage::Pt => derived(SEQUENCES, PT_DEFAULTS, &[PT_OWN]),
        Stage::Rm => derived(CAUSAL, RM_DEFAULTS, &[RM_OWN]),
        Stage::Dpo => derived(CAUSAL, PAIR_DEFAULTS, &[DPO_OWN]),
        Stage::Orpo => derived(CAUSAL, PAIR_DEFAULTS, &[ORPO_OWN]),
        Stage::Simpo => derived(CAUSAL, PAIR_DEFAULTS, &[SIMPO_OWN]),
        Stage::Kto => derived(CAUSAL, PAIR_DEFAULTS, &[KTO_OWN]),
        Stage::Grpo => derived(CAUSAL, GRPO_DEFAULTS, &[SAMPLED, JUDGED, GRPO_OWN]),
        Stage::Rloo => derived(CAUSAL, RLOO_DEFAULTS, &[SAMPLED, JUDGED, RLOO_OWN]),
        Stage::Distill => derived(CAUSAL, DISTILL_DEFAULTS, &[SAMPLED, DISTILL_OWN]),
        Stage::Ppo => derived(CAUSAL, PPO_DEFAULTS, &[SAMPLED, JUDGED, PPO_OWN]),
    })
}
