//! A norm as the decoder uses it, of whichever kind its family has.

use candle_core::{Result, Tensor};

use super::params::GradSet;
use super::spec::{DecoderSpec, NormKind};
use super::weights::Norm;
use crate::ops::{Exec, layer_norm, rms_norm};

/// Statistics kept for the backward.
#[derive(Debug, Clone)]
pub enum Saved {
    /// Of an RMS norm.
    Rms(rms_norm::Saved),
    /// Of a layer norm.
    Layer(layer_norm::Saved),
}

/// Where full fine-tuning puts the gradients of a norm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NormParams {
    /// Index of the weight.
    pub weight: Option<usize>,
    /// Index of the bias.
    pub bias: Option<usize>,
}

impl NormParams {
    /// Whether anything here is trained.
    pub fn any(self) -> bool {
        self.weight.is_some() || self.bias.is_some()
    }
}

/// How a decoder's norms run.
#[derive(Clone, Copy, Debug)]
pub struct Norms {
    exec: Exec,
    kind: NormKind,
    eps: f64,
}

impl Norms {
    /// Those of `spec`.
    pub fn new(exec: Exec, spec: &DecoderSpec) -> Self {
        Self { exec, kind: spec.norm, eps: spec.norm_eps }
    }

    /// The factor as it is used.
    fn scale(&self, norm: &Norm) -> Result<Tensor> {
        match self.kind {
            NormKind::RmsOffset => &norm.weight + 1.0,
            NormKind::Rms | NormKind::Layer => Ok(norm.weight.clone()),
        }
    }

    /// `x [tokens, groups · width]` → the same shape.
    pub fn forward(&self, norm: &Norm, x: &Tensor) -> Result<(Tensor, Saved)> {
        let weight = self.scale(norm)?;
        if self.kind == NormKind::Layer {
            let (y, saved) = layer_norm::forward(self.exec, x, &weight, bias(norm)?, self.eps)?;
            return Ok((y, Saved::Layer(saved)));
        }
        let (y, saved) = rms_norm::forward(self.exec, x, &weight, self.eps)?;
        Ok((y, Saved::Rms(saved)))
    }

    /// The output again.
    pub fn recompute(&self, norm: &Norm, x: &Tensor, saved: &Saved) -> Result<Tensor> {
        let weight = self.scale(norm)?;
        match saved {
            Saved::Rms(saved) => rms_norm::recompute(self.exec, x, &weight, saved),
            Saved::Layer(saved) => layer_norm::recompute(self.exec, x, &weight, bias(norm)?, saved),
        }
    }

    /// The input's gradient; those of what is trained are added to `grads`.
    pub fn backward(
        &self,
        norm: &Norm,
        trained: NormParams,
        x: &Tensor,
        saved: &Saved,
        dy: &Tensor,
        grads: &mut GradSet,
    ) -> Result<Tensor> {
        let weight = self.scale(norm)?;
        match saved {
            Saved::Rms(saved) => {
                let want = trained.weight.is_some();
                let (dx, dw) = rms_norm::backward(self.exec, dy, x, &weight, saved, want)?;
                grads.add_optional(trained.weight, dw)?;
                Ok(dx)
            }
            Saved::Layer(saved) => {
                let want = trained.any();
                let (dx, params) = layer_norm::backward(self.exec, dy, x, &weight, saved, want)?;
                if let Some(params) = params {
                    grads.add_optional(trained.weight, Some(params.weight))?;
                    grads.add_optional(trained.bias, Some(params.bias))?;
                }
                Ok(dx)
            }
        }
    }
}

fn bias(norm: &Norm) -> Result<&Tensor> {
    norm.bias.as_ref().ok_or_else(|| candle_core::Error::Msg("a layer norm has no bias".into()))
}
