//! AdamW (Loshchilov & Hutter 2017, arXiv 1711.05101), operation for operation as torch's.

use std::ops::Range;

use candle_core::{DType, Result, Tensor};
use rayon::prelude::*;

use super::Partition;
use crate::model::{GradSet, ParamSet};
use crate::ops::cpu::slices::{modify, with_f32};
use crate::ops::cpu::{PARALLEL_MIN, multiversion};

/// AdamW's settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the denominator.
    pub eps: f64,
    /// Decoupled weight decay, for the parameters that take it.
    pub weight_decay: f64,
}

/// The optimiser and all of its state.
#[derive(Debug)]
pub struct AdamW {
    settings: Settings,
    partition: Partition,
    /// Updates made.
    pub step: u64,
    /// First moments, by parameter: of its shape, or, sharded, a row of this rank's values of it.
    pub m: Vec<Tensor>,
    /// Second moments.
    pub v: Vec<Tensor>,
}

/// The numbers of one update.
#[derive(Clone, Copy)]
struct Update {
    keep: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    step_size: f32,
    bias2_sqrt: f32,
    eps: f32,
    grad_scale: f32,
}

multiversion! {
    fn update_slice(p: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32], u: Update) {
        let n = p.len();
        let (m, v, g) = (&mut m[..n], &mut v[..n], &g[..n]);
        for i in 0..n {
            let g = g[i] * u.grad_scale;
            let m_new = m[i] + (g - m[i]) * u.one_minus_beta1;
            let v_new = v[i] * u.beta2 + g * g * u.one_minus_beta2;
            m[i] = m_new;
            v[i] = v_new;
            let denominator = v_new.sqrt() / u.bias2_sqrt + u.eps;
            p[i] = p[i] * u.keep - u.step_size * (m_new / denominator);
        }
    }
}

impl AdamW {
    /// Zero moments for all of `params`.
    ///
    /// # Errors
    /// When the memory can't be had.
    pub fn new(settings: Settings, params: &ParamSet) -> Result<Self> {
        Self::sharded(settings, params, Partition::whole(params))
    }

    /// Zero moments for this rank's part of `params`.
    ///
    /// # Errors
    /// When the memory can't be had.
    pub fn sharded(settings: Settings, params: &ParamSet, partition: Partition) -> Result<Self> {
        let zeros = |(i, p): (usize, &crate::model::NamedTensor)| {
            let shape = match partition.is_sharded() {
                true => candle_core::Shape::from(partition.own(i).len()),
                false => p.tensor.shape().clone(),
            };
            Tensor::zeros(shape, DType::F32, p.tensor.device())
        };
        let all = || params.params.iter().enumerate().map(zeros).collect::<Result<Vec<Tensor>>>();
        let (m, v) = (all()?, all()?);
        Ok(Self { settings, partition, step: 0, m, v })
    }

    /// Who keeps what.
    pub fn partition(&self) -> &Partition {
        &self.partition
    }

    /// One update with gradients scaled by `grad_scale`. On the CPU parameters and moments change
    /// in place. A parameter without gradient is left alone. Sharded, only this rank's values change;
    /// a gradient is then of its parameter's shape, or a row of this rank's values of it.
    ///
    /// # Errors
    /// When a device fails.
    pub fn update(
        &mut self,
        params: &mut ParamSet,
        grads: &GradSet,
        learning_rate: f64,
        grad_scale: f64,
    ) -> Result<()> {
        self.step += 1;
        let s = self.settings;
        let bias1 = 1.0 - s.beta1.powf(self.step as f64);
        let bias2 = 1.0 - s.beta2.powf(self.step as f64);
        for (i, param) in params.params.iter_mut().enumerate() {
            let Some(grad) = &grads.grads[i] else { continue };
            let learning_rate = learning_rate * param.learning_rate_ratio;
            let decay = if param.decay { s.weight_decay } else { 0.0 };
            let update = Update {
                keep: (1.0 - learning_rate * decay) as f32,
                one_minus_beta1: (1.0 - s.beta1) as f32,
                beta2: s.beta2 as f32,
                one_minus_beta2: (1.0 - s.beta2) as f32,
                step_size: (learning_rate / bias1) as f32,
                bias2_sqrt: bias2.sqrt() as f32,
                eps: s.eps as f32,
                grad_scale: grad_scale as f32,
            };
            let own = self.partition.own(i);
            if own.is_empty() {
                continue;
            }
            let cpu = param.tensor.device().is_cpu() && param.tensor.dtype() == DType::F32;
            #[cfg(feature = "cuda")]
            if param.tensor.device().is_cuda() {
                let Update { keep, one_minus_beta1, beta2, one_minus_beta2, .. } = update;
                let Update { step_size, bias2_sqrt, eps, grad_scale, .. } = update;
                let numbers = crate::ops::cuda::adamw::Numbers {
                    keep,
                    one_minus_beta1,
                    beta2,
                    one_minus_beta2,
                    step_size,
                    bias2_sqrt,
                    eps,
                    grad_scale,
                };
                let part = |t: &Tensor| match t.elem_count() == own.len() {
                    true => t.flatten_all(),
                    false => t.flatten_all()?.narrow(0, own.start, own.len()),
                };
                let (p, g) = (part(&param.tensor)?, part(grad)?);
                let (m, v) = (self.m[i].flatten_all()?, self.v[i].flatten_all()?);
                crate::ops::cuda::adamw::update(&p, &m, &v, &g, numbers)?;
                continue;
            }
            if cpu {
                fused(&param.tensor, own, &self.m[i], &self.v[i], grad, update)?;
            } else if self.partition.is_sharded() {
                candle_core::bail!(
                    "a sharded optimiser works on f32 parameters of the CPU or of a GPU"
                );
            } else {
                let (p, m, v) = portable(&param.tensor, &self.m[i], &self.v[i], grad, update)?;
                (param.tensor, self.m[i], self.v[i]) = (p, m, v);
            }
        }
        Ok(())
    }
}

