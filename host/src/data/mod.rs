//! Sources (jsonl, json, csv, parquet, arrow, txt; file, folder, glob) → record batches with
//! provenance; the canonical example schemas; the ledger in which every row is accounted for.
//!
//! Knows nothing of tokens, tensors or plugins.

pub mod example;

pub use example::{Conversation, Example, Message, Provenance};

/// A source file or a row of it that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// Placeholder until the sources exist.
    #[error("{0}")]
    Other(String),
}
