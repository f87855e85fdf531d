//! Vectorised elementary functions. Everything here is `inline(always)`, so that a caller
//! compiled for wider instructions gets them.

/// `e^x`, relative error below 2e-7 where the result is a normal number; 0 and infinity beyond;
/// NaN stays NaN.
///
/// Range reduction by `x = n ln 2 + r` in two pieces (Cody & Waite 1980), then a polynomial of
/// degree 6 on `|r| ≤ ln 2 / 2`.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const LOG2E: f32 = std::f32::consts::LOG2_E;
    // ln 2 in two pieces: the first exact in 9 bits, so that n · LN2_HI is exact.
    const LN2_HI: f32 = 0.693_359_4;
    const LN2_LO: f32 = -2.121_944_4e-4;
    // 1.5 · 2^23: adding it rounds to an integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let clamped = if x > 88.0 { 88.0 } else { x };
    let clamped = if clamped < -87.0 { -87.0 } else { clamped };
    let shifted = clamped * LOG2E + ROUND;
    let n = shifted - ROUND;
    let r = clamped - n * LN2_HI;
    let r = r - n * LN2_LO;
    let p = 1.388_888_9e-3;
    let p = p * r + 8.333_334e-3;
    let p = p * r + 4.166_666_8e-2;
    let p = p * r + 1.666_666_7e-1;
    let p = p * r + 0.5;
    let p = p * r + 1.0;
    let p = p * r + 1.0;
    let bits = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let scale = f32::from_bits((bits.wrapping_add(127) << 23) as u32);
    let y = p * scale;
    let y = if x < -87.0 { 0.0 } else { y };
    let y = if x > 88.5 { f32::INFINITY } else { y };
    if x.is_nan() { x } else { y }
}

