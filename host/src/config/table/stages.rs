//! The settings of each stage: those of SFT, without some, with other defaults, and its own.

use std::sync::OnceLock;

use super::{ANY, DATA, Kind, MODEL, POSITIVE, SFT, Setting, row};
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

/// [`SFT`] without some rows, with other defaults and some rows more.
fn derived(
    without: &[&str],
    defaults: &[(&'static str, &'static str)],
    own: &[&[Setting]],
) -> Vec<Setting> {
    let mut rows: Vec<Setting> =
        SFT.iter().filter(|s| !without.contains(&s.name)).copied().collect();
    for (name, default) in defaults {
        let row = rows.iter_mut().find(|row| row.name == *name);
        debug_assert!(row.is_some(), "no setting `{name}`");
        if let Some(row) = row {
            row.default = default;
        }
    }
    rows.extend(own.iter().copied().flatten());
    rows
}

const SEQUENCES: &[&str] = &["model_max_length", "packing", "train_on_inputs"];

/// Settings of a stage's command.
pub fn of(stage: Stage) -> &'static [Setting] {
    static TABLES: [OnceLock<Vec<Setting>>; Stage::ALL.len()] =
        [const { OnceLock::new() }; Stage::ALL.len()];
    TABLES[stage as usize].get_or_init(|| match stage {
        Stage::Sft => SFT.to_vec(),
        Stage::Pt => derived(SEQUENCES, PT_DEFAULTS, &[PT_OWN]),
        Stage::Rm => derived(SEQUENCES, RM_DEFAULTS, &[RM_OWN]),
        Stage::Dpo => derived(SEQUENCES, PAIR_DEFAULTS, &[DPO_OWN]),
        Stage::Orpo => derived(SEQUENCES, PAIR_DEFAULTS, &[ORPO_OWN]),
        Stage::Simpo => derived(SEQUENCES, PAIR_DEFAULTS, &[SIMPO_OWN]),
        Stage::Kto => derived(SEQUENCES, PAIR_DEFAULTS, &[KTO_OWN]),
    })
}
