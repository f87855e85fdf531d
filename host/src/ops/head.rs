//! The language-model head: linear + log-softmax + gather in chunks, over trained positions
//! only, so that `[tokens, vocab]` never exists.

use candle_core::{Result, Tensor};

use super::Exec;

/// Results of scoring `n` positions.
#[derive(Debug, Clone, Default)]
pub struct Scores {
    /// Log-probability of each target, `[n]`, nats.
    pub logprobs: Vec<f32>,
    /// Entropy of each predicted distribution, `[n]`, nats.
    pub entropies: Vec<f32>,
    /// Whether the target was the most likely token, `[n]`.
    pub correct: Vec<bool>,
}

/// Gradients of the head.
#[derive(Debug)]
pub struct Grads {
    /// `[n, hidden]`.
    pub hidden: Tensor,
    /// `[vocab, hidden]`, when wanted.
    pub weight: Option<Tensor>,
}

/// Log-probabilities alone. `hidden [n, hidden]` at the trained positions, `weight [vocab, hidden]`
/// (f32 or bf16), `targets [n]`.
pub fn score(exec: Exec, hidden: &Tensor, weight: &Tensor, targets: &[u32]) -> Result<Scores> {
    todo!()
}

/// Forward and backward in one pass, for objectives whose derivative by each log-probability
/// is known beforehand: `dlogprobs[i] = d loss / d logprob_i`.
pub fn score_and_backward(
    exec: Exec,
    hidden: &Tensor,
    weight: &Tensor,
    targets: &[u32],
    dlogprobs: &[f32],
    want_weight: bool,
) -> Result<(Scores, Grads)> {
    todo!()
}
