//! Tokenizer, chat template, masks by character spans, packing. Knows no tensors.

use std::path::PathBuf;

use crate::data::Provenance;

pub mod chat_template;
pub mod conversion;
pub mod encode;
pub mod jinja;
pub mod pack;
pub mod preview;
pub mod tokenizer;
pub mod train;

pub use encode::{Encoded, Encoder};
pub use tokenizer::TextTokenizer;

/// The label of a position on which no loss is taken (PyTorch's `ignore_index`).
pub const IGNORE_INDEX: i32 = -100;

/// A tokenizer or chat template that can't be read or applied.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// A file operation.
    #[error(transparent)]
    Fs(#[from] crate::fs::FsError),
    /// A folder without a tokenizer.
    #[error("{} holds no tokenizer (tokenizer.json, a SentencePiece .model, a .tiktoken file, or vocab.json with merges.txt); give a folder with one (`--tokenizer_name_or_path`)", .0.display())]
    NoTokenizer(PathBuf),
    /// A tokenizer file that can't be used.
    #[error("{} can't be used: {reason}; download it again", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The tokenizer knows more tokens than the model has rows.
    #[error(
        "the tokenizer makes ids up to {largest}, but the model's embedding has {rows} rows; they belong to different models"
    )]
    VocabularyMismatch {
        /// Largest id.
        largest: u32,
        /// Rows of the embedding.
        rows: usize,
    },
    /// A text that the tokenizer can't encode.
    #[error("the tokenizer failed on a text: {0}; remove or clean that row")]
    Encode(String),
    /// No way to render a conversation.
    #[error("{} has no chat template; add a template plugin (`--plugin chatml`, `--plugin vicuna`) or a chat_template.jinja", .0.display())]
    NoChatTemplate(PathBuf),
    /// A chat template that can't be parsed or run.
    #[error("the chat template of {} failed: {reason}; use a template plugin (`--plugin chatml`) instead, or mend the template", path.display())]
    ChatTemplate {
        /// The folder or file it came from.
        path: PathBuf,
        /// Line and reason.
        reason: String,
    },
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

    /// Sum of the weights of the trained positions.
    pub fn loss_weight(&self) -> f64 {
        match &self.loss_weights {
            None => self.num_trained() as f64,
            Some(weights) => self
                .labels
                .iter()
                .zip(weights)
                .skip(1)
                .filter(|(l, _)| **l != IGNORE_INDEX)
                .map(|(_, w)| f64::from(*w))
                .sum(),
        }
    }
}
