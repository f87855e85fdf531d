//! Rows without those that say what an earlier row said.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::duplicates::{Compared, Method, Seen};
use super::listing::Listing;
use super::{Input, Watch};
use crate::error::Result;
use crate::stage::convert::{self, Job, Selection, Take};

/// What a run of `dedup` does.
pub struct Dedup {
    /// What is read.
    pub input: Input,
    /// How duplicates are found.
    pub method: Method,
    /// What of a row is compared; none: all of it.
    pub columns: Vec<String>,
    /// Where the dropped rows are listed, with what they were duplicates of.
    pub dropped: PathBuf,
    /// How the kept rows are written.
    pub job: Job,
}

/// What it came to.
#[derive(Debug)]
pub struct Deduplicated {
    /// Rows compared.
    pub rows: u64,
    /// Rows equal to an earlier one.
    pub exact: u64,
    /// Rows near an earlier one.
    pub near: u64,
    /// The kept rows, written.
    pub report: convert::Report,
}

/// Finds duplicates in one pass, and writes the other rows in a second.
///
/// # Errors
/// Files that can't be read or written; those of [`convert::run`].
pub fn dedup(of: Dedup, watch: &mut Watch<'_>) -> Result<Deduplicated> {
    let Dedup { input, method, columns, dropped, mut job } = of;
    let compared = Compared { method, columns };
    let files = input.files()?.files;
    let mut seen = Seen::new(&compared.method);
    let mut listing = Listing::create(&dropped)?;
    let mut selection = Selection::new("duplicate of an earlier row", Value::Null);
    let (mut exact, mut near, mut rows) = (0, 0, 0);
    input.scan(
        files,
        watch,
        |batches| {
            let mut keys = Vec::new();
            for batch in &batches {
                for (row, text) in batch.rows.iter().zip(batch.whole_rows()) {
                    let values: Map<String, Value> = serde_json::from_str(text).unwrap_or_default();
                    keys.push((batch.file.clone(), *row, compared.key(&values)));
                }
            }
            Ok(keys)
        },
        |keys| {
            let count = keys.len() as u64;
            for (file, row, key) in keys {
                match seen.take(&file, row, &key) {
                    None => selection.choose(&file, row),
                    Some(duplicate) => {
                        *(if duplicate.exact { &mut exact } else { &mut near }) += 1u64;
                        listing.write(&duplicate)?;
                    }
                }
            }
            rows += count;
            Ok(count)
        },
    )?;
    let method = match &compared.method {
        Method::Exact => json!("exact"),
        Method::MinHash(minhash) => json!(minhash.describe()),
    };
    selection.describe(json!({
        "dedup": method,
        "columns": compared.columns,
        "exact_duplicates": exact,
        "near_duplicates": near,
        "dropped": dropped,
    }));
    job.take = Take::Selected(Arc::new(selection));
    let report = convert::run(job, watch.progress, watch.interrupted)?;
    listing.finish()?;
    Ok(Deduplicated { rows, exact, near, report })
}
