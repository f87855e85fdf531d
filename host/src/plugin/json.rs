//! Arrow values → JSON text.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{
    DataType, Field, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow::util::display::{ArrayFormatter, FormatOptions};

use super::columns::is_json;
use crate::limits::JSON_DEPTH_MAX;

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

/// JSON text of one value; `None` for a null. The error completes "field `x` …".
pub(super) fn value(
    field: &Field,
    array: &dyn Array,
    row: usize,
) -> Result<Option<String>, String> {
    if array.is_null(row) {
        return Ok(None);
    }
    let mut out = String::new();
    write(field, array, row, 0, &mut out)?;
    Ok(Some(out))
}

/// JSON text of a whole row: an object of its columns in order, nulls left out.
pub(super) fn row(batch: &RecordBatch, row: usize) -> Result<String, String> {
    let mut out = String::from("{");
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        let text = value(field, column.as_ref(), row)
            .map_err(|e| format!("field `{}` {e}", field.name()))?;
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

fn string(text: &str, out: &mut String) {
    out.push_str(&serde_json::Value::from(text).to_string());
}

fn number(value: f64, text: String, out: &mut String) -> Result<(), String> {
    if !value.is_finite() {
        return Err(format!("is {value}, which JSON can't hold"));
    }
    out.push_str(&text);
    Ok(())
}

fn write(
    field: &Field,
    array: &dyn Array,
    row: usize,
    depth: usize,
    out: &mut String,
) -> Result<(), String> {
    if depth > JSON_DEPTH_MAX {
        return Err(format!("is nested deeper than {JSON_DEPTH_MAX}"));
    }
    if array.is_null(row) {
        out.push_str("null");
        return Ok(());
    }
    macro_rules! integer {
        ($ty:ty) => {
            out.push_str(&array.as_primitive::<$ty>().value(row).to_string())
        };
    }
    let text = |value: &str, out: &mut String| {
        if is_json(field) { out.push_str(value) } else { string(value, out) }
    };
    match array.data_type() {
        DataType::Null => out.push_str("null"),
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
            let v = array.as_primitive::<Float16Type>().value(row).to_f32();
            number(v.into(), format!("{v:?}"), out)?;
        }
        DataType::Float32 => {
            let v = array.as_primitive::<Float32Type>().value(row);
            number(v.into(), format!("{v:?}"), out)?;
        }
        DataType::Float64 => {
            let v = array.as_primitive::<Float64Type>().value(row);
            number(v, format!("{v:?}"), out)?;
        }
        DataType::Utf8 => text(array.as_string::<i32>().value(row), out),
        DataType::LargeUtf8 => text(array.as_string::<i64>().value(row), out),
        DataType::Utf8View => text(array.as_string_view().value(row), out),
        DataType::List(item) => {
            list(item, array.as_list::<i32>().value(row).as_ref(), depth, out)?;
        }
        DataType::LargeList(item) => {
            list(item, array.as_list::<i64>().value(row).as_ref(), depth, out)?;
        }
        DataType::FixedSizeList(item, _) => {
            list(item, array.as_fixed_size_list().value(row).as_ref(), depth, out)?;
        }
        DataType::Struct(fields) => {
            let array = array.as_struct();
            out.push('{');
            for (i, (field, column)) in fields.iter().zip(array.columns()).enumerate() {
                if i > 0 {
                    out.push(',');
                }
                string(field.name(), out);
                out.push(':');
                write(field, column.as_ref(), row, depth + 1, out)?;
            }
            out.push('}');
        }
        DataType::Map(..) => map(array, row, depth, out)?,
        DataType::Dictionary(..) => {
            let dictionary = array.as_any_dictionary();
            let key = dictionary.normalized_keys().get(row).copied().unwrap_or_default();
            write(field, dictionary.values().as_ref(), key, depth + 1, out)?;
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
            string(&formatter.value(row).to_string(), out);
        }
        other => return Err(format!("is of type {other}, which JSON can't hold")),
    }
    Ok(())
}

fn list(item: &Field, values: &dyn Array, depth: usize, out: &mut String) -> Result<(), String> {
    out.push('[');
    for i in 0..values.len() {
        if i > 0 {
            out.push(',');
        }
        write(item, values, i, depth + 1, out)?;
    }
    out.push(']');
    Ok(())
}

fn map(array: &dyn Array, row: usize, depth: usize, out: &mut String) -> Result<(), String> {
    let entries = array.as_map().value(row);
    let (keys, values) = (entries.column(0), entries.column(1));
    if *keys.data_type() != DataType::Utf8 {
        return Err(format!("is a map with keys of type {}, not strings", keys.data_type()));
    }
    let fields = entries.fields();
    let keys = keys.as_string::<i32>();
    out.push('{');
    for i in 0..entries.len() {
        if i > 0 {
            out.push(',');
        }
        string(keys.value(i), out);
        out.push(':');
        if let Some(field) = fields.get(1) {
            write(field, values.as_ref(), i, depth + 1, out)?;
        }
    }
    out.push('}');
    Ok(())
}
