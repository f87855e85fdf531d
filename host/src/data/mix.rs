//! Several sources in one stream: which source the next row comes from, as a function of the
//! weights, the seed and the lengths alone.

use crate::config::MixStrategy;
use crate::rng::{Purpose, Stream};

/// Draws sources; which of them are still drawn from is the caller's to say.
#[derive(Clone, Debug)]
pub struct Draws {
    weights: Vec<f64>,
    stream: Stream,
    at: u64,
}

impl Draws {
    /// Draws by these weights, of which only the proportions count.
    pub fn new(weights: &[f64], seed: u64) -> Self {
        let sum: f64 = weights.iter().sum();
        let weights = weights.iter().map(|w| w / sum.max(f64::MIN_POSITIVE)).collect();
        Self { weights, stream: Stream::new(seed, Purpose::Mix, 0), at: 0 }
    }

    /// The next source among the `open` ones; `None` when none is.
    pub fn draw(&mut self, open: &[bool]) -> Option<usize> {
        let of_open = |i: usize| if open.get(i) == Some(&true) { self.weights[i] } else { 0.0 };
        let sum: f64 = (0..self.weights.len()).map(of_open).sum();
        let mut left = self.stream.uniform(self.at) * sum;
        self.at += 1;
        let mut last = None;
        for i in 0..self.weights.len() {
            let weight = of_open(i);
            if weight > 0.0 {
                last = Some(i);
                if left < weight {
                    break;
                }
                left -= weight;
            }
        }
        last
    }
}

/// The whole order of sources of known lengths: for each row of the mix its source and its row
/// there. Empty sources count as used up from the start.
pub fn order(
    lengths: &[usize],
    weights: &[f64],
    strategy: MixStrategy,
    seed: u64,
) -> Vec<(usize, usize)> {
    if strategy == MixStrategy::Concat {
        let each = lengths.iter().enumerate();
        return each.flat_map(|(source, &n)| (0..n).map(move |row| (source, row))).collect();
    }
    let mut draws = Draws::new(weights, seed);
    let mut next = vec![0usize; lengths.len()];
    let mut exhausted: Vec<bool> = lengths.iter().map(|&n| n == 0).collect();
    let mut open: Vec<bool> = lengths.iter().map(|&n| n > 0).collect();
    let mut out = Vec::new();
    while !is_done(strategy, &exhausted) {
        let Some(source) = draws.draw(&open) else { break };
        out.push((source, next[source]));
        next[source] += 1;
        if next[source] == lengths[source] {
            next[source] = 0;
            exhausted[source] = true;
            open[source] = strategy == MixStrategy::AllExhausted;
        }
    }
    out
}

/// Whether a mix has ended, by which of its sources were used up.
pub fn is_done(strategy: MixStrategy, exhausted: &[bool]) -> bool {
    match strategy {
        MixStrategy::FirstExhausted => exhausted.iter().any(|e| *e),
        _ => exhausted.iter().all(|e| *e),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn shares_follow_the_weights() {
        let order = order(&[60_000, 60_000], &[0.7, 0.3], MixStrategy::FirstExhausted, 5);
        let first = order.iter().filter(|(source, _)| *source == 0).count();
        assert_eq!(first, 60_000);
        let share = first as f64 / order.len() as f64;
        assert!((share - 0.7).abs() < 0.01, "{share}");
    }

    proptest! {
        #[test]
        fn every_strategy_keeps_its_promise(
            lengths in proptest::collection::vec(1usize..40, 1..5),
            seed: u64,
        ) {
            let weights: Vec<f64> = (0..lengths.len()).map(|i| 1.0 + i as f64).collect();
            let all: usize = lengths.iter().sum();
            for name in MixStrategy::NAMES {
                let strategy = MixStrategy::find(name).unwrap();
                let mixed = order(&lengths, &weights, strategy, seed);
                prop_assert_eq!(&mixed, &order(&lengths, &weights, strategy, seed));
                let mut seen = vec![0usize; lengths.len()];
                for (source, row) in &mixed {
                    // Rows of a source come in their order, again and again.
                    prop_assert_eq!(*row, seen[*source] % lengths[*source]);
                    seen[*source] += 1;
                }
                let whole = seen.iter().zip(&lengths).filter(|(s, n)| s >= n).count();
                match strategy {
                    MixStrategy::FirstExhausted => {
                        prop_assert_eq!(whole, 1);
                        prop_assert!(seen.iter().zip(&lengths).all(|(s, n)| s <= n));
                    }
                    MixStrategy::AllExhausted => prop_assert_eq!(whole, lengths.len()),
                    _ => prop_assert_eq!(mixed.len(), all),
                }
            }
        }
    }
}
