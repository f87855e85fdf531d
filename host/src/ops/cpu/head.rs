//! Rows of logits on the CPU: log-sum-exp, entropy, the most likely token, and the gradient.

use super::{math, multiversion};

/// What a row of logits says of its target.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RowScore {
    /// Log-probability of the target, nats.
    pub logprob: f32,
    /// Entropy, nats.
    pub entropy: f32,
    /// Whether no other token is more likely.
    pub correct: bool,
}

multiversion! {
    /// Scores a row; with `coefficient = d loss / d logprob` the row becomes `d loss / d logits`:
    /// `coefficient · (onehot - softmax)`.
    pub fn score_row(row: &mut [f32], target: usize, coefficient: Option<f32>) -> RowScore {
        let n = row.len();
        let max = math::max_of(row);
        let at_target = row[target];
        // Shifted logits times their exponentials and the exponentials: one pass, two sums.
        let mut sums = [0f32; 16];
        let mut products = [0f32; 16];
        let whole = n - n % 16;
        for chunk in row[..whole].chunks_exact_mut(16) {
            for ((v, s), p) in chunk.iter_mut().zip(&mut sums).zip(&mut products) {
                let shifted = *v - max;
                let e = math::exp(shifted);
                *s += e;
                // An impossible token (-inf) adds nothing; infinity times zero would be NaN.
                *p += if e > 0.0 { e * shifted } else { e };
                *v = e;
            }
        }
        let (mut sum, mut product) = (0f32, 0f32);
        for (s, p) in sums.iter().zip(&products) {
            sum += s;
            product += p;
        }
        for v in &mut row[whole..] {
            let shifted = *v - max;
            let e = math::exp(shifted);
            sum += e;
            product += if e > 0.0 { e * shifted } else { e };
            *v = e;
        }
        let log_sum = sum.ln();
        if let Some(coefficient) = coefficient {
            let factor = -coefficient / sum;
            for v in row.iter_mut() {
                *v *= factor;
            }
            row[target] += coefficient;
        }
        RowScore {
            logprob: at_target - max - log_sum,
            entropy: log_sum - product / sum,
            correct: at_target >= max,
        }
    }
}
