//! What only reinforcement learning knows: sampling, rewards, and how the policy is changed.

use std::path::PathBuf;

use serde::Serialize;

use super::sampling::Sampling;
use super::stage::Stage;
use super::values::Values;

/// How the losses of tokens become one loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyLoss {
    /// Mean over a completion's tokens, then over completions (arXiv 2402.03300).
    Grpo,
    /// Mean over the tokens of a micro-batch.
    Bnpo,
    /// Sum over tokens divided by the longest completion allowed (arXiv 2503.20783).
    DrGrpo,
    /// Mean over all tokens of an update (arXiv 2503.14476).
    Dapo,
}

/// What the ratio of new to old probability is taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RatioLevel {
    /// Each token.
    Token,
    /// The mean log-ratio of a sequence's tokens (GSPO, arXiv 2507.18071).
    Sequence,
    /// The sum of a sequence's log-ratios (RLOO, arXiv 2402.14740).
    Sum,
}

/// What a group's advantages are divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AdvantageScale {
    /// The group's standard deviation.
    Group,
    /// The batch's (arXiv 2508.08221).
    Batch,
    /// Nothing (Dr. GRPO).
    None,
}

/// What a reward that fails on a completion does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RewardFailure {
    /// Ends the run.
    Fail,
    /// Gives no value: the completion does not count for that reward.
    Null,
    /// Gives 0.
    Zero,
}

/// The weight of the divergence from the reference in PPO's rewards.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KlControl {
    /// Always the same.
    Fixed,
    /// Follows the divergence to `target`, the slower the longer the `horizon` (completions).
    Adaptive {
        /// Divergence wanted, nats a completion.
        target: f64,
        /// Completions over which the coefficient changes.
        horizon: f64,
    },
}

/// What only PPO knows.
#[derive(Clone, Debug, Serialize)]
pub struct Ppo {
    /// Discount.
    pub gamma: f64,
    /// Decay of the generalised advantage.
    pub lambda: f64,
    /// Range around the old value beyond which a value's loss pulls no further.
    pub cliprange_value: f64,
    /// Weight of the value's loss.
    pub vf_coef: f64,
    /// Give the rewards' variance 1.
    pub whiten_rewards: bool,
    /// Taken from the score of a completion that did not end by itself.
    pub missing_eos_penalty: f64,
    /// How the divergence's weight moves.
    pub kl_control: KlControl,
}

/// See the module.
#[derive(Clone, Debug, Serialize)]
pub struct Reinforcement {
    /// Completions of each prompt.
    pub num_generations: usize,
    /// How completions are sampled; the temperature is of the trained distribution too.
    pub sampling: Sampling,
    /// Updates made with each batch of completions.
    pub num_iterations: usize,
    /// Weight of the divergence from the reference.
    pub beta: f64,
    /// Lower bound of the ratio, below 1.
    pub epsilon: f64,
    /// Upper bound of the ratio, above 1.
    pub epsilon_high: f64,
    /// How the losses of tokens become one.
    pub loss: PolicyLoss,
    /// What ratios are taken over.
    pub level: RatioLevel,
    /// What advantages are divided by.
    pub scale: AdvantageScale,
    /// Give leave-one-out advantages mean 0 and variance 1.
    pub normalize_advantages: bool,
    /// Train only completions that ended by themselves.
    pub mask_truncated_completions: bool,
    /// Folders of reward models.
    pub reward_model: Vec<PathBuf>,
    /// Weight of each reward: plugins in their order, then models.
    pub reward_weights: Vec<f64>,
    /// Rewards beyond this range count as its bounds.
    pub reward_clip_range: Option<(f64, f64)>,
    /// What a failing reward does.
    pub reward_failure: RewardFailure,
    /// Folder of the reference model; `None`: the model as it is before training.
    pub ref_model_name_or_path: Option<PathBuf>,
    /// Write completions as Parquet, and show some of them.
    pub log_completions: bool,
    /// Completions shown at a time.
    pub num_completions_to_print: usize,
    /// What only PPO knows.
    pub ppo: Option<Ppo>,
}

