//! The data that describes a decoder: everything the forward and backward need to know
//! about a family, and nothing of its name.

use super::names::{self, Names};
pub use crate::ops::activation::Activation;
pub use crate::ops::rope::Layout as RopeLayout;

/// How positions are turned into rotations.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeSpec {
    /// Base of the geometric series of frequencies.
    pub theta: f64,
    /// Rescaling of the frequencies for longer contexts.
    pub scaling: RopeScaling,
    /// Values of each head that are rotated, the first ones; even, at most the head's width.
    pub rotary_dim: usize,
    /// Which values of a head are rotated together. [`RopeLayout::TwoHalves`] rotates by the two
    /// positions of GLM (Du et al. 2022, arXiv 2103.10360): in the context, and in the answer.
    pub layout: RopeLayout,
}

/// Rescaling of RoPE frequencies (HF `rope_scaling` / `rope_parameters`).
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// None.
    Default,
    /// Positions divided by `factor`.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// The base grows with the sequence beyond the original length.
    Dynamic {
        /// How fast.
        factor: f64,
        /// Context length of the original model.
        original_max_position_embeddings: f64,
    },
    /// Llama 3.1's piecewise scaling by wavelength.
    Llama3 {
        /// Divisor of the long wavelengths.
        factor: f64,
        /// Wavelengths above `original / low_freq_factor` are divided.
        low_freq_factor: f64,
        /// Wavelengths below `original / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Context length of the original model.
        original_max_position_embeddings: f64,
    },
    /// YaRN (Peng et al. 2023, arXiv 2309.00071).
    Yarn {
        /// Divisor of the long wavelengths.
        factor: f64,
        /// Rotations within the original context above which a frequency is kept.
        beta_fast: f64,
        /// Rotations below which it is divided.
        beta_slow: f64,
        /// Context length of the original model.
        original_max_position_embeddings: f64,
        /// Factor on cosines and sines.
        attention_factor: f64,
        /// Whether the borders of the ramp are rounded to whole dimensions.
        truncate: bool,
    },
    /// Phi-3's divisors by dimension, one list for short and one for long sequences.
    Long {
        /// Up to the original length.
        short_factor: Vec<f64>,
        /// Beyond it.
        long_factor: Vec<f64>,
        /// Context length of the original model.
        original_max_position_embeddings: f64,
        /// Factor on cosines and sines.
        attention_factor: f64,
    },
}

/// Where the model learns positions from.
#[derive(Clone, Debug, PartialEq)]
pub enum Position {
    /// Rotations of queries and keys.
    Rope(RopeSpec),
    /// As [`Position::Rope`], with other rotations in the layers that a sliding window covers (Gemma 3).
    RopeByReach {
        /// Layers that see everything.
        full: RopeSpec,
        /// Layers with a window.
        sliding: RopeSpec,
    },
    /// A slope by head on the distance (Press et al. 2021, arXiv 2108.12409).
    Alibi,
    /// A learned vector for each position, added to the embedding.
    Learned,
}

/// What a norm computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// `x / rms(x) · w`.
    Rms,
    /// `x / rms(x) · (1 + w)` (Gemma).
    RmsOffset,
    /// `(x - mean(x)) / std(x) · w + b`.
    Layer,
}

/// How queries, keys and values are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkvLayout {
    /// Three linear layers.
    Split,
    /// One linear layer: all queries, all keys, all values.
    Concatenated,
    /// One linear layer: for each key head its queries, its key and its value.
    Grouped,
}

/// The MLP's first half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateLayout {
    /// No gate: `down(act(up(x)))`.
    None,
    /// `down(act(gate(x)) · up(x))`, two linear layers.
    Split,
    /// The same, one linear layer: gate, then up.
    Fused,
}

/// How attention and MLP are added to the stream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Residual {
    /// `h = x + attention(n1(x))`, `y = h + mlp(n2(h))`.
    Sequential,
    /// `y = x + attention(n1(x)) + mlp(n2(x))`.
    Parallel,
    /// `n = n1(x)`, `h = scale · n + attention(n)`, `m = n2(h)`, `y = scale · m + mlp(m)`.
    OfNorm {
        /// Factor on the residual.
        scale: f64,
    },
}

