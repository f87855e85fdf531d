//! Which rows of the inputs a conversion takes, and in which order: all of them, those of a
//! selection that an earlier pass made, or those that a mix of several inputs draws.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::BooleanArray;
use arrow::compute::filter_record_batch;
use serde_json::{Value, json};

use super::mixture::Mixture;
use crate::data::error::shown;
use crate::data::source::SourceFile;
use crate::data::{DataError, Ledger, SourceBatch};
use crate::fs;

/// What is taken.
#[derive(Clone, Default)]
pub enum Take {
    /// Every row, in the order of the files.
    #[default]
    All,
    /// Some rows, in the order of the files.
    Selected(Arc<Selection>),
    /// Rows of several sources, interleaved.
    Mixed(Arc<Mixture>),
}

impl Take {
    /// What it is, for the account; null for everything.
    pub fn describe(&self) -> Value {
        match self {
            Take::All => Value::Null,
            Take::Selected(selection) => selection.what.clone(),
            Take::Mixed(mixture) => mixture.describe(),
        }
    }

    /// The same as a hash that tells two conversions apart.
    pub(super) fn identity(&self) -> Value {
        match self {
            Take::Selected(selection) => json!([selection.what, selection.hash()]),
            other => other.describe(),
        }
    }

    /// All files, in order.
    pub(super) fn files(&self, found: &[SourceFile]) -> Vec<SourceFile> {
        match self {
            Take::Mixed(mixture) => mixture.sources.concat(),
            _ => found.to_vec(),
        }
    }
}

/// Rows chosen by file and row number, 1 bit for each.
#[derive(Clone, Debug, PartialEq)]
pub struct Selection {
    /// Per file, one bit for every row, the first of which is row 1.
    files: HashMap<Arc<str>, Vec<u64>>,
    /// Why the others are left out, as the account says it.
    reason: &'static str,
    /// How the choice was made, for the account.
    what: Value,
}

impl Selection {
    /// Nothing is chosen yet; the rows that never are get the `reason`.
    pub fn new(reason: &'static str, what: Value) -> Self {
        Self { files: HashMap::new(), reason, what }
    }

    /// Chooses a row.
    pub fn choose(&mut self, file: &Arc<str>, row: u64) {
        let bits = match self.files.get_mut(file) {
            Some(bits) => bits,
            None => self.files.entry(file.clone()).or_default(),
        };
        let word = (row / 64) as usize;
        if bits.len() <= word {
            bits.resize(word + 1, 0);
        }
        bits[word] |= 1 << (row % 64);
    }

    /// Whether a row is chosen.
    pub fn has(&self, file: &str, row: u64) -> bool {
        let word = self.files.get(file).and_then(|bits| bits.get((row / 64) as usize));
        word.is_some_and(|word| word >> (row % 64) & 1 == 1)
    }

    /// Changes what is known of the choice.
    pub fn describe(&mut self, what: Value) {
        self.what = what;
    }

    fn hash(&self) -> String {
        let mut names: Vec<&Arc<str>> = self.files.keys().collect();
        names.sort();
        let mut bytes = Vec::new();
        for name in names {
            bytes.extend_from_slice(name.as_bytes());
            bytes.push(0);
            bytes.extend(self.files[name].iter().flat_map(|word| word.to_le_bytes()));
        }
        fs::sha256_hex(&bytes)
    }

    /// The chosen rows of a batch; the others go into the account.
    ///
    /// # Errors
    /// None that input can cause.
    pub(super) fn apply(
        &self,
        mut batch: SourceBatch,
        account: &mut Ledger,
    ) -> Result<SourceBatch, DataError> {
        let chosen: Vec<bool> = batch.rows.iter().map(|row| self.has(&batch.file, *row)).collect();
        // Rejects and blank lines are accounted for with the batch.
        if chosen.iter().all(|c| *c) {
            return Ok(batch);
        }
        let out: Vec<u64> =
            batch.rows.iter().zip(&chosen).filter(|(_, c)| !**c).map(|(r, _)| *r).collect();
        account.left_out(&batch.file, &out, self.reason);
        batch.batch = filter_record_batch(&batch.batch, &BooleanArray::from(chosen.clone()))
            .map_err(|e| DataError::Columnar {
                file: shown(&batch.file),
                format: "columns",
                problem: shown(&e.to_string()),
            })?;
        let mut chosen = chosen.into_iter();
        batch.rows.retain(|_| chosen.next().unwrap_or(false));
        Ok(batch)
    }
}
