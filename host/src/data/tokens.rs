//! Rows that hold token ids made elsewhere: `input_ids` and `labels`, lists of one length. They
//! are trained as they are, with no plugin and no tokenizer.

use arrow::array::AsArray;
use arrow::datatypes::{DataType, Schema};

use super::column::{ColumnKind, ColumnNeed, JSON_METADATA_KEY, Projection};
use super::error::{DataError, Reject, RejectKind, shown};
use super::example::{Example, Provenance};
use super::source::{SourceBatch, SourceFile, peek};

/// Column of the token ids.
const IDS: &str = "input_ids";
/// Column of the targets.
const LABELS: &str = "labels";
/// The label of a position on which no loss is taken.
const NO_LOSS: i64 = -100;

/// Whether rows of this schema hold token ids and labels: both columns are there, and each is a
/// list or JSON.
pub fn has_token_columns(schema: &Schema) -> bool {
    [IDS, LABELS].iter().all(|name| {
        schema.column_with_name(name).is_some_and(|(_, field)| match field.data_type() {
            DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) => true,
            DataType::Utf8 => field.metadata().get(JSON_METADATA_KEY).is_some_and(|v| v == "true"),
            _ => false,
        })
    })
}

/// Whether the file's first usable row holds token ids and labels.
///
/// # Errors
/// As reading the file up to that row.
pub fn holds_tokens(file: &SourceFile) -> Result<bool, DataError> {
    Ok(peek(file)?.is_some_and(|schema| has_token_columns(&schema)))
}

/// The columns to read for [`examples`].
pub fn projection() -> Projection {
    Projection::columns(vec![
        ColumnNeed::required(IDS, ColumnKind::Json),
        ColumnNeed::required(LABELS, ColumnKind::Json),
    ])
}

/// What the rows of a batch became.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenRows {
    /// The usable rows, each an [`Example::Tokens`], in order.
    pub examples: Vec<(Provenance, Example)>,
    /// The others, in order, without those the batch already carries.
    pub rejects: Vec<Reject>,
}

/// Reads the token ids and labels of a batch that was read with [`projection`].
///
/// # Errors
/// [`DataError::ColumnType`] for a batch read otherwise.
pub fn examples(batch: &SourceBatch) -> Result<TokenRows, DataError> {
    let column = |name: &str| {
        let column = batch.batch.column_by_name(name);
        column.and_then(|c| c.as_string_opt::<i32>()).ok_or_else(|| DataError::ColumnType {
            file: shown(&batch.file),
            column: name.to_string(),
            got: column.map_or_else(|| "absent".into(), |c| c.data_type().to_string()),
            expected: ColumnKind::Json.name(),
        })
    };
    let (ids, labels) = (column(IDS)?, column(LABELS)?);
    let mut rows = TokenRows::default();
    for (index, (ids, labels)) in ids.iter().zip(labels.iter()).enumerate() {
        let at = batch.provenance(index);
        match tokens(ids, labels) {
            Ok(example) => rows.examples.push((at, example)),
            Err(reason) => rows.rejects.push(Reject {
                file: at.file,
                row: at.row,
                kind: RejectKind::Tokens,
                reason,
                excerpt: shown(ids.unwrap_or_default()),
            }),
        }
    }
    Ok(rows)
}

fn tokens(ids: Option<&str>, labels: Option<&str>) -> Result<Example, String> {
    let (ids, labels) = (list(IDS, ids)?, list(LABELS, labels)?);
    if ids.is_empty() {
        return Err(format!("has an empty list in `{IDS}`; drop the row"));
    }
    if ids.len() != labels.len() {
        return Err(format!(
            "has {} `{IDS}` but {} `{LABELS}`; both need one entry per token",
            ids.len(),
            labels.len()
        ));
    }
    let mut input_ids = Vec::with_capacity(ids.len());
    for (i, &id) in ids.iter().enumerate() {
        let id = u32::try_from(id).map_err(|_| {
            format!("has {id} at position {i} of `{IDS}`, expected 0 to {}", u32::MAX)
        })?;
        input_ids.push(id);
    }
    let mut targets = Vec::with_capacity(labels.len());
    for (i, &label) in labels.iter().enumerate() {
        let target = i32::try_from(label).ok().filter(|&l| l >= 0 || i64::from(l) == NO_LOSS);
        targets.push(target.ok_or_else(|| {
            format!("has {label} at position {i} of `{LABELS}`, expected {NO_LOSS} (no loss) or a token id")
        })?);
    }
    Ok(Example::Tokens { input_ids, labels: targets })
}

fn list(name: &str, text: Option<&str>) -> Result<Vec<i64>, String> {
    let text = text.ok_or_else(|| format!("has null in `{name}`, expected a list of integers"))?;
    serde_json::from_str(text).map_err(|_| {
        format!("has no list of integers in `{name}` but {}", shown(text.get(..80).unwrap_or(text)))
    })
}

#[cfg(test)]
mod tests;
