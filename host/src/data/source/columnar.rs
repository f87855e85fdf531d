//! What Parquet and Arrow files share: the choice of columns, the conversion of their types, and
//! the fence around decoders that were not written for hostile files.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, StringArray};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, Schema};

use super::SourceBatch;
use super::rows::{Cell, array, field, record_batch};
use crate::data::column::{ColumnKind, JSON_EXTENSION, JSON_METADATA_KEY, Projection, ROW_COLUMN};
use crate::data::error::{DataError, Reject, RejectKind, names, nearest, shown};
use crate::data::json_value;
use crate::limits::DATA_COLUMNS_MAX;

/// Runs a decoder; its errors and its panics become [`DataError::Columnar`].
pub(super) fn fence<T, E: std::fmt::Display>(
    file: &str,
    format: &'static str,
    decode: impl FnOnce() -> Result<T, E>,
) -> Result<T, DataError> {
    let problem = match catch_unwind(AssertUnwindSafe(decode)) {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(e)) => e.to_string(),
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied());
            format!("the decoder gave up: {}", text.unwrap_or("no reason given"))
        }
    };
    Err(DataError::Columnar { file: shown(file), format, problem: shown(&problem) })
}

/// Whether a field says that it holds JSON text; what does not is written as a string all the same.
fn is_json(field: &Field) -> bool {
    field.extension_type_name() == Some(JSON_EXTENSION)
}

/// Indices of the columns to read, ascending.
///
/// # Errors
/// [`DataError::NoColumn`] for a required column that is absent; too many columns.
pub(super) fn wanted(
    file: &str,
    schema: &Schema,
    projection: &Projection,
) -> Result<Vec<usize>, DataError> {
    if schema.fields().len() > DATA_COLUMNS_MAX {
        return Err(DataError::TooLarge {
            file: shown(file),
            what: "the number of columns",
            got: schema.fields().len() as u64,
            limit: DATA_COLUMNS_MAX as u64,
            remedy: "write only the columns that are needed",
        });
    }
    let all = (0..schema.fields().len()).collect();
    let Projection::Columns { needs, whole_row } = projection else { return Ok(all) };
    let mut indices = Vec::new();
    for need in needs {
        match schema.column_with_name(&need.name) {
            Some((index, _)) => indices.push(index),
            None if need.optional => {}
            None => {
                let found = schema.fields().iter().map(|f| f.name().as_str());
                return Err(DataError::NoColumn {
                    file: shown(file),
                    column: shown(&need.name),
                    found: names(found.clone()),
                    nearest: nearest(&need.name, found),
                });
            }
        }
    }
    indices.sort_unstable();
    indices.dedup();
    Ok(if *whole_row { all } else { indices })
}

/// Converts decoded rows, the first of which is the file's row `first_row`, into the wanted
/// columns; rows with values that can't be converted become rejects.
pub(super) fn convert(
    file: &Arc<str>,
    batch: &RecordBatch,
    first_row: u64,
    projection: &Projection,
) -> Result<SourceBatch, DataError> {
    let numbers = (0..batch.num_rows() as u64).map(|i| first_row + i);
    let Projection::Columns { needs, whole_row } = projection else {
        let fields = batch.schema().fields().iter().map(|f| without_mark(f)).collect();
        let batch = record_batch(file, fields, batch.columns().to_vec(), batch.num_rows())?;
        return Ok(SourceBatch {
            batch,
            file: file.clone(),
            rows: numbers.collect(),
            rejects: Vec::new(),
            blank: 0,
        });
    };
    let mut fields = Vec::new();
    let mut columns: Vec<ArrayRef> = Vec::new();
    let mut faults: Vec<Option<String>> = vec![None; batch.num_rows()];
    for need in needs {
        fields.push(field(&need.name, need.kind));
        columns.push(match batch.schema().column_with_name(&need.name) {
            None => array(need.kind, vec![Cell::Null; batch.num_rows()].iter()),
            Some((index, _)) => column(batch.column(index), need.kind, &mut |row, why| {
                if let Some(fault) = faults.get_mut(row) {
                    fault.get_or_insert_with(|| {
                        format!("has a field `{}` that {why}", shown(&need.name))
                    });
                }
            })
            .map_err(|got| DataError::ColumnType {
                file: shown(file),
                column: shown(&need.name),
                got: shown(&got),
                expected: need.kind.name(),
            })?,
        });
    }
    if *whole_row {
        fields.push(field(ROW_COLUMN, ColumnKind::Json));
        let texts = (0..batch.num_rows()).map(|row| match json_value::row(batch, row, is_json) {
            Ok(text) => Some(text),
            Err((name, why)) => {
                if let Some(fault) = faults.get_mut(row) {
                    fault.get_or_insert(format!("has a field `{name}` that {why}"));
                }
                None
            }
        });
        columns.push(Arc::new(texts.collect::<StringArray>()));
    }
    let whole = record_batch(file, fields, columns, batch.num_rows())?;
    let kept: BooleanArray = faults.iter().map(|f| Some(f.is_none())).collect();
    let rejects = faults
        .iter()
        .zip(numbers.clone())
        .filter_map(|(fault, row)| {
            fault.as_ref().map(|reason| Reject {
                file: file.clone(),
                row,
                kind: RejectKind::WrongType,
                reason: reason.clone(),
                excerpt: String::new(),
            })
        })
        .collect::<Vec<_>>();
    let rows = faults.iter().zip(numbers).filter(|(f, _)| f.is_none()).map(|(_, n)| n).collect();
    let batch = if rejects.is_empty() {
        whole
    } else {
        fence(file, "columns", || filter_record_batch(&whole, &kept))?
    };
    Ok(SourceBatch { batch, file: file.clone(), rows, rejects, blank: 0 })
}

