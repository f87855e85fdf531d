//! Typed access to the keys of a Hugging Face configuration; faults are collected.

use serde_json::{Map, Value};

use super::memory;
use super::spec::{Activation, DecoderSpec, Position, RopeLayout, RopeScaling, RopeSpec, Sizes};

/// Most values a model may have: nothing larger is trained by this program, and a damaged
/// configuration should fail before memory is asked for.
const PARAMETERS_MAX: usize = 1 << 40;

/// Most layers.
pub const LAYERS_MAX: usize = 1 << 16;

/// Most experts of a layer.
const EXPERTS_MAX: usize = 1 << 12;

/// Keys of the sizes that every family has, by their names in the first that is there.
pub struct Keys {
    /// Width of the stream.
    pub hidden: &'static [&'static str],
    /// Width of the MLP; where none is there it is four times the stream's.
    pub intermediate: &'static [&'static str],
    /// Number of blocks.
    pub layers: &'static [&'static str],
    /// Query heads.
    pub heads: &'static [&'static str],
    /// Key heads; where none is there as many as query heads.
    pub kv_heads: &'static [&'static str],
    /// Rows of the embedding.
    pub vocab: &'static [&'static str],
    /// Longest sequence.
    pub positions: &'static [&'static str],
    /// Epsilon of the norms.
    pub eps: &'static [&'static str],
}

/// The keys of LLaMA and the many that follow it.
pub const LLAMA_KEYS: Keys = Keys {
    hidden: &["hidden_size"],
    intermediate: &["intermediate_size"],
    layers: &["num_hidden_layers"],
    heads: &["num_attention_heads"],
    kv_heads: &["num_key_value_heads"],
    vocab: &["vocab_size"],
    positions: &["max_position_embeddings"],
    eps: &["rms_norm_eps"],
};

/// Typed access to the keys of a configuration.
pub struct Fields<'a> {
    raw: &'a Map<String, Value>,
    /// What can't be used.
    pub faults: Vec<String>,
    /// What the user should know.
    pub notices: Vec<String>,
}

impl<'a> Fields<'a> {
    /// Of a configuration.
    pub fn new(raw: &'a Map<String, Value>) -> Self {
        Self { raw, faults: Vec::new(), notices: Vec::new() }
    }

    /// Adds a fault.
    pub fn fault(&mut self, text: impl Into<String>) {
        self.faults.push(text.into());
    }

    fn expected(&mut self, key: &str, value: &Value, what: &str) {
        let got = value.to_string();
        self.fault(format!("`{key}` is {}, expected {what}", crate::error::excerpt(&got)));
    }

