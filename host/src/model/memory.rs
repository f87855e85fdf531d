//! Memory that a training run will need, from shapes alone.

use super::slots::Slot;
use super::spec::{DecoderSpec, GateLayout, MixtureSpec, Residual};

/// What is known before anything is loaded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Workload {
    /// Most tokens that go through the model at once.
    pub tokens: usize,
    /// Bytes of the decoder's weights ([`super::Storage::footprint`]).
    pub weight_bytes: usize,
    /// Trained values.
    pub trained_values: usize,
    /// Whether every weight is trained (then gradients are as large as the weights).
    pub full: bool,
    /// LoRA rank; 0 without LoRA.
    pub lora_rank: usize,
    /// Keep only each block's input.
    pub gradient_checkpointing: bool,
    /// Bytes of a value that only products read again: 2 under autocast.
    pub product_bytes: usize,
    /// Most bytes of logits that the head holds at a time.
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
    let size = |slot: &Slot| slot.shape(spec).iter().fold(1usize, |n, &d| n.saturating_mul(d));
    let sum = |spec: DecoderSpec| {
        Slot::all(&spec).iter().fold(0usize, |n, slot| n.saturating_add(size(slot)))
    };
    // There are two kinds of blocks at most: with an MLP, and with experts.
    let once = sum(DecoderSpec { num_layers: 0, ..spec.clone() });
    let block = |sparse: bool| {
        let mixture = spec.mixture.clone().map(|m| MixtureSpec { layers: vec![sparse], ..m });
        let one = DecoderSpec { num_layers: 1, mixture, ..spec.clone() };
        sum(one).saturating_sub(once)
    };
    let sparse = (0..spec.num_layers).filter(|&l| spec.mixture(l).is_some()).count();
    let dense = block(false).saturating_mul(spec.num_layers - sparse);
    let sparse = if sparse > 0 { block(true).saturating_mul(sparse) } else { 0 };
    once.saturating_add(dense).saturating_add(sparse)
}

/// The estimate. Activations follow what `block.rs` keeps: for each token and layer the input,
/// queries, keys, values, the attention's output, the sum after it, what the MLP's non-linearity
/// reads, and what stands before norms over heads and outputs.
pub fn estimate(spec: &DecoderSpec, work: &Workload) -> Estimate {
    let (h, i) = (spec.hidden_size, spec.intermediate_size);
    let (q, kv) = spec.attention_widths();
    let widths = if spec.gate == GateLayout::None { 1 } else { 2 };
    let stream = if spec.residual == Residual::Parallel { h } else { 2 * h };
    let mut kept = stream + spec.num_heads + 4 + 7 * work.lora_rank;
    if spec.qk_norm {
        kept += q + kv;
    }
    if spec.output_norms {
        kept += 2 * h;
    }
    // The backward of the MLP: activation, its gradient, those of gate and up, and of the block.
    let widest = 2 * widths * i + 3 * h;
    // What only products read.
    let products = work.product_bytes * (2 * q + 2 * kv + widths * i);
    let kept = 4 * kept + products;
    let per_layer = if work.gradient_checkpointing { 4 * h } else { kept };
    let once = if work.gradient_checkpointing { kept + 4 * widest } else { 4 * widest };
    let activations = work.tokens * (spec.num_layers * per_layer + once);
    let own = if work.full { 0 } else { 4 * work.trained_values };
    Estimate {
        weights: work.weight_bytes,
        training: own + 3 * 4 * work.trained_values,
        activations,
        head: work.head_chunk_bytes.min(4 * work.tokens.max(16) * spec.vocab_size),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::spec::Sizes;

    fn smollm2() -> DecoderSpec {
        DecoderSpec::llama(Sizes {
            vocab_size: 49_152,
            hidden_size: 576,
            intermediate_size: 1536,
            num_layers: 30,
            num_heads: 9,
            num_kv_heads: 3,
            max_position_embeddings: 8192,
        })
    }

    #[test]
    fn parameters_of_smollm2_are_the_published_number() {
        assert_eq!(num_parameters(&smollm2()), 134_515_008);
    }

    #[test]
    fn checkpointing_needs_less() {
        let work = Workload {
            tokens: 1024,
            weight_bytes: 4 * 134_515_008,
            trained_values: 2_442_240,
            full: false,
            lora_rank: 8,
            gradient_checkpointing: false,
            product_bytes: 4,
            head_chunk_bytes: 32 << 20,
        };
        let plain = estimate(&smollm2(), &work);
        let checkpointed = estimate(&smollm2(), &Workload { gradient_checkpointing: true, ..work });
        assert!(checkpointed.activations * 5 < plain.activations);
        assert!(plain.total() > plain.weights + plain.activations);
        let halved = estimate(&smollm2(), &Workload { product_bytes: 2, ..work });
        assert!(halved.activations < plain.activations && halved.training == plain.training);
    }
}
