//! `trainer`: a native fine-tuning system for language models.
//!
//! ```text
//! file ─data─▶ RecordBatch + provenance ─plugin: formatter─▶ Example
//!      ─text: template, tokenizer─▶ TokenizedExample ─text: pack─▶ TokenBatch
//!      ─model.forward─▶ hidden ─ops::head─▶ per-token logprobs ─objective─▶ loss
//!      ─model.backward─▶ gradients ─optim─▶ checkpoint
//! ```
//!
//! Modules appear in reading order: each may use only those above it.

pub mod adapter;
pub mod cli;
pub mod config;
pub mod data;
pub mod device;
pub mod dist;
pub mod error;
pub mod fs;
pub mod limits;
pub mod model;
pub mod objective;
pub mod ops;
pub mod optim;
pub mod plugin;
pub mod rng;
pub mod run;
pub mod stage;
pub mod text;

pub use error::{Error, Result};

/// A file or folder of the shared test data, or `None` (with a printed reason) where it is absent.
#[cfg(test)]
pub(crate) fn test_data(name: &str) -> Option<std::path::PathBuf> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent()?;
    let base = std::env::var_os("TRAINER_TEST_DATA")
        .map_or_else(|| root.join("../shared/data"), std::path::PathBuf::from);
    let path = base.join(name);
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: {} is absent; set TRAINER_TEST_DATA", path.display());
    None
}
