//! Counter-based random streams: a value is a pure function of `(seed, purpose, index)`,
//! so that resuming needs no replay and no state is ever saved.
//!
//! The mixer is SplitMix64's finaliser (Steele, Lea, Flood 2014), applied to a keyed counter.

/// What a stream is for; two purposes never share values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Purpose {
    /// Order of the training rows; index: epoch.
    Shuffle = 1,
    /// Which rows become validation rows.
    Split = 2,
    /// Fresh weights; index: parameter number.
    Init = 3,
    /// LoRA dropout; index: see [`crate::ops::dropout`].
    Dropout = 4,
    /// Sampling of generated tokens; index: row.
    Sample = 5,
    /// Seed handed to plugins.
    Plugin = 6,
    /// Whose answers an update of distillation uses; index: update.
    OnPolicy = 8,
    /// Synthetic data of tests and benchmarks.
    Test = 7,
    /// From which source the next row of a mix comes.
    Mix = 21,
    /// Which keyed hash functions a MinHash signature uses; index: number of the function.
    MinHash = 22,
}

/// SplitMix64's output function.
#[inline]
pub fn mix64(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A stream of independent values addressed by position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    key: u64,
}

impl Stream {
    /// The stream of `(seed, purpose, index)`.
    pub fn new(seed: u64, purpose: Purpose, index: u64) -> Self {
        let a = mix64(seed.wrapping_add(0x9E37_79B9_7F4A_7C15));
        let b = mix64(a ^ (purpose as u64).wrapping_mul(0xD1B5_4A32_D192_ED03));
        Self { key: mix64(b ^ index.wrapping_mul(0x8CB9_2BA7_2F3D_8DD7)) }
    }

    /// 64 uniform bits at `position`.
    #[inline]
    pub fn at(&self, position: u64) -> u64 {
        mix64(self.key.wrapping_add(position.wrapping_mul(0x9E37_79B9_7F4A_7C15)))
    }

    /// A uniform value in `[0, 1)` with 53 bits at `position`.
    #[inline]
    pub fn uniform(&self, position: u64) -> f64 {
        (self.at(position) >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// A standard normal value at `position` (Box-Muller on two sub-positions).
    pub fn normal(&self, position: u64) -> f64 {
        let u = 1.0 - self.uniform(2 * position);
        let v = self.uniform(2 * position + 1);
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }

    /// A permutation of `0..n` (Fisher-Yates).
    pub fn permutation(&self, n: usize) -> Vec<u32> {
        let mut order: Vec<u32> = (0..n as u32).collect();
        for i in (1..n).rev() {
            let j = ((u128::from(self.at(i as u64)) * (i as u128 + 1)) >> 64) as usize;
            order.swap(i, j);
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_pure_and_distinct() {
        let a = Stream::new(42, Purpose::Shuffle, 0);
        assert_eq!(a.at(7), Stream::new(42, Purpose::Shuffle, 0).at(7));
        assert_ne!(a.at(7), Stream::new(42, Purpose::Split, 0).at(7));
        assert_ne!(a.at(7), Stream::new(43, Purpose::Shuffle, 0).at(7));
        assert_ne!(a.at(7), Stream::new(42, Purpose::Shuffle, 1).at(7));
    }

    #[test]
    fn permutation_holds_every_index_once() {
        let mut p = Stream::new(1, Purpose::Shuffle, 3).permutation(1000);
        assert_ne!(p, (0..1000).collect::<Vec<_>>());
        p.sort_unstable();
        assert_eq!(p, (0..1000).collect::<Vec<_>>());
    }

    #[test]
    fn uniform_and_normal_have_their_moments() {
        let s = Stream::new(5, Purpose::Test, 0);
        let n = 100_000;
        let mean = (0..n).map(|i| s.uniform(i)).sum::<f64>() / n as f64;
        assert!((mean - 0.5).abs() < 5e-3, "{mean}");
        let var = (0..n).map(|i| s.normal(i).powi(2)).sum::<f64>() / n as f64;
        assert!((var - 1.0).abs() < 2e-2, "{var}");
    }
}
