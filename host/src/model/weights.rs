//! The decoder's weights: loaded from a folder, or fresh.

use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::projection::Projection;
use super::reader::WeightFiles;
use super::slots::{NormPlace, Slot};
use super::spec::{DecoderSpec, NormKind};
use super::{ModelError, families};
use crate::rng::{Purpose, Stream};

/// A linear layer: `y = x Wᵀ + b`.
#[derive(Clone, Debug)]
pub struct Linear {
    /// `[out, in]`, f32 or bf16.
    pub weight: Tensor,
    /// `[out]`, f32.
    pub bias: Option<Tensor>,
}

/// A norm, f32.
#[derive(Clone, Debug)]
pub struct Norm {
    /// `[width]`.
    pub weight: Tensor,
    /// `[width]`.
    pub bias: Option<Tensor>,
}

/// Weights of one block: those that its family has.
#[derive(Clone, Debug, Default)]
pub struct LayerWeights {
    norms: [Option<Norm>; NormPlace::ALL.len()],
    linears: [Option<Linear>; Projection::COUNT],
}

impl LayerWeights {
    /// The linear layer behind a projection.
    ///
    /// # Errors
    /// When the family has none.
    pub fn linear(&self, projection: Projection) -> candle_core::Result<&Linear> {
        self.linears[projection as usize].as_ref().ok_or_else(|| {
            candle_core::Error::Msg(format!("this decoder has no linear layer {projection:?}"))
        })
    }

    /// The norm at a place, if the family has one there.
    pub fn norm(&self, place: NormPlace) -> Option<&Norm> {
        self.norms[place as usize].as_ref()
    }

    /// The norm at a place where every family has one.
    ///
    /// # Errors
    /// When there is none.
    pub fn required_norm(&self, place: NormPlace) -> candle_core::Result<&Norm> {
        self.norm(place).ok_or_else(|| {
            candle_core::Error::Msg(format!("this decoder has no norm at {place:?}"))
        })
    }
}

/// Weights of a decoder.
#[derive(Clone, Debug)]
pub struct Weights {
    /// Embedding, `[vocab, hidden]`.
    pub embed: Tensor,
    /// Learned positions, `[max_positions, hidden]`.
    pub positions: Option<Tensor>,
    /// Norm over the embedding.
    pub embed_norm: Option<Norm>,
    /// Blocks.
    pub layers: Vec<LayerWeights>,
    /// Norm before the head.
    pub final_norm: Norm,
    /// Head, `[vocab, hidden]`; `None`: the embedding.
    pub lm_head: Option<Tensor>,
}

impl Weights {
    /// Loads `dir`, matrices as `dtype` (f32 or bf16), norms and biases as f32. At no time is more
    /// in memory than the weights and one tensor. Answers also the names of tensors that the
    /// model does not use.
    ///
    /// # Errors
    /// Missing tensors (all at once), wrong shapes, damaged files.
    pub fn load(
        dir: &Path,
        spec: &DecoderSpec,
        dtype: DType,
        device: &Device,
    ) -> Result<(Self, Vec<String>), ModelError> {
        let files = WeightFiles::open(dir)?;
        let slots = Slot::all(spec);
        // Older files leave out what stands before every name of the body.
        let short = |name: &str| name.strip_prefix(spec.names.base).map(str::to_string);
        let in_file = |slot: &Slot| {
            let name = slot.name(spec);
            match short(&name).filter(|s| !files.contains(&name) && files.contains(s)) {
                Some(short) => short,
                None => name,
            }
        };
        let missing: Vec<String> =
            slots.iter().map(in_file).filter(|name| !files.contains(name)).collect();
        if !missing.is_empty() {
            return Err(ModelError::MissingTensors { path: dir.into(), names: missing });
        }
        let wanted: std::collections::BTreeSet<String> = slots.iter().map(in_file).collect();
        let tied = spec.tie_word_embeddings.then(|| Slot::LmHead.name(spec));
        let unused = files
            .names()
            .filter(|n| !wanted.contains(*n) && Some(*n) != tied.as_deref())
            .filter(|n| !families::is_buffer(n))
            .map(str::to_string)
            .collect();
        let weights = Self::build(spec, |slot| {
            let name = in_file(&slot);
            let tensor = files.read(&name)?;
            let expected = slot.file_shape(spec);
            if tensor.dims() != expected {
                return Err(ModelError::Shape {
                    path: dir.into(),
                    name,
                    got: tensor.dims().to_vec(),
                    expected,
                });
            }
            let dtype = if slot.is_matrix() { dtype } else { DType::F32 };
            Ok(slot.turned(spec, tensor.to_dtype(dtype)?)?.to_device(device)?)
        })?;
        Ok((weights, unused))
    }

    /// Fresh weights: matrices normal with the spec's `initializer_range`, norms neutral, biases 0.
    ///
    /// # Errors
    /// When a tensor can't be made.
    pub fn random(
        spec: &DecoderSpec,
        seed: u64,
        dtype: DType,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let mut index = 0;
        Self::build(spec, |slot| {
            let shape = slot.shape(spec);
            let stream = Stream::new(seed, Purpose::Init, index);
            index += 1;
            Ok(match slot {
                _ if slot.is_matrix() => {
                    let n: usize = shape.iter().product();
                    let values: Vec<f32> = (0..n as u64)
                        .map(|i| (stream.normal(i) * spec.initializer_range) as f32)
                        .collect();
                    Tensor::from_vec(values, shape, device)?.to_dtype(dtype)?
                }
                _ if slot.is_bias() || spec.norm == NormKind::RmsOffset => {
                    Tensor::zeros(shape, DType::F32, device)?
                }
                _ => Tensor::ones(shape, DType::F32, device)?,
            })
        })
    }

