//! LLaMA 1, 2, 3 and everything that is saved as `llama` (SmolLM2, Yi, DeepSeek-LLM …).

use super::Family;
use crate::model::fields::Fields;
use crate::model::spec::DecoderSpec;

/// The family.
pub const FAMILY: Family = Family { model_type: "llama", architecture: "LlamaForCausalLM", spec };

fn spec(fields: &mut Fields<'_>) -> DecoderSpec {
    let attention_bias = fields.bool_or("attention_bias", false);
    DecoderSpec {
        qkv_bias: attention_bias,
        o_bias: attention_bias,
        mlp_bias: fields.bool_or("mlp_bias", false),
        ..fields.common("llama")
    }
}
