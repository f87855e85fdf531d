//! Qwen3-MoE: Qwen3 with a mixture of experts in place of some layers' MLP.

use super::Family;
use crate::model::fields::{Fields, LAYERS_MAX};
use crate::model::spec::{DecoderSpec, MixtureNames, MixtureSpec};

/// The family.
pub const FAMILY: Family =
    Family { model_type: "qwen3_moe", architecture: "Qwen3MoeForCausalLM", spec };

static NAMES: MixtureNames = MixtureNames {
    router: "mlp.gate",
    experts: "mlp.experts",
    gate: "gate_proj",
    up: "up_proj",
    down: "down_proj",
};

fn spec(fields: &mut Fields<'_>) -> DecoderSpec {
    let mut spec = DecoderSpec { model_type: "qwen3_moe".into(), ..super::qwen3::spec(fields) };
    let step = fields.optional_size(&["decoder_sparse_step"]).unwrap_or(1);
    let dense = fields.layer_numbers("mlp_only_layers");
    let sparse = |layer: usize| !dense.contains(&layer) && (layer + 1).is_multiple_of(step);
    spec.mixture = Some(MixtureSpec {
        names: &NAMES,
        num_experts: fields.size(&["num_experts", "num_local_experts"]),
        experts_per_token: fields.size(&["num_experts_per_tok"]),
        intermediate_size: fields.size(&["moe_intermediate_size"]),
        normalized: fields.bool_or("norm_topk_prob", false),
        balance: fields.balance(),
        layers: (0..spec.num_layers.min(LAYERS_MAX)).map(sparse).collect(),
    });
    spec
}
