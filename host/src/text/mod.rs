//! Tokenizer, chat template, masks by character spans, packing. Knows no tensors.

use crate::data::Provenance;

/// The label of a position on which no loss is taken (PyTorch's `ignore_index`).
pub const IGNORE_INDEX: i32 = -100;

/// A tokenizer or chat template that can't be read or applied.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// Placeholder until the tokenizer exists.
    #[error("{0}")]
    Other(String),
}

/// A piece of rendered text and whether the loss is taken on it.
#[derive(Clone, Debug, PartialEq)]
pub struct Segment {
    /// The text; segments are concatenated and then tokenized once.
    pub text: String,
    /// `system`, `user`, `assistant`, `tool`, or empty for the frame between turns.
    pub role: String,
    /// Weight in the loss; 0: masked.
    pub weight: f32,
}

/// One training sequence: ids and what to learn from them.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenizedExample {
    /// Token ids.
    pub input_ids: Vec<u32>,
    /// Unshifted targets: the id itself where trained, [`IGNORE_INDEX`] elsewhere.
    pub labels: Vec<i32>,
    /// Per-position loss weights where any differs from 1; same length as `labels`.
    pub loss_weights: Option<Vec<f32>>,
    /// The row it came from.
    pub provenance: Provenance,
}

impl TokenizedExample {
    /// Number of positions whose target is trained: labels after the first position,
    /// since the first token is never predicted.
    pub fn num_trained(&self) -> usize {
        self.labels.iter().skip(1).filter(|&&l| l != IGNORE_INDEX).count()
    }
}
