//! Arrow columns → the kinds a plugin asked for. Copies only the columns named in `reads`.
//!
//! A column as a whole may be of an unsuitable type (an error); a single value may not fit (the
//! row is rejected here, before the plugin sees it).

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type};

use super::bindings::types;
use super::error::{PluginError, Who, shown};
use crate::data::json_value;

/// A `Utf8` field with this metadata key set to `true` holds JSON texts: the values as they stand
/// in a JSON source.
pub const JSON_METADATA_KEY: &str = "trainer:json";

/// How a plugin wants the values of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Strings.
    Utf8,
    /// Integers that fit 64 bits.
    Int64,
    /// Finite numbers.
    Float64,
    /// True or false.
    Boolean,
    /// Bytes.
    Binary,
    /// Any value, as JSON text.
    Json,
}

impl Kind {
    /// The kind's name in the contract.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Utf8 => "utf8",
            Kind::Int64 => "int64",
            Kind::Float64 => "float64",
            Kind::Boolean => "boolean",
            Kind::Binary => "binary",
            Kind::Json => "json",
        }
    }
}

impl From<types::Kind> for Kind {
    fn from(kind: types::Kind) -> Self {
        match kind {
            types::Kind::Utf8 => Kind::Utf8,
            types::Kind::Int64 => Kind::Int64,
            types::Kind::Float64 => Kind::Float64,
            types::Kind::Boolean => Kind::Boolean,
            types::Kind::Binary => Kind::Binary,
            types::Kind::Json => Kind::Json,
        }
    }
}

/// A column a plugin wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// The column.
    pub name: String,
    /// How its values are handed over.
    pub kind: Kind,
    /// True: a source may do without it.
    pub optional: bool,
}

/// What a plugin reads of a row: the projection for the data reader.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reads {
    /// The columns wanted, in the plugin's order.
    pub columns: Vec<Need>,
    /// True: every column is read, each row passed as the text of a JSON object too.
    pub whole_rows: bool,
}

impl From<types::Reads> for Reads {
    fn from(reads: types::Reads) -> Self {
        let need =
            |n: types::Need| Need { name: n.name, kind: n.kind.into(), optional: n.optional };
        Self {
            columns: reads.columns.into_iter().map(need).collect(),
            whole_rows: reads.whole_rows,
        }
    }
}

/// One value on its way to a plugin.
enum Cell {
    Null,
    Text(String),
    Int(i64),
    Float(f64),
    Bool(bool),
    Bytes(Vec<u8>),
    /// The row is rejected: this value is not what was asked for.
    Fault(String),
}

impl Cell {
    fn bytes(&self) -> usize {
        match self {
            Cell::Text(text) => text.len(),
            Cell::Bytes(bytes) => bytes.len(),
            _ => 8,
        }
    }
}

/// The rows of one or more calls, converted.
pub(super) struct Rows {
    names: Vec<(String, Kind)>,
    /// Row by row: the cells, and the whole row where it was asked for.
    rows: std::vec::IntoIter<(usize, Vec<Cell>, Option<String>)>,
    next: Option<(usize, Vec<Cell>, Option<String>)>,
    /// Rows rejected here, with the reason; positions within the record batch.
    pub faults: Vec<(usize, String)>,
}

/// Rows of one call.
pub(super) struct Call {
    pub batch: types::Batch,
    /// Positions of the rows within the record batch.
    pub positions: Vec<usize>,
    /// Bytes that cross.
    pub bytes: usize,
}

