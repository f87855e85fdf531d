//! Which rows are trained and which validate, and their order: pure functions of the number of
//! rows, the seed and the epoch, whatever the batches were in which the rows arrived.

use super::error::DataError;
use crate::rng::{Purpose, Stream};

/// Rows by 0-based index, each part ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Split {
    /// Rows to train on.
    pub train: Vec<u32>,
    /// Rows to validate on.
    pub validation: Vec<u32>,
}

impl Split {
    /// Draws `percentage` of `rows` (rounded, at least one of two or more) for validation.
    ///
    /// # Errors
    /// A percentage outside `0..100`; more rows than `u32` can number.
    pub fn new(rows: usize, percentage: f64, seed: u64) -> Result<Self, DataError> {
        if !(0.0..100.0).contains(&percentage) {
            return Err(DataError::Percentage { got: percentage });
        }
        if u32::try_from(rows).is_err() {
            return Err(DataError::TooManyRows { got: rows });
        }
        let mut count = (rows as f64 * percentage / 100.0).round() as usize;
        if percentage > 0.0 && rows >= 2 {
            count = count.clamp(1, rows - 1);
        }
        let drawn = Stream::new(seed, Purpose::Split, 0).permutation(rows);
        let mut held_out = vec![false; rows];
        for &row in drawn.iter().take(count) {
            if let Some(flag) = held_out.get_mut(row as usize) {
                *flag = true;
            }
        }
        let mut split = Split::default();
        for (row, held_out) in (0..).zip(held_out) {
            if held_out { &mut split.validation } else { &mut split.train }.push(row);
        }
        Ok(split)
    }
}

/// How many of `rows` to use under `--max_train_samples` and the like: unset or negative, all.
pub fn sample_limit(rows: usize, max_samples: Option<i64>) -> usize {
    match max_samples.map(usize::try_from) {
        Some(Ok(max)) => rows.min(max),
        _ => rows,
    }
}

/// The order of `rows` rows in `epoch`: shuffled anew each epoch, or as they lie in the files.
///
/// # Errors
/// More rows than `u32` can number.
pub fn epoch_order(
    rows: usize,
    seed: u64,
    epoch: u64,
    shuffle: bool,
) -> Result<Vec<u32>, DataError> {
    let count = u32::try_from(rows).map_err(|_| DataError::TooManyRows { got: rows })?;
    Ok(match shuffle {
        true => Stream::new(seed, Purpose::Shuffle, epoch).permutation(rows),
        false => (0..count).collect(),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_row_is_in_one_part(rows in 0usize..500, percentage in 0.0f64..100.0, seed: u64) {
            let split = Split::new(rows, percentage, seed).unwrap();
            let mut all = [split.train.clone(), split.validation.clone()].concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..rows as u32).collect::<Vec<_>>());
            prop_assert!(split.train.is_sorted() && split.validation.is_sorted());
            let wanted = rows as f64 * percentage / 100.0;
            prop_assert!((split.validation.len() as f64 - wanted).abs() <= 1.0);
            prop_assert_eq!(&split, &Split::new(rows, percentage, seed).unwrap());
        }
    }

    #[test]
    fn small_percentages_hold_out_at_least_one_row_and_never_all() {
        assert_eq!(Split::new(20, 1.0, 1).unwrap().validation.len(), 1);
        assert_eq!(Split::new(2, 99.0, 1).unwrap().train.len(), 1);
        assert!(Split::new(20, 0.0, 1).unwrap().validation.is_empty());
        assert_ne!(Split::new(200, 10.0, 1).unwrap(), Split::new(200, 10.0, 2).unwrap());
        for bad in [-1.0, 100.0, f64::NAN] {
            assert!(Split::new(20, bad, 1).unwrap_err().to_string().contains("below 100"));
        }
    }

    #[test]
    fn order_changes_with_the_epoch_unless_kept() {
        let order = |epoch, shuffle| epoch_order(100, 7, epoch, shuffle).unwrap();
        assert_ne!(order(0, true), order(1, true));
        assert_eq!(order(1, true), order(1, true));
        assert_eq!(order(3, false), (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn sample_limits_read_as_the_flags_do() {
        assert_eq!(sample_limit(10, None), 10);
        assert_eq!(sample_limit(10, Some(-1)), 10);
        assert_eq!(sample_limit(10, Some(3)), 3);
        assert_eq!(sample_limit(10, Some(0)), 0);
        assert_eq!(sample_limit(10, Some(30)), 10);
    }
}