/// `ln x` of a normal positive number, relative error below 3e-7 (absolute near 1); negative
/// infinity for 0 and for what is too small to be normal, NaN for negative numbers and NaN.
///
/// `x = 2^n m` with `m` around 1, and the series of `2 atanh((m - 1) / (m + 1))`.
#[inline(always)]
pub fn ln(x: f32) -> f32 {
    const LN2_HI: f32 = 0.693_359_4;
    const LN2_LO: f32 = -2.121_944_4e-4;
    // Bits of the square root of one half: m lies between it and twice it.
    const HALF_ROOT: u32 = 0x3F35_04F3;
    let bits = x.to_bits().wrapping_sub(HALF_ROOT);
    let n = (bits as i32 >> 23) as f32;
    let m = f32::from_bits((bits & 0x007F_FFFF).wrapping_add(HALF_ROOT));
    let f = m - 1.0;
    let s = f / (2.0 + f);
    let z = s * s;
    let p = 0.090_909_09;
    let p = p * z + 0.111_111_11;
    let p = p * z + 0.142_857_15;
    let p = p * z + 0.2;
    let p = p * z + 0.333_333_34;
    let series = 2.0 * s + 2.0 * s * z * p;
    let y = n * LN2_HI + (series + n * LN2_LO);
    let y = if x < f32::MIN_POSITIVE { f32::NEG_INFINITY } else { y };
    let y = if x < 0.0 { f32::NAN } else { y };
    if x == f32::INFINITY || x.is_nan() { x } else { y }
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `erfc x`, relative error below 1e-6 (a rational Chebyshev fit of Press et al., Numerical Recipes
/// in C, 2nd edition, section 6.2).
#[inline(always)]
pub fn erfc(x: f32) -> f32 {
    let z = x.abs();
    let t = 1.0 / (1.0 + 0.5 * z);
    let p = 0.170_872_77;
    let p = p * t - 0.822_152_23;
    let p = p * t + 1.488_515_9;
    let p = p * t - 1.135_204;
    let p = p * t + 0.278_868_07;
    let p = p * t - 0.186_288_06;
    let p = p * t + 0.096_784_18;
    let p = p * t + 0.374_091_96;
    let p = p * t + 1.000_023_7;
    let p = p * t - 1.265_512_2;
    let above = t * exp(-z * z + p);
    if x < 0.0 { 2.0 - above } else { above }
}

/// Probability that a standard normal value is below `x`.
#[inline(always)]
pub fn normal_below(x: f32) -> f32 {
    0.5 * erfc(-x * std::f32::consts::FRAC_1_SQRT_2)
}

/// Density of a standard normal value.
#[inline(always)]
pub fn normal_density(x: f32) -> f32 {
    const ROOT: f32 = 0.398_942_3;
    ROOT * exp(-0.5 * x * x)
}

/// `tanh x`, absolute error below 2e-7.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    2.0 * sigmoid(2.0 * x) - 1.0
}

/// Sum in sixteen interleaved partial sums, added in a fixed order.
#[inline(always)]
pub fn sum_by(n: usize, term: impl Fn(usize) -> f32) -> f32 {
    let mut partial = [0f32; 16];
    let whole = n - n % 16;
    let mut i = 0;
    while i < whole {
        for (j, p) in partial.iter_mut().enumerate() {
            *p += term(i + j);
        }
        i += 16;
    }
    let mut tail = 0.0;
    while i < n {
        tail += term(i);
        i += 1;
    }
    let mut width = 8;
    while width > 0 {
        for j in 0..width {
            partial[j] += partial[j + width];
        }
        width /= 2;
    }
    partial[0] + tail
}

/// Greatest value, NaN ignored; negative infinity for nothing.
#[inline(always)]
pub fn max_of(values: &[f32]) -> f32 {
    let mut partial = [f32::NEG_INFINITY; 16];
    let chunks = values.chunks_exact(16);
    let tail = chunks.remainder();
    for chunk in chunks {
        for (p, &v) in partial.iter_mut().zip(chunk) {
            *p = if v > *p { v } else { *p };
        }
    }
    let best = |m: f32, &v: &f32| if v > m { v } else { m };
    tail.iter().fold(partial.iter().fold(f32::NEG_INFINITY, best), best)
}

/// `Σ a[i] b[i]`.
#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let n = a.len().min(b.len());
    let (a, b) = (&a[..n], &b[..n]);
    sum_by(n, |i| a[i] * b[i])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_accurate_over_its_range() {
        let mut worst = 0f64;
        for i in -86_000..88_000 {
            let x = i as f32 / 1000.0;
            let want = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - want).abs() / want);
        }
        assert!(worst < 3e-7, "{worst:e}");
    }

    #[test]
    fn exp_keeps_what_is_not_finite() {
        assert!(exp(f32::NAN).is_nan());
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(0.0), 1.0);
    }

    #[test]
    fn ln_is_accurate_over_its_range() {
        let (mut worst, mut near_one) = (0f64, 0f64);
        for i in 1..2_000_000u32 {
            let x = f32::from_bits(f32::MIN_POSITIVE.to_bits() + i * 1060);
            let want = f64::from(x).ln();
            let error = (f64::from(ln(x)) - want).abs();
            match want.abs() > 0.1 {
                true => worst = worst.max(error / want.abs()),
                false => near_one = near_one.max(error),
            }
        }
        assert!(worst < 3e-7 && near_one < 3e-8, "{worst:e} {near_one:e}");
        assert_eq!(ln(1.0), 0.0);
        assert_eq!(ln(0.0), f32::NEG_INFINITY);
        assert_eq!(ln(f32::INFINITY), f32::INFINITY);
        assert!(ln(f32::NAN).is_nan() && ln(-1.0).is_nan());
    }

    #[test]
    fn erfc_and_tanh_are_accurate() {
        // Values of a 50-digit evaluation.
        for (x, want) in [
            (-3.0f32, 1.999_977_909_503_001_4f64),
            (-0.5, 1.520_499_877_813_046_5),
            (0.0, 1.0),
            (0.25, 0.723_673_609_831_763_1),
            (1.0, 0.157_299_207_050_285_13),
            (2.5, 4.069_520_174_449_589e-4),
            (5.0, 1.537_459_794_428_034_8e-12),
        ] {
            assert!((f64::from(erfc(x)) - want).abs() / want < 1e-6, "{x}: {}", erfc(x));
        }
        for i in -4000..4000 {
            let x = i as f32 / 400.0;
            assert!((f64::from(tanh(x)) - f64::from(x).tanh()).abs() < 2e-7, "{x}");
        }
    }

    #[test]
    fn sums_cover_every_length() {
        for n in 0..70 {
            let values: Vec<f32> = (0..n).map(|i| i as f32).collect();
            assert_eq!(sum_by(n, |i| values[i]), (0..n).sum::<usize>() as f32);
            assert_eq!(max_of(&values), if n == 0 { f32::NEG_INFINITY } else { n as f32 - 1.0 });
        }
    }
}