impl Call {
    /// The same call for some of its rows alone.
    pub(super) fn slice(&self, rows: Range<usize>) -> Call {
        fn part<T: Clone>(values: &[T], rows: &Range<usize>) -> Vec<T> {
            values.get(rows.clone()).map(<[T]>::to_vec).unwrap_or_default()
        }
        let column = |column: &types::Column| types::Column {
            name: column.name.clone(),
            values: match &column.values {
                types::Values::Utf8(v) => types::Values::Utf8(part(v, &rows)),
                types::Values::Int64(v) => types::Values::Int64(part(v, &rows)),
                types::Values::Float64(v) => types::Values::Float64(part(v, &rows)),
                types::Values::Boolean(v) => types::Values::Boolean(part(v, &rows)),
                types::Values::Binary(v) => types::Values::Binary(part(v, &rows)),
                types::Values::Json(v) => types::Values::Json(part(v, &rows)),
            },
            nulls: column
                .nulls
                .iter()
                .filter(|null| rows.contains(&(**null as usize)))
                .map(|null| null - rows.start as u32)
                .collect(),
        };
        let columns = self.batch.columns.iter().map(column).collect();
        let whole_rows = part(&self.batch.whole_rows, &rows);
        let positions = part(&self.positions, &rows);
        // An upper bound of the rows' own bytes: they may only be given more fuel, never less.
        Call {
            batch: types::Batch { rows: positions.len() as u32, columns, whole_rows },
            positions,
            bytes: self.bytes,
        }
    }
}

/// Converts what `reads` names of `batch`.
///
/// # Errors
/// [`PluginError::MissingColumn`] and [`PluginError::ColumnType`].
pub(super) fn convert(
    who: &Arc<Who>,
    reads: &Reads,
    batch: &RecordBatch,
) -> Result<Rows, PluginError> {
    let schema = batch.schema();
    let mut names = Vec::new();
    let mut columns = Vec::new();
    for need in &reads.columns {
        let Some((index, field)) = schema.column_with_name(&need.name) else {
            if need.optional {
                continue;
            }
            let present: Vec<String> =
                schema.fields().iter().map(|f| format!("`{}`", f.name())).collect();
            return Err(PluginError::MissingColumn {
                who: who.clone(),
                column: shown(&need.name),
                present: if present.is_empty() {
                    "no columns".into()
                } else {
                    shown(&present.join(", "))
                },
            });
        };
        let column = cells(field, batch.column(index), need.kind).map_err(|got| {
            PluginError::ColumnType {
                who: who.clone(),
                column: shown(&need.name),
                expected: need.kind.name(),
                got: shown(&got.to_string()),
            }
        })?;
        names.push((need.name.clone(), need.kind));
        columns.push(column.into_iter());
    }

    let mut rows = Vec::with_capacity(batch.num_rows());
    let mut faults = Vec::new();
    for row in 0..batch.num_rows() {
        let cells: Vec<Cell> = columns.iter_mut().map(|c| c.next().unwrap_or(Cell::Null)).collect();
        let fault = cells.iter().find_map(|c| match c {
            Cell::Fault(why) => Some(why.clone()),
            _ => None,
        });
        let whole = match (fault, reads.whole_rows) {
            (Some(why), _) => Err(why),
            (None, true) => json_value::row(batch, row, is_json)
                .map(Some)
                .map_err(|(name, why)| format!("field `{}` {why}", shown(&name))),
            (None, false) => Ok(None),
        };
        match whole {
            Ok(whole) => rows.push((row, cells, whole)),
            Err(why) => faults.push((row, why)),
        }
    }
    Ok(Rows { names, rows: rows.into_iter(), next: None, faults })
}

impl Rows {
    /// The rows of the next call: as many as stay under `bytes_max`, at least one.
    pub(super) fn next_call(&mut self, bytes_max: usize) -> Option<Call> {
        let mut positions = Vec::new();
        let mut whole_rows = Vec::new();
        let mut bytes = 0;
        let mut columns: Vec<(types::Values, Vec<u32>)> =
            self.names.iter().map(|(_, kind)| (empty_values(*kind), Vec::new())).collect();
        while let Some((position, cells, whole)) = self.next.take().or_else(|| self.rows.next()) {
            let size = cells.iter().map(Cell::bytes).sum::<usize>()
                + whole.as_ref().map_or(0, String::len);
            if !positions.is_empty() && bytes + size > bytes_max {
                self.next = Some((position, cells, whole));
                break;
            }
            bytes += size;
            for (cell, (values, nulls)) in cells.into_iter().zip(&mut columns) {
                if matches!(cell, Cell::Null) {
                    nulls.push(positions.len() as u32);
                }
                push(values, cell);
            }
            whole_rows.extend(whole);
            positions.push(position);
        }
        if positions.is_empty() {
            return None;
        }
        let columns = self
            .names
            .iter()
            .zip(columns)
            .map(|((name, _), (values, nulls))| types::Column { name: name.clone(), values, nulls })
            .collect();
        let batch = types::Batch { rows: positions.len() as u32, columns, whole_rows };
        Some(Call { batch, positions, bytes })
    }
}

