//! One decoder, described by data, with an explicit backward; families map HF configurations
//! and weight names to that description.

pub mod batch;
pub mod block;
pub mod cache;
pub mod decoder;
pub mod generate;
pub mod lora;
pub mod memory;
pub mod params;
pub mod projection;
pub mod rope_freq;
pub mod spec;
pub mod weights;

pub use batch::TokenBatch;
pub use decoder::{Decoder, Trained};
pub use params::{GradSet, NamedTensor, ParamSet};
pub use spec::DecoderSpec;

/// A model folder, weights or an adapter that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// Placeholder until the loaders exist.
    #[error("{0}")]
    Other(String),
}
