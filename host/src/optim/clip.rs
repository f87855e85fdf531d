//! The global gradient norm, and clipping by it.

use candle_core::{DType, Result, Tensor};

use crate::model::GradSet;

/// Root of the sum of squares of all gradients, f64, in their fixed order. Not finite when any
/// gradient is not.
///
/// # Errors
/// When a device fails.
pub fn global_norm(grads: &GradSet) -> Result<f64> {
    Ok(square_sums(grads)?.sqrt())
}

/// Sum of squares of all gradients, as [`global_norm`].
///
/// # Errors
/// When a device fails.
pub fn square_sums(grads: &GradSet) -> Result<f64> {
    let mut sum = 0f64;
    let mut on_device = Vec::new();
    for grad in grads.grads.iter().flatten() {
        match grad.device().is_cpu() {
            true => sum += square_sum(grad)?,
            false => on_device.push(device_square_sum(grad)?),
        }
    }
    if !on_device.is_empty() {
        // One wait for all of them.
        sum += Tensor::stack(&on_device, 0)?.to_vec1::<f64>()?.iter().sum::<f64>();
    }
    Ok(sum)
}

/// Sum of squares, a scalar on the gradient's device.
fn device_square_sum(grad: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if grad.device().is_cuda() {
        return crate::ops::cuda::norm::square_sum(grad);
    }
    grad.to_dtype(DType::F64)?.sqr()?.sum_all()
}

fn square_sum(grad: &Tensor) -> Result<f64> {
    if grad.device().is_cpu() && grad.dtype() == DType::F32 {
        return crate::ops::cpu::slices::with_f32(grad, |values| {
            // Pieces of a fixed size keep the sum's order whatever the thread count.
            Ok(values
                .chunks(4096)
                .map(|piece| piece.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>())
                .sum())
        });
    }
    grad.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar()
}

/// The factor that brings `norm` down to `max_norm`, as torch's `clip_grad_norm_` has it; 1 when
/// there is nothing to do or `max_norm` is 0.
pub fn factor(norm: f64, max_norm: f64) -> f64 {
    if max_norm <= 0.0 { 1.0 } else { (max_norm / (norm + 1e-6)).min(1.0) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn norm_spans_all_gradients_and_shows_what_is_not_finite() {
        let tensor = |v: &[f32]| Some(Tensor::new(v, &Device::Cpu).unwrap());
        let grads = GradSet::of(vec![tensor(&[3.0]), None, tensor(&[0.0, 4.0])]);
        assert_eq!(global_norm(&grads).unwrap(), 5.0);
        assert!((factor(5.0, 1.0) - 0.2).abs() < 1e-6);
        assert_eq!(factor(0.5, 1.0), 1.0);
        assert_eq!(factor(5.0, 0.0), 1.0);
        let bad = GradSet::of(vec![tensor(&[f32::NAN])]);
        assert!(!global_norm(&bad).unwrap().is_finite());
    }
}
