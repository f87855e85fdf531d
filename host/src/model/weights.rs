//! The decoder's weights: loaded from a folder, or fresh.

use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::ModelError;
use super::projection::Projection;
use super::reader::WeightFiles;
use super::slots::Slot;
use super::spec::DecoderSpec;
use crate::rng::{Purpose, Stream};

/// A linear layer: `y = x Wᵀ + b`.
#[derive(Clone, Debug)]
pub struct Linear {
    /// `[out, in]`, f32 or bf16.
    pub weight: Tensor,
    /// `[out]`, f32.
    pub bias: Option<Tensor>,
}

/// Weights of one block. Norms are f32.
#[derive(Clone, Debug)]
pub struct LayerWeights {
    /// Norm before attention, `[hidden]`.
    pub input_norm: Tensor,
    /// Queries.
    pub q: Linear,
    /// Keys.
    pub k: Linear,
    /// Values.
    pub v: Linear,
    /// Attention output.
    pub o: Linear,
    /// Norm of each query head, `[head_dim]`.
    pub q_norm: Option<Tensor>,
    /// Norm of each key head, `[head_dim]`.
    pub k_norm: Option<Tensor>,
    /// Norm before the MLP, `[hidden]`.
    pub post_norm: Tensor,
    /// MLP gate.
    pub gate: Linear,
    /// MLP up.
    pub up: Linear,
    /// MLP down.
    pub down: Linear,
}

/// Weights of a decoder.
#[derive(Clone, Debug)]
pub struct Weights {
    /// Embedding, `[vocab, hidden]`.
    pub embed: Tensor,
    /// Blocks.
    pub layers: Vec<LayerWeights>,
    /// Norm before the head, `[hidden]`.
    pub final_norm: Tensor,
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
        let missing: Vec<String> =
            slots.iter().map(|s| s.name()).filter(|name| !files.contains(name)).collect();
        if !missing.is_empty() {
            return Err(ModelError::MissingTensors { path: dir.into(), names: missing });
        }
        let wanted: std::collections::BTreeSet<String> = slots.iter().map(|s| s.name()).collect();
        let tied = spec.tie_word_embeddings.then(|| Slot::LmHead.name());
        let unused = files
            .names()
            .filter(|n| !wanted.contains(*n) && Some(*n) != tied.as_deref())
            .filter(|n| !n.ends_with("rotary_emb.inv_freq"))
            .map(str::to_string)
            .collect();
        let weights = Self::build(spec, |slot| {
            let name = slot.name();
            let tensor = files.read(&name)?;
            let expected = slot.shape(spec);
            if tensor.dims() != expected {
                return Err(ModelError::Shape {
                    path: dir.into(),
                    name,
                    got: tensor.dims().to_vec(),
                    expected,
                });
            }
            let dtype = if slot.is_matrix() { dtype } else { DType::F32 };
            Ok(tensor.to_dtype(dtype)?.to_device(device)?)
        })?;
        Ok((weights, unused))
    }

    /// Fresh weights: matrices normal with the spec's `initializer_range`, norms 1, biases 0.
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
                Slot::Bias(..) => Tensor::zeros(shape, DType::F32, device)?,
                _ => Tensor::ones(shape, DType::F32, device)?,
            })
        })
    }

    fn build(
        spec: &DecoderSpec,
        mut get: impl FnMut(Slot) -> Result<Tensor, ModelError>,
    ) -> Result<Self, ModelError> {
        let slots: std::collections::BTreeSet<Slot> = Slot::all(spec).into_iter().collect();
        let mut optional = |slot: Slot| match slots.contains(&slot) {
            true => get(slot).map(Some),
            false => Ok(None),
        };
        let absent = || candle_core::Error::Msg("a slot is absent from its own list".into());
        let mut required = |slot: Slot| optional(slot)?.ok_or_else(|| ModelError::from(absent()));
        let embed = required(Slot::Embed)?;
        let mut layers = Vec::with_capacity(spec.num_layers);
        for l in 0..spec.num_layers {
            let input_norm = required(Slot::InputNorm(l))?;
            let mut linear = |p: Projection| -> Result<Linear, ModelError> {
                let weight = required(Slot::Weight(l, p))?;
                let bias = match slots.contains(&Slot::Bias(l, p)) {
                    true => Some(required(Slot::Bias(l, p))?),
                    false => None,
                };
                Ok(Linear { weight, bias })
            };
            let [q, k, v, o, gate, up, down] = [
                linear(Projection::Q)?,
                linear(Projection::K)?,
                linear(Projection::V)?,
                linear(Projection::O)?,
                linear(Projection::Gate)?,
                linear(Projection::Up)?,
                linear(Projection::Down)?,
            ];
            let mut norm = |slot: Slot| match slots.contains(&slot) {
                true => required(slot).map(Some),
                false => Ok(None),
            };
            let (q_norm, k_norm) = (norm(Slot::QNorm(l))?, norm(Slot::KNorm(l))?);
            let post_norm = required(Slot::PostNorm(l))?;
            layers.push(LayerWeights {
                input_norm,
                q,
                k,
                v,
                o,
                q_norm,
                k_norm,
                post_norm,
                gate,
                up,
                down,
            });
        }
        let final_norm = required(Slot::FinalNorm)?;
        let lm_head = optional(Slot::LmHead)?;
        Ok(Self { embed, layers, final_norm, lm_head })
    }

    /// The tensor in a slot, if the decoder has it.
    pub fn get(&self, slot: Slot) -> Option<&Tensor> {
        match slot {
            Slot::Embed => Some(&self.embed),
            Slot::FinalNorm => Some(&self.final_norm),
            Slot::LmHead => self.lm_head.as_ref(),
            Slot::InputNorm(l) => self.layers.get(l).map(|w| &w.input_norm),
            Slot::PostNorm(l) => self.layers.get(l).map(|w| &w.post_norm),
            Slot::QNorm(l) => self.layers.get(l)?.q_norm.as_ref(),
            Slot::KNorm(l) => self.layers.get(l)?.k_norm.as_ref(),
            Slot::Weight(l, p) => self.layers.get(l).map(|w| &w.linear(p).weight),
            Slot::Bias(l, p) => self.layers.get(l)?.linear(p).bias.as_ref(),
        }
    }

    /// The place of a slot's tensor, if the decoder has it.
    pub fn get_mut(&mut self, slot: Slot) -> Option<&mut Tensor> {
        match slot {
            Slot::Embed => Some(&mut self.embed),
            Slot::FinalNorm => Some(&mut self.final_norm),
            Slot::LmHead => self.lm_head.as_mut(),
            Slot::InputNorm(l) => self.layers.get_mut(l).map(|w| &mut w.input_norm),
            Slot::PostNorm(l) => self.layers.get_mut(l).map(|w| &mut w.post_norm),
            Slot::QNorm(l) => self.layers.get_mut(l)?.q_norm.as_mut(),
            Slot::KNorm(l) => self.layers.get_mut(l)?.k_norm.as_mut(),
            Slot::Weight(l, p) => self.layers.get_mut(l).map(|w| &mut w.linear_mut(p).weight),
            Slot::Bias(l, p) => self.layers.get_mut(l)?.linear_mut(p).bias.as_mut(),
        }
    }
}
