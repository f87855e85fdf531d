//! Memory that a training run will need, from shapes alone.

use super::spec::DecoderSpec;

/// What is known before anything is loaded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Workload {
    /// Most tokens that go through the model at once.
    pub tokens: usize,
    /// Bytes of one stored weight: 4 (float32) or 2 (bfloat16).
    pub weight_bytes: usize,
    /// Trained values.
    pub trained_values: usize,
    /// Whether every weight is trained (then gradients are as large as the weights).
    pub full: bool,
    /// LoRA rank; 0 without LoRA.
    pub lora_rank: usize,
    /// Keep only each block's input.
    pub gradient_checkpointing: bool,
    /// Bytes of logits that the head holds at a time.
    pub head_chunk_bytes: usize,
}

/// Bytes by purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Estimate {
    /// Frozen and trained weights of the base.
    pub weights: usize,
    /// LoRA matrices (nothing in full fine-tuning), gradients, and both moments of AdamW.
    pub training: usize,
    /// What the forward keeps for the backward, and the widest moment of the backward.
    pub activations: usize,
    /// Logits of one chunk.
    pub head: usize,
}

impl Estimate {
    /// All of it, bytes.
    pub fn total(&self) -> usize {
        self.weights + self.training + self.activations + self.head
    }
}

/// Number of values of the decoder's weights.
pub fn num_parameters(spec: &DecoderSpec) -> usize {
    let (h, i) = (spec.hidden_size, spec.intermediate_size);
    let (q, kv) = (spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim);
    let mut layer = 2 * h + h * q + 2 * h * kv + q * h + 3 * h * i;
    if spec.qkv_bias {
        layer += q + 2 * kv;
    }
    if spec.o_bias {
        layer += h;
    }
    if spec.mlp_bias {
        layer += 2 * i + h;
    }
    if spec.qk_norm {
        layer += 2 * spec.head_dim;
    }
    let tables = if spec.tie_word_embeddings { 1 } else { 2 };
    tables * spec.vocab_size * h + spec.num_layers * layer + h
}

/// The estimate. Activations follow what `block.rs` keeps: for each token and layer the input,
/// queries, keys, values, the attention's output, the sum after it, gate and up, f32.
pub fn estimate(spec: &DecoderSpec, work: &Workload) -> Estimate {
    let (h, i) = (spec.hidden_size, spec.intermediate_size);
    let (q, kv) = (spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim);
    let mut kept = 2 * h + 2 * q + 2 * kv + 2 * i + spec.num_heads + 2 + 7 * work.lora_rank;
    if spec.qk_norm {
        kept += q + kv;
    }
    // The backward of the MLP: activation, its gradient, those of gate and up, and of the block.
    let widest = 4 * i + 3 * h;
    let per_layer = if work.gradient_checkpointing { h } else { kept };
    let once = if work.gradient_checkpointing { kept + widest } else { widest };
    let activations = 4 * work.tokens * (spec.num_layers * per_layer + once);
    let own = if work.full { 0 } else { 4 * work.trained_values };
    Estimate {
        weights: num_parameters(spec) * work.weight_bytes,
        training: own + 3 * 4 * work.trained_values,
        activations,
        head: work.head_chunk_bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::spec::{RopeScaling, RopeSpec};

    fn smollm2() -> DecoderSpec {
        DecoderSpec {
            model_type: "llama".into(),
            vocab_size: 49_152,
            hidden_size: 576,
            intermediate_size: 1536,
            num_layers: 30,
            num_heads: 9,
            num_kv_heads: 3,
            head_dim: 64,
            max_position_embeddings: 8192,
            rms_norm_eps: 1e-5,
            rope: RopeSpec { theta: 100_000.0, scaling: RopeScaling::Default },
            tie_word_embeddings: true,
            qkv_bias: false,
            o_bias: false,
            mlp_bias: false,
            qk_norm: false,
            sliding_window: None,
            sliding_layers: Vec::new(),
            initializer_range: 0.02,
        }
    }

    #[test]
    fn parameters_of_smollm2_are_the_published_number() {
        assert_eq!(num_parameters(&smollm2()), 134_515_008);
    }

    #[test]
    fn checkpointing_and_bfloat16_need_less() {
        let work = Workload {
            tokens: 1024,
            weight_bytes: 4,
            trained_values: 2_442_240,
            full: false,
            lora_rank: 8,
            gradient_checkpointing: false,
            head_chunk_bytes: 32 << 20,
        };
        let plain = estimate(&smollm2(), &work);
        let checkpointed = estimate(&smollm2(), &Workload { gradient_checkpointing: true, ..work });
        let half = estimate(&smollm2(), &Workload { weight_bytes: 2, ..work });
        assert!(checkpointed.activations * 5 < plain.activations);
        assert_eq!(half.weights * 2, plain.weights);
        assert!(plain.total() > plain.weights + plain.activations);
    }
}
