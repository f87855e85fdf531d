//! Causal language modelling: the weighted mean of the targets' negative log-likelihoods.
//!
//! `loss = Σ wᵢ · -log p(targetᵢ) / denominator`, where the denominator is the sum of the weights
//! of the whole update, so that neither accumulation nor packing changes it.

use super::StepSums;
use crate::ops::head::Scores;

/// `d loss / d log p(target)` of a target of this weight.
pub fn dlogprob(weight: f32, denominator: f64) -> f32 {
    (-f64::from(weight) / denominator) as f32
}

/// The sums that the loop and the logs are made of. `weights [targets]` as the scores;
/// `num_tokens` counts all tokens that went through the model.
pub fn sums(
    scores: &Scores,
    weights: impl IntoIterator<Item = f32>,
    num_tokens: usize,
) -> StepSums {
    let mut sums = StepSums { num_tokens: num_tokens as u64, ..StepSums::default() };
    let scored = scores.logprobs.iter().zip(&scores.correct).zip(&scores.entropies);
    for (((logprob, correct), entropy), weight) in scored.zip(weights) {
        let weight = f64::from(weight);
        sums.loss_sum -= weight * f64::from(*logprob);
        sums.weight_sum += weight;
        sums.num_correct += u64::from(*correct);
        sums.num_targets += 1;
        sums.entropy_sum += f64::from(*entropy);
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_is_the_weighted_sum_and_its_derivative_matches() {
        let scores =
            |logprobs| Scores { logprobs, entropies: vec![0.1, 0.2], correct: vec![true, false] };
        let weights = [1.0, 0.5];
        let base = sums(&scores(vec![-1.0, -2.0]), weights, 7);
        assert_eq!(base.loss_sum, 2.0);
        assert_eq!(base.weight_sum, 1.5);
        assert_eq!((base.num_correct, base.num_targets, base.num_tokens), (1, 2, 7));
        let moved = sums(&scores(vec![-1.0, -1.5]), weights, 7);
        let slope = (moved.loss_sum - base.loss_sum) / 1.5 / 0.5;
        let derivative = f64::from(dlogprob(0.5, 1.5));
        assert!((slope - derivative).abs() < 1e-7, "{slope} {derivative}");
    }
}
