//! Qwen3: a norm over each head of queries and keys, no biases unless `attention_bias` says so.

use super::Family;
use crate::model::fields::Fields;
use crate::model::spec::DecoderSpec;

/// The family.
pub const FAMILY: Family = Family { model_type: "qwen3", architecture: "Qwen3ForCausalLM", spec };

pub(super) fn spec(fields: &mut Fields<'_>) -> DecoderSpec {
    let attention_bias = fields.bool_or("attention_bias", false);
    let mut spec = DecoderSpec {
        qkv_bias: attention_bias,
        o_bias: attention_bias,
        qk_norm: true,
        ..fields.common("qwen3")
    };
    fields.qwen_window(&mut spec);
    spec
}
