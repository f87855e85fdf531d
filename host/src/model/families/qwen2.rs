//! Qwen2 and Qwen2.5: biases on queries, keys and values; a sliding window in some layers when
//! `use_sliding_window` says so.

use super::Family;
use crate::model::fields::Fields;
use crate::model::spec::DecoderSpec;

/// The family.
pub const FAMILY: Family = Family { model_type: "qwen2", architecture: "Qwen2ForCausalLM", spec };

fn spec(fields: &mut Fields<'_>) -> DecoderSpec {
    let mut spec = DecoderSpec { qkv_bias: true, ..fields.common("qwen2") };
    fields.qwen_window(&mut spec);
    spec
}
