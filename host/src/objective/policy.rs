//! Policy-gradient objectives on sampled completions: clipped ratios by token or by sequence,
//! divergence from a reference, advantages by group and by generalised estimation.

use crate::config::{AdvantageScale, PolicyLoss, RatioLevel};

/// How a completion's loss is formed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClippedLoss {
    /// What the probabilities' ratio is taken over.
    pub level: RatioLevel,
    /// Ratios below `1 - epsilon` don't pull down further.
    pub epsilon: f64,
    /// Ratios above `1 + epsilon_high` don't pull up further.
    pub epsilon_high: f64,
    /// Weight of the divergence from the reference.
    pub beta: f64,
}

/// One completion: log-probabilities of its tokens, nats.
#[derive(Clone, Copy, Debug)]
pub struct Sequence<'a> {
    /// By the policy now.
    pub logps: &'a [f32],
    /// By the policy that sampled it.
    pub old_logps: &'a [f32],
    /// By the reference; empty when `beta` is 0.
    pub ref_logps: &'a [f32],
    /// One for each token, or a single one for all.
    pub advantages: &'a [f32],
}

/// A completion's loss by token, and what is worth knowing of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenLosses {
    /// Sum of the tokens' losses.
    pub loss_sum: f64,
    /// Derivative of that sum by each token's log-probability.
    pub derivatives: Vec<f64>,
    /// Sum of the tokens' divergences from the reference (Schulman's k3).
    pub kl_sum: f64,
    /// Terms (tokens, or one for the sequence) cut off below.
    pub low_clipped: u64,
    /// Terms cut off above.
    pub high_clipped: u64,
    /// Terms.
    pub terms: u64,
    /// Sum of the terms' ratios.
    pub ratio_sum: f64,
    /// Sum of their squares.
    pub ratio_square_sum: f64,
    /// Sum of half the squared log-ratios: an estimate of the divergence from the sampling policy.
    pub approx_kl_sum: f64,
}

/// `-min(ratio · advantage, clip(ratio) · advantage)` and its derivative by the ratio's logarithm
/// (Schulman et al. 2017, arXiv 1707.06347, equation 7).
pub fn clipped(ratio: f64, advantage: f64, low: f64, high: f64) -> (f64, f64) {
    let free = ratio * advantage;
    let bound = ratio.clamp(1.0 - low, 1.0 + high) * advantage;
    if free <= bound { (-free, -free) } else { (-bound, 0.0) }
}

impl ClippedLoss {
    /// The loss of a completion (Shao et al. 2024, arXiv 2402.03300, equation 3 without its means;
    /// with ratios of whole sequences: Zheng et al. 2025, arXiv 2507.18071; of their sums, as
    /// in Ahmadian et al. 2024, arXiv 2402.14740, it counts once and not for each token).
    pub fn of(&self, s: &Sequence<'_>) -> TokenLosses {
        let n = s.logps.len();
        let mut out = TokenLosses { derivatives: vec![0.0; n], ..TokenLosses::default() };
        if n == 0 {
            return out;
        }
        let log_ratios: Vec<f64> =
            s.logps.iter().zip(s.old_logps).map(|(a, b)| f64::from(*a) - f64::from(*b)).collect();
        let sum: f64 = log_ratios.iter().sum();
        let advantage = |t: usize| f64::from(s.advantages[t.min(s.advantages.len() - 1)]);
        let mut term = |log_ratio: f64, advantage: f64| {
            let ratio = log_ratio.exp();
            let (loss, d) = clipped(ratio, advantage, self.epsilon, self.epsilon_high);
            out.low_clipped += u64::from(ratio < 1.0 - self.epsilon && advantage < 0.0);
            out.high_clipped += u64::from(ratio > 1.0 + self.epsilon_high && advantage > 0.0);
            out.terms += 1;
            out.ratio_sum += ratio;
            out.ratio_square_sum += ratio * ratio;
            out.approx_kl_sum += 0.5 * log_ratio * log_ratio;
            (loss, d)
        };
        match self.level {
            RatioLevel::Token => {
                for (t, &log_ratio) in log_ratios.iter().enumerate() {
                    let (loss, d) = term(log_ratio, advantage(t));
                    out.loss_sum += loss;
                    out.derivatives[t] = d;
                }
            }
            RatioLevel::Sequence => {
                // Every token bears the sequence's loss; its log-ratio is the tokens' mean.
                let (loss, d) = term(sum / n as f64, advantage(0));
                out.loss_sum = n as f64 * loss;
                out.derivatives.fill(d);
            }
            RatioLevel::Sum => {
                let (loss, d) = term(sum, advantage(0));
                out.loss_sum = loss;
                out.derivatives.fill(d);
            }
        }
        for ((&logp, &reference), d) in s.logps.iter().zip(s.ref_logps).zip(&mut out.derivatives) {
            let gap = f64::from(reference) - f64::from(logp);
            let kl = gap.exp_m1() - gap;
            out.kl_sum += kl;
            out.loss_sum += self.beta * kl;
            *d += self.beta * -gap.exp_m1();
        }
        out
    }
}

/// What a completion of `tokens` trained tokens weighs in an update's denominator, of which
/// `longest` is the most a completion may have. bnpo is a mean over a micro-batch and weighs there.
pub fn denominator_share(loss: PolicyLoss, tokens: usize) -> f64 {
    match loss {
        PolicyLoss::Grpo | PolicyLoss::DrGrpo => 1.0,
        PolicyLoss::Dapo => tokens as f64,
        PolicyLoss::Bnpo => 0.0,
    }
}

