//! Families: each maps a Hugging Face configuration to a [`DecoderSpec`]. All of them name
//! their tensors as LLaMA does (`slots.rs`).

pub mod llama;
pub mod mistral;
pub mod qwen2;
pub mod qwen3;

use super::hf_config::Fields;
use super::spec::DecoderSpec;

/// A family: HF's `model_type`, the class it writes as `architectures`, and the mapping.
pub struct Family {
    /// HF `model_type`.
    pub model_type: &'static str,
    /// HF class of the causal model.
    pub architecture: &'static str,
    /// Configuration to description; faults are collected in the fields.
    pub spec: fn(&mut Fields<'_>) -> DecoderSpec,
}

/// Every family, by name.
pub const FAMILIES: [Family; 4] = [llama::FAMILY, mistral::FAMILY, qwen2::FAMILY, qwen3::FAMILY];

/// The family of a `model_type`.
pub fn find(model_type: &str) -> Option<&'static Family> {
    FAMILIES.iter().find(|f| f.model_type == model_type)
}
