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
