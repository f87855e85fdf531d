//! One decoder, described by data, with an explicit backward; families map HF configurations
//! and weight names to that description.

use std::path::PathBuf;

pub mod adapted;
pub mod batch;
pub mod bitsandbytes;
pub mod block;
pub mod cache;
pub mod decoder;
pub mod distillation;
pub mod export;
pub mod families;
pub mod feed_forward;
pub mod fields;
pub mod full;
pub mod generate;
pub mod gguf;
pub mod hf_config;
pub mod lora;
pub mod memory;
pub mod mixture;
pub mod mlp;
pub mod names;
pub mod norm;
#[cfg(all(test, feature = "cuda"))]
mod on_gpu;
pub mod params;
pub mod places;
pub mod projection;
pub mod qkv;
pub mod quantize;
pub mod reader;
pub mod rope_freq;
pub mod save;
pub mod score_head;
pub mod scoring;
pub mod slots;
pub mod spec;
pub mod storage;
pub mod weights;

pub use batch::TokenBatch;
pub use decoder::{Decoder, Trained};
pub use distillation::Teacher;
pub use hf_config::HfConfig;
pub use params::{GradSet, NamedTensor, ParamSet};
pub use scoring::{CausalScores, Kept, Scored};
pub use spec::DecoderSpec;
pub use storage::{Footprint, Storage};
pub use weights::Weights;

/// A model folder, weights or an adapter that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file operation.
    #[error(transparent)]
    Fs(#[from] crate::fs::FsError),
    /// A folder without the files of a model.
    #[error("{} holds no {missing}; give a Hugging Face model folder (config.json, model.safetensors, tokenizer.json)", path.display())]
    NotAModel {
        /// The folder.
        path: PathBuf,
        /// What is not there.
        missing: &'static str,
    },
    /// `config.json` can't be used; all faults at once.
    #[error("{} can't be used: {}", path.display(), faults.join("; "))]
    Config {
        /// The file.
        path: PathBuf,
        /// Each with its remedy.
        faults: Vec<String>,
    },
    /// A weight file that is damaged or of another format.
    #[error("{} can't be read: {reason}; download or convert it again", path.display())]
    Weights {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Tensors that the model needs and no file has.
    #[error("{} lacks {} of the model's tensors: {}; the folder is incomplete or of another architecture", path.display(), names.len(), names.iter().take(8).map(String::as_str).collect::<Vec<_>>().join(", "))]
    MissingTensors {
        /// The folder.
        path: PathBuf,
        /// Their names.
        names: Vec<String>,
    },
    /// A tensor of another shape than the configuration says.
    #[error("tensor `{name}` in {} has shape {got:?}, but config.json asks for {expected:?}; the weights and the configuration belong to different models", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its shape.
        got: Vec<usize>,
        /// The shape wanted.
        expected: Vec<usize>,
    },
    /// An adapter that can't be used.
    #[error("adapter {}: {reason}", path.display())]
    Adapter {
        /// Its folder.
        path: PathBuf,
        /// What is wrong, with the remedy.
        reason: String,
    },
    /// LoRA targets that name nothing.
    #[error("target_modules `{wanted}` matches no linear layer; this model has {}", available.join(", "))]
    NoTarget {
        /// What was asked for.
        wanted: String,
        /// Suffixes that exist.
        available: Vec<String>,
    },
    /// A layer, pattern or module of an adapter that names nothing.
    #[error("{0}")]
    Target(String),
    /// A GGUF file that can't be imported.
    #[error("{} can't be imported: {reason}", path.display())]
    Gguf {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the remedy.
        reason: String,
    },
    /// A model or an adapter that another format can't hold.
    #[error("{} can't be exported: {reason}", path.display())]
    Export {
        /// Its folder.
        path: PathBuf,
        /// Why, with the remedy where there is one.
        reason: String,
    },
    /// A tensor operation.
    #[error("tensor operation failed: {0}")]
    Tensor(#[from] candle_core::Error),
}
