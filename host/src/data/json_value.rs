//! Arrow values → JSON text: of source columns that are wanted as JSON, and of what plugins return.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{
    DataType, Field, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow::util::display::{ArrayFormatter, FormatOptions};

use crate::limits::JSON_DEPTH_MAX;

/// Which fields hold JSON text that goes in as it stands.
pub(crate) type IsJson = fn(&Field) -> bool;

/// Writes `text` as a JSON string.
pub(crate) fn string(text: &str, out: &mut String) {
    out.push_str(&serde_json::Value::from(text).to_string());
}

/// A row as a JSON object of its columns in order; null columns are left out.
///
/// # Errors
/// The field's name, and what is wrong with it.
pub(crate) fn row(
    batch: &RecordBatch,
    row: usize,
    is_json: IsJson,
) -> Result<String, (String, String)> {
    let mut out = String::from("{");
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        let text = value(field, column.as_ref(), row, is_json)
            .map_err(|why| (field.name().clone(), why))?;
        let Some(text) = text.filter(|t| t != "null") else { continue };
        if out.len() > 1 {
            out.push(',');
        }
        string(field.name(), &mut out);
        out.push(':');
        out.push_str(&text);
    }
    out.push('}');
    Ok(out)
}

/// Whether the value is null, the null type included.
pub(crate) fn is_null(array: &dyn Array, row: usize) -> bool {
    array.is_null(row) || *array.data_type() == DataType::Null
}

/// JSON text of one value; `None` for a null. Decimals, dates and times become strings.
///
/// # Errors
/// What is wrong, to be read after "field `x` …": not finite, too deep, a type JSON can't hold.
pub(crate) fn value(
    field: &Field,
    array: &dyn Array,
    row: usize,
    is_json: IsJson,
) -> Result<Option<String>, String> {
    if is_null(array, row) {
        return Ok(None);
    }
    let mut out = String::new();
    Writer { is_json }.write(field, array, row, 0, &mut out)?;
    Ok(Some(out))
}

struct Writer {
    is_json: IsJson,
}

