//! The data that describes a decoder: everything the forward and backward need to know
//! about a family, and nothing of its name.

/// How positions are turned into rotations.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeSpec {
    /// Base of the geometric series of frequencies.
    pub theta: f64,
    /// Rescaling of the frequencies for longer contexts.
    pub scaling: RopeScaling,
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
}

/// A decoder-only transformer with pre-norm blocks of grouped-query attention and a SwiGLU MLP.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderSpec {
    /// HF `model_type`: `llama`, `mistral`, `qwen2`, `qwen3`.
    pub model_type: String,
    /// Rows of the embedding and of the head.
    pub vocab_size: usize,
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
    /// RMS norm epsilon.
    pub rms_norm_eps: f64,
    /// Rotary embedding.
    pub rope: RopeSpec,
    /// Whether the head is the embedding matrix.
    pub tie_word_embeddings: bool,
    /// Biases on the query, key and value projections.
    pub qkv_bias: bool,
    /// Bias on the attention's output projection.
    pub o_bias: bool,
    /// Biases in the MLP.
    pub mlp_bias: bool,
    /// RMS norm over each head of queries and keys, before the rotation (Qwen3).
    pub qk_norm: bool,
    /// Attend to at most this many last positions, in the layers where the flag is set
    /// (`sliding_layers`); `None`: everywhere full.
    pub sliding_window: Option<usize>,
    /// Per layer: whether the sliding window applies. Empty: to all, when there is a window.
    pub sliding_layers: Vec<bool>,
    /// Standard deviation of fresh weights.
    pub initializer_range: f64,
}

impl DecoderSpec {
    /// The window of `layer`, if any.
    pub fn window(&self, layer: usize) -> Option<usize> {
        let applies = self.sliding_layers.get(layer).copied().unwrap_or(true);
        self.sliding_window.filter(|_| applies)
    }

    /// The same decoder without a head of its own, as a reward model has it.
    pub fn body(&self) -> Self {
        Self { tie_word_embeddings: true, ..self.clone() }
    }
}