fn empty_values(kind: Kind) -> types::Values {
    match kind {
        Kind::Utf8 => types::Values::Utf8(Vec::new()),
        Kind::Int64 => types::Values::Int64(Vec::new()),
        Kind::Float64 => types::Values::Float64(Vec::new()),
        Kind::Boolean => types::Values::Boolean(Vec::new()),
        Kind::Binary => types::Values::Binary(Vec::new()),
        Kind::Json => types::Values::Json(Vec::new()),
    }
}

/// A null (and, which can't happen, a cell of another kind) becomes the kind's empty value.
fn push(values: &mut types::Values, cell: Cell) {
    use types::Values;
    match (values, cell) {
        (Values::Utf8(v) | Values::Json(v), Cell::Text(text)) => v.push(text),
        (Values::Utf8(v) | Values::Json(v), _) => v.push(String::new()),
        (Values::Int64(v), Cell::Int(i)) => v.push(i),
        (Values::Int64(v), _) => v.push(0),
        (Values::Float64(v), Cell::Float(x)) => v.push(x),
        (Values::Float64(v), _) => v.push(0.0),
        (Values::Boolean(v), Cell::Bool(b)) => v.push(b),
        (Values::Boolean(v), _) => v.push(false),
        (Values::Binary(v), Cell::Bytes(bytes)) => v.push(bytes),
        (Values::Binary(v), _) => v.push(Vec::new()),
    }
}

fn is_json(field: &Field) -> bool {
    field.metadata().get(JSON_METADATA_KEY).is_some_and(|v| v == "true")
}

