//! The decoder's weights: loaded from a folder, or fresh.

use std::collections::BTreeSet;
use std::mem::take;
use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::projection::Projection;
use super::reader::WeightFiles;
use super::slots::{EXPERT, NormPlace, Slot};
use super::spec::{DecoderSpec, NormKind};
use super::storage::Storage;
use super::{ModelError, bitsandbytes, families};
use crate::ops::quant::{Matrix, Quantized};
use crate::rng::{Purpose, Stream};

/// A linear layer: `y = x Wᵀ + b`.
#[derive(Clone, Debug)]
pub struct Linear {
    /// `[out, in]`, f32, bf16 or narrower.
    pub weight: Matrix,
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

impl Norm {
    fn new(weight: Tensor) -> Self {
        Self { weight, bias: None }
    }
}

/// Weights of a mixture of experts.
#[derive(Clone, Debug)]
pub struct Mixture {
    /// `[experts, hidden]`.
    pub router: Tensor,
    /// Gate, up and down of each expert.
    pub experts: Vec<[Linear; 3]>,
}

/// Weights of one block: those that its family has.
#[derive(Clone, Debug, Default)]
pub struct LayerWeights {
    norms: [Option<Norm>; NormPlace::ALL.len()],
    linears: [Option<Linear>; Projection::COUNT],
    /// Experts in place of an MLP.
    pub mixture: Option<Mixture>,
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
    /// Loads `dir`, matrices as `storage` says, norms and biases as f32. At no time is more in memory
    /// than the weights and one tensor. Linear layers that the folder holds as bitsandbytes saves them, or
    /// in GGUF's blocks, stay so. Answers also the names of tensors that the model does not use.
    ///
    /// # Errors
    /// Missing tensors (all at once), wrong shapes, damaged files.
    pub fn load(
        dir: &Path,
        spec: &DecoderSpec,
        storage: impl Into<Storage>,
        device: &Device,
    ) -> Result<(Self, Vec<String>), ModelError> {
        let files = WeightFiles::open(dir)?;
        let slots = Slot::all(spec);
        let in_file = |slot: &Slot| slot.name_in(spec, &files);
        let wanted: BTreeSet<String> = slots.iter().map(in_file).collect();
        let missing: Vec<String> =
            slots.iter().map(in_file).filter(|name| !files.contains(name)).collect();
        if !missing.is_empty() {
            return Err(ModelError::MissingTensors { path: dir.into(), names: missing });
        }
        let tied = spec.tie_word_embeddings.then(|| Slot::LmHead.name(spec));
        let unused = files
            .names()
            .filter(|n| !wanted.contains(*n) && Some(*n) != tied.as_deref())
            .filter(|n| !families::is_buffer(n) && !bitsandbytes::is_part(n))
            .map(str::to_string)
            .collect();
        let storage = storage.into();
        let weights = Self::build(spec, |slot| {
            read(&files, dir, spec, slot, &in_file(&slot), storage, device)
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
            Ok(Matrix::Dense(if slot.is_matrix() {
                let n: usize = shape.iter().product();
                let values: Vec<f32> = (0..n as u64)
                    .map(|i| (stream.normal(i) * spec.initializer_range) as f32)
                    .collect();
                Tensor::from_vec(values, shape, device)?.to_dtype(dtype)?
            } else if slot.is_bias() || spec.norm == NormKind::RmsOffset {
                Tensor::zeros(shape, DType::F32, device)?
            } else {
                Tensor::ones(shape, DType::F32, device)?
            }))
        })
    }