fn fused(
    p: &Tensor,
    own: Range<usize>,
    m: &Tensor,
    v: &Tensor,
    g: &Tensor,
    update: Update,
) -> Result<()> {
    // Locks are taken one inside the other; the four tensors are different ones.
    let mut done = Ok(());
    modify(p.clone(), |p| done = fused_moments(p, own, m, v, g, update))?;
    done
}

fn fused_moments(
    p: &mut [f32],
    own: Range<usize>,
    m: &Tensor,
    v: &Tensor,
    g: &Tensor,
    update: Update,
) -> Result<()> {
    let whole = p.len();
    let p = &mut p[own.clone()];
    let mut done = Ok(());
    modify(m.clone(), |m| {
        let mut inner = Ok(());
        let outer = modify(v.clone(), |v| {
            inner = with_f32(g, |g| {
                let g = if g.len() == whole { &g[own.clone()] } else { g };
                if p.len() != g.len() {
                    candle_core::bail!("a gradient of {} values for {}", g.len(), p.len());
                }
                let piece = PARALLEL_MIN;
                if p.len() <= piece {
                    update_slice(p, m, v, g, update);
                } else {
                    p.par_chunks_mut(piece)
                        .zip(m.par_chunks_mut(piece))
                        .zip(v.par_chunks_mut(piece).zip(g.par_chunks(piece)))
                        .for_each(|((p, m), (v, g))| update_slice(p, m, v, g, update));
                }
                Ok(())
            });
        });
        done = outer.map(drop).and(inner);
    })?;
    done
}