/// The field without the mark of JSON columns, which only this program's readers may set.
fn without_mark(field: &Field) -> Field {
    let mut metadata = field.metadata().clone();
    metadata.remove(JSON_METADATA_KEY);
    field.clone().with_metadata(metadata)
}

/// A column as `kind`; `fault` is told of rows that can't be. The error is the type of a column
/// that can't be as a whole.
fn column(
    source: &ArrayRef,
    kind: ColumnKind,
    fault: &mut dyn FnMut(usize, String),
) -> Result<ArrayRef, String> {
    let own_type = source.data_type().to_string();
    let to = |array: &ArrayRef, ty: &DataType| cast(array, ty).map_err(|_| own_type.clone());
    if *source.data_type() == DataType::Null {
        return Ok(array(kind, vec![Cell::Null; source.len()].iter()));
    }
    let source = match source.data_type() {
        DataType::Dictionary(_, values) => to(source, values)?,
        _ => source.clone(),
    };
    let ty = source.data_type();
    let is_text = matches!(ty, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let is_bytes = matches!(
        ty,
        DataType::Binary
            | DataType::LargeBinary
            | DataType::BinaryView
            | DataType::FixedSizeBinary(_)
    );
    match kind {
        ColumnKind::Json => {
            let field = Field::new("value", ty.clone(), true);
            let texts = (0..source.len()).map(|row| {
                json_value::value(&field, source.as_ref(), row, |_| false).unwrap_or_else(|why| {
                    fault(row, why);
                    None
                })
            });
            Ok(Arc::new(texts.collect::<StringArray>()))
        }
        ColumnKind::Utf8 if is_text => to(&source, &DataType::Utf8),
        // Parquet files without string annotations deliver texts as bytes.
        ColumnKind::Utf8 if is_bytes => {
            let bytes = to(&source, &DataType::Binary)?;
            let bytes = bytes.as_binary::<i32>();
            let texts = (0..bytes.len()).map(|row| {
                if bytes.is_null(row) {
                    return None;
                }
                let text = std::str::from_utf8(bytes.value(row)).ok();
                if text.is_none() {
                    fault(row, "holds bytes that are not UTF-8".into());
                }
                text
            });
            Ok(Arc::new(texts.collect::<StringArray>()))
        }
        ColumnKind::Binary if is_text || is_bytes => to(&source, &DataType::Binary),
        ColumnKind::Boolean if *ty == DataType::Boolean => Ok(source),
        ColumnKind::Int64 if ty.is_integer() => {
            let out = to(&source, &DataType::Int64)?;
            let values = out.as_primitive::<Int64Type>();
            for row in 0..out.len() {
                if values.is_null(row) && !source.is_null(row) {
                    fault(row, "does not fit 64 bits with a sign".into());
                }
            }
            Ok(out)
        }
        ColumnKind::Float64 if ty.is_numeric() => {
            let out = to(&source, &DataType::Float64)?;
            for (row, value) in out.as_primitive::<Float64Type>().iter().enumerate() {
                if let Some(value) = value.filter(|v| !v.is_finite()) {
                    fault(row, format!("is {value}, not a finite number"));
                }
            }
            Ok(out)
        }
        _ => Err(own_type),
    }
}
