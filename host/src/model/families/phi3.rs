//! Phi-3: LLaMA with queries, keys and values by one layer, and gate and up by another.

use super::Family;
use crate::model::fields::Fields;
use crate::model::spec::{DecoderSpec, GateLayout, QkvLayout};

/// The family.
pub const FAMILY: Family = Family { model_type: "phi3", architecture: "Phi3ForCausalLM", spec };

fn spec(fields: &mut Fields<'_>) -> DecoderSpec {
    DecoderSpec {
        qkv: QkvLayout::Concatenated,
        gate: GateLayout::Fused,
        sliding_window: fields.optional_size(&["sliding_window"]),
        ..fields.common("phi3")
    }
}
