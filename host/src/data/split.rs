//! Which rows are trained and which validate: a pure function of the number of rows and the seed,
//! whatever the batches were in which the rows arrived.

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
}
