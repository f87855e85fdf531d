//! Counts of lengths in bounded memory: exact below 64, beyond it in steps of a sixteenth, so that
//! a quantile is at most 7 % off.

use std::collections::BTreeMap;

use serde::Serialize;

/// Values below are counted one by one.
const EXACT: u64 = 64;
/// Steps between a power of two and the next.
const STEPS: u64 = 16;

/// Counts of values.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    counts: BTreeMap<u32, u64>,
    count: u64,
    sum: u128,
    min: u64,
    max: u64,
}

/// The place of a value among the steps.
fn step(value: u64) -> u32 {
    if value < EXACT {
        return value as u32;
    }
    let octave = u64::from(value.ilog2());
    let within = (value >> (octave - 4)) & (STEPS - 1);
    (EXACT + (octave - 6) * STEPS + within) as u32
}

/// The largest value of a step.
fn last_of(step: u32) -> u64 {
    let step = u64::from(step);
    if step < EXACT {
        return step;
    }
    let (octave, within) = ((step - EXACT) / STEPS + 6, (step - EXACT) % STEPS);
    let first = u128::from(STEPS + within) << (octave - 4);
    let next = first + (1u128 << (octave - 4));
    u64::try_from(next - 1).unwrap_or(u64::MAX)
}

/// Some values of a histogram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Bucket {
    /// The largest value counted here.
    pub to: u64,
    /// How many values.
    pub count: u64,
}

/// What a histogram shows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Values.
    pub count: u64,
    /// Their sum.
    pub sum: u128,
    /// The least.
    pub min: u64,
    /// Mean.
    pub mean: f64,
    /// Half of the values are at most this.
    pub p50: u64,
    /// 90 % of them.
    pub p90: u64,
    /// 99 % of them.
    pub p99: u64,
    /// The largest.
    pub max: u64,
    /// Counts up to 1, 2, 4, 8 …, without empty ends.
    pub histogram: Vec<Bucket>,
}

impl Histogram {
    /// Counts a value.
    pub fn add(&mut self, value: u64) {
        *self.counts.entry(step(value)).or_default() += 1;
        self.min = if self.count == 0 { value } else { self.min.min(value) };
        self.max = self.max.max(value);
        self.count += 1;
        self.sum += u128::from(value);
    }

    /// Adds another's counts.
    pub fn merge(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        for (step, count) in &other.counts {
            *self.counts.entry(*step).or_default() += count;
        }
        self.min = if self.count == 0 { other.min } else { self.min.min(other.min) };
        self.max = self.max.max(other.max);
        self.count += other.count;
        self.sum += other.sum;
    }

    /// A value that `share` of the values do not exceed.
    fn quantile(&self, share: f64) -> u64 {
        let wanted = (self.count as f64 * share).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (step, count) in &self.counts {
            seen += count;
            if seen >= wanted {
                return last_of(*step).min(self.max);
            }
        }
        self.max
    }

    /// What it shows; `None` without a value.
    pub fn summary(&self) -> Option<Summary> {
        if self.count == 0 {
            return None;
        }
        let mut histogram: Vec<Bucket> = Vec::new();
        let octave = |value: u64| value.max(1).checked_next_power_of_two().unwrap_or(u64::MAX);
        for (step, count) in &self.counts {
            let to = octave(last_of(*step).min(self.max));
            loop {
                match histogram.last_mut() {
                    Some(last) if last.to == to => {
                        last.count += count;
                        break;
                    }
                    Some(last) if last.to < to / 2 => {
                        let to = last.to * 2;
                        histogram.push(Bucket { to, count: 0 });
                    }
                    _ => histogram.push(Bucket { to, count: 0 }),
                }
            }
        }
        Some(Summary {
            count: self.count,
            sum: self.sum,
            min: self.min,
            mean: self.sum as f64 / self.count as f64,
            p50: self.quantile(0.5),
            p90: self.quantile(0.9),
            p99: self.quantile(0.99),
            max: self.max,
            histogram,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn short_lengths_are_exact_and_buckets_are_powers_of_two() {
        let mut counts = Histogram::default();
        [3u64, 1, 2, 9, 9, 40].iter().for_each(|v| counts.add(*v));
        let s = counts.summary().unwrap();
        assert_eq!((s.count, s.sum, s.min, s.max, s.p50, s.p90), (6, 64, 1, 40, 3, 40));
        let seen: Vec<(u64, u64)> = s.histogram.iter().map(|b| (b.to, b.count)).collect();
        assert_eq!(seen, [(1, 1), (2, 1), (4, 1), (8, 0), (16, 2), (32, 0), (64, 1)]);
        assert_eq!(Histogram::default().summary(), None);
    }

    proptest! {
        #[test]
        fn quantiles_are_near_and_merging_changes_nothing(
            values in proptest::collection::vec(0u64..1 << 40, 1..200),
            at in 0usize..200,
        ) {
            let (mut whole, mut a, mut b) =
                (Histogram::default(), Histogram::default(), Histogram::default());
            for (i, v) in values.iter().enumerate() {
                whole.add(*v);
                if i < at { &mut a } else { &mut b }.add(*v);
            }
            a.merge(&b);
            prop_assert_eq!(&a, &whole);
            let mut sorted = values.clone();
            sorted.sort_unstable();
            for share in [0.5, 0.9, 0.99] {
                let rank = ((values.len() as f64 * share).ceil() as usize).max(1) - 1;
                let (got, want) = (whole.quantile(share) as f64, sorted[rank] as f64);
                prop_assert!(got >= want && got <= want * 1.07 + 1.0, "{} {}", got, want);
            }
            let s = whole.summary().unwrap();
            prop_assert_eq!(s.histogram.iter().map(|b| b.count).sum::<u64>(), s.count);
            for b in &s.histogram {
                let low = if b.to == 1 { 0 } else { b.to / 2 + 1 };
                let n = values.iter().filter(|v| (low..=b.to).contains(*v)).count();
                prop_assert_eq!(n as u64, b.count);
            }
        }
    }
}
