//! Baichuan 1 and 2: LLaMA with queries, keys and values by one layer; the 13B models have ALiBi, the
//! second generation a head with rows of length 1.

use super::Family;
use crate::model::fields::{Fields, Keys, LLAMA_KEYS};
use crate::model::names::{LLAMA, Names};
use crate::model::spec::{DecoderSpec, Position, QkvLayout};

/// The family.
pub const FAMILY: Family =
    Family { model_type: "baichuan", architecture: "BaichuanForCausalLM", spec };

const KEYS: Keys =
    Keys { positions: &["max_position_embeddings", "model_max_length"], ..LLAMA_KEYS };

/// Rows of the second generation's vocabulary.
const SECOND_VOCAB: usize = 125_696;

static NAMES: Names = Names { qkv: "self_attn.W_pack", ..LLAMA };

fn spec(fields: &mut Fields<'_>) -> DecoderSpec {
    let sized = fields.sized("baichuan", &KEYS);
    // The configurations do not say so; the 13B models alone lack this key.
    let position = match fields.present("max_position_embeddings") {
        Some(_) => Position::Rope(fields.rope(sized.head_dim, sized.max_position_embeddings)),
        None => Position::Alibi,
    };
    let second = fields.present("z_loss_weight").is_some() || sized.vocab_size == SECOND_VOCAB;
    DecoderSpec {
        names: &NAMES,
        position,
        qkv: QkvLayout::Concatenated,
        activation: fields.activation("hidden_act", "silu"),
        normalized_head: second,
        ..sized
    }
}