    /// From what `get` has for every slot.
    ///
    /// # Errors
    /// Those of `get`; a narrow matrix in another place than a linear layer.
    pub(super) fn build(
        spec: &DecoderSpec,
        mut get: impl FnMut(Slot) -> Result<Matrix, ModelError>,
    ) -> Result<Self, ModelError> {
        let mut parts = Parts::default();
        parts.layers.resize(spec.num_layers, LayerWeights::default());
        let mut expert = Vec::new();
        let wrong = |what: &str| candle_core::Error::Msg(format!("a decoder {what}"));
        for slot in Slot::all(spec) {
            let tensor = match (slot, get(slot)?) {
                (Slot::Weight(l, p), weight) => {
                    let linear = Linear { weight, bias: None };
                    parts.layers[l].linears[p as usize] = Some(linear);
                    continue;
                }
                (Slot::Expert(l, ..), weight) => {
                    // The router comes first, then each expert's three.
                    if let Some(mixture) = &mut parts.layers[l].mixture {
                        expert.push(Linear { weight, bias: None });
                        if expert.len() == EXPERT.len() {
                            mixture.experts.extend(<[Linear; 3]>::try_from(take(&mut expert)));
                        }
                    }
                    continue;
                }
                (_, Matrix::Dense(tensor)) => tensor,
                (_, Matrix::Quantized(_) | Matrix::Resident(_)) => {
                    return Err(wrong("has a narrow matrix where none is read").into());
                }
            };
            match slot {
                Slot::Weight(..) | Slot::Expert(..) => {}
                Slot::Router(l) => {
                    let mixture = Mixture { router: tensor, experts: Vec::new() };
                    parts.layers[l].mixture = Some(mixture);
                }
                Slot::Embed => parts.embed = Some(tensor),
                Slot::Positions => parts.positions = Some(tensor),
                Slot::LmHead => parts.lm_head = Some(tensor),
                Slot::EmbedNorm => parts.embed_norm = Some(Norm::new(tensor)),
                Slot::FinalNorm => parts.final_norm = Some(Norm::new(tensor)),
                Slot::Norm(l, place) => {
                    parts.layers[l].norms[place as usize] = Some(Norm::new(tensor));
                }
                // A bias follows its matrix or norm in the list of slots.
                Slot::EmbedNormBias => set_bias(&mut parts.embed_norm, tensor),
                Slot::FinalNormBias => set_bias(&mut parts.final_norm, tensor),
                Slot::NormBias(l, place) => {
                    set_bias(&mut parts.layers[l].norms[place as usize], tensor);
                }
                Slot::Bias(l, p) => {
                    if let Some(linear) = &mut parts.layers[l].linears[p as usize] {
                        linear.bias = Some(tensor);
                    }
                }
            }
        }
        let Parts { embed, positions, embed_norm, layers, final_norm, lm_head } = parts;
        let embed = embed.ok_or_else(|| wrong("has no embedding"))?;
        let final_norm = final_norm.ok_or_else(|| wrong("has no norm before its head"))?;
        Ok(Self { embed, positions, embed_norm, layers, final_norm, lm_head })
    }

    /// Bytes in memory.
    pub fn bytes(&self, spec: &DecoderSpec) -> usize {
        let dense =
            |slot: Slot| self.get(slot).map_or(0, |t| t.elem_count() * t.dtype().size_in_bytes());
        let narrow = |layer: &LayerWeights| {
            let experts = layer.mixture.iter().flat_map(|m| m.experts.iter().flatten());
            let linears = layer.linears.iter().flatten().chain(experts);
            linears.map(|linear| linear.weight.narrow_bytes()).sum::<usize>()
        };
        Slot::all(spec).into_iter().map(dense).sum::<usize>()
            + self.layers.iter().map(narrow).sum::<usize>()
    }

    /// The matrix of a linear layer, dense or narrower.
    pub fn matrix(&self, slot: Slot) -> Option<&Matrix> {
        match slot {
            Slot::Weight(l, p) => Some(&self.layers.get(l)?.linears[p as usize].as_ref()?.weight),
            Slot::Expert(l, e, p) => {
                let mixture = self.layers.get(l)?.mixture.as_ref()?;
                Some(&mixture.experts.get(e)?[expert_index(p)].weight)
            }
            _ => None,
        }
    }

