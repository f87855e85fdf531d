//! Noise on embeddings in training (NEFTune: Jain et al. 2023, arXiv 2310.05914): uniform in
//! `±alpha / sqrt(tokens · width)`, by the length of each sequence. A value is a pure function of the
//! key and of its place, so that a resumed run sees the same noise.

use candle_core::{Result, Tensor};

use super::dropout::{mix32, row_key};

/// What the noise depends on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Neftune<'a> {
    /// Strength.
    pub alpha: f64,
    /// Key of the update's noise.
    pub key: u64,
    /// Names of the rows, as [`super::dropout::Dropout`] has them.
    pub rows: &'a [u64],
}

/// Tells the noise's values from the dropout's of the same update.
const SALT: u64 = 0x4E45_4654_756E_6501;

/// `x [tokens, width]` with noise; sequence `i` is the rows `bounds[i]..bounds[i + 1]`. The
/// gradient passes as it is.
///
/// # Errors
/// When a device fails.
pub fn add(x: Tensor, bounds: &[usize], noise: Neftune<'_>) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    let mut values = vec![0f32; rows * width];
    for bound in bounds.windows(2) {
        let magnitude = (noise.alpha / ((bound[1] - bound[0]) as f64 * width as f64).sqrt()) as f32;
        for row in bound[0]..bound[1] {
            let key = row_key(noise.key ^ SALT, noise.rows, row);
            for (column, v) in values[row * width..][..width].iter_mut().enumerate() {
                let hash = mix32((column as u32).wrapping_mul(0x9E37_79B9) ^ key);
                // The upper 24 bits: every value is exact in f32.
                *v = ((hash >> 8) as f32 * (1.0 / 8_388_608.0) - 1.0) * magnitude;
            }
        }
    }
    let values = Tensor::from_vec(values, (rows, width), x.device())?;
    x + values
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    #[test]
    fn noise_has_its_bounds_and_moments_and_only_depends_on_its_key() {
        let zeros = || Tensor::zeros((120, 64), DType::F32, &Device::Cpu).unwrap();
        let noise = Neftune { alpha: 5.0, key: 7, rows: &[] };
        let rows =
            |n: Neftune<'_>| add(zeros(), &[0, 100, 120], n).unwrap().to_vec2::<f32>().unwrap();
        let got = rows(noise);
        assert_eq!(got, rows(noise));
        assert_ne!(got, rows(Neftune { key: 8, ..noise }));
        for (part, tokens) in [(&got[..100], 100.0), (&got[100..], 20.0)] {
            let bound = 5.0 / (tokens * 64.0f64).sqrt();
            let values: Vec<f64> = part.iter().flatten().map(|&v| f64::from(v)).collect();
            assert!(values.iter().all(|v| v.abs() <= bound * 1.000_001));
            let n = values.len() as f64;
            let mean = values.iter().sum::<f64>() / n;
            let variance = values.iter().map(|v| v * v).sum::<f64>() / n;
            assert!(mean.abs() < 0.05 * bound, "{mean}");
            assert!((variance / (bound * bound) - 1.0 / 3.0).abs() < 0.03, "{variance}");
        }
    }
}