impl Reinforcement {
    pub(super) fn resolve(stage: Stage, v: &mut Values) -> Option<Self> {
        if !stage.samples() {
            return None;
        }
        let (grpo, ppo) = (stage == Stage::Grpo, stage == Stage::Ppo);
        let epsilon = v.float("epsilon");
        let epsilon_high = v.text("epsilon_high").map(|_| v.float("epsilon_high"));
        let num_generations = if ppo { 1 } else { v.size("num_generations") };
        let batch = v.size("per_device_train_batch_size") * v.size("gradient_accumulation_steps");
        if !batch.is_multiple_of(num_generations.max(1)) {
            v.faults.push(format!(
                "an update has {batch} completions (per_device_train_batch_size · \
                 gradient_accumulation_steps), which is no multiple of the {num_generations} of a \
                 prompt; change one of them"
            ));
        }
        let (loss, level, scale) = match stage {
            Stage::Grpo => (
                match v.choice("loss_type").as_str() {
                    "bnpo" => PolicyLoss::Bnpo,
                    "dr_grpo" => PolicyLoss::DrGrpo,
                    "dapo" => PolicyLoss::Dapo,
                    _ => PolicyLoss::Grpo,
                },
                match v.choice("importance_sampling_level").as_str() {
                    "sequence" => RatioLevel::Sequence,
                    _ => RatioLevel::Token,
                },
                match v.choice("scale_rewards").as_str() {
                    "batch" => AdvantageScale::Batch,
                    "none" | "False" => AdvantageScale::None,
                    _ => AdvantageScale::Group,
                },
            ),
            // A completion's loss counts once; the weights of a mean over tokens are all 1.
            Stage::Rloo => (PolicyLoss::Grpo, RatioLevel::Sum, AdvantageScale::None),
            _ => (PolicyLoss::Dapo, RatioLevel::Token, AdvantageScale::None),
        };
        let numbers = |v: &mut Values, name: &str| -> Vec<f64> {
            let mut out = Vec::new();
            for part in v.list(name).iter().flat_map(|t| t.split([',', ' '])) {
                match part.parse::<f64>() {
                    _ if part.is_empty() => {}
                    Ok(number) if number.is_finite() => out.push(number),
                    _ => {
                        let part = crate::error::excerpt(part);
                        v.faults.push(format!("`--{name}` holds `{part}`, expected a number"));
                    }
                }
            }
            out
        };
        let reward_weights = numbers(v, "reward_weights");
        let reward_clip_range = match numbers(v, "reward_clip_range").as_slice() {
            [] => None,
            [low, high] if low < high => Some((*low, *high)),
            _ => {
                let fault = "`--reward_clip_range` is not two ascending numbers, such as -1,1";
                v.faults.push(fault.into());
                None
            }
        };
        Some(Self {
            num_generations,
            sampling: Sampling::resolve(v),
            num_iterations: v.size("num_iterations"),
            beta: v.float("beta"),
            epsilon,
            epsilon_high: epsilon_high.unwrap_or(epsilon),
            loss,
            level,
            scale,
            normalize_advantages: stage == Stage::Rloo && v.bool("normalize_advantages"),
            mask_truncated_completions: grpo && v.bool("mask_truncated_completions"),
            reward_model: v.list("reward_model_name_or_path").iter().map(PathBuf::from).collect(),
            reward_weights,
            reward_clip_range,
            reward_failure: match v.choice("reward_failure").as_str() {
                "null" => RewardFailure::Null,
                "zero" => RewardFailure::Zero,
                _ => RewardFailure::Fail,
            },
            ref_model_name_or_path: v.text("ref_model_name_or_path").map(PathBuf::from),
            log_completions: v.bool("log_completions"),
            num_completions_to_print: v.size("num_completions_to_print"),
            ppo: ppo.then(|| Ppo {
                gamma: v.float("gamma"),
                lambda: v.float("lam"),
                cliprange_value: v.float("cliprange_value"),
                vf_coef: v.float("vf_coef"),
                whiten_rewards: v.bool("whiten_rewards"),
                missing_eos_penalty: v.float("missing_eos_penalty"),
                kl_control: match v.bool("adap_kl_ctrl") {
                    false => KlControl::Fixed,
                    true => KlControl::Adaptive {
                        target: v.float("target"),
                        horizon: v.float("horizon"),
                    },
                },
            }),
        })
    }
}
