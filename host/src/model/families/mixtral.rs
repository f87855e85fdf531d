//! Mixtral: Mistral with a mixture of experts in place of every MLP.

use super::Family;
use crate::model::fields::{Fields, LAYERS_MAX};
use crate::model::spec::{DecoderSpec, MixtureNames, MixtureSpec};

/// The family.
pub const FAMILY: Family =
    Family { model_type: "mixtral", architecture: "MixtralForCausalLM", spec };

static NAMES: MixtureNames = MixtureNames {
    router: "block_sparse_moe.gate",
    experts: "block_sparse_moe.experts",
    gate: "w1",
    up: "w3",
    down: "w2",
};

fn spec(fields: &mut Fields<'_>) -> DecoderSpec {
    let mut spec = DecoderSpec {
        sliding_window: fields.optional_size(&["sliding_window"]),
        ..fields.common("mixtral")
    };
    spec.mixture = Some(MixtureSpec {
        names: &NAMES,
        num_experts: fields.optional_size(&["num_local_experts", "num_experts"]).unwrap_or(8),
        experts_per_token: fields.optional_size(&["num_experts_per_tok"]).unwrap_or(2),
        intermediate_size: spec.intermediate_size,
        normalized: true,
        balance: fields.balance(),
        layers: vec![true; spec.num_layers.min(LAYERS_MAX)],
    });
    spec
}