fn portable(
    p: &Tensor,
    m: &Tensor,
    v: &Tensor,
    g: &Tensor,
    u: Update,
) -> Result<(Tensor, Tensor, Tensor)> {
    let g = (g * f64::from(u.grad_scale))?;
    let m = (m + ((&g - m)? * f64::from(u.one_minus_beta1))?)?;
    let v = ((v * f64::from(u.beta2))? + (g.sqr()? * f64::from(u.one_minus_beta2))?)?;
    let denominator = ((v.sqrt()? / f64::from(u.bias2_sqrt))? + f64::from(u.eps))?;
    let step = ((&m / denominator)? * f64::from(u.step_size))?;
    let kept = (p.to_dtype(DType::F32)? * f64::from(u.keep))?;
    Ok(((kept - step)?.to_dtype(p.dtype())?, m, v))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::model::NamedTensor;
    use candle_core::Device;

    fn params(values: &[f32]) -> ParamSet {
        let tensor = Tensor::new(values, &Device::Cpu).unwrap();
        ParamSet { params: vec![NamedTensor::new("p", tensor)] }
    }

    const SETTINGS: Settings = Settings { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1 };

    /// The published algorithm in f64.
    fn reference(mut p: Vec<f64>, steps: u64) -> Vec<f64> {
        let (mut m, mut v) = (vec![0.0; p.len()], vec![0.0; p.len()]);
        for t in 1..=steps {
            for i in 0..p.len() {
                let g = gradient(i, t);
                m[i] = 0.9 * m[i] + 0.1 * g;
                v[i] = 0.999 * v[i] + 0.001 * g * g;
                let (m_hat, v_hat) =
                    (m[i] / (1.0 - 0.9f64.powi(t as i32)), v[i] / (1.0 - 0.999f64.powi(t as i32)));
                p[i] -= 0.01 * (0.1 * p[i] + m_hat / (v_hat.sqrt() + 1e-8));
            }
        }
        p
    }

    fn gradient(i: usize, t: u64) -> f64 {
        ((i as f64 + 1.0) * 0.3 + t as f64).sin()
    }

    #[test]
    fn ten_updates_follow_the_algorithm_fused_and_portable() {
        let start = [1.0f32, -2.0, 0.5, 0.0];
        let want = reference(start.iter().map(|&v| v.into()).collect(), 10);
        let mut set = params(&start);
        let mut optimizer = AdamW::new(SETTINGS, &set).unwrap();
        let mut p = set.params[0].tensor.copy().unwrap();
        let (mut m, mut v) = (p.zeros_like().unwrap(), p.zeros_like().unwrap());
        for t in 1..=10 {
            let g: Vec<f32> = (0..4).map(|i| (gradient(i, t) * 2.0) as f32).collect();
            let g = Tensor::new(g.as_slice(), &Device::Cpu).unwrap();
            let grads = GradSet::of(vec![Some(g.clone())]);
            optimizer.update(&mut set, &grads, 0.01, 0.5).unwrap();
            let update = Update {
                keep: 1.0 - 0.01 * 0.1,
                one_minus_beta1: 0.1,
                beta2: 0.999,
                one_minus_beta2: 0.001,
                step_size: (0.01 / (1.0 - 0.9f64.powi(t as i32))) as f32,
                bias2_sqrt: (1.0 - 0.999f64.powi(t as i32)).sqrt() as f32,
                eps: 1e-8,
                grad_scale: 0.5,
            };
            (p, m, v) = portable(&p, &m, &v, &g, update).unwrap();
        }
        for got in [&set.params[0].tensor, &p] {
            for (g, w) in got.to_vec1::<f32>().unwrap().iter().zip(&want) {
                assert!((f64::from(*g) - w).abs() < 2e-6, "{g} {w}");
            }
        }
    }

    #[test]
    fn shards_make_the_same_update_to_the_bit() {
        let start: Vec<f32> = (0..11).map(|i| (i as f32 * 0.7).cos()).collect();
        let grad: Vec<f32> = (0..11).map(|i| gradient(i, 3) as f32).collect();
        let grads = |g: &[f32]| GradSet::of(vec![Some(Tensor::new(g, &Device::Cpu).unwrap())]);
        let mut whole = params(&start);
        let mut optimizer = AdamW::new(SETTINGS, &whole).unwrap();
        let ranks = 3;
        let mut shared: Vec<(ParamSet, AdamW)> = (0..ranks)
            .map(|rank| {
                let set = params(&start);
                let partition = Partition::sharded(&set, rank, ranks);
                let optimizer = AdamW::sharded(SETTINGS, &set, partition).unwrap();
                (set, optimizer)
            })
            .collect();
        for _ in 0..2 {
            optimizer.update(&mut whole, &grads(&grad), 0.01, 0.5).unwrap();
            for (i, (set, optimizer)) in shared.iter_mut().enumerate() {
                let own = optimizer.partition().own(0);
                // The whole gradient, or this rank's values of it.
                let given = if i == 1 { grads(&grad[own]) } else { grads(&grad) };
                optimizer.update(set, &given, 0.01, 0.5).unwrap();
            }
        }
        let want = whole.params[0].tensor.to_vec1::<f32>().unwrap();
        for (set, optimizer) in &shared {
            let own = optimizer.partition().own(0);
            let got = set.params[0].tensor.to_vec1::<f32>().unwrap();
            assert_eq!(got[own.clone()], want[own.clone()]);
            assert_eq!(optimizer.m[0].elem_count(), own.len());
        }
    }

    #[test]
    fn decay_spares_the_parameters_that_do_not_take_it() {
        let zero = GradSet::of(vec![Some(Tensor::new(&[0f32], &Device::Cpu).unwrap())]);
        for (decay, want) in [(true, 0.999f32), (false, 1.0)] {
            let mut set = params(&[1.0]);
            set.params[0].decay = decay;
            let mut optimizer = AdamW::new(SETTINGS, &set).unwrap();
            optimizer.update(&mut set, &zero, 0.01, 1.0).unwrap();
            assert_eq!(set.params[0].tensor.to_vec1::<f32>().unwrap(), [want]);
        }
    }
}