    /// A key's value, if it is there and not null.
    pub fn present(&self, key: &str) -> Option<&'a Value> {
        self.raw.get(key).filter(|v| !v.is_null())
    }

    fn first(&self, keys: &'static [&'static str]) -> Option<(&'static str, &'a Value)> {
        keys.iter().find_map(|&key| Some((key, self.present(key)?)))
    }

    /// A required positive integer, by the first of `keys` that is there.
    pub fn size(&mut self, keys: &'static [&'static str]) -> usize {
        match self.optional_size(keys) {
            Some(n) => n,
            None => {
                self.fault(format!("`{}` is missing", keys.first().unwrap_or(&"")));
                1
            }
        }
    }

    /// An optional positive integer.
    pub fn optional_size(&mut self, keys: &'static [&'static str]) -> Option<usize> {
        let (key, value) = self.first(keys)?;
        match value.as_u64() {
            Some(n) if n > 0 && n < 1 << 40 => Some(n as usize),
            _ => {
                self.expected(key, value, "a positive integer");
                Some(1)
            }
        }
    }

    /// A token's number.
    pub fn token(&mut self, key: &str) -> Option<u32> {
        self.present(key)?.as_u64().and_then(|v| u32::try_from(v).ok())
    }

    /// A boolean with a default.
    pub fn bool_or(&mut self, key: &str, default: bool) -> bool {
        match self.present(key) {
            None => default,
            Some(Value::Bool(b)) => *b,
            Some(other) => {
                self.expected(key, other, "true or false");
                default
            }
        }
    }

    /// A text with a default.
    pub fn text_or(&mut self, key: &str, default: &'a str) -> &'a str {
        match self.present(key) {
            None => default,
            Some(Value::String(text)) => text,
            Some(other) => {
                self.expected(key, other, "a text");
                default
            }
        }
    }

    /// A positive number with a default.
    pub fn number_or(&mut self, keys: &'static [&'static str], default: f64) -> f64 {
        self.optional_number(keys).unwrap_or(default)
    }

    /// An optional positive number.
    pub fn optional_number(&mut self, keys: &'static [&'static str]) -> Option<f64> {
        let (key, value) = self.first(keys)?;
        Some(self.positive(key, value))
    }

    fn positive(&mut self, key: &str, value: &Value) -> f64 {
        match value.as_f64() {
            Some(x) if x.is_finite() && x > 0.0 => x,
            _ => {
                self.expected(key, value, "a positive number");
                1.0
            }
        }
    }

    fn number_in(&mut self, map: &Map<String, Value>, key: &str, default: Option<f64>) -> f64 {
        match (map.get(key).filter(|v| !v.is_null()), default) {
            (Some(value), _) => self.positive(key, value),
            (None, Some(default)) => default,
            (None, None) => {
                self.fault(format!("`{key}` is missing"));
                1.0
            }
        }
    }

    /// The MLP's non-linearity, by Hugging Face's names.
    pub fn activation(&mut self, key: &'static str, default: &'static str) -> Activation {
        match self.text_or(key, default) {
            "silu" | "swish" => Activation::Silu,
            "gelu" | "gelu_python" => Activation::Gelu,
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" | "gelu_accurate" => {
                Activation::GeluTanh
            }
            "relu" => Activation::Relu,
            other => {
                let other = crate::error::excerpt(other);
                self.fault(format!(
                    "`{key}` {other} is not supported; this version knows silu, gelu, gelu_new, \
                     gelu_pytorch_tanh and relu"
                ));
                Activation::Silu
            }
        }
    }

    /// The rotations of heads of `head_dim`, from `rope_parameters`, `rope_scaling` and `rope_theta`.
    pub fn rope(&mut self, head_dim: usize, max_positions: usize) -> RopeSpec {
        let parameters = self.raw.get("rope_parameters").and_then(Value::as_object);
        let scaling = self.raw.get("rope_scaling").and_then(Value::as_object);
        let empty = Map::new();
        let from = parameters.or(scaling).unwrap_or(&empty);
        self.rope_from(from, head_dim, max_positions)
    }

    /// As [`Fields::rope`] with the scaling given by `from`.
    pub fn rope_from(
        &mut self,
        from: &Map<String, Value>,
        head_dim: usize,
        max_positions: usize,
    ) -> RopeSpec {
        let raw = self.raw;
        let theta_in = if from.contains_key("rope_theta") { from } else { raw };
        let theta = self.number_in(theta_in, "rope_theta", Some(10_000.0));
        let share_in = if from.contains_key("partial_rotary_factor") { from } else { raw };
        let share = self.number_in(share_in, "partial_rotary_factor", Some(1.0));
        let rotary_dim = (head_dim as f64 * share) as usize;
        let scaling = self.rope_scaling(from, rotary_dim, max_positions);
        RopeSpec { theta, scaling, rotary_dim, layout: RopeLayout::Halves }
    }

    fn rope_scaling(
        &mut self,
        from: &Map<String, Value>,
        rotary_dim: usize,
        max_positions: usize,
    ) -> RopeScaling {
        let kind = ["rope_type", "type"]
            .iter()
            .find_map(|k| from.get(*k).and_then(Value::as_str))
            .unwrap_or("default");
        let max = max_positions as f64;
        // Phi-3 has it beside the scaling.
        let in_scaling = from.contains_key("original_max_position_embeddings");
        let original_in = if in_scaling { from } else { self.raw };
        let original = |fields: &mut Self, default: Option<f64>| {
            fields.number_in(original_in, "original_max_position_embeddings", default)
        };
        match kind {
            "default" => RopeScaling::Default,
            "linear" => RopeScaling::Linear { factor: self.number_in(from, "factor", None) },
            "dynamic" => RopeScaling::Dynamic {
                factor: self.number_in(from, "factor", None),
                original_max_position_embeddings: max,
            },
            "llama3" => RopeScaling::Llama3 {
                factor: self.number_in(from, "factor", None),
                low_freq_factor: self.number_in(from, "low_freq_factor", None),
                high_freq_factor: self.number_in(from, "high_freq_factor", None),
                original_max_position_embeddings: original(self, None),
            },
            "yarn" => {
                let original = original(self, Some(max));
                let factor = match from.contains_key("factor") || original >= max {
                    true => self.number_in(from, "factor", None),
                    false => max / original,
                };
                let scale = |factor: f64, by: f64| match factor <= 1.0 {
                    true => 1.0,
                    false => 0.1 * by * factor.ln() + 1.0,
                };
                let number = |key: &str| from.get(key).and_then(Value::as_f64).filter(|&x| x > 0.0);
                let attention_factor = match (number("mscale"), number("mscale_all_dim")) {
                    _ if number("attention_factor").is_some() => number("attention_factor"),
                    (Some(one), Some(all)) => Some(scale(factor, one) / scale(factor, all)),
                    _ => Some(scale(factor, 1.0)),
                };
                RopeScaling::Yarn {
                    factor,
                    beta_fast: self.number_in(from, "beta_fast", Some(32.0)),
                    beta_slow: self.number_in(from, "beta_slow", Some(1.0)),
                    original_max_position_embeddings: original,
                    attention_factor: attention_factor.unwrap_or(1.0),
                    truncate: from.get("truncate").and_then(Value::as_bool).unwrap_or(true),
                }
            }
            "longrope" | "su" => {
                let original = original(self, Some(max));
                let factor = self.number_in(from, "factor", Some(max / original));
                let computed = match factor <= 1.0 {
                    true => 1.0,
                    false => (1.0 + factor.ln() / original.ln()).sqrt(),
                };
                RopeScaling::Long {
                    short_factor: self.divisors(from, "short_factor", rotary_dim / 2),
                    long_factor: self.divisors(from, "long_factor", rotary_dim / 2),
                    original_max_position_embeddings: original,
                    attention_factor: self.number_in(from, "attention_factor", Some(computed)),
                }
            }
            other => {
                self.fault(format!(
                    "rope type `{}` is not supported; this version knows default, linear, dynamic, \
                     llama3, yarn and longrope",
                    crate::error::excerpt(other)
                ));
                RopeScaling::Default
            }
        }
    }

    /// A list of positive numbers, one a pair of rotated values.
    fn divisors(&mut self, from: &Map<String, Value>, key: &str, n: usize) -> Vec<f64> {
        let list: Option<Vec<f64>> = from.get(key).and_then(Value::as_array).and_then(|list| {
            list.iter().map(|v| v.as_f64().filter(|x| x.is_finite() && *x > 0.0)).collect()
        });
        match list {
            Some(list) if list.len() == n => list,
            _ => {
                self.fault(format!("`{key}` is not a list of {n} positive numbers"));
                vec![1.0; n]
            }
        }
    }

    /// What a family that uses LLaMA's keys begins with.
    pub fn common(&mut self, model_type: &str) -> DecoderSpec {
        let mut spec = self.sized(model_type, &LLAMA_KEYS);
        spec.activation = self.activation("hidden_act", "silu");
        spec.position = Position::Rope(self.rope(spec.head_dim, spec.max_position_embeddings));
        spec
    }

    /// A plain decoder with the sizes that `keys` name.
    pub fn sized(&mut self, model_type: &str, keys: &Keys) -> DecoderSpec {
        let hidden_size = self.size(keys.hidden);
        let num_heads = self.size(keys.heads);
        let head_dim = self.optional_size(&["head_dim"]);
        if head_dim.is_none() && !hidden_size.is_multiple_of(num_heads) {
            self.fault(format!(
                "`{}` {hidden_size} is not a multiple of `{}` {num_heads}",
                keys.hidden[0], keys.heads[0]
            ));
        }
        let mut spec = DecoderSpec::llama(Sizes {
            vocab_size: self.size(keys.vocab),
            hidden_size,
            intermediate_size: 4 * hidden_size,
            num_layers: self.size(keys.layers),
            num_heads,
            num_kv_heads: self.optional_size(keys.kv_heads).unwrap_or(num_heads),
            max_position_embeddings: self.optional_size(keys.positions).unwrap_or(2048),
        });
        spec.model_type = model_type.to_string();
        if let Some(n) = self.optional_size(keys.intermediate) {
            spec.intermediate_size = n;
        }
        if let Some(n) = head_dim {
            spec.head_dim = n;
            spec.attention_scale = 1.0 / (n as f64).sqrt();
        }
        spec.norm_eps = self.number_or(keys.eps, 1e-6);
        spec.tie_word_embeddings = self.bool_or("tie_word_embeddings", false);
        spec.initializer_range = self.number_or(&["initializer_range"], 0.02);
        spec
    }

    /// Which layers a sliding window covers by `layer_types`, if the key is there.
    pub fn layer_types(&self) -> Option<Vec<bool>> {
        let types = self.present("layer_types")?.as_array()?;
        Some(types.iter().map(|t| t == "sliding_attention").collect())
    }

    /// Layers that a list names by number.
    pub fn layer_numbers(&self, key: &str) -> Vec<usize> {
        let list = self.present(key).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_u64).map(|n| n as usize).collect()
    }

    /// Weight of the loss that balances the experts' load, where `output_router_logits` asks for it.
    pub fn balance(&mut self) -> Option<f64> {
        let wanted = self.bool_or("output_router_logits", false);
        wanted.then(|| self.number_or(&["router_aux_loss_coef"], 0.001))
    }

    /// Qwen's window: off unless `use_sliding_window`; then in the layers that `layer_types`
    /// names, or from `max_window_layers` on.
    pub fn qwen_window(&mut self, spec: &mut DecoderSpec) {
        if !self.bool_or("use_sliding_window", false) {
            return;
        }
        spec.sliding_window = self.optional_size(&["sliding_window"]);
        let first = self.present("max_window_layers").and_then(Value::as_u64).unwrap_or(28);
        let by_number = || (0..spec.num_layers as u64).map(|layer| layer >= first).collect();
        spec.sliding_layers = self.layer_types().unwrap_or_else(by_number);
    }

    /// Adds what makes `spec` impossible.
    pub fn check(&mut self, spec: &DecoderSpec) {
        if !spec.num_heads.is_multiple_of(spec.num_kv_heads) {
            self.fault(format!(
                "`num_attention_heads` {} is not a multiple of `num_key_value_heads` {}",
                spec.num_heads, spec.num_kv_heads
            ));
        }
        for layer in 0..spec.num_layers.min(2) {
            let Some(rope) = spec.rope(layer) else { continue };
            let parts = if rope.layout == RopeLayout::TwoHalves { 4 } else { 2 };
            if !rope.rotary_dim.is_multiple_of(parts)
                || rope.rotary_dim > spec.head_dim
                || rope.rotary_dim == 0
            {
                self.fault(format!(
                    "{} of the {} values of a head are rotated; that takes a multiple of {parts}",
                    rope.rotary_dim, spec.head_dim
                ));
                break;
            }
        }
        let large = [spec.num_layers, spec.vocab_size, spec.hidden_size, spec.intermediate_size];
        let mixture = spec.mixture.as_ref();
        if let Some(m) = mixture.filter(|m| m.experts_per_token > m.num_experts) {
            self.fault(format!(
                "`num_experts_per_tok` {} is more than the {} experts there are",
                m.experts_per_token, m.num_experts
            ));
        }
        let absurd = spec.num_layers > LAYERS_MAX
            || mixture
                .is_some_and(|m| m.num_experts > EXPERTS_MAX || m.intermediate_size > 1 << 28)
            || large.iter().any(|&n| n > 1 << 28)
            || spec.num_heads.saturating_mul(spec.head_dim) > 1 << 28;
        if absurd || memory::num_parameters(spec) > PARAMETERS_MAX {
            self.fault("its sizes make a model beyond any real one; the file is damaged");
        }
    }
}