    /// The tensor in a slot, if the decoder has it; none for a matrix that is kept narrower.
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
            Slot::Weight(..) | Slot::Expert(..) => self.matrix(slot)?.dense(),
            Slot::Bias(l, p) => linear(l, p)?.bias.as_ref(),
            Slot::Router(l) => self.layers.get(l)?.mixture.as_ref().map(|m| &m.router),
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
            Slot::Weight(l, p) => {
                self.layers.get_mut(l)?.linears[p as usize].as_mut()?.weight.dense_mut()
            }
            Slot::Router(l) => self.layers.get_mut(l)?.mixture.as_mut().map(|m| &mut m.router),
            Slot::Expert(l, e, p) => {
                let mixture = self.layers.get_mut(l)?.mixture.as_mut()?;
                mixture.experts.get_mut(e)?[expert_index(p)].weight.dense_mut()
            }
            Slot::Bias(l, p) => self.layers.get_mut(l)?.linears[p as usize].as_mut()?.bias.as_mut(),
        }
    }
}

/// Where an expert's linear layer stands among its three.
fn expert_index(projection: Projection) -> usize {
    EXPERT.iter().position(|&p| p == projection).unwrap_or(0)
}

/// What [`Weights`] is put together from.
#[derive(Default)]
struct Parts {
    embed: Option<Tensor>,
    positions: Option<Tensor>,
    embed_norm: Option<Norm>,
    layers: Vec<LayerWeights>,
    final_norm: Option<Norm>,
    lm_head: Option<Tensor>,
}

fn set_bias(norm: &mut Option<Norm>, bias: Tensor) {
    if let Some(norm) = norm {
        norm.bias = Some(bias);
    }
}

/// `table [rows, width]` with `more` rows, each the mean of all: as likely as any, and near none.
///
/// # Errors
/// When memory is lacking.
pub fn with_mean_rows(table: &Tensor, more: usize) -> candle_core::Result<Tensor> {
    let mean = table.to_dtype(DType::F32)?.mean_keepdim(0)?.to_dtype(table.dtype())?;
    let width = table.dim(1)?;
    Tensor::cat(&[table, &mean.broadcast_as((more, width))?.contiguous()?], 0)
}

/// The tensor `name` for `slot`, as `storage` says.
fn read(
    files: &WeightFiles,
    dir: &Path,
    spec: &DecoderSpec,
    slot: Slot,
    name: &str,
    storage: Storage,
    device: &Device,
) -> Result<Matrix, ModelError> {
    let mut in_file = slot.file_shape(spec);
    let grows = matches!(slot, Slot::Embed | Slot::LmHead) && spec.added_rows > 0;
    if grows {
        in_file[0] -= spec.added_rows;
    }
    let fits = |got: &[usize], expected: &[usize]| match got == expected {
        true => Ok(()),
        false => Err(ModelError::Shape {
            path: dir.into(),
            name: name.into(),
            got: got.to_vec(),
            expected: expected.to_vec(),
        }),
    };
    let linear = slot.is_linear();
    if linear && storage.keep_narrow {
        let stored = match bitsandbytes::read(files, dir, name)? {
            None => files.read_blocks(name)?,
            stored => stored,
        };
        if let Some(quantized) = stored {
            let (rows, width) = quantized.dims();
            // Never turned, not even where files hold the transpose of whole matrices.
            fits(&[rows, width], &slot.shape(spec))?;
            return Ok(Matrix::placed(quantized, device)?);
        }
    }
    let tensor = bitsandbytes::read_dense(files, dir, name)?;
    fits(tensor.dims(), &in_file)?;
    let tensor = if grows { with_mean_rows(&tensor, spec.added_rows)? } else { tensor };
    if let Some(scheme) = storage.scheme.filter(|_| linear) {
        let tensor = slot.turned(spec, tensor.to_dtype(DType::F32)?)?;
        return Ok(Matrix::placed(Quantized::from_tensor(scheme, &tensor)?, device)?);
    }
    let dtype = if slot.is_matrix() { storage.dtype } else { DType::F32 };
    Ok(Matrix::Dense(slot.turned(spec, tensor.to_dtype(dtype)?)?.to_device(device)?))
}