/// What a JSON value is, for messages.
pub(super) fn kind_name(value: &serde_json::Value) -> &'static str {
    use serde_json::Value;
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// The values of a column as `kind`; the column's type when it can't be.
fn cells(field: &Field, array: &ArrayRef, kind: Kind) -> Result<Vec<Cell>, DataType> {
    let own_type = || field.data_type().clone();
    let array = match array.data_type() {
        DataType::Dictionary(_, value) => &cast(array, value).map_err(|_| own_type())?,
        _ => array,
    };
    let to = |ty: &DataType| cast(array, ty).map_err(|_| own_type());
    let source = array.data_type();
    if *source == DataType::Null {
        return Ok((0..array.len()).map(|_| Cell::Null).collect());
    }
    let is_text = matches!(source, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let name = field.name();

    if kind == Kind::Json && !(is_text && is_json(field)) {
        return Ok((0..array.len())
            .map(|row| match json_value::value(field, array.as_ref(), row, is_json) {
                Ok(None) => Cell::Null,
                Ok(Some(text)) => Cell::Text(text),
                Err(why) => Cell::Fault(format!("field `{}` {why}", shown(name))),
            })
            .collect());
    }
    if is_text {
        let texts = to(&DataType::Utf8)?;
        let texts = texts.as_string::<i32>();
        let json = is_json(field);
        return Ok(texts
            .iter()
            .map(|text| match text {
                None => Cell::Null,
                Some(text) if kind == Kind::Json => Cell::Text(text.to_string()),
                Some(text) if json => from_json(name, text, kind),
                Some(text) => from_text(name, text, kind),
            })
            .collect());
    }
    match kind {
        Kind::Int64 if source.is_integer() => {
            let cast = to(&DataType::Int64)?;
            let values = cast.as_primitive::<Int64Type>();
            Ok(each(array, |row| {
                if values.is_null(row) {
                    Cell::Fault(format!("field `{}` does not fit 64 bits", shown(name)))
                } else {
                    Cell::Int(values.value(row))
                }
            }))
        }
        Kind::Float64 if source.is_numeric() => {
            let cast = to(&DataType::Float64)?;
            let values = cast.as_primitive::<Float64Type>();
            Ok(each(array, |row| float(name, values.value(row))))
        }
        Kind::Boolean if *source == DataType::Boolean => {
            let values = array.as_boolean();
            Ok(each(array, |row| Cell::Bool(values.value(row))))
        }
        Kind::Binary
            if matches!(
                source,
                DataType::Binary
                    | DataType::LargeBinary
                    | DataType::BinaryView
                    | DataType::FixedSizeBinary(_)
            ) =>
        {
            let cast = to(&DataType::Binary)?;
            let values = cast.as_binary::<i32>();
            Ok(each(array, |row| Cell::Bytes(values.value(row).to_vec())))
        }
        _ => Err(own_type()),
    }
}

fn each(array: &ArrayRef, cell: impl Fn(usize) -> Cell) -> Vec<Cell> {
    (0..array.len()).map(|row| if array.is_null(row) { Cell::Null } else { cell(row) }).collect()
}

fn float(name: &str, value: f64) -> Cell {
    if value.is_finite() {
        Cell::Float(value)
    } else {
        Cell::Fault(format!("field `{}` is {value}, not a finite number", shown(name)))
    }
}

/// A plain text (CSV knows nothing else) as another kind.
fn from_text(name: &str, text: &str, kind: Kind) -> Cell {
    let fault = |what: &str| {
        Cell::Fault(format!("field `{}` is `{}`, not {what}", shown(name), shown(text)))
    };
    match kind {
        Kind::Utf8 | Kind::Json => Cell::Text(text.to_string()),
        Kind::Binary => Cell::Bytes(text.as_bytes().to_vec()),
        Kind::Int64 => text.trim().parse().map_or_else(|_| fault("an integer"), Cell::Int),
        Kind::Float64 => match text.trim().parse::<f64>() {
            Ok(value) => float(name, value),
            Err(_) => fault("a number"),
        },
        Kind::Boolean => match text.trim() {
            "true" | "True" => Cell::Bool(true),
            "false" | "False" => Cell::Bool(false),
            _ => fault("true or false"),
        },
    }
}

/// A JSON text as another kind; JSON `null` is no value.
fn from_json(name: &str, text: &str, kind: Kind) -> Cell {
    use serde_json::Value;
    let value: Value = match serde_json::from_str(text) {
        Ok(value) => value,
        Err(e) => return Cell::Fault(format!("field `{}`: {e}", shown(name))),
    };
    let fault = |what: &str| {
        Cell::Fault(format!("field `{}` is {}, not {what}", shown(name), kind_name(&value)))
    };
    match (kind, &value) {
        (_, Value::Null) => Cell::Null,
        (Kind::Json, _) => Cell::Text(text.to_string()),
        (Kind::Utf8, Value::String(s)) => Cell::Text(s.clone()),
        (Kind::Utf8, _) => fault("a string"),
        (Kind::Binary, Value::String(s)) => Cell::Bytes(s.as_bytes().to_vec()),
        (Kind::Binary, _) => fault("a string of bytes"),
        (Kind::Int64, Value::Number(n)) => {
            n.as_i64().map_or_else(|| fault("an integer"), Cell::Int)
        }
        (Kind::Int64, _) => fault("an integer"),
        (Kind::Float64, Value::Number(n)) => {
            n.as_f64().map_or_else(|| fault("a finite number"), |x| float(name, x))
        }
        (Kind::Float64, _) => fault("a number"),
        (Kind::Boolean, Value::Bool(b)) => Cell::Bool(*b),
        (Kind::Boolean, _) => fault("true or false"),
    }
}

#[cfg(test)]
#[path = "columns/tests.rs"]
mod tests;
