//! Every tensor of a decoder by its place, its name in Hugging Face files and its shape.

use candle_core::{Result, Tensor};

use super::projection::Projection;
use super::reader::WeightFiles;
use super::spec::{DecoderSpec, GateLayout, NormKind, Position, QkvLayout};

/// Where a norm stands in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NormPlace {
    /// Before attention.
    Input,
    /// Over each query head.
    Query,
    /// Over each key head.
    Key,
    /// Over the attention's output.
    AttentionOutput,
    /// Before the MLP.
    Mlp,
    /// Over the MLP's output.
    MlpOutput,
}

impl NormPlace {
    /// All of them.
    pub const ALL: [NormPlace; 6] = [
        NormPlace::Input,
        NormPlace::Query,
        NormPlace::Key,
        NormPlace::AttentionOutput,
        NormPlace::Mlp,
        NormPlace::MlpOutput,
    ];

    fn exists(self, spec: &DecoderSpec) -> bool {
        match self {
            NormPlace::Input | NormPlace::Mlp => true,
            NormPlace::Query | NormPlace::Key => spec.qk_norm,
            NormPlace::AttentionOutput | NormPlace::MlpOutput => spec.output_norms,
        }
    }
}

/// A tensor's place in the decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Slot {
    /// Embedding, `[vocab, hidden]`.
    Embed,
    /// Learned positions, `[max_positions, hidden]`.
    Positions,
    /// Norm over the embedding, `[hidden]`.
    EmbedNorm,
    /// Its bias.
    EmbedNormBias,
    /// A norm of a block, `[hidden]` or `[head_dim]`.
    Norm(usize, NormPlace),
    /// Its bias.
    NormBias(usize, NormPlace),
    /// A linear layer's matrix, `[out, in]`.
    Weight(usize, Projection),
    /// A linear layer's bias, `[out]`.
    Bias(usize, Projection),
    /// What chooses a token's experts, `[experts, hidden]`.
    Router(usize),
    /// A linear layer of an expert, `[out, in]`: gate, up or down.
    Expert(usize, usize, Projection),
    /// Norm before the head, `[hidden]`.
    FinalNorm,
    /// Its bias.
    FinalNormBias,
    /// Head, `[vocab, hidden]`; absent when tied.
    LmHead,
}

/// The linear layers of an expert.
pub const EXPERT: [Projection; 3] = [Projection::Gate, Projection::Up, Projection::Down];

/// The linear layers of a block, in the order in which they are used, those of experts aside.
pub fn projections(spec: &DecoderSpec, layer: usize) -> Vec<Projection> {
    let mut all = match spec.qkv {
        QkvLayout::Split => vec![Projection::Q, Projection::K, Projection::V],
        QkvLayout::Concatenated | QkvLayout::Grouped => vec![Projection::Qkv],
    };
    all.push(Projection::O);
    if spec.mixture(layer).is_some() {
        return all;
    }
    match spec.gate {
        GateLayout::None => all.push(Projection::Up),
        GateLayout::Split => all.extend([Projection::Gate, Projection::Up]),
        GateLayout::Fused => all.push(Projection::GateUp),
    }
    all.push(Projection::Down);
    all
}

/// `[out, in]` of a linear layer.
pub fn projection_shape(spec: &DecoderSpec, projection: Projection) -> (usize, usize) {
    let (hidden, mlp) = (spec.hidden_size, spec.intermediate_size);
    let (q, kv) = spec.attention_widths();
    match projection {
        Projection::Q => (q, hidden),
        Projection::K | Projection::V => (kv, hidden),
        Projection::Qkv => (q + 2 * kv, hidden),
        Projection::O => (hidden, q),
        Projection::Gate | Projection::Up => (mlp, hidden),
        Projection::GateUp => (2 * mlp, hidden),
        Projection::Down => (hidden, mlp),
    }
}

fn has_bias(spec: &DecoderSpec, projection: Projection) -> bool {
    match projection {
        Projection::Q | Projection::K | Projection::V | Projection::Qkv => spec.qkv_bias,
        Projection::O => spec.o_bias,
        Projection::Gate | Projection::Up | Projection::GateUp | Projection::Down => spec.mlp_bias,
    }
}

impl Slot {
    /// All slots of a decoder, in the order of its layers.
    pub fn all(spec: &DecoderSpec) -> Vec<Slot> {
        let biased = spec.norm == NormKind::Layer;
        let mut slots = vec![Slot::Embed];
        if spec.position == Position::Learned {
            slots.push(Slot::Positions);
        }
        if spec.embed_norm {
            slots.push(Slot::EmbedNorm);
            slots.extend(biased.then_some(Slot::EmbedNormBias));
        }
        for layer in 0..spec.num_layers {
            let norm = |place: NormPlace| {
                let bias = (biased && place.exists(spec)).then_some(Slot::NormBias(layer, place));
                place.exists(spec).then_some(Slot::Norm(layer, place)).into_iter().chain(bias)
            };
            slots.extend(norm(NormPlace::Input));
            for projection in projections(spec, layer) {
                slots.push(Slot::Weight(layer, projection));
                slots.extend(has_bias(spec, projection).then_some(Slot::Bias(layer, projection)));
            }
            if let Some(mixture) = spec.mixture(layer) {
                slots.push(Slot::Router(layer));
                let experts = 0..mixture.num_experts;
                slots.extend(experts.flat_map(|e| EXPERT.map(|p| Slot::Expert(layer, e, p))));
            }
            slots.extend(NormPlace::ALL[1..].iter().flat_map(|&place| norm(place)));
        }
        slots.push(Slot::FinalNorm);
        slots.extend(biased.then_some(Slot::FinalNormBias));
        if !spec.tie_word_embeddings {
            slots.push(Slot::LmHead);
        }
        slots
    }

