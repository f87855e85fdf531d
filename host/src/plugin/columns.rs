//! Arrow columns → the kinds a plugin asked for. Only the columns named in `reads` are looked at, and
//! their texts stay where they are until they are copied into the guest.
//!
//! A column as a whole may be of an unsuitable type (an error); a single value may not fit (the
//! row is rejected here, before the plugin sees it).

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, RecordBatch, StringArray};
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

/// The text of a value: where it is, so that most are copied once only, into the guest.
enum Text {
    /// No value.
    Empty,
    /// The value of the Arrow array.
    Whole,
    /// The value of the Arrow array without its quotes: a JSON string without escapes.
    Inner,
    /// Made of the value.
    Made(String),
}

/// Texts of a column, one per row of the record batch.
struct Texts {
    array: StringArray,
    texts: Vec<Text>,
}

impl Texts {
    fn get(&self, row: usize) -> &str {
        match &self.texts[row] {
            Text::Empty => "",
            Text::Whole => self.array.value(row),
            Text::Inner => {
                let value = self.array.value(row);
                value.get(1..value.len() - 1).unwrap_or_default()
            }
            Text::Made(text) => text,
        }
    }
}

/// Bytes of a column, one string of them per row of the record batch.
enum Blobs {
    Arrow(BinaryArray),
    Texts(Texts),
}

impl Blobs {
    fn get(&self, row: usize) -> &[u8] {
        match self {
            Blobs::Arrow(array) if array.is_null(row) => &[],
            Blobs::Arrow(array) => array.value(row),
            Blobs::Texts(texts) => texts.get(row).as_bytes(),
        }
    }
}

/// The values of a column, one per row of the record batch; the kind's empty value at nulls and
/// faults.
enum Cells {
    Utf8(Texts),
    Int64(Vec<i64>),
    Float64(Vec<f64>),
    Boolean(Vec<bool>),
    Binary(Blobs),
    Json(Texts),
}

/// A column as a plugin wants it.
struct Column {
    name: String,
    cells: Cells,
    nulls: Vec<bool>,
}

/// The rows of a record batch, as a plugin wants them.
pub(super) struct Rows {
    columns: Vec<Column>,
    whole: Option<Vec<String>>,
    /// Positions within the record batch of the rows that are passed.
    passed: Vec<usize>,
    /// Rows rejected here, with the reason; positions within the record batch.
    pub faults: Vec<(usize, String)>,
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
    let mut faults: Vec<Option<String>> = vec![None; batch.num_rows()];
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
        let column = column(field, batch.column(index), need.kind, &mut faults).map_err(|got| {
            PluginError::ColumnType {
                who: who.clone(),
                column: shown(&need.name),
                expected: need.kind.name(),
                got: shown(&got.to_string()),
            }
        })?;
        columns.push(column);
    }
    let mut whole = reads.whole_rows.then(|| Vec::with_capacity(batch.num_rows()));
    for (row, fault) in faults.iter_mut().enumerate() {
        let Some(whole) = &mut whole else { break };
        let text = match fault {
            Some(_) => Ok(String::new()),
            None => json_value::row(batch, row, is_json),
        };
        whole.push(text.unwrap_or_else(|(name, why)| {
            *fault = Some(format!("field `{}` {why}", shown(&name)));
            String::new()
        }));
    }
    let passed = (0..batch.num_rows()).filter(|row| faults[*row].is_none()).collect();
    let faults =
        faults.into_iter().enumerate().filter_map(|(row, why)| Some((row, why?))).collect();
    Ok(Rows { columns, whole, passed, faults })
}

