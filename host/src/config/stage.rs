//! The stages, and what only one or some of them know.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use super::values::Values;

/// The loss on a pair of answers, or on a single one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PreferenceLoss {
    /// Rafailov et al. 2023 (arXiv 2305.18290), equation 7; with label smoothing, Mitchell's
    /// conservative variant.
    Sigmoid,
    /// The hinge on the margin, as in SLiC (arXiv 2305.10425).
    Hinge,
    /// Azar et al. 2023 (arXiv 2310.12036), equation 17, on means over the answers' tokens.
    Ipo,
    /// Chowdhury et al. 2024 (arXiv 2403.00409): unbiased when a known share of labels is swapped.
    Robust,
    /// Hong et al. 2024 (arXiv 2403.07691): likelihood and odds ratio, no reference.
    Orpo,
    /// Meng et al. 2024 (arXiv 2405.14734): mean log-probabilities with a margin, no reference.
    Simpo,
    /// Ethayarajh et al. 2024 (arXiv 2402.01306), equation 7: single answers, good or bad.
    Kto,
    /// D'Oosterlinck et al. 2024 (arXiv 2408.06266), on single answers.
    ApoZeroUnpaired,
}

impl PreferenceLoss {
    /// Whether it compares the policy with a reference.
    pub fn has_reference(self) -> bool {
        !matches!(self, PreferenceLoss::Orpo | PreferenceLoss::Simpo)
    }
}

/// What is trained on what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Continued (or first) pre-training: every token of documents.
    Pt,
    /// Supervised fine-tuning: the assistant's turns of conversations.
    Sft,
    /// Reward modelling: a score for each of a better and a worse answer.
    Rm,
    /// Direct preference optimisation: pairs of a better and a worse answer.
    Dpo,
    /// Odds-ratio preference optimisation.
    Orpo,
    /// Simple preference optimisation.
    Simpo,
    /// Kahneman-Tversky optimisation: single answers, good or bad.
    Kto,
    /// Group-relative policy optimisation: sampled answers, judged by rewards.
    Grpo,
    /// REINFORCE with a leave-one-out baseline.
    Rloo,
    /// Proximal policy optimisation: with a value head.
    Ppo,
    /// Distillation: what a teacher would have said at every token of an answer.
    Distill,
}

impl Stage {
    /// All, in the order of their declaration.
    pub const ALL: [Stage; 11] = [
        Stage::Pt,
        Stage::Sft,
        Stage::Rm,
        Stage::Dpo,
        Stage::Orpo,
        Stage::Simpo,
        Stage::Kto,
        Stage::Grpo,
        Stage::Rloo,
        Stage::Ppo,
        Stage::Distill,
    ];

    /// Name of the command.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Pt => "pt",
            Stage::Sft => "sft",
            Stage::Rm => "rm",
            Stage::Dpo => "dpo",
            Stage::Orpo => "orpo",
            Stage::Simpo => "simpo",
            Stage::Kto => "kto",
            Stage::Grpo => "grpo",
            Stage::Rloo => "rloo",
            Stage::Ppo => "ppo",
            Stage::Distill => "distill",
        }
    }

    /// The stage of a command's name.
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.name() == name)
    }

    /// Whether it trains on what the policy itself says, as rewards judge it.
    pub fn samples(self) -> bool {
        matches!(self, Stage::Grpo | Stage::Rloo | Stage::Ppo)
    }
}

/// How documents become the sequences of pre-training. No way loses a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Packing {
    /// Documents end to end, cut into blocks; a block may hold parts of several documents that
    /// see each other, as in GPT-2's training.
    Concat,
    /// Documents (cut into pieces no longer than a block) fill blocks without seeing each other.
    Documents,
    /// Every document by itself, cut into pieces no longer than a block.
    None,
}

/// What only pre-training knows.
#[derive(Clone, Debug, Serialize)]
pub struct Pretraining {
    /// How documents become sequences.
    pub packing: Packing,
    /// `config.json` (or a folder with one) of a model to begin from scratch.
    pub config_name: Option<PathBuf>,
    /// Sizes of a model to begin from scratch, by their names in `config.json`; over those of
    /// `config_name` where both are given.
    pub sizes: BTreeMap<String, serde_json::Value>,
}