/// Tokens that part a GLM sequence into a context, whose tokens all see each other, and an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefixSpec {
    /// Marks where the answer belongs (`[gMASK]`).
    pub gmask: u32,
    /// The same for a short answer (`[MASK]`), where there is no `gmask`.
    pub mask: u32,
    /// Begins the answer (`<sop>`).
    pub start: u32,
}

/// How a mixture's tensors are named within a block.
#[derive(Debug, PartialEq, Eq)]
pub struct MixtureNames {
    /// The router.
    pub router: &'static str,
    /// What stands before an expert's number.
    pub experts: &'static str,
    /// An expert's gate.
    pub gate: &'static str,
    /// Its up.
    pub up: &'static str,
    /// Its down.
    pub down: &'static str,
}

/// A mixture of experts in place of an MLP (Shazeer et al. 2017, arXiv 1701.06538; Mixtral, arXiv
/// 2401.04088): `y = Σ w_e · expert_e(x)` over the experts that a softmax likes most.
#[derive(Clone, Debug, PartialEq)]
pub struct MixtureSpec {
    /// How its tensors are named.
    pub names: &'static MixtureNames,
    /// Experts of a block.
    pub num_experts: usize,
    /// Experts that a token goes through.
    pub experts_per_token: usize,
    /// Width of an expert.
    pub intermediate_size: usize,
    /// Whether the weights of a token's experts are brought to a sum of 1.
    pub normalized: bool,
    /// Weight of the loss that balances the experts' load, where it is asked for.
    pub balance: Option<f64>,
    /// Which layers have one.
    pub layers: Vec<bool>,
}

/// A decoder-only transformer.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderSpec {
    /// HF `model_type`.
    pub model_type: String,
    /// How its tensors are named.
    pub names: &'static Names,
    /// Rows of the embedding and of the head.
    pub vocab_size: usize,
    /// How many of them, the last ones, the files of the base lack: tokens that were added.
    pub added_rows: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_layers: usize,
    /// Query heads.
    pub num_heads: usize,
    /// Key and value heads; divides `num_heads`.
    pub num_kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Longest sequence the model was made for.
    pub max_position_embeddings: usize,
    /// What its norms compute.
    pub norm: NormKind,
    /// Epsilon of the norms.
    pub norm_eps: f64,
    /// Positions.
    pub position: Position,
    /// Factor on the attention's scores.
    pub attention_scale: f64,
    /// `cap · tanh(score / cap)` on the scaled scores (Gemma 2).
    pub attention_softcap: Option<f64>,
    /// Whether the head is the embedding matrix.
    pub tie_word_embeddings: bool,
    /// How queries, keys and values are made.
    pub qkv: QkvLayout,
    /// Biases on the query, key and value projections.
    pub qkv_bias: bool,
    /// Bias on the attention's output projection.
    pub o_bias: bool,
    /// The MLP's first half.
    pub gate: GateLayout,
    /// The MLP's non-linearity.
    pub activation: Activation,
    /// Biases in the MLP.
    pub mlp_bias: bool,
    /// Experts in place of some layers' MLP (Mixtral, Qwen3-MoE).
    pub mixture: Option<MixtureSpec>,
    /// Norm over each head of queries and keys, before the rotation (Qwen3, Gemma 3).
    pub qk_norm: bool,
    /// How attention and MLP are added to the stream.
    pub residual: Residual,
    /// Norms over the outputs of attention and MLP too, before they are added (Gemma 2, GLM-4).
    pub output_norms: bool,
    /// Norm over the embedding (BLOOM).
    pub embed_norm: bool,
    /// Factor on the embedding (Gemma).
    pub embed_scale: f64,
    /// Whether the rows of the head's matrix are brought to length 1 before use (Baichuan 2).
    pub normalized_head: bool,
    /// `cap · tanh(logit / cap)` on the logits (Gemma 2).
    pub final_softcap: Option<f64>,
    /// Whether files hold the linear layers' matrices as `[in, out]` (GPT-2).
    pub transposed: bool,
    /// How contexts are found whose tokens all see each other (ChatGLM-6B); `None`: causal throughout.
    pub prefix: Option<PrefixSpec>,
    /// Attend to at most this many last positions, in the layers where the flag is set
    /// (`sliding_layers`); `None`: everywhere full.
    pub sliding_window: Option<usize>,
    /// Per layer: whether the sliding window applies. Empty: to all, when there is a window.
    pub sliding_layers: Vec<bool>,
    /// Standard deviation of fresh weights.
    pub initializer_range: f64,
}

