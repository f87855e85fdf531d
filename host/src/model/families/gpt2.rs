//! GPT-2: learned positions, matrices stored `[in, out]`.

use super::Family;
use crate::model::fields::{Fields, Keys};
use crate::model::names::Names;
use crate::model::spec::{DecoderSpec, GateLayout, NormKind, Position, QkvLayout};

/// The family.
pub const FAMILY: Family = Family { model_type: "gpt2", architecture: "GPT2LMHeadModel", spec };

const KEYS: Keys = Keys {
    hidden: &["n_embd", "hidden_size"],
    intermediate: &["n_inner"],
    layers: &["n_layer", "num_hidden_layers"],
    heads: &["n_head", "num_attention_heads"],
    kv_heads: &[],
    vocab: &["vocab_size"],
    positions: &["n_positions", "max_position_embeddings", "n_ctx"],
    eps: &["layer_norm_epsilon"],
};

static NAMES: Names = Names {
    base: "transformer.",
    embed: "transformer.wte",
    positions: "transformer.wpe",
    embed_norm: "",
    layers: "transformer.h",
    input_norm: "ln_1",
    mlp_norm: "ln_2",
    attention_output_norm: "",
    mlp_output_norm: "",
    q_norm: "",
    k_norm: "",
    q: "",
    k: "",
    v: "",
    qkv: "attn.c_attn",
    o: "attn.c_proj",
    gate: "",
    up: "mlp.c_fc",
    gate_up: "",
    down: "mlp.c_proj",
    final_norm: "transformer.ln_f",
    lm_head: "lm_head",
};

fn spec(fields: &mut Fields<'_>) -> DecoderSpec {
    for (key, default) in [("scale_attn_weights", true), ("scale_attn_by_inverse_layer_idx", false)]
    {
        if fields.bool_or(key, default) != default {
            fields.fault(format!("`{key}` {} is not supported, expected {default}", !default));
        }
    }
    let sized = fields.sized("gpt2", &KEYS);
    DecoderSpec {
        names: &NAMES,
        norm: NormKind::Layer,
        norm_eps: fields.number_or(KEYS.eps, 1e-5),
        position: Position::Learned,
        tie_word_embeddings: fields.bool_or("tie_word_embeddings", true),
        qkv: QkvLayout::Concatenated,
        qkv_bias: true,
        o_bias: true,
        gate: GateLayout::None,
        activation: fields.activation("activation_function", "gelu_new"),
        mlp_bias: true,
        transposed: true,
        ..sized
    }
}