impl Pretraining {
    /// Whether the model begins with random weights.
    pub fn from_scratch(&self) -> bool {
        self.config_name.is_some() || !self.sizes.is_empty()
    }
}

/// What only preference optimisation knows.
#[derive(Clone, Debug, Serialize)]
pub struct Preferences {
    /// The loss on a pair.
    pub loss: PreferenceLoss,
    /// How strongly the policy is held to the reference; in losses without one, their scale.
    pub beta: f64,
    /// Share of pairs whose labels are expected to be swapped.
    pub label_smoothing: f64,
    /// Margin of SimPO.
    pub simpo_gamma: f64,
    /// Weight of KTO's good answers.
    pub desirable_weight: f64,
    /// Weight of KTO's bad answers.
    pub undesirable_weight: f64,
    /// Folder of the reference model; `None`: the model as it is before training.
    pub ref_model_name_or_path: Option<PathBuf>,
    /// Score all pairs by the reference before training.
    pub precompute_ref_log_probs: bool,
}

/// What only reward modelling knows.
#[derive(Clone, Debug, Serialize)]
pub struct RewardModelling {
    /// Weight of the squared sum of a pair's rewards (Eisenstein et al. 2023, arXiv 2312.09244).
    pub center_rewards_coefficient: f64,
}

/// Names of the sizes, as flags and in `config.json`.
const SIZES: [&str; 6] = [
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
];

impl Pretraining {
    pub(super) fn resolve(v: &mut Values) -> Self {
        let mut sizes = BTreeMap::new();
        for name in SIZES {
            if let Some(size) = v.optional_int(name) {
                sizes.insert(name.to_string(), size.into());
            }
        }
        if let Some(tied) = v.optional_bool("tie_word_embeddings") {
            sizes.insert("tie_word_embeddings".into(), tied.into());
        }
        let packing = match v.choice("packing").as_str() {
            "documents" => Packing::Documents,
            "none" | "False" => Packing::None,
            _ => Packing::Concat,
        };
        Self { packing, config_name: v.text("config_name").map(PathBuf::from), sizes }
    }
}

impl Preferences {
    pub(super) fn resolve(stage: Stage, v: &mut Values) -> Option<Self> {
        let loss = match stage {
            Stage::Dpo => match v.choice("loss_type").as_str() {
                "hinge" => PreferenceLoss::Hinge,
                "ipo" => PreferenceLoss::Ipo,
                "robust" => PreferenceLoss::Robust,
                _ => PreferenceLoss::Sigmoid,
            },
            Stage::Orpo => PreferenceLoss::Orpo,
            Stage::Simpo => PreferenceLoss::Simpo,
            Stage::Kto => match v.choice("loss_type").as_str() {
                "apo_zero_unpaired" => PreferenceLoss::ApoZeroUnpaired,
                _ => PreferenceLoss::Kto,
            },
            _ => return None,
        };
        let smoothed = matches!(stage, Stage::Dpo | Stage::Simpo);
        let label_smoothing = if smoothed { v.float("label_smoothing") } else { 0.0 };
        if label_smoothing > 0.0 && matches!(loss, PreferenceLoss::Hinge | PreferenceLoss::Ipo) {
            v.faults.push(
                "`--label_smoothing` belongs to the losses sigmoid and robust; leave it out or \
                 choose another `--loss_type`"
                    .into(),
            );
        }
        let kto = stage == Stage::Kto;
        Some(Self {
            loss,
            beta: v.float("beta"),
            label_smoothing,
            simpo_gamma: if stage == Stage::Simpo { v.float("simpo_gamma") } else { 0.0 },
            desirable_weight: if kto { v.float("desirable_weight") } else { 1.0 },
            undesirable_weight: if kto { v.float("undesirable_weight") } else { 1.0 },
            ref_model_name_or_path: v.text("ref_model_name_or_path").map(PathBuf::from),
            precompute_ref_log_probs: stage == Stage::Dpo && v.bool("precompute_ref_log_probs"),
        })
    }
}

impl RewardModelling {
    pub(super) fn resolve(stage: Stage, v: &mut Values) -> Option<Self> {
        (stage == Stage::Rm)
            .then(|| Self { center_rewards_coefficient: v.float("center_rewards_coefficient") })
    }
}