/// Sizes of a plain LLaMA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width of the stream.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Blocks.
    pub num_layers: usize,
    /// Query heads; `head_dim` is their share of the width.
    pub num_heads: usize,
    /// Key and value heads.
    pub num_kv_heads: usize,
    /// Longest sequence.
    pub max_position_embeddings: usize,
}

impl DecoderSpec {
    /// A plain LLaMA with a tied head: what a family that differs begins with.
    pub fn llama(sizes: Sizes) -> Self {
        let head_dim = (sizes.hidden_size / sizes.num_heads.max(1)).max(1);
        Self {
            model_type: "llama".into(),
            names: &names::LLAMA,
            vocab_size: sizes.vocab_size,
            added_rows: 0,
            hidden_size: sizes.hidden_size,
            intermediate_size: sizes.intermediate_size,
            num_layers: sizes.num_layers,
            num_heads: sizes.num_heads,
            num_kv_heads: sizes.num_kv_heads,
            head_dim,
            max_position_embeddings: sizes.max_position_embeddings,
            norm: NormKind::Rms,
            norm_eps: 1e-5,
            position: Position::Rope(RopeSpec {
                theta: 10_000.0,
                scaling: RopeScaling::Default,
                rotary_dim: head_dim,
                layout: RopeLayout::Halves,
            }),
            attention_scale: 1.0 / (head_dim as f64).sqrt(),
            attention_softcap: None,
            tie_word_embeddings: true,
            qkv: QkvLayout::Split,
            qkv_bias: false,
            o_bias: false,
            gate: GateLayout::Split,
            activation: Activation::Silu,
            mlp_bias: false,
            mixture: None,
            qk_norm: false,
            residual: Residual::Sequential,
            output_norms: false,
            embed_norm: false,
            embed_scale: 1.0,
            normalized_head: false,
            final_softcap: None,
            transposed: false,
            prefix: None,
            sliding_window: None,
            sliding_layers: Vec::new(),
            initializer_range: 0.02,
        }
    }

    /// The window of `layer`, if any.
    pub fn window(&self, layer: usize) -> Option<usize> {
        let applies = self.sliding_layers.get(layer).copied().unwrap_or(true);
        self.sliding_window.filter(|_| applies)
    }

    /// The experts of `layer`, if it has some in place of an MLP.
    pub fn mixture(&self, layer: usize) -> Option<&MixtureSpec> {
        self.mixture.as_ref().filter(|m| m.layers.get(layer).copied().unwrap_or(false))
    }

    /// The rotations of `layer`, if any.
    pub fn rope(&self, layer: usize) -> Option<&RopeSpec> {
        match &self.position {
            Position::Rope(rope) => Some(rope),
            Position::RopeByReach { full, sliding } => {
                Some(if self.window(layer).is_some() { sliding } else { full })
            }
            Position::Alibi | Position::Learned => None,
        }
    }

    /// Width of all queries and of all keys.
    pub fn attention_widths(&self) -> (usize, usize) {
        (self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim)
    }

    /// The same decoder without a head of its own, as a reward model has it.
    pub fn body(&self) -> Self {
        Self {
            tie_word_embeddings: true,
            normalized_head: false,
            final_softcap: None,
            ..self.clone()
        }
    }
}
