//! How families name their tensors in Hugging Face files: data, one constant a scheme.

use super::projection::Projection;
use super::slots::NormPlace;

/// Names of one family's modules; an empty one is a part that the family does not have.
#[derive(Debug, PartialEq, Eq)]
pub struct Names {
    /// What stands before everything but the head, with its dot. Some older files leave it out.
    pub base: &'static str,
    /// Embedding.
    pub embed: &'static str,
    /// Learned positions.
    pub positions: &'static str,
    /// Norm over the embedding.
    pub embed_norm: &'static str,
    /// What stands before a block's number.
    pub layers: &'static str,
    /// Norm before attention.
    pub input_norm: &'static str,
    /// Norm before the MLP.
    pub mlp_norm: &'static str,
    /// Norm over the attention's output.
    pub attention_output_norm: &'static str,
    /// Norm over the MLP's output.
    pub mlp_output_norm: &'static str,
    /// Norm of each query head.
    pub q_norm: &'static str,
    /// Norm of each key head.
    pub k_norm: &'static str,
    /// Queries.
    pub q: &'static str,
    /// Keys.
    pub k: &'static str,
    /// Values.
    pub v: &'static str,
    /// Queries, keys and values together.
    pub qkv: &'static str,
    /// Attention output.
    pub o: &'static str,
    /// MLP gate.
    pub gate: &'static str,
    /// MLP up.
    pub up: &'static str,
    /// Gate and up together.
    pub gate_up: &'static str,
    /// MLP down.
    pub down: &'static str,
    /// Norm before the head.
    pub final_norm: &'static str,
    /// Head.
    pub lm_head: &'static str,
}

/// LLaMA and the many that follow it.
pub const LLAMA: Names = Names {
    base: "model.",
    embed: "model.embed_tokens",
    positions: "",
    embed_norm: "",
    layers: "model.layers",
    input_norm: "input_layernorm",
    mlp_norm: "post_attention_layernorm",
    attention_output_norm: "",
    mlp_output_norm: "",
    q_norm: "self_attn.q_norm",
    k_norm: "self_attn.k_norm",
    q: "self_attn.q_proj",
    k: "self_attn.k_proj",
    v: "self_attn.v_proj",
    qkv: "self_attn.qkv_proj",
    o: "self_attn.o_proj",
    gate: "mlp.gate_proj",
    up: "mlp.up_proj",
    gate_up: "mlp.gate_up_proj",
    down: "mlp.down_proj",
    final_norm: "model.norm",
    lm_head: "lm_head",
};

impl Names {
    /// Path of a linear layer's module within a block.
    pub fn linear(&self, projection: Projection) -> &'static str {
        match projection {
            Projection::Q => self.q,
            Projection::K => self.k,
            Projection::V => self.v,
            Projection::Qkv => self.qkv,
            Projection::O => self.o,
            Projection::Gate => self.gate,
            Projection::Up => self.up,
            Projection::GateUp => self.gate_up,
            Projection::Down => self.down,
        }
    }

    /// Path of a norm within a block.
    pub fn norm(&self, place: NormPlace) -> &'static str {
        match place {
            NormPlace::Input => self.input_norm,
            NormPlace::Mlp => self.mlp_norm,
            NormPlace::AttentionOutput => self.attention_output_norm,
            NormPlace::MlpOutput => self.mlp_output_norm,
            NormPlace::Query => self.q_norm,
            NormPlace::Key => self.k_norm,
        }
    }

    /// Full path of a linear layer's module, `model.layers.0.self_attn.q_proj`.
    pub fn module_path(&self, layer: usize, projection: Projection) -> String {
        format!("{}.{layer}.{}", self.layers, self.linear(projection))
    }
}
