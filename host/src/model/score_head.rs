//! A head with one output: the reward of a sequence, or the value of a state. `value = w · x`,
//! without a bias, as Hugging Face's sequence-classification models with one label have it.

use candle_core::{Result, Tensor};

use crate::ops::{Exec, linear};

/// Name of the head's matrix in Hugging Face's sequence-classification models.
pub const SCORE: &str = "score.weight";

/// `normed [n, hidden]`, `weight [1, hidden]` → `[n]`.
///
/// # Errors
/// When shapes don't fit or a device fails.
pub fn forward(exec: Exec, weight: &Tensor, normed: &Tensor) -> Result<Vec<f32>> {
    linear::forward(exec, normed, weight, None)?.flatten_all()?.to_vec1()
}

/// `dvalues [n]` → `dnormed [n, hidden]` and the matrix's gradient `[1, hidden]`.
///
/// # Errors
/// As [`forward`].
pub fn backward(
    exec: Exec,
    weight: &Tensor,
    normed: &Tensor,
    dvalues: &[f32],
) -> Result<(Tensor, Tensor)> {
    let d = Tensor::from_slice(dvalues, (dvalues.len(), 1), normed.device())?;
    let dnormed = linear::backward_input(exec, &d, weight)?;
    Ok((dnormed, linear::backward_weight(exec, &d, normed)?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn the_backward_is_the_forwards() {
        let tensor = |values: &[f32], shape: (usize, usize)| {
            Tensor::from_slice(values, shape, &Device::Cpu).unwrap()
        };
        let weight = tensor(&[0.5, -1.0, 2.0], (1, 3));
        let normed = tensor(&[1.0, 2.0, 3.0, -1.0, 0.5, 0.25], (2, 3));
        for exec in [Exec::Portable, Exec::for_device(&Device::Cpu)] {
            assert_eq!(forward(exec, &weight, &normed).unwrap(), [4.5, -0.5]);
            let (dx, dw) = backward(exec, &weight, &normed, &[2.0, -1.0]).unwrap();
            let rows = dx.to_vec2::<f32>().unwrap();
            assert_eq!(rows, [vec![1.0, -2.0, 4.0], vec![-0.5, 1.0, -2.0]]);
            assert_eq!(dw.to_vec2::<f32>().unwrap(), [[3.0, 3.5, 5.75]]);
        }
    }
}
