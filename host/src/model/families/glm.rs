//! GLM-4 as transformers saves it (`glm`, `glm4`): half of each head rotated, neighbours together;
//! `glm4` has norms over the outputs too. ChatGLM's own files are in `chatglm`.

use super::Family;
use crate::model::fields::Fields;
use crate::model::names::{LLAMA, Names};
use crate::model::spec::{DecoderSpec, GateLayout, Position, RopeLayout};

/// GLM-4-9B and its like.
pub const GLM: Family = Family { model_type: "glm", architecture: "GlmForCausalLM", spec: glm };

/// GLM-4-0414.
pub const GLM4: Family = Family { model_type: "glm4", architecture: "Glm4ForCausalLM", spec: glm4 };

static NAMES_OUTPUT_NORMS: Names = Names {
    attention_output_norm: "post_self_attn_layernorm",
    mlp_output_norm: "post_mlp_layernorm",
    ..LLAMA
};

fn base(fields: &mut Fields<'_>, model_type: &str) -> DecoderSpec {
    let spec = fields.common(model_type);
    let mut rope = fields.rope(spec.head_dim, spec.max_position_embeddings);
    let given =
        |map: &str| fields.present(map).is_some_and(|m| m.get("partial_rotary_factor").is_some());
    if !given("rope_parameters") && fields.present("partial_rotary_factor").is_none() {
        rope.rotary_dim = spec.head_dim / 2;
    }
    rope.layout = RopeLayout::Interleaved;
    DecoderSpec {
        position: Position::Rope(rope),
        qkv_bias: fields.bool_or("attention_bias", false),
        gate: GateLayout::Fused,
        ..spec
    }
}

fn glm(fields: &mut Fields<'_>) -> DecoderSpec {
    base(fields, "glm")
}

fn glm4(fields: &mut Fields<'_>) -> DecoderSpec {
    DecoderSpec { names: &NAMES_OUTPUT_NORMS, output_norms: true, ..base(fields, "glm4") }
}
