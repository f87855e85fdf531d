//! Memory that a training run will need, from shapes alone.

use super::slots::{Slot, projection_shape, projections};
use super::spec::{DecoderSpec, GateLayout, Residual};
use crate::config::Precision;

/// What is known before anything is loaded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Workload {
    /// Most tokens that go through the model at once.
    pub tokens: usize,
    /// How frozen weights are kept.
    pub precision: Precision,
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
    let size = |slot: &Slot| slot.shape(spec).iter().fold(1usize, |n, &d| n.saturating_mul(d));
    // Every block has the same tensors.
    let once = Slot::all(&DecoderSpec { num_layers: 0, ..spec.clone() });
    let with_one = Slot::all(&DecoderSpec { num_layers: 1, ..spec.clone() });
    let sum = |slots: &[Slot]| slots.iter().fold(0usize, |n, s| n.saturating_add(size(s)));
    let block = sum(&with_one).saturating_sub(sum(&once));
    sum(&once).saturating_add(block.saturating_mul(spec.num_layers))
}

/// Bytes of the decoder's weights.
pub fn weight_bytes(spec: &DecoderSpec, precision: Precision) -> usize {
    let bytes = if precision.bfloat16 { 2 } else { 4 };
    if !precision.is_narrow() {
        return num_parameters(spec) * bytes;
    }
    let mut narrow = 0;
    let mut linear = 0;
    for (out, width) in projections(spec).into_iter().map(|p| projection_shape(spec, p)) {
        linear += out * width;
        narrow += match precision.load_in_8bit {
            true => out * width + 4 * out,
            // Half a byte a value, a byte for 64 of them, and four for 64 · 256.
            false => out * width / 2 + (out * width).div_ceil(64) + out * width / 4096,
        };
    }
    (num_parameters(spec) - spec.num_layers * linear) * bytes + spec.num_layers * narrow
}

/// The estimate. Activations follow what `block.rs` keeps: for each token and layer the input,
/// queries, keys, values, the attention's output, the sum after it, what the MLP's non-linearity
/// reads, and what stands before norms over heads and outputs, f32.
pub fn estimate(spec: &DecoderSpec, work: &Workload) -> Estimate {
    let (h, i) = (spec.hidden_size, spec.intermediate_size);
    let (q, kv) = spec.attention_widths();
    let widths = if spec.gate == GateLayout::None { 1 } else { 2 };
    let stream = if spec.residual == Residual::Parallel { h } else { 2 * h };
    let mut kept = stream + 2 * q + 2 * kv + widths * i + spec.num_heads + 4 + 7 * work.lora_rank;
    if spec.qk_norm {
        kept += q + kv;
    }
    if spec.output_norms {
        kept += 2 * h;
    }
    // The backward of the MLP: activation, its gradient, those of gate and up, and of the block.
    let widest = 2 * widths * i + 3 * h;
    let per_layer = if work.gradient_checkpointing { h } else { kept };
    let once = if work.gradient_checkpointing { kept + widest } else { widest };
    let activations = 4 * work.tokens * (spec.num_layers * per_layer + once);
    let own = if work.full { 0 } else { 4 * work.trained_values };
    Estimate {
        weights: weight_bytes(spec, work.precision),
        training: own + 3 * 4 * work.trained_values,
        activations,
        head: work.head_chunk_bytes,
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
    fn checkpointing_and_bfloat16_need_less() {
        let work = Workload {
            tokens: 1024,
            precision: Precision::default(),
            trained_values: 2_442_240,
            full: false,
            lora_rank: 8,
            gradient_checkpointing: false,
            head_chunk_bytes: 32 << 20,
        };
        let plain = estimate(&smollm2(), &work);
        let checkpointed = estimate(&smollm2(), &Workload { gradient_checkpointing: true, ..work });
        let precision = Precision { bfloat16: true, ..Precision::default() };
        let half = estimate(&smollm2(), &Workload { precision, ..work });
        let precision = Precision { load_in_8bit: true, ..Precision::default() };
        let int8 = estimate(&smollm2(), &Workload { precision, ..work });
        // The embedding of 28 million values stays as it is.
        assert!(int8.weights < 4 * 28_400_000 + 107_000_000);
        assert!(checkpointed.activations * 5 < plain.activations);
        assert_eq!(half.weights * 2, plain.weights);
        assert!(plain.total() > plain.weights + plain.activations);
    }
}