    /// The tensor's name in Hugging Face files.
    pub fn name(self, spec: &DecoderSpec) -> String {
        let names = spec.names;
        let weight = |module: &str| format!("{module}.weight");
        let bias = |module: &str| format!("{module}.bias");
        let norm = |l: usize, place| format!("{}.{l}.{}", names.layers, names.norm(place));
        match self {
            Slot::Embed => weight(names.embed),
            Slot::Positions => weight(names.positions),
            Slot::EmbedNorm => weight(names.embed_norm),
            Slot::EmbedNormBias => bias(names.embed_norm),
            Slot::Norm(l, place) => weight(&norm(l, place)),
            Slot::NormBias(l, place) => bias(&norm(l, place)),
            Slot::Weight(l, p) => weight(&names.module_path(l, p)),
            Slot::Bias(l, p) => bias(&names.module_path(l, p)),
            Slot::Router(_) | Slot::Expert(..) => self.mixture_name(spec).unwrap_or_default(),
            Slot::FinalNorm => weight(names.final_norm),
            Slot::FinalNormBias => bias(names.final_norm),
            Slot::LmHead => weight(names.lm_head),
        }
    }

    fn mixture_name(self, spec: &DecoderSpec) -> Option<String> {
        let (layers, names) = (spec.names.layers, spec.mixture.as_ref()?.names);
        Some(match self {
            Slot::Router(l) => format!("{layers}.{l}.{}.weight", names.router),
            Slot::Expert(l, e, p) => {
                let part = match p {
                    Projection::Gate => names.gate,
                    Projection::Up => names.up,
                    _ => names.down,
                };
                format!("{layers}.{l}.{}.{e}.{part}.weight", names.experts)
            }
            _ => return None,
        })
    }

    /// The name under which `files` hold it: older ones leave out what stands before every name of the
    /// body.
    pub fn name_in(self, spec: &DecoderSpec, files: &WeightFiles) -> String {
        let name = self.name(spec);
        let short = name.strip_prefix(spec.names.base);
        match short.filter(|s| !files.contains(&name) && files.contains(s)) {
            Some(short) => short.to_string(),
            None => name,
        }
    }

    /// The shape in memory that the configuration asks for.
    pub fn shape(self, spec: &DecoderSpec) -> Vec<usize> {
        match self {
            Slot::Embed | Slot::LmHead => vec![spec.vocab_size, spec.hidden_size],
            Slot::Positions => vec![spec.max_position_embeddings, spec.hidden_size],
            Slot::Norm(_, place) | Slot::NormBias(_, place) => match place {
                NormPlace::Query | NormPlace::Key => vec![spec.head_dim],
                _ => vec![spec.hidden_size],
            },
            Slot::EmbedNorm | Slot::EmbedNormBias | Slot::FinalNorm | Slot::FinalNormBias => {
                vec![spec.hidden_size]
            }
            Slot::Weight(_, p) => {
                let (out, input) = projection_shape(spec, p);
                vec![out, input]
            }
            Slot::Bias(_, p) => vec![projection_shape(spec, p).0],
            Slot::Router(_) => {
                vec![spec.mixture.as_ref().map_or(0, |m| m.num_experts), spec.hidden_size]
            }
            Slot::Expert(_, _, p) => {
                let inner = spec.mixture.as_ref().map_or(0, |m| m.intermediate_size);
                match p {
                    Projection::Down => vec![spec.hidden_size, inner],
                    _ => vec![inner, spec.hidden_size],
                }
            }
        }
    }

    /// The shape in files.
    pub fn file_shape(self, spec: &DecoderSpec) -> Vec<usize> {
        let mut shape = self.shape(spec);
        if self.is_transposed(spec) {
            shape.reverse();
        }
        shape
    }

    /// The tensor as files hold it from the one in memory, and back.
    ///
    /// # Errors
    /// A failing tensor operation.
    pub fn turned(self, spec: &DecoderSpec, tensor: Tensor) -> Result<Tensor> {
        if self.is_transposed(spec) { tensor.t()?.contiguous() } else { Ok(tensor) }
    }

    /// Whether files hold the transpose.
    pub fn is_transposed(self, spec: &DecoderSpec) -> bool {
        spec.transposed && self.is_linear()
    }

    /// Whether this is a matrix: stored in the run's dtype, and subject to weight decay.
    pub fn is_matrix(self) -> bool {
        self.is_linear()
            || matches!(self, Slot::Embed | Slot::Positions | Slot::LmHead | Slot::Router(_))
    }

    /// Whether this is the matrix of a linear layer: it may be kept in 8 bits or fewer.
    pub fn is_linear(self) -> bool {
        matches!(self, Slot::Weight(..) | Slot::Expert(..))
    }

    /// Whether this is a bias: zero in a fresh model.
    pub fn is_bias(self) -> bool {
        matches!(
            self,
            Slot::Bias(..) | Slot::NormBias(..) | Slot::EmbedNormBias | Slot::FinalNormBias
        )
    }
}