/// Factor on the sum of a completion's token losses before the update's denominator divides it.
pub fn token_weight(loss: PolicyLoss, tokens: usize, batch_tokens: usize, longest: usize) -> f64 {
    match loss {
        PolicyLoss::Grpo => 1.0 / tokens.max(1) as f64,
        PolicyLoss::Bnpo => 1.0 / batch_tokens.max(1) as f64,
        PolicyLoss::DrGrpo => 1.0 / longest.max(1) as f64,
        PolicyLoss::Dapo => 1.0,
    }
}

/// Mean and sample standard deviation of the values that are there; 0 for fewer than two.
pub fn mean_std(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let n = values.clone().count() as f64;
    if n == 0.0 {
        return (0.0, 0.0);
    }
    let mean = values.clone().sum::<f64>() / n;
    let square = values.map(|v| (v - mean) * (v - mean)).sum::<f64>();
    (mean, if n > 1.0 { (square / (n - 1.0)).sqrt() } else { 0.0 })
}

const EPS: f64 = 1e-4;

/// Advantages of completions in groups of `size`: reward minus the group's mean, divided as
/// `scale` says. Rows without a reward take no part and get 0.
pub fn group_advantages(rewards: &[Option<f64>], size: usize, scale: AdvantageScale) -> Vec<f64> {
    let of_batch = mean_std(rewards.iter().copied().flatten()).1;
    let mut out = Vec::with_capacity(rewards.len());
    for group in rewards.chunks(size.max(1)) {
        let (mean, std) = mean_std(group.iter().copied().flatten());
        let divisor = match scale {
            AdvantageScale::Group => std + EPS,
            AdvantageScale::Batch => of_batch + EPS,
            AdvantageScale::None => 1.0,
        };
        out.extend(group.iter().map(|r| r.map_or(0.0, |r| (r - mean) / divisor)));
    }
    out
}

/// Leave-one-out advantages: reward minus the mean of the others of its group (Ahmadian et al.
/// 2024, arXiv 2402.14740).
pub fn leave_one_out(rewards: &[Option<f64>], size: usize, normalize: bool) -> Vec<f64> {
    let mut out = Vec::with_capacity(rewards.len());
    for group in rewards.chunks(size.max(1)) {
        let known: Vec<f64> = group.iter().copied().flatten().collect();
        let sum: f64 = known.iter().sum();
        let others = (known.len() as f64 - 1.0).max(1.0);
        let alone = known.len() < 2;
        out.extend(group.iter().map(|r| match r {
            Some(r) if !alone => Some(r - (sum - r) / others),
            Some(_) => Some(0.0),
            None => None,
        }));
    }
    let (mean, std) = mean_std(out.iter().copied().flatten());
    let normal = |a: f64| if normalize { (a - mean) / (std + EPS) } else { a };
    out.into_iter().map(|a| a.map_or(0.0, normal)).collect()
}

/// Generalised advantage estimation (Schulman et al. 2016, arXiv 1506.02438) of one completion,
/// whose value after its end is 0: advantages and returns by token.
pub fn generalised_advantages(
    rewards: &[f64],
    values: &[f32],
    gamma: f64,
    lambda: f64,
) -> (Vec<f64>, Vec<f64>) {
    let mut advantages = vec![0.0; rewards.len()];
    let (mut next_value, mut next_advantage) = (0.0, 0.0);
    for t in (0..rewards.len()).rev() {
        let value = f64::from(values[t]);
        let delta = rewards[t] + gamma * next_value - value;
        next_advantage = delta + gamma * lambda * next_advantage;
        next_value = value;
        advantages[t] = next_advantage;
    }
    let returns = advantages.iter().zip(values).map(|(a, v)| a + f64::from(*v)).collect();
    (advantages, returns)
}

/// Makes all values' variance 1, and their mean 0 when `shift_mean`.
pub fn whiten(values: &mut [Vec<f64>], shift_mean: bool) {
    let (mean, std) = mean_std(values.iter().flatten().copied());
    let scale = 1.0 / (std * std + 1e-8).sqrt();
    for value in values.iter_mut().flatten() {
        *value = (*value - mean) * scale + if shift_mean { 0.0 } else { mean };
    }
}

/// PPO's value loss of one token, half the greater square of the error with and without clipping
/// around the old value, and its derivative by the value.
pub fn value_loss(value: f64, old: f64, target: f64, range: f64) -> (f64, f64) {
    let free = value - target;
    let bound = value.clamp(old - range, old + range) - target;
    if free * free >= bound * bound {
        (0.5 * free * free, free)
    } else {
        let moves = (value - old).abs() < range;
        (0.5 * bound * bound, if moves { bound } else { 0.0 })
    }
}

/// The divergence's coefficient after a batch of `n` completions (Ziegler et al. 2019, arXiv
/// 1909.08593, section 2.2).
pub fn adapted_coefficient(coefficient: f64, kl: f64, target: f64, horizon: f64, n: usize) -> f64 {
    let error = (kl / target - 1.0).clamp(-0.2, 0.2);
    coefficient * (1.0 + error * n as f64 / horizon)
}

#[cfg(test)]
mod tests;
