//! ChatGLM-6B (GLM: two positions, a context whose tokens all see each other) and ChatGLM2, ChatGLM3,
//! GLM-4 in their own files; all of them call themselves `chatglm`.

use super::Family;
use crate::model::fields::{Fields, Keys};
use crate::model::names::Names;
use crate::model::spec::{
    Activation, DecoderSpec, GateLayout, NormKind, Position, PrefixSpec, QkvLayout, Residual,
    RopeLayout, RopeScaling, RopeSpec,
};

/// The family.
pub const FAMILY: Family = Family { model_type: "chatglm", architecture: "ChatGLMModel", spec };

const FIRST_KEYS: Keys = Keys {
    hidden: &["hidden_size"],
    intermediate: &["inner_hidden_size"],
    layers: &["num_layers", "num_hidden_layers"],
    heads: &["num_attention_heads"],
    kv_heads: &[],
    vocab: &["vocab_size"],
    positions: &["max_sequence_length"],
    eps: &["layernorm_epsilon"],
};

const SECOND_KEYS: Keys = Keys {
    intermediate: &["ffn_hidden_size"],
    kv_heads: &["multi_query_group_num"],
    vocab: &["padded_vocab_size", "vocab_size"],
    positions: &["seq_length"],
    ..FIRST_KEYS
};

static FIRST_NAMES: Names = Names {
    base: "transformer.",
    embed: "transformer.word_embeddings",
    positions: "",
    embed_norm: "",
    layers: "transformer.layers",
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
    final_norm: "transformer.final_layernorm",
    lm_head: "lm_head",
};

static SECOND_NAMES: Names = Names {
    base: "transformer.",
    embed: "transformer.embedding.word_embeddings",
    positions: "",
    embed_norm: "",
    layers: "transformer.encoder.layers",
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
    up: "",
    gate_up: "mlp.dense_h_to_4h",
    down: "mlp.dense_4h_to_h",
    final_norm: "transformer.encoder.final_layernorm",
    lm_head: "transformer.output_layer",
};

fn spec(fields: &mut Fields<'_>) -> DecoderSpec {
    match fields.present("ffn_hidden_size") {
        Some(_) => second(fields),
        None => first(fields),
    }
}

fn first(fields: &mut Fields<'_>) -> DecoderSpec {
    if !fields.bool_or("position_encoding_2d", true) {
        fields.fault("`position_encoding_2d` false is not supported; it is true in ChatGLM-6B");
    }
    let sized = fields.sized("chatglm", &FIRST_KEYS);
    let mut token = |key: &str| {
        fields.token(key).unwrap_or_else(|| {
            fields.fault(format!("`{key}` is missing; it is in ChatGLM-6B's own config.json"));
            0
        })
    };
    let prefix = PrefixSpec {
        gmask: token("gmask_token_id"),
        mask: token("mask_token_id"),
        start: token("bos_token_id"),
    };
    DecoderSpec {
        names: &FIRST_NAMES,
        norm: NormKind::Layer,
        norm_eps: fields.number_or(FIRST_KEYS.eps, 1e-5),
        position: Position::Rope(RopeSpec {
            theta: 10_000.0,
            scaling: RopeScaling::Default,
            rotary_dim: sized.head_dim,
            layout: RopeLayout::TwoHalves,
        }),
        qkv: QkvLayout::Grouped,
        qkv_bias: true,
        o_bias: true,
        gate: GateLayout::None,
        activation: Activation::GeluTanh,
        mlp_bias: true,
        residual: Residual::OfNorm { scale: (2.0 * sized.num_layers as f64).sqrt() },
        prefix: Some(prefix),
        ..sized
    }
}

fn second(fields: &mut Fields<'_>) -> DecoderSpec {
    for (key, usual) in [
        ("apply_residual_connection_post_layernorm", false),
        ("rmsnorm", true),
        ("multi_query_attention", true),
        ("post_layer_norm", true),
    ] {
        if fields.bool_or(key, usual) != usual {
            fields.fault(format!("`{key}` {} is not supported, expected {usual}", !usual));
        }
    }
    let sized = fields.sized("chatglm", &SECOND_KEYS);
    let head_dim = fields.optional_size(&["kv_channels"]).unwrap_or(sized.head_dim);
    let bias = fields.bool_or("add_bias_linear", false);
    DecoderSpec {
        names: &SECOND_NAMES,
        head_dim,
        attention_scale: 1.0 / (head_dim as f64).sqrt(),
        norm_eps: fields.number_or(SECOND_KEYS.eps, 1e-5),
        position: Position::Rope(RopeSpec {
            theta: 10_000.0 * fields.number_or(&["rope_ratio"], 1.0),
            scaling: RopeScaling::Default,
            rotary_dim: head_dim / 2,
            layout: RopeLayout::Interleaved,
        }),
        qkv: QkvLayout::Concatenated,
        qkv_bias: bias || fields.bool_or("add_qkv_bias", false),
        o_bias: bias,
        gate: GateLayout::Fused,
        mlp_bias: bias,
        ..sized
    }
}
