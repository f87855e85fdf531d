//! Mistral: LLaMA with an optional sliding window in every layer.

use super::Family;
use crate::model::fields::Fields;
use crate::model::spec::DecoderSpec;

/// The family.
pub const FAMILY: Family =
    Family { model_type: "mistral", architecture: "MistralForCausalLM", spec };

fn spec(fields: &mut Fields<'_>) -> DecoderSpec {
    DecoderSpec {
        sliding_window: fields.optional_size(&["sliding_window"]),
        ..fields.common("mistral")
    }
}
