//! Which sequences go through the model together: a pure function of their lengths, the seed and
//! the epoch.

use crate::rng::{Purpose, Stream};

/// How micro-batches are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Sequences (or, packed, bins) per micro-batch.
    pub batch_size: usize,
    /// Most tokens of a bin when packing; `None`: no packing.
    pub pack_to: Option<usize>,
    /// Whether the order changes with every epoch; otherwise it is the files'.
    pub shuffle: bool,
    /// Seed of the order.
    pub seed: u64,
}

impl Plan {
    /// The micro-batches of an epoch: indices into `lengths`, every index once.
    ///
    /// Packing fills bins best-fit in descending order of length (ties by shuffled order), then
    /// shuffles the bins. Sequences in a bin stay apart: attention never crosses their bounds.
    pub fn epoch(&self, lengths: &[usize], epoch: u64) -> Vec<Vec<u32>> {
        let stream = Stream::new(self.seed, Purpose::Shuffle, epoch);
        let order: Vec<u32> = if self.shuffle {
            stream.permutation(lengths.len())
        } else {
            (0..lengths.len() as u32).collect()
        };
        let bins: Vec<Vec<u32>> = match self.pack_to {
            None => order.into_iter().map(|i| vec![i]).collect(),
            Some(limit) => {
                let bins = if self.shuffle {
                    best_fit(order, lengths, limit)
                } else {
                    next_fit(order, lengths, limit)
                };
                if self.shuffle {
                    let shuffled = Stream::new(self.seed, Purpose::Shuffle, epoch | 1 << 63);
                    let order = shuffled.permutation(bins.len());
                    order.into_iter().map(|i| bins[i as usize].clone()).collect()
                } else {
                    bins
                }
            }
        };
        bins.chunks(self.batch_size.max(1)).map(|b| b.concat()).collect()
    }
}

/// Best fit, longest first: each sequence goes into the fullest bin that has room.
fn best_fit(mut order: Vec<u32>, lengths: &[usize], limit: usize) -> Vec<Vec<u32>> {
    // A stable sort keeps the shuffled order among equals.
    order.sort_by_key(|&i| std::cmp::Reverse(lengths[i as usize]));
    let mut bins: Vec<Vec<u32>> = Vec::new();
    // Bins by the room left, then by age.
    let mut room: std::collections::BTreeSet<(usize, usize)> = std::collections::BTreeSet::new();
    for i in order {
        let length = lengths[i as usize];
        match room.range((length, 0)..).next().copied() {
            Some((left, bin)) => {
                room.remove(&(left, bin));
                room.insert((left - length, bin));
                bins[bin].push(i);
            }
            None => {
                room.insert((limit.saturating_sub(length), bins.len()));
                bins.push(vec![i]);
            }
        }
    }
    bins
}

/// Fills one bin after the other, keeping the order.
fn next_fit(order: Vec<u32>, lengths: &[usize], limit: usize) -> Vec<Vec<u32>> {
    let mut bins: Vec<Vec<u32>> = Vec::new();
    let mut left = 0;
    for i in order {
        let length = lengths[i as usize];
        match bins.last_mut() {
            Some(bin) if length <= left => {
                bin.push(i);
                left -= length;
            }
            _ => {
                bins.push(vec![i]);
                left = limit.saturating_sub(length);
            }
        }
    }
    bins
}

/// Share of the bins' room that the sequences of an epoch fill.
pub fn fill(plan: &Plan, lengths: &[usize]) -> f64 {
    let Some(limit) = plan.pack_to else { return 1.0 };
    let bins = Plan { batch_size: 1, ..*plan }.epoch(lengths, 0).len();
    let tokens: usize = lengths.iter().sum();
    if bins == 0 { 1.0 } else { tokens as f64 / (bins * limit) as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_sequence_comes_once_and_no_bin_overflows(
            lengths in prop::collection::vec(1usize..60, 0..200),
            batch_size in 1usize..5,
            pack in any::<bool>(),
            shuffle in any::<bool>(),
            seed in any::<u64>(),
        ) {
            let plan = Plan { batch_size, pack_to: pack.then_some(64), shuffle, seed };
            let batches = plan.epoch(&lengths, 3);
            prop_assert_eq!(&batches, &plan.epoch(&lengths, 3));
            let mut seen: Vec<u32> = batches.concat();
            if !shuffle {
                prop_assert!(seen.is_sorted());
            }
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..lengths.len() as u32).collect::<Vec<_>>());
            for batch in &batches {
                let tokens: usize = batch.iter().map(|&i| lengths[i as usize]).sum();
                prop_assert!(tokens <= batch_size * 64);
                prop_assert!(pack || batch.len() <= batch_size);
            }
        }
    }

    #[test]
    fn epochs_differ_and_packing_fills() {
        let lengths: Vec<usize> = (0..500).map(|i| 5 + (i * 37) % 50).collect();
        let plan = Plan { batch_size: 2, pack_to: None, shuffle: true, seed: 1 };
        assert_ne!(plan.epoch(&lengths, 0), plan.epoch(&lengths, 1));
        let packed = Plan { pack_to: Some(128), ..plan };
        assert!(fill(&packed, &lengths) > 0.97, "{}", fill(&packed, &lengths));
    }
}