/// The values of some rows, borrowed where they are texts.
enum Values<'a> {
    Utf8(Vec<&'a str>),
    Int64(Vec<i64>),
    Float64(Vec<f64>),
    Boolean(Vec<bool>),
    Binary(Vec<&'a [u8]>),
    Json(Vec<&'a str>),
}

/// The passed rows, column by column, ready to be handed over in any number of calls.
pub(super) struct Table<'a> {
    columns: Vec<(&'a str, Values<'a>, Vec<u32>)>,
    whole: Vec<&'a str>,
    positions: &'a [usize],
    /// Bytes of all rows before each, and of all rows.
    starts: Vec<usize>,
}

impl Rows {
    /// The rows that are passed.
    pub(super) fn table(&self) -> Table<'_> {
        fn pick<T: Copy>(values: &[T], rows: &[usize]) -> Vec<T> {
            rows.iter().map(|row| values[*row]).collect()
        }
        fn texts<'t>(texts: &'t Texts, rows: &[usize]) -> Vec<&'t str> {
            rows.iter().map(|row| texts.get(*row)).collect()
        }
        let rows = &self.passed;
        let mut sizes = vec![0usize; rows.len()];
        let mut columns = Vec::with_capacity(self.columns.len());
        for Column { name, cells, nulls } in &self.columns {
            let values = match cells {
                Cells::Utf8(all) => Values::Utf8(texts(all, rows)),
                Cells::Json(all) => Values::Json(texts(all, rows)),
                Cells::Int64(all) => Values::Int64(pick(all, rows)),
                Cells::Float64(all) => Values::Float64(pick(all, rows)),
                Cells::Boolean(all) => Values::Boolean(pick(all, rows)),
                Cells::Binary(all) => Values::Binary(rows.iter().map(|r| all.get(*r)).collect()),
            };
            for (i, size) in sizes.iter_mut().enumerate() {
                *size += match &values {
                    Values::Utf8(v) | Values::Json(v) => v[i].len(),
                    Values::Binary(v) => v[i].len(),
                    _ => 8,
                };
            }
            let nulls = (0u32..).zip(rows).filter(|(_, row)| nulls[**row]).map(|(i, _)| i);
            columns.push((name.as_str(), values, nulls.collect()));
        }
        let whole: Vec<&str> = match &self.whole {
            Some(whole) => rows.iter().map(|row| whole[*row].as_str()).collect(),
            None => Vec::new(),
        };
        for (size, text) in sizes.iter_mut().zip(&whole) {
            *size += text.len();
        }
        let mut starts = vec![0];
        for size in sizes {
            starts.push(starts[starts.len() - 1] + size);
        }
        Table { columns, whole, positions: rows, starts }
    }
}

impl<'a> Table<'a> {
    /// The rows of each call: as many as stay under `bytes_max`, at least one.
    pub(super) fn calls(&self, bytes_max: usize) -> Vec<Range<usize>> {
        let mut calls = Vec::new();
        let mut first = 0;
        for row in 0..self.positions.len() {
            if row > first && self.starts[row + 1] - self.starts[first] > bytes_max {
                calls.push(first..row);
                first = row;
            }
        }
        if first < self.positions.len() {
            calls.push(first..self.positions.len());
        }
        calls
    }

