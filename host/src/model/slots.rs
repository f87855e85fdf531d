//! Every tensor of a decoder by its place, and its name in Hugging Face files.

use super::projection::Projection;
use super::spec::DecoderSpec;

/// A tensor's place in the decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Slot {
    /// Embedding, `[vocab, hidden]`.
    Embed,
    /// Norm before attention, `[hidden]`.
    InputNorm(usize),
    /// A linear layer's matrix, `[out, in]`.
    Weight(usize, Projection),
    /// A linear layer's bias, `[out]`.
    Bias(usize, Projection),
    /// Norm of each query head, `[head_dim]`.
    QNorm(usize),
    /// Norm of each key head, `[head_dim]`.
    KNorm(usize),
    /// Norm before the MLP, `[hidden]`.
    PostNorm(usize),
    /// Norm before the head, `[hidden]`.
    FinalNorm,
    /// Head, `[vocab, hidden]`; absent when tied.
    LmHead,
}

/// Path of a linear layer's module within a layer: what LoRA targets match, and what stands
/// before `.weight`.
pub fn projection_name(projection: Projection) -> &'static str {
    match projection {
        Projection::Q => "self_attn.q_proj",
        Projection::K => "self_attn.k_proj",
        Projection::V => "self_attn.v_proj",
        Projection::O => "self_attn.o_proj",
        Projection::Gate => "mlp.gate_proj",
        Projection::Up => "mlp.up_proj",
        Projection::Down => "mlp.down_proj",
    }
}

/// Full path of a linear layer's module, `model.layers.0.self_attn.q_proj`.
pub fn module_path(layer: usize, projection: Projection) -> String {
    format!("model.layers.{layer}.{}", projection_name(projection))
}

/// `[out, in]` of a linear layer.
pub fn projection_shape(spec: &DecoderSpec, projection: Projection) -> (usize, usize) {
    let (hidden, mlp) = (spec.hidden_size, spec.intermediate_size);
    let (q, kv) = (spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim);
    match projection {
        Projection::Q => (q, hidden),
        Projection::K | Projection::V => (kv, hidden),
        Projection::O => (hidden, q),
        Projection::Gate | Projection::Up => (mlp, hidden),
        Projection::Down => (hidden, mlp),
    }
}

fn has_bias(spec: &DecoderSpec, projection: Projection) -> bool {
    match projection {
        Projection::Q | Projection::K | Projection::V => spec.qkv_bias,
        Projection::O => spec.o_bias,
        Projection::Gate | Projection::Up | Projection::Down => spec.mlp_bias,
    }
}

impl Slot {
    /// All slots of a decoder, in the order of its layers.
    pub fn all(spec: &DecoderSpec) -> Vec<Slot> {
        let mut slots = vec![Slot::Embed];
        for layer in 0..spec.num_layers {
            slots.push(Slot::InputNorm(layer));
            for projection in Projection::ALL {
                slots.push(Slot::Weight(layer, projection));
                if has_bias(spec, projection) {
                    slots.push(Slot::Bias(layer, projection));
                }
            }
            if spec.qk_norm {
                slots.extend([Slot::QNorm(layer), Slot::KNorm(layer)]);
            }
            slots.push(Slot::PostNorm(layer));
        }
        slots.push(Slot::FinalNorm);
        if !spec.tie_word_embeddings {
            slots.push(Slot::LmHead);
        }
        slots
    }

    /// The tensor's name in Hugging Face files.
    pub fn name(self) -> String {
        match self {
            Slot::Embed => "model.embed_tokens.weight".into(),
            Slot::InputNorm(l) => format!("model.layers.{l}.input_layernorm.weight"),
            Slot::PostNorm(l) => format!("model.layers.{l}.post_attention_layernorm.weight"),
            Slot::QNorm(l) => format!("model.layers.{l}.self_attn.q_norm.weight"),
            Slot::KNorm(l) => format!("model.layers.{l}.self_attn.k_norm.weight"),
            Slot::Weight(l, p) => format!("{}.weight", module_path(l, p)),
            Slot::Bias(l, p) => format!("{}.bias", module_path(l, p)),
            Slot::FinalNorm => "model.norm.weight".into(),
            Slot::LmHead => "lm_head.weight".into(),
        }
    }

    /// The shape the configuration asks for.
    pub fn shape(self, spec: &DecoderSpec) -> Vec<usize> {
        match self {
            Slot::Embed | Slot::LmHead => vec![spec.vocab_size, spec.hidden_size],
            Slot::InputNorm(_) | Slot::PostNorm(_) | Slot::FinalNorm => vec![spec.hidden_size],
            Slot::QNorm(_) | Slot::KNorm(_) => vec![spec.head_dim],
            Slot::Weight(_, p) => {
                let (out, input) = projection_shape(spec, p);
                vec![out, input]
            }
            Slot::Bias(_, p) => vec![projection_shape(spec, p).0],
        }
    }

    /// Whether this is a matrix: stored in the run's dtype, and subject to weight decay.
    pub fn is_matrix(self) -> bool {
        matches!(self, Slot::Embed | Slot::LmHead | Slot::Weight(..))
    }
}