    fn build(
        spec: &DecoderSpec,
        mut get: impl FnMut(Slot) -> Result<Tensor, ModelError>,
    ) -> Result<Self, ModelError> {
        let mut embed = None;
        let mut out =
            Parts { layers: vec![LayerWeights::default(); spec.num_layers], ..Parts::default() };
        for slot in Slot::all(spec) {
            let tensor = get(slot)?;
            match slot {
                Slot::Embed => embed = Some(tensor),
                Slot::Positions => out.positions = Some(tensor),
                Slot::LmHead => out.lm_head = Some(tensor),
                Slot::EmbedNorm => out.embed_norm = Some(Norm { weight: tensor, bias: None }),
                Slot::FinalNorm => out.final_norm = Some(Norm { weight: tensor, bias: None }),
                Slot::Norm(l, place) => {
                    out.layers[l].norms[place as usize] = Some(Norm { weight: tensor, bias: None });
                }
                Slot::Weight(l, p) => {
                    out.layers[l].linears[p as usize] = Some(Linear { weight: tensor, bias: None });
                }
                // A bias follows its matrix or norm in the list of slots.
                Slot::EmbedNormBias => {
                    set_bias(out.embed_norm.as_mut().map(|n| &mut n.bias), tensor)
                }
                Slot::FinalNormBias => {
                    set_bias(out.final_norm.as_mut().map(|n| &mut n.bias), tensor)
                }
                Slot::NormBias(l, place) => {
                    let norm = out.layers[l].norms[place as usize].as_mut();
                    set_bias(norm.map(|n| &mut n.bias), tensor);
                }
                Slot::Bias(l, p) => {
                    let linear = out.layers[l].linears[p as usize].as_mut();
                    set_bias(linear.map(|l| &mut l.bias), tensor);
                }
            }
        }
        let absent =
            || candle_core::Error::Msg("the list of slots lacks a part of every decoder".into());
        Ok(Self {
            embed: embed.ok_or_else(absent)?,
            positions: out.positions,
            embed_norm: out.embed_norm,
            layers: out.layers,
            final_norm: out.final_norm.ok_or_else(absent)?,
            lm_head: out.lm_head,
        })
    }

    /// The tensor in a slot, if the decoder has it.
    pub fn get(&self, slot: Slot) -> Option<&Tensor> {
        let norm = |l: usize, place: NormPlace| self.layers.get(l)?.norm(place);
        let linear = |l: usize, p: Projection| self.layers.get(l)?.linears[p as usize].as_ref();
        match slot {
            Slot::Embed => Some(&self.embed),
            Slot::Positions => self.positions.as_ref(),
            Slot::EmbedNorm => self.embed_norm.as_ref().map(|n| &n.weight),
            Slot::EmbedNormBias => self.embed_norm.as_ref()?.bias.as_ref(),
            Slot::FinalNorm => Some(&self.final_norm.weight),
            Slot::FinalNormBias => self.final_norm.bias.as_ref(),
            Slot::LmHead => self.lm_head.as_ref(),
            Slot::Norm(l, place) => norm(l, place).map(|n| &n.weight),
            Slot::NormBias(l, place) => norm(l, place)?.bias.as_ref(),
            Slot::Weight(l, p) => linear(l, p).map(|linear| &linear.weight),
            Slot::Bias(l, p) => linear(l, p)?.bias.as_ref(),
        }
    }

    /// The place of a slot's tensor, if the decoder has it.
    pub fn get_mut(&mut self, slot: Slot) -> Option<&mut Tensor> {
        match slot {
            Slot::Embed => Some(&mut self.embed),
            Slot::Positions => self.positions.as_mut(),
            Slot::EmbedNorm => self.embed_norm.as_mut().map(|n| &mut n.weight),
            Slot::EmbedNormBias => self.embed_norm.as_mut()?.bias.as_mut(),
            Slot::FinalNorm => Some(&mut self.final_norm.weight),
            Slot::FinalNormBias => self.final_norm.bias.as_mut(),
            Slot::LmHead => self.lm_head.as_mut(),
            Slot::Norm(l, place) => {
                self.layers.get_mut(l)?.norms[place as usize].as_mut().map(|n| &mut n.weight)
            }
            Slot::NormBias(l, place) => {
                self.layers.get_mut(l)?.norms[place as usize].as_mut()?.bias.as_mut()
            }
            Slot::Weight(l, p) => self.layers.get_mut(l)?.linears[p as usize]
                .as_mut()
                .map(|linear| &mut linear.weight),
            Slot::Bias(l, p) => self.layers.get_mut(l)?.linears[p as usize].as_mut()?.bias.as_mut(),
        }
    }
}

/// What [`Weights`] is put together from.
#[derive(Default)]
struct Parts {
    positions: Option<Tensor>,
    embed_norm: Option<Norm>,
    layers: Vec<LayerWeights>,
    final_norm: Option<Norm>,
    lm_head: Option<Tensor>,
}

fn set_bias(place: Option<&mut Option<Tensor>>, tensor: Tensor) {
    if let Some(place) = place {
        *place = Some(tensor);
    }
}
