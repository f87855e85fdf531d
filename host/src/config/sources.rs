//! Where training data come from, and how several sources become one.

use serde::{Deserialize, Serialize};

use super::values::Values;

/// What happens when a source has no further row. The strategies are those of Hugging Face
/// `datasets.interleave_datasets` and, by their other names, of LLaMA-Factory's `mix_strategy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MixStrategy {
    /// No mixing: one source after the other, whatever the weights.
    Concat,
    /// The mix ends with the last row of the first source that is used up.
    FirstExhausted,
    /// A source that is used up begins again, until each was used up once.
    AllExhausted,
    /// The other sources go on without it: every row comes once.
    AllExhaustedWithoutReplacement,
}

impl MixStrategy {
    /// The names a setting takes, those of `datasets` first.
    pub const NAMES: &'static [&'static str] = &[
        "concat",
        "first_exhausted",
        "all_exhausted",
        "all_exhausted_without_replacement",
        "interleave_under",
        "interleave_over",
        "interleave_once",
    ];

    /// The strategy of a name.
    pub fn find(name: &str) -> Option<Self> {
        Some(match name {
            "concat" => Self::Concat,
            "first_exhausted" | "interleave_under" => Self::FirstExhausted,
            "all_exhausted" | "interleave_over" => Self::AllExhausted,
            "all_exhausted_without_replacement" | "interleave_once" => {
                Self::AllExhaustedWithoutReplacement
            }
            _ => return None,
        })
    }

    /// Its first name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Concat => "concat",
            Self::FirstExhausted => "first_exhausted",
            Self::AllExhausted => "all_exhausted",
            Self::AllExhaustedWithoutReplacement => "all_exhausted_without_replacement",
        }
    }
}

/// Weights of sources as they were given, for `sources` sources; equal ones where none were.
///
/// # Errors
/// What is wrong with them: another number than there are sources, a weight that is no positive
/// number.
pub fn weights(given: &[String], sources: usize) -> Result<Vec<f64>, String> {
    let texts: Vec<&str> =
        given.iter().flat_map(|g| g.split(',')).map(str::trim).filter(|t| !t.is_empty()).collect();
    if texts.is_empty() {
        return Ok(vec![1.0; sources]);
    }
    if texts.len() != sources {
        return Err(format!(
            "there are {} weights for {sources} sources; give one for each",
            texts.len()
        ));
    }
    texts
        .iter()
        .map(|text| match text.parse::<f64>() {
            Ok(weight) if weight.is_finite() && weight > 0.0 => Ok(weight),
            _ => Err(format!(
                "`{}` is no weight; give a number above 0, such as 0.7",
                crate::error::excerpt(text)
            )),
        })
        .collect()
}

/// How several sources are mixed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Mixing {
    /// Weight of each source.
    pub weights: Vec<f64>,
    /// What happens when one is used up.
    pub strategy: MixStrategy,
}

/// Whether tokenized rows are kept for later runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PreprocessingCache {
    /// Of data large enough for it to be worth it.
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// Data beside the files that are named, and what is done with all of them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DataSources {
    /// Data sets on the hub.
    pub dataset_name: Vec<String>,
    /// Their configuration.
    pub dataset_config_name: Option<String>,
    /// Their split to train on.
    pub dataset_split: String,
    /// Their revision.
    pub dataset_revision: Option<String>,
    /// How all sources are mixed; `None`: one after the other.
    pub mixing: Option<Mixing>,
    /// Whether tokenized rows are kept.
    pub preprocessing_cache: PreprocessingCache,
    /// The files of each data set of the hub, once they are fetched.
    #[serde(skip)]
    pub fetched: Vec<Vec<String>>,
}

impl DataSources {
    /// Resolves the settings; `files` is the number of inputs that are named as files.
    pub(super) fn resolve(v: &mut Values, files: usize) -> Self {
        let dataset_name = v.list("dataset_name");
        let sources = files + dataset_name.len();
        let given = v.list("dataset_weights");
        let strategy = match v.is_given("mix_strategy") {
            true => MixStrategy::find(&v.choice("mix_strategy")).unwrap_or(MixStrategy::Concat),
            false if given.is_empty() => MixStrategy::Concat,
            false => MixStrategy::FirstExhausted,
        };
        let weights = weights(&given, sources).unwrap_or_else(|fault| {
            v.faults.push(format!("`--dataset_weights`: {fault}"));
            Vec::new()
        });
        if strategy == MixStrategy::Concat && !given.is_empty() && v.is_given("mix_strategy") {
            v.faults.push(
                "`--dataset_weights` has no meaning with `--mix_strategy concat`; leave one out"
                    .into(),
            );
        }
        let mixes = sources > 1 && strategy != MixStrategy::Concat;
        Self {
            dataset_name,
            dataset_config_name: v.text("dataset_config_name"),
            dataset_split: v.text("dataset_split").unwrap_or_default(),
            dataset_revision: v.text("dataset_revision"),
            mixing: mixes.then_some(Mixing { weights, strategy }),
            preprocessing_cache: match v.choice("preprocessing_cache").as_str() {
                "on" => PreprocessingCache::On,
                "off" => PreprocessingCache::Off,
                _ => PreprocessingCache::Auto,
            },
            fetched: Vec::new(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_read_and_refused() {
        let given = |texts: &[&str]| texts.iter().map(|t| t.to_string()).collect::<Vec<_>>();
        assert_eq!(weights(&given(&["0.7,0.3"]), 2).unwrap(), [0.7, 0.3]);
        assert_eq!(weights(&given(&["7", "3"]), 2).unwrap(), [7.0, 3.0]);
        assert_eq!(weights(&[], 3).unwrap(), [1.0; 3]);
        assert!(weights(&given(&["1"]), 2).unwrap_err().contains("1 weights for 2 sources"));
        for bad in ["0", "-1", "nan", "x", "inf"] {
            assert!(weights(&given(&[bad]), 1).unwrap_err().contains("is no weight"), "{bad}");
        }
    }
}
