//! InternLM2: LLaMA under other names, queries, keys and values by one layer, group by group.

use super::Family;
use crate::model::fields::Fields;
use crate::model::names::{LLAMA, Names};
use crate::model::spec::{DecoderSpec, QkvLayout};

/// The family.
pub const FAMILY: Family =
    Family { model_type: "internlm2", architecture: "InternLM2ForCausalLM", spec };

static NAMES: Names = Names {
    embed: "model.tok_embeddings",
    input_norm: "attention_norm",
    mlp_norm: "ffn_norm",
    qkv: "attention.wqkv",
    o: "attention.wo",
    gate: "feed_forward.w1",
    up: "feed_forward.w3",
    down: "feed_forward.w2",
    lm_head: "output",
    ..LLAMA
};

fn spec(fields: &mut Fields<'_>) -> DecoderSpec {
    let bias = fields.bool_or("bias", false);
    DecoderSpec {
        names: &NAMES,
        qkv: QkvLayout::Grouped,
        qkv_bias: bias,
        o_bias: bias,
        ..fields.common("internlm2")
    }
}
