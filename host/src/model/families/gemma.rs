//! Gemma 1, 2 and 3 (text): scaled embedding, norms around `1 + w`; from 2 on norms over the outputs,
//! caps or query and key norms, and windows in most layers.

use serde_json::{Map, Value};

use super::Family;
use crate::model::fields::{Fields, LLAMA_KEYS};
use crate::model::names::{LLAMA, Names};
use crate::model::spec::{Activation, DecoderSpec, NormKind, Position};

/// Gemma.
pub const GEMMA: Family =
    Family { model_type: "gemma", architecture: "GemmaForCausalLM", spec: gemma };

/// Gemma 2.
pub const GEMMA2: Family =
    Family { model_type: "gemma2", architecture: "Gemma2ForCausalLM", spec: gemma2 };

/// Gemma 3, text only.
pub const GEMMA3: Family =
    Family { model_type: "gemma3_text", architecture: "Gemma3ForCausalLM", spec: gemma3 };

static NAMES: Names = Names {
    mlp_norm: "pre_feedforward_layernorm",
    attention_output_norm: "post_attention_layernorm",
    mlp_output_norm: "post_feedforward_layernorm",
    ..LLAMA
};

fn base(fields: &mut Fields<'_>, model_type: &str) -> DecoderSpec {
    let sized = fields.sized(model_type, &LLAMA_KEYS);
    let attention_bias = fields.bool_or("attention_bias", false);
    let activation = match fields.present("hidden_activation") {
        Some(_) => fields.activation("hidden_activation", "gelu_pytorch_tanh"),
        // Gemma 1's files say `gelu`, and every reader takes the approximation.
        None => Activation::GeluTanh,
    };
    let scale = fields.number_or(&["query_pre_attn_scalar"], sized.head_dim as f64);
    DecoderSpec {
        norm: NormKind::RmsOffset,
        attention_scale: 1.0 / scale.sqrt(),
        tie_word_embeddings: fields.bool_or("tie_word_embeddings", true),
        qkv_bias: attention_bias,
        o_bias: attention_bias,
        activation,
        embed_scale: (sized.hidden_size as f64).sqrt(),
        ..sized
    }
}

fn gemma(fields: &mut Fields<'_>) -> DecoderSpec {
    let spec = base(fields, "gemma");
    let rope = fields.rope(spec.head_dim, spec.max_position_embeddings);
    DecoderSpec { position: Position::Rope(rope), ..spec }
}

fn with_output_norms(fields: &mut Fields<'_>, model_type: &str, period: usize) -> DecoderSpec {
    let spec = base(fields, model_type);
    let by_number = || (1..=spec.num_layers).map(|n| n % period != 0).collect();
    DecoderSpec {
        names: &NAMES,
        output_norms: true,
        attention_softcap: fields.optional_number(&["attn_logit_softcapping"]),
        final_softcap: fields.optional_number(&["final_logit_softcapping"]),
        sliding_window: Some(fields.optional_size(&["sliding_window"]).unwrap_or(4096)),
        sliding_layers: fields.layer_types().unwrap_or_else(by_number),
        ..spec
    }
}

fn gemma2(fields: &mut Fields<'_>) -> DecoderSpec {
    let spec = with_output_norms(fields, "gemma2", 2);
    let rope = fields.rope(spec.head_dim, spec.max_position_embeddings);
    DecoderSpec { position: Position::Rope(rope), ..spec }
}

fn gemma3(fields: &mut Fields<'_>) -> DecoderSpec {
    if fields.bool_or("use_bidirectional_attention", false) {
        fields.fault("`use_bidirectional_attention` is of an embedding model, not a causal one");
    }
    let period = fields.optional_size(&["sliding_window_pattern", "_sliding_window_pattern"]);
    let spec = with_output_norms(fields, "gemma3_text", period.unwrap_or(6));
    // New files have the rotations by kind of layer; older ones scale those of the full layers alone.
    let by_kind = |kind: &str| fields.present("rope_parameters")?.get(kind)?.as_object().cloned();
    let (full, sliding) = match (by_kind("full_attention"), by_kind("sliding_attention")) {
        (Some(full), Some(sliding)) => (full, sliding),
        _ => {
            let mut full = match fields.present("rope_scaling") {
                Some(Value::Object(scaling)) => scaling.clone(),
                _ => Map::new(),
            };
            let theta = fields.number_or(&["rope_theta"], 1_000_000.0);
            full.insert("rope_theta".into(), theta.into());
            let local = fields.number_or(&["rope_local_base_freq"], 10_000.0);
            (full, Map::from_iter([("rope_theta".to_string(), local.into())]))
        }
    };
    let mut rope = |from| fields.rope_from(from, spec.head_dim, spec.max_position_embeddings);
    let position = Position::RopeByReach { full: rope(&full), sliding: rope(&sliding) };
    DecoderSpec { position, qk_norm: true, ..spec }
}
