//! BLOOM: ALiBi, a norm over the embedding, queries, keys and values by one layer, head by head.

use super::Family;
use crate::model::fields::{Fields, Keys};
use crate::model::names::Names;
use crate::model::spec::{
    Activation, DecoderSpec, GateLayout, NormKind, Position, QkvLayout, Residual,
};

/// The family.
pub const FAMILY: Family = Family { model_type: "bloom", architecture: "BloomForCausalLM", spec };

const KEYS: Keys = Keys {
    hidden: &["hidden_size", "n_embed"],
    intermediate: &[],
    layers: &["n_layer", "num_hidden_layers"],
    heads: &["n_head", "num_attention_heads"],
    kv_heads: &[],
    vocab: &["vocab_size"],
    // What it was trained on; ALiBi sets no limit.
    positions: &["seq_length"],
    eps: &["layer_norm_epsilon"],
};

static NAMES: Names = Names {
    base: "transformer.",
    embed: "transformer.word_embeddings",
    positions: "",
    embed_norm: "transformer.word_embeddings_layernorm",
    layers: "transformer.h",
    input_norm: "input_layernorm",
    mlp_norm: "post_attention_layernorm",
    attention_output_norm: "",
    mlp_output_norm: "",
    q_norm: "",
    k_norm: "",
    q: "",
    k: "",
    v: "",
    qkv: "self_attention.query_key_value",
    o: "self_attention.dense",
    gate: "",
    up: "mlp.dense_h_to_4h",
    gate_up: "",
    down: "mlp.dense_4h_to_h",
    final_norm: "transformer.ln_f",
    lm_head: "lm_head",
};

fn spec(fields: &mut Fields<'_>) -> DecoderSpec {
    let of_norm = fields.bool_or("apply_residual_connection_post_layernorm", false);
    DecoderSpec {
        names: &NAMES,
        norm: NormKind::Layer,
        norm_eps: fields.number_or(KEYS.eps, 1e-5),
        position: Position::Alibi,
        tie_word_embeddings: fields.bool_or("tie_word_embeddings", true),
        qkv: QkvLayout::Grouped,
        qkv_bias: true,
        o_bias: true,
        gate: GateLayout::None,
        activation: Activation::GeluTanh,
        mlp_bias: true,
        residual: if of_norm { Residual::OfNorm { scale: 1.0 } } else { Residual::Sequential },
        embed_norm: true,
        ..fields.sized("bloom", &KEYS)
    }
}