impl Writer {
    fn write(
        &self,
        field: &Field,
        array: &dyn Array,
        row: usize,
        depth: usize,
        out: &mut String,
    ) -> Result<(), String> {
        if depth > JSON_DEPTH_MAX {
            return Err(format!("is nested deeper than {JSON_DEPTH_MAX}"));
        }
        if is_null(array, row) {
            out.push_str("null");
            return Ok(());
        }
        macro_rules! integer {
            ($ty:ty) => {
                out.push_str(&array.as_primitive::<$ty>().value(row).to_string())
            };
        }
        macro_rules! float {
            ($ty:ty) => {{
                let value = array.as_primitive::<$ty>().value(row);
                if !value.is_finite() {
                    return Err(format!("is {value}, which JSON can't hold"));
                }
                out.push_str(&format!("{value:?}"));
            }};
        }
        let text = |value: &str, out: &mut String| {
            // What a file marks as JSON may be none.
            let is_json = (self.is_json)(field)
                && serde_json::from_str::<&serde_json::value::RawValue>(value).is_ok();
            if is_json { out.push_str(value) } else { string(value, out) }
        };
        match array.data_type() {
            DataType::Boolean => {
                out.push_str(if array.as_boolean().value(row) { "true" } else { "false" });
            }
            DataType::Int8 => integer!(Int8Type),
            DataType::Int16 => integer!(Int16Type),
            DataType::Int32 => integer!(Int32Type),
            DataType::Int64 => integer!(Int64Type),
            DataType::UInt8 => integer!(UInt8Type),
            DataType::UInt16 => integer!(UInt16Type),
            DataType::UInt32 => integer!(UInt32Type),
            DataType::UInt64 => integer!(UInt64Type),
            DataType::Float16 => {
                let value = array.as_primitive::<Float16Type>().value(row).to_f32();
                if !value.is_finite() {
                    return Err(format!("is {value}, which JSON can't hold"));
                }
                out.push_str(&format!("{value:?}"));
            }
            DataType::Float32 => float!(Float32Type),
            DataType::Float64 => float!(Float64Type),
            DataType::Utf8 => text(array.as_string::<i32>().value(row), out),
            DataType::LargeUtf8 => text(array.as_string::<i64>().value(row), out),
            DataType::Utf8View => text(array.as_string_view().value(row), out),
            // Parquet files without string annotations deliver texts as bytes.
            DataType::Binary => bytes(array.as_binary::<i32>().value(row), out)?,
            DataType::LargeBinary => bytes(array.as_binary::<i64>().value(row), out)?,
            DataType::BinaryView => bytes(array.as_binary_view().value(row), out)?,
            DataType::List(item) => {
                self.list(item, array.as_list::<i32>().value(row).as_ref(), depth, out)?
            }
            DataType::LargeList(item) => {
                self.list(item, array.as_list::<i64>().value(row).as_ref(), depth, out)?
            }
            DataType::FixedSizeList(item, _) => {
                self.list(item, array.as_fixed_size_list().value(row).as_ref(), depth, out)?;
            }
            DataType::Struct(fields) => {
                out.push('{');
                for (i, (field, column)) in
                    fields.iter().zip(array.as_struct().columns()).enumerate()
                {
                    if i > 0 {
                        out.push(',');
                    }
                    string(field.name(), out);
                    out.push(':');
                    self.write(field, column.as_ref(), row, depth + 1, out)?;
                }
                out.push('}');
            }
            DataType::Map(..) => self.map(array, row, depth, out)?,
            DataType::Dictionary(..) => {
                let dictionary = array.as_any_dictionary();
                let one = array.slice(row, 1);
                let key = one.as_any_dictionary().normalized_keys().first().copied();
                self.write(
                    field,
                    dictionary.values().as_ref(),
                    key.unwrap_or_default(),
                    depth + 1,
                    out,
                )?;
            }
            DataType::Date32
            | DataType::Date64
            | DataType::Time32(_)
            | DataType::Time64(_)
            | DataType::Timestamp(..)
            | DataType::Decimal32(..)
            | DataType::Decimal64(..)
            | DataType::Decimal128(..)
            | DataType::Decimal256(..) => {
                let formatter = ArrayFormatter::try_new(array, &FormatOptions::default())
                    .map_err(|e| format!("can't be written as JSON: {e}"))?;
                let text = formatter.value(row).try_to_string();
                string(&text.map_err(|e| format!("can't be written as JSON: {e}"))?, out);
            }
            other => return Err(format!("is of type {other}, which JSON can't hold")),
        }
        Ok(())
    }

    fn list(
        &self,
        item: &Field,
        values: &dyn Array,
        depth: usize,
        out: &mut String,
    ) -> Result<(), String> {
        out.push('[');
        for i in 0..values.len() {
            if i > 0 {
                out.push(',');
            }
            self.write(item, values, i, depth + 1, out)?;
        }
        out.push(']');
        Ok(())
    }

    fn map(
        &self,
        array: &dyn Array,
        row: usize,
        depth: usize,
        out: &mut String,
    ) -> Result<(), String> {
        let entries = array.as_map().value(row);
        let (keys, values) = (entries.column(0), entries.column(1));
        let [key_field, value_field] = entries.fields().as_ref() else {
            return Err("is a map without keys and values".into());
        };
        out.push('{');
        for i in 0..entries.len() {
            if i > 0 {
                out.push(',');
            }
            let mut key = String::new();
            self.write(key_field, keys.as_ref(), i, depth + 1, &mut key)?;
            // JSON knows only strings as keys.
            if key.starts_with('"') {
                out.push_str(&key)
            } else {
                string(&key, out)
            }
            out.push(':');
            self.write(value_field, values.as_ref(), i, depth + 1, out)?;
        }
        out.push('}');
        Ok(())
    }
}

fn bytes(value: &[u8], out: &mut String) -> Result<(), String> {
    let text = std::str::from_utf8(value).map_err(|_| "holds bytes that are not UTF-8")?;
    string(text, out);
    Ok(())
}
