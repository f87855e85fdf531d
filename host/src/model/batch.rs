//! What the decoder is given: sequences laid end to end, without padding.

use crate::text::{IGNORE_INDEX, TokenizedExample};

/// Sequences laid end to end. There is no padding anywhere: `bounds` says where each
/// sequence begins and ends, and attention never crosses a bound.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct TokenBatch {
    /// Token ids, `[tokens]`.
    pub input_ids: Vec<u32>,
    /// Position of each token within its own sequence, `[tokens]`.
    pub position_ids: Vec<u32>,
    /// Unshifted targets, `[tokens]`; [`IGNORE_INDEX`] where no loss is taken.
    pub labels: Vec<i32>,
    /// Loss weight of each label, `[tokens]`.
    pub loss_weights: Vec<f32>,
    /// Sequence `s` is `bounds[s]..bounds[s + 1]`; first 0, last `tokens`.
    pub bounds: Vec<usize>,
    /// Names of the sequences within the run, which key their random masks: the same wherever and
    /// beside whatever a sequence is trained. Sequences beyond are named by their place.
    pub names: Vec<u64>,
}

/// A position whose next token is trained.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Target {
    /// Row of the hidden state that predicts.
    pub position: u32,
    /// The token to predict.
    pub token: u32,
    /// Its weight in the loss.
    pub weight: f32,
}

impl TokenBatch {
    /// Lays `examples` end to end.
    pub fn from_examples<'a>(examples: impl IntoIterator<Item = &'a TokenizedExample>) -> Self {
        let mut batch = Self { bounds: vec![0], ..Self::default() };
        for example in examples {
            let n = example.input_ids.len();
            batch.input_ids.extend_from_slice(&example.input_ids);
            batch.position_ids.extend(0..n as u32);
            batch.labels.extend_from_slice(&example.labels);
            match &example.loss_weights {
                Some(w) => batch.loss_weights.extend_from_slice(w),
                None => batch.loss_weights.extend(std::iter::repeat_n(1.0, n)),
            }
            batch.bounds.push(batch.input_ids.len());
        }
        batch
    }

    /// A batch of ids alone, for scoring and generation.
    pub fn from_ids(sequences: &[&[u32]]) -> Self {
        let mut batch = Self { bounds: vec![0], ..Self::default() };
        for ids in sequences {
            batch.input_ids.extend_from_slice(ids);
            batch.position_ids.extend(0..ids.len() as u32);
            batch.bounds.push(batch.input_ids.len());
        }
        batch.labels = vec![IGNORE_INDEX; batch.input_ids.len()];
        batch.loss_weights = vec![1.0; batch.input_ids.len()];
        batch
    }

    /// The batch with names for its sequences.
    pub fn named(mut self, names: impl IntoIterator<Item = u64>) -> Self {
        self.names.extend(names);
        self
    }

    /// Names of all tokens: by sequence and place in it.
    pub fn token_names(&self) -> Vec<u64> {
        let name = |s: usize| self.names.get(s).copied().unwrap_or(s as u64) << 32;
        let of = |(s, b): (usize, &[usize])| (0..(b[1] - b[0]) as u64).map(move |t| name(s) | t);
        self.bounds.windows(2).enumerate().flat_map(of).collect()
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.input_ids.len()
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.input_ids.is_empty()
    }

    /// The positions that predict a trained token: position `t` predicts `labels[t + 1]` of
    /// the same sequence.
    pub fn targets(&self) -> Vec<Target> {
        let mut targets = Vec::new();
        for sequence in self.bounds.windows(2) {
            for t in sequence[0] + 1..sequence[1] {
                if self.labels[t] != IGNORE_INDEX && self.loss_weights[t] != 0.0 {
                    targets.push(Target {
                        position: (t - 1) as u32,
                        token: self.labels[t] as u32,
                        weight: self.loss_weights[t],
                    });
                }
            }
        }
        targets
    }
}
