//! Families: each maps a Hugging Face configuration to a [`DecoderSpec`], which names its tensors too.

pub mod baichuan;
pub mod bloom;
pub mod chatglm;
pub mod gemma;
pub mod glm;
pub mod gpt2;
pub mod gpt_neox;
pub mod internlm2;
pub mod llama;
pub mod mistral;
pub mod mixtral;
pub mod phi3;
pub mod qwen2;
pub mod qwen3;
pub mod qwen3_moe;

use super::fields::Fields;
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
pub const FAMILIES: [Family; 18] = [
    baichuan::FAMILY,
    bloom::FAMILY,
    chatglm::FAMILY,
    gemma::GEMMA,
    gemma::GEMMA2,
    gemma::GEMMA3,
    glm::GLM,
    glm::GLM4,
    gpt2::FAMILY,
    gpt_neox::FAMILY,
    internlm2::FAMILY,
    llama::FAMILY,
    mistral::FAMILY,
    mixtral::FAMILY,
    phi3::FAMILY,
    qwen2::FAMILY,
    qwen3::FAMILY,
    qwen3_moe::FAMILY,
];

/// The family of a `model_type`.
pub fn find(model_type: &str) -> Option<&'static Family> {
    FAMILIES.iter().find(|f| f.model_type == model_type)
}

/// All names, for messages.
pub fn names() -> String {
    FAMILIES.map(|f| f.model_type).join(", ")
}

/// Whether a tensor of a file is one that models compute themselves: masks and frequencies that older
/// versions of transformers saved.
pub fn is_buffer(name: &str) -> bool {
    [".inv_freq", ".masked_bias", ".attn.bias", ".attention.bias"].iter().any(|e| name.ends_with(e))
}
