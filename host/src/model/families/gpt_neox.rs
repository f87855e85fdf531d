//! GPT-NeoX and Pythia: attention and MLP side by side, a part of each head rotated.

use super::Family;
use crate::model::fields::{Fields, Keys, LLAMA_KEYS};
use crate::model::names::Names;
use crate::model::spec::{DecoderSpec, GateLayout, NormKind, Position, QkvLayout, Residual};

/// The family.
pub const FAMILY: Family =
    Family { model_type: "gpt_neox", architecture: "GPTNeoXForCausalLM", spec };

const KEYS: Keys = Keys { kv_heads: &[], eps: &["layer_norm_eps"], ..LLAMA_KEYS };

static NAMES: Names = Names {
    base: "gpt_neox.",
    embed: "gpt_neox.embed_in",
    positions: "",
    embed_norm: "",
    layers: "gpt_neox.layers",
    input_norm: "input_layernorm",
    mlp_norm: "post_attention_layernorm",
    attention_output_norm: "",
    mlp_output_norm: "",
    q_norm: "",
    k_norm: "",
    q: "",
    k: "",
    v: "",
    qkv: "attention.query_key_value",
    o: "attention.dense",
    gate: "",
    up: "mlp.dense_h_to_4h",
    gate_up: "",
    down: "mlp.dense_4h_to_h",
    final_norm: "gpt_neox.final_layer_norm",
    lm_head: "embed_out",
};

fn spec(fields: &mut Fields<'_>) -> DecoderSpec {
    let sized = fields.sized("gpt_neox", &KEYS);
    let mut rope = fields.rope(sized.head_dim, sized.max_position_embeddings);
    // Its own older names of the base and of the rotated part.
    let parameters = fields.present("rope_parameters");
    let in_parameters = |key: &str| parameters.is_some_and(|p| p.get(key).is_some());
    if !in_parameters("rope_theta") {
        rope.theta = fields.number_or(&["rotary_emb_base", "rope_theta"], 10_000.0);
    }
    if !in_parameters("partial_rotary_factor") {
        let share = fields.number_or(&["rotary_pct", "partial_rotary_factor"], 0.25);
        rope.rotary_dim = (sized.head_dim as f64 * share) as usize;
    }
    let attention_bias = fields.bool_or("attention_bias", true);
    let parallel = fields.bool_or("use_parallel_residual", true);
    DecoderSpec {
        names: &NAMES,
        norm: NormKind::Layer,
        norm_eps: fields.number_or(KEYS.eps, 1e-5),
        position: Position::Rope(rope),
        qkv: QkvLayout::Grouped,
        qkv_bias: attention_bias,
        o_bias: attention_bias,
        gate: GateLayout::None,
        activation: fields.activation("hidden_act", "gelu"),
        mlp_bias: true,
        residual: if parallel { Residual::Parallel } else { Residual::Sequential },
        ..sized
    }
}