    /// Positions of these rows within the record batch.
    pub(super) fn positions(&self, rows: &Range<usize>) -> &'a [usize] {
        self.positions.get(rows.clone()).unwrap_or_default()
    }

    /// Bytes of these rows that cross.
    pub(super) fn bytes(&self, rows: &Range<usize>) -> usize {
        self.starts[rows.end] - self.starts[rows.start]
    }

    /// Calls `take` with these rows as the contract has them.
    pub(super) fn with<T>(
        &self,
        rows: &Range<usize>,
        take: impl FnOnce(types::Batch<'_>) -> T,
    ) -> T {
        let nulls: Vec<Vec<u32>> = self
            .columns
            .iter()
            .map(|(_, _, nulls)| {
                let from = nulls.partition_point(|null| (*null as usize) < rows.start);
                let to = nulls.partition_point(|null| (*null as usize) < rows.end);
                nulls[from..to].iter().map(|null| null - rows.start as u32).collect()
            })
            .collect();
        let columns: Vec<types::Column<'_>> = self
            .columns
            .iter()
            .zip(&nulls)
            .map(|((name, values, _), nulls)| types::Column {
                name,
                values: match values {
                    Values::Utf8(v) => types::Values::Utf8(&v[rows.clone()]),
                    Values::Int64(v) => types::Values::Int64(&v[rows.clone()]),
                    Values::Float64(v) => types::Values::Float64(&v[rows.clone()]),
                    Values::Boolean(v) => types::Values::Boolean(&v[rows.clone()]),
                    Values::Binary(v) => types::Values::Binary(&v[rows.clone()]),
                    Values::Json(v) => types::Values::Json(&v[rows.clone()]),
                },
                nulls,
            })
            .collect();
        let whole_rows = self.whole.get(rows.clone()).unwrap_or_default();
        take(types::Batch { rows: rows.len() as u32, columns: &columns, whole_rows })
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

/// A column as `kind`; its type when it can't be. The reason why a row's value is not of the kind
/// goes into `faults`, unless the row has one.
fn column(
    field: &Field,
    array: &ArrayRef,
    kind: Kind,
    faults: &mut [Option<String>],
) -> Result<Column, DataType> {
    let own_type = || field.data_type().clone();
    let array = match array.data_type() {
        DataType::Dictionary(_, value) => &cast(array, value).map_err(|_| own_type())?,
        _ => array,
    };
    let to = |ty: &DataType| cast(array, ty).map_err(|_| own_type());
    let source = array.data_type();
    let is_text = matches!(source, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let len = array.len();
    let mut nulls: Vec<bool> = (0..len).map(|row| array.is_null(row)).collect();
    let name = shown(field.name());

    let cells = if *source == DataType::Null {
        nulls.fill(true);
        let texts = || no_texts(len);
        match kind {
            Kind::Utf8 => Cells::Utf8(texts()),
            Kind::Int64 => Cells::Int64(vec![0; len]),
            Kind::Float64 => Cells::Float64(vec![0.0; len]),
            Kind::Boolean => Cells::Boolean(vec![false; len]),
            Kind::Binary => Cells::Binary(Blobs::Texts(texts())),
            Kind::Json => Cells::Json(texts()),
        }
    } else if kind == Kind::Json && !(is_text && is_json(field)) {
        let mut texts = no_texts(len);
        for (row, text) in texts.texts.iter_mut().enumerate() {
            match json_value::value(field, array.as_ref(), row, is_json) {
                Ok(None) => nulls[row] = true,
                Ok(Some(made)) => *text = Text::Made(made),
                Err(why) => {
                    faults[row].get_or_insert(format!("field `{name}` {why}"));
                }
            }
        }
        Cells::Json(texts)
    } else if is_text {
        let array = to(&DataType::Utf8)?.as_string::<i32>().clone();
        let mut read = Reader { name: &name, json: is_json(field), nulls: &mut nulls, faults };
        match kind {
            Kind::Utf8 => Cells::Utf8(read.texts(array)),
            Kind::Binary => Cells::Binary(Blobs::Texts(read.texts(array))),
            Kind::Json => {
                let whole = |row| if array.is_null(row) { Text::Empty } else { Text::Whole };
                let texts = (0..len).map(whole).collect();
                Cells::Json(Texts { array, texts })
            }
            Kind::Int64 => Cells::Int64(read.values(&array, "an integer", |value| match value {
                Scalar::Text(text) => text.trim().parse().ok(),
                Scalar::Json(value) => value.as_i64(),
            })),
            Kind::Float64 => {
                Cells::Float64(read.values(&array, "a finite number", |value| match value {
                    Scalar::Text(text) => text.trim().parse().ok().filter(|x: &f64| x.is_finite()),
                    Scalar::Json(value) => value.as_f64().filter(|x| x.is_finite()),
                }))
            }
            Kind::Boolean => {
                Cells::Boolean(read.values(&array, "true or false", |value| match value {
                    Scalar::Text(text) => match text.trim() {
                        "true" | "True" => Some(true),
                        "false" | "False" => Some(false),
                        _ => None,
                    },
                    Scalar::Json(value) => value.as_bool(),
                }))
            }
        }
    } else {
        match kind {
            Kind::Int64 if source.is_integer() => {
                let cast = to(&DataType::Int64)?;
                let values = cast.as_primitive::<Int64Type>();
                for row in (0..len).filter(|row| !array.is_null(*row) && values.is_null(*row)) {
                    faults[row].get_or_insert(format!("field `{name}` does not fit 64 bits"));
                }
                Cells::Int64(values.iter().map(Option::unwrap_or_default).collect())
            }
            Kind::Float64 if source.is_numeric() => {
                let cast = to(&DataType::Float64)?;
                let values = cast.as_primitive::<Float64Type>();
                for (row, x) in values.iter().enumerate() {
                    if let Some(x) = x.filter(|x| !x.is_finite()) {
                        let why = format!("field `{name}` is {x}, not a finite number");
                        faults[row].get_or_insert(why);
                    }
                }
                Cells::Float64(values.iter().map(Option::unwrap_or_default).collect())
            }
            Kind::Boolean if *source == DataType::Boolean => {
                Cells::Boolean(array.as_boolean().iter().map(Option::unwrap_or_default).collect())
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
                Cells::Binary(Blobs::Arrow(cast.as_binary::<i32>().clone()))
            }
            _ => return Err(own_type()),
        }
    };
    Ok(Column { name: field.name().clone(), cells, nulls })
}

fn no_texts(len: usize) -> Texts {
    Texts { array: StringArray::new_null(0), texts: (0..len).map(|_| Text::Empty).collect() }
}

/// A value written as text, by a source that knows nothing else (CSV) or by a JSON source.
enum Scalar<'a> {
    Text(&'a str),
    Json(&'a serde_json::Value),
}

/// Reads values that are written as texts.
struct Reader<'r> {
    name: &'r str,
    json: bool,
    nulls: &'r mut [bool],
    faults: &'r mut [Option<String>],
}

impl Reader<'_> {
    fn fault(&mut self, row: usize, why: String) {
        self.faults[row].get_or_insert(why);
    }

    /// The JSON value of a row; none at a null, JSON's own included, and at a fault.
    fn json(&mut self, row: usize, text: &str) -> Option<serde_json::Value> {
        match serde_json::from_str(text) {
            Ok(serde_json::Value::Null) => self.nulls[row] = true,
            Ok(value) => return Some(value),
            Err(e) => self.fault(row, format!("field `{}`: {e}", self.name)),
        }
        None
    }

    /// Strings: plain ones as they are, JSON ones decoded.
    fn texts(&mut self, array: StringArray) -> Texts {
        let texts = (0..array.len()).map(|row| {
            if array.is_null(row) {
                return Text::Empty;
            }
            let text = array.value(row);
            if !self.json {
                return Text::Whole;
            }
            if is_plain_string(text) {
                return Text::Inner;
            }
            match self.json(row, text) {
                Some(serde_json::Value::String(text)) => Text::Made(text),
                Some(other) => {
                    let got = kind_name(&other);
                    self.fault(row, format!("field `{}` is {got}, not a string", self.name));
                    Text::Empty
                }
                None => Text::Empty,
            }
        });
        let texts = texts.collect();
        Texts { array, texts }
    }

    /// Values of another kind, `what` in words.
    fn values<T: Default>(
        &mut self,
        array: &StringArray,
        what: &str,
        read: impl Fn(Scalar<'_>) -> Option<T>,
    ) -> Vec<T> {
        let value = |row: usize| {
            if array.is_null(row) {
                return T::default();
            }
            let text = array.value(row);
            let (value, got) = if self.json {
                let Some(value) = self.json(row, text) else { return T::default() };
                (read(Scalar::Json(&value)), kind_name(&value).to_string())
            } else {
                (read(Scalar::Text(text)), format!("`{}`", shown(text)))
            };
            if value.is_none() {
                self.fault(row, format!("field `{}` is {got}, not {what}", self.name));
            }
            value.unwrap_or_default()
        };
        (0..array.len()).map(value).collect()
    }
}

/// True for the text of a JSON string whose characters stand for themselves.
fn is_plain_string(text: &str) -> bool {
    let inner = text.strip_prefix('"').and_then(|t| t.strip_suffix('"'));
    inner.is_some_and(|inner| memchr::memchr2(b'"', b'\\', inner.as_bytes()).is_none())
}

#[cfg(test)]
#[path = "columns/tests.rs"]
mod tests;
