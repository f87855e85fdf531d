//! Rotary frequencies of a [`RopeSpec`], scaling included.

use super::spec::{RopeScaling, RopeSpec};

/// `inv_freq [head_dim / 2]`, radians per position.
///
/// Llama 3.1's scaling is Meta's published one: wavelengths longer than
/// `original / low_freq_factor` are divided by `factor`, those shorter than
/// `original / high_freq_factor` are kept, and those between are interpolated.
pub fn inverse_frequencies(rope: &RopeSpec, head_dim: usize) -> Vec<f64> {
    let base = |i: usize| rope.theta.powf(-((2 * i) as f64) / head_dim as f64);
    (0..head_dim / 2)
        .map(|i| match rope.scaling {
            RopeScaling::Default => base(i),
            RopeScaling::Linear { factor } => base(i) / factor,
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings: original,
            } => {
                let frequency = base(i);
                let wavelength = std::f64::consts::TAU / frequency;
                if wavelength < original / high_freq_factor {
                    frequency
                } else if wavelength > original / low_freq_factor {
                    frequency / factor
                } else {
                    let smooth = (original / wavelength - low_freq_factor)
                        / (high_freq_factor - low_freq_factor);
                    (1.0 - smooth) * frequency / factor + smooth * frequency
                }
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linear_scaling_divides_every_frequency() {
        let plain = RopeSpec { theta: 10_000.0, scaling: RopeScaling::Default };
        let scaled = RopeSpec { scaling: RopeScaling::Linear { factor: 4.0 }, ..plain.clone() };
        let (a, b) = (inverse_frequencies(&plain, 8), inverse_frequencies(&scaled, 8));
        assert_eq!(a[0], 1.0);
        assert!((a[1] - 0.1).abs() < 1e-12);
        for (x, y) in a.iter().zip(&b) {
            assert!((x / y - 4.0).abs() < 1e-12);
        }
    }

    #[test]
    fn llama3_scaling_keeps_short_and_divides_long_wavelengths() {
        let rope = RopeSpec {
            theta: 500_000.0,
            scaling: RopeScaling::Llama3 {
                factor: 8.0,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_max_position_embeddings: 8192.0,
            },
        };
        let plain = RopeSpec { scaling: RopeScaling::Default, ..rope.clone() };
        let (s, p) = (inverse_frequencies(&rope, 128), inverse_frequencies(&plain, 128));
        assert_eq!(s[0], p[0]);
        assert!((p[63] / s[63] - 8.0).abs() < 1e-12);
        assert!(s.windows(2).all(|w| w[1] < w[0]));
    }
}
