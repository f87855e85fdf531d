//! Sources (jsonl, json, csv, parquet, arrow, txt; file, folder, glob, hub) → record batches with
//! provenance; the canonical example schemas; the ledger in which every row is accounted for.
//!
//! Knows nothing of tokenizers, tensors or plugins.

pub mod column;
pub mod error;
pub mod example;
pub mod hub;
pub(crate) mod json_value;
pub mod ledger;
pub mod mix;
pub mod source;
pub mod split;
pub mod tokens;

pub use column::{
    ColumnKind, ColumnNeed, JSON_EXTENSION, JSON_METADATA_KEY, Projection, ROW_COLUMN,
};
pub use error::{DataError, Reject, RejectKind};
pub use example::{Conversation, Example, Message, Provenance, ToolCall};
pub use ledger::{Ledger, Totals};
pub use source::{
    Block, Blocks, Compression, Discovered, Ignored, ReadOptions, SourceBatch, SourceFile,
    SourceReader,
};
pub use split::Split;
