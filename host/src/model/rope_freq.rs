//! Rotary frequencies of a [`RopeSpec`], scaling included.

use super::spec::{RopeLayout, RopeScaling, RopeSpec};

/// Frequencies of one kind of layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Frequencies {
    /// Radians per position, one a pair; for two positions those of one half.
    pub inverse: Vec<f64>,
    /// Factor on cosines and sines.
    pub factor: f64,
}

/// The length beyond which the frequencies depend on a sequence's own length.
pub fn threshold(rope: &RopeSpec) -> Option<usize> {
    match rope.scaling {
        RopeScaling::Dynamic { original_max_position_embeddings: original, .. }
        | RopeScaling::Long { original_max_position_embeddings: original, .. } => {
            Some(original as usize)
        }
        _ => None,
    }
}

/// The frequencies for a sequence of `length` tokens, as transformers defines each scaling.
pub fn frequencies(rope: &RopeSpec, length: usize) -> Frequencies {
    let dim = match rope.layout {
        RopeLayout::TwoHalves => rope.rotary_dim / 2,
        RopeLayout::Halves | RopeLayout::Interleaved => rope.rotary_dim,
    };
    let pairs = dim / 2;
    let series = |theta: f64| (0..pairs).map(move |i| theta.powf(-((2 * i) as f64) / dim as f64));
    let plain = |inverse: Vec<f64>| Frequencies { inverse, factor: 1.0 };
    match &rope.scaling {
        RopeScaling::Default => plain(series(rope.theta).collect()),
        RopeScaling::Linear { factor } => plain(series(rope.theta).map(|f| f / factor).collect()),
        RopeScaling::Dynamic { factor, original_max_position_embeddings: original } => {
            let growth = factor * (length as f64).max(*original) / original - (factor - 1.0);
            let dim = dim as f64;
            plain(series(rope.theta * growth.powf(dim / (dim - 2.0))).collect())
        }
        &RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings: original,
        } => plain(
            series(rope.theta)
                .map(|frequency| {
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
                })
                .collect(),
        ),
        &RopeScaling::Yarn {
            factor,
            beta_fast,
            beta_slow,
            original_max_position_embeddings: original,
            attention_factor,
            truncate,
        } => {
            let border = |rotations: f64| {
                let turns = original / (rotations * std::f64::consts::TAU);
                dim as f64 * turns.ln() / (2.0 * rope.theta.ln())
            };
            let (mut low, mut high) = (border(beta_fast), border(beta_slow));
            if truncate {
                (low, high) = (low.floor(), high.ceil());
            }
            (low, high) = (low.max(0.0), high.min(dim as f64 - 1.0));
            if low == high {
                high += 0.001;
            }
            let inverse = series(rope.theta)
                .enumerate()
                .map(|(i, frequency)| {
                    let ramp = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                    frequency / factor * ramp + frequency * (1.0 - ramp)
                })
                .collect();
            Frequencies { inverse, factor: attention_factor }
        }
        RopeScaling::Long {
            short_factor,
            long_factor,
            original_max_position_embeddings: original,
            attention_factor,
        } => {
            let long = length as f64 > *original;
            let divisors = if long { long_factor } else { short_factor };
            let inverse = series(rope.theta).zip(divisors).map(|(f, d)| f / d).collect();
            Frequencies { inverse, factor: *attention_factor }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rope(theta: f64, rotary_dim: usize, scaling: RopeScaling) -> RopeSpec {
        RopeSpec { theta, scaling, rotary_dim, layout: RopeLayout::Halves }
    }

    fn of(rope: &RopeSpec) -> Vec<f64> {
        frequencies(rope, 1).inverse
    }

    #[test]
    fn linear_scaling_divides_every_frequency() {
        let a = of(&rope(10_000.0, 8, RopeScaling::Default));
        let b = of(&rope(10_000.0, 8, RopeScaling::Linear { factor: 4.0 }));
        assert_eq!(a[0], 1.0);
        assert!((a[1] - 0.1).abs() < 1e-12);
        for (x, y) in a.iter().zip(&b) {
            assert!((x / y - 4.0).abs() < 1e-12);
        }
    }

    #[test]
    fn llama3_scaling_keeps_short_and_divides_long_wavelengths() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192.0,
        };
        let s = of(&rope(500_000.0, 128, scaling));
        let p = of(&rope(500_000.0, 128, RopeScaling::Default));
        assert_eq!(s[0], p[0]);
        assert!((p[63] / s[63] - 8.0).abs() < 1e-12);
        assert!(s.windows(2).all(|w| w[1] < w[0]));
    }

    #[test]
    fn dynamic_scaling_begins_beyond_the_original_length() {
        let scaling = RopeScaling::Dynamic { factor: 2.0, original_max_position_embeddings: 64.0 };
        let rope = rope(10_000.0, 8, scaling);
        assert_eq!(threshold(&rope), Some(64));
        let short = frequencies(&rope, 64).inverse;
        assert_eq!(short, frequencies(&rope, 3).inverse);
        let long = frequencies(&rope, 128).inverse;
        // theta grows by 3^(8 / 6): the second of four frequencies falls by its quarter power.
        assert!((short[1] / long[1] - 3f64.powf(8.0 / 6.0 / 4.0)).abs() < 1e-12);
    }

    #[test]
    fn two_positions_share_the_head() {
        let rope =
            RopeSpec { layout: RopeLayout::TwoHalves, ..rope(10_000.0, 16, RopeScaling::Default) };
        assert_eq!(of(&rope).len(), 4);
    }
}
