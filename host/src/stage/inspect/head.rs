//! The first rows of some files.

use serde::Serialize;
use serde_json::{Map, Value};

use super::Input;
use super::leaves::at;
use crate::data::{Reject, SourceReader};
use crate::error::Result;

/// A row that can be read, or why it can't be.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Head {
    /// Its fields.
    Row {
        /// The file, as the user named it.
        file: String,
        /// 1-based row; in line formats, the line.
        row: u64,
        /// The fields wanted, in their order; those that it lacks are null.
        values: Map<String, Value>,
    },
    /// A rejected one.
    Reject(Reject),
}

/// The first `count` rows behind the first `skip`, of the wanted columns (or paths), or all.
///
/// # Errors
/// Files that can't be read so far.
pub fn head(input: &Input, skip: usize, count: usize, columns: &[String]) -> Result<Vec<Head>> {
    let files = input.files()?.files;
    let mut out = Vec::new();
    let mut left = skip;
    let options = crate::data::ReadOptions { batch_rows: count.clamp(1, 512), ..input.options() };
    for batch in SourceReader::new(files, options) {
        let batch = batch?;
        // Rejects stand where they are among the rows.
        let mut rejects = batch.rejects.iter().peekable();
        let mut all = Vec::new();
        for (i, text) in batch.whole_rows().enumerate() {
            let row = batch.rows[i];
            while let Some(reject) = rejects.next_if(|r| r.row < row) {
                all.push(Head::Reject(reject.clone()));
            }
            let mut values: Map<String, Value> = serde_json::from_str(text).unwrap_or_default();
            if !columns.is_empty() {
                let wanted = columns
                    .iter()
                    .map(|path| (path.clone(), at(&values, path).cloned().unwrap_or(Value::Null)));
                values = wanted.collect();
            }
            all.push(Head::Row { file: batch.file.to_string(), row, values });
        }
        all.extend(rejects.cloned().map(Head::Reject));
        for one in all {
            if left > 0 {
                left -= 1;
            } else if out.len() < count {
                out.push(one);
            }
        }
        if out.len() == count {
            break;
        }
    }
    Ok(out)
}
