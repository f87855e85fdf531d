//! Sampled completions, and what is known of each before the policy changes. Kept in checkpoints
//! to the bit while updates are still to be made with them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One completion.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Its tokens, with the one that ended it.
    pub ids: Vec<u32>,
    /// Whether it ended by itself.
    pub terminated: bool,
    /// Whether it is trained on.
    pub trained: bool,
    /// Log-probabilities of its tokens by the policy that sampled it; empty until they are known.
    #[serde(with = "bits")]
    pub old_logps: Vec<f32>,
    /// The same by the reference; empty without one.
    #[serde(with = "bits")]
    pub ref_logps: Vec<f32>,
    /// Values of the states before its tokens; empty without a value head.
    #[serde(with = "bits")]
    pub values: Vec<f32>,
    /// One for each token, or a single one.
    #[serde(with = "bits")]
    pub advantages: Vec<f32>,
    /// What the values should be.
    #[serde(with = "bits")]
    pub returns: Vec<f32>,
}

impl Sample {
    /// Trained tokens.
    pub fn num_trained(&self) -> usize {
        if self.trained { self.ids.len() } else { 0 }
    }
}

/// The completions of one generation, by element: prompt · completions of a prompt + completion.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Samples {
    /// Which generation of the run; none before the first.
    pub generation: Option<u64>,
    /// The completions.
    pub by_element: BTreeMap<u32, Sample>,
}

/// f32 as the numbers of their bits.
mod bits {
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(values: &[f32], s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(values.iter().map(|v| v.to_bits()))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<f32>, D::Error> {
        Ok(Vec::<u32>::deserialize(d)?.into_iter().map(f32::from_bits).collect())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn samples_come_back_to_the_bit() {
        let sample = Sample {
            ids: vec![1, 2],
            terminated: true,
            trained: true,
            old_logps: vec![-0.1, f32::MIN_POSITIVE / 8.0, -0.0],
            advantages: vec![1.0 / 3.0],
            ..Sample::default()
        };
        let samples = Samples { generation: Some(7), by_element: [(3, sample)].into() };
        let text = serde_json::to_string(&samples).unwrap();
        let back: Samples = serde_json::from_str(&text).unwrap();
        assert_eq!(back, samples);
        let bits = |s: &Samples| s.by_element[&3].old_logps.iter().map(|v| v.to_bits()).collect();
        let (a, b): (Vec<u32>, Vec<u32>) = (bits(&samples), bits(&back));
        assert_eq!(a, b);
    }
}
