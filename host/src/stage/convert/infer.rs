//! Types of JSON rows, found by looking at all of them, and columns of those types. Values whose
//! types differ between rows stay JSON text: nothing is turned into something else.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, ListArray, NullArray, RecordBatch,
    RecordBatchOptions, StringArray, StructArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use arrow::error::ArrowError;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::data::JSON_EXTENSION;

/// Objects with more different keys are dictionaries and no records.
const KEYS_MAX: usize = 1000;
/// Integers beyond this lose digits as floating-point numbers.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// What all values of a place have in common.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Type {
    /// No value so far but null.
    #[default]
    Null,
    /// true and false.
    Bool,
    /// 64-bit integers.
    Int,
    /// Numbers.
    Float,
    /// Strings.
    Text,
    /// Lists of one type.
    List(Box<Type>),
    /// Objects, with the types of their fields in order of appearance.
    Object(Vec<(String, Type)>),
    /// Anything: kept as JSON text.
    Json,
}

impl Type {
    /// The type of one value.
    pub fn of(value: &Value) -> Self {
        match value {
            Value::Null => Type::Null,
            Value::Bool(_) => Type::Bool,
            Value::String(_) => Type::Text,
            Value::Number(n) if n.is_i64() => Type::Int,
            Value::Number(n) if n.is_u64() => Type::Json,
            Value::Number(n) => {
                let value = n.as_f64().unwrap_or(f64::INFINITY);
                // Digits of such a number may be lost already.
                if value.fract() == 0.0 && value.abs() >= EXACT { Type::Json } else { Type::Float }
            }
            Value::Array(values) => {
                let mut element = Type::Null;
                for value in values {
                    element.take(Type::of(value));
                }
                Type::List(Box::new(element))
            }
            Value::Object(fields) => {
                let fields = fields.iter().map(|(name, value)| (name.clone(), Type::of(value)));
                Type::Object(fields.collect())
            }
        }
    }

    /// Widens the type to hold `other` too.
    pub fn take(&mut self, other: Type) {
        let own = std::mem::take(self);
        *self = match (own, other) {
            (Type::Null, other) => other,
            (own, Type::Null) => own,
            (own, other) if own == other => own,
            (Type::Int, Type::Float) | (Type::Float, Type::Int) => Type::Float,
            (Type::List(mut a), Type::List(b)) => {
                a.take(*b);
                Type::List(a)
            }
            (Type::Object(mut fields), Type::Object(others)) => {
                for (name, other) in others {
                    match fields.iter_mut().find(|(own, _)| *own == name) {
                        Some((_, own)) => own.take(other),
                        None => fields.push((name, other)),
                    }
                }
                if fields.len() > KEYS_MAX { Type::Json } else { Type::Object(fields) }
            }
            _ => Type::Json,
        };
    }

    /// Whether a file can have a column of the type; an object must have fields, and numbers
    /// beyond 64 bits must not be inside.
    fn settled(self) -> Self {
        match self {
            Type::List(element) => match element.settled() {
                Type::Json => Type::Json,
                element => Type::List(Box::new(element)),
            },
            Type::Object(fields) if fields.is_empty() => Type::Json,
            Type::Object(fields) => {
                let fields: Vec<(String, Type)> =
                    fields.into_iter().map(|(name, of)| (name, of.settled())).collect();
                if fields.iter().any(|(_, of)| *of == Type::Json) {
                    return Type::Json;
                }
                Type::Object(fields)
            }
            other => other,
        }
    }

    /// In a few words, for people.
    pub fn describe(&self) -> String {
        match self {
            Type::Null => "null".into(),
            Type::Bool => "boolean".into(),
            Type::Int => "integer".into(),
            Type::Float => "number".into(),
            Type::Text => "string".into(),
            Type::Json => "mixed".into(),
            Type::List(of) => format!("list of {}", of.describe()),
            Type::Object(fields) => {
                let each = fields.iter().map(|(name, of)| format!("{name}: {}", of.describe()));
                format!("{{{}}}", each.collect::<Vec<_>>().join(", "))
            }
        }
    }

    fn data_type(&self) -> DataType {
        match self {
            Type::Null => DataType::Null,
            Type::Bool => DataType::Boolean,
            Type::Int => DataType::Int64,
            Type::Float => DataType::Float64,
            Type::Text | Type::Json => DataType::Utf8,
            Type::List(element) => DataType::List(Arc::new(element.field("element"))),
            Type::Object(fields) => {
                DataType::Struct(fields.iter().map(|(name, of)| of.field(name)).collect::<Fields>())
            }
        }
    }

    fn field(&self, name: &str) -> Field {
        let field = Field::new(name, self.data_type(), true);
        match self {
            Type::Json => field.with_metadata(
                [
                    ("ARROW:extension:name".into(), JSON_EXTENSION.into()),
                    ("ARROW:extension:metadata".into(), String::new()),
                ]
                .into(),
            ),
            _ => field,
        }
    }

    /// Values as an array of the type; values of other types can't be among them, since the type
    /// was made of them.
    fn array(&self, values: &[Option<&Value>]) -> Result<ArrayRef, ArrowError> {
        let values = || values.iter().map(|v| v.filter(|v| !v.is_null()));
        Ok(match self {
            Type::Null => Arc::new(NullArray::new(values().len())),
            Type::Bool => {
                Arc::new(values().map(|v| v.and_then(Value::as_bool)).collect::<BooleanArray>())
            }
            Type::Int => {
                Arc::new(values().map(|v| v.and_then(Value::as_i64)).collect::<Int64Array>())
            }
            Type::Float => {
                Arc::new(values().map(|v| v.and_then(Value::as_f64)).collect::<Float64Array>())
            }
            Type::Text => {
                Arc::new(values().map(|v| v.and_then(Value::as_str)).collect::<StringArray>())
            }
            Type::Json => {
                Arc::new(values().map(|v| v.map(Value::to_string)).collect::<StringArray>())
            }
            Type::List(of) => {
                let lists: Vec<Option<&Vec<Value>>> =
                    values().map(|v| v.and_then(Value::as_array)).collect();
                let lengths = lists.iter().map(|l| l.map_or(0, Vec::len));
                let offsets = OffsetBuffer::from_lengths(lengths);
                let inner: Vec<Option<&Value>> =
                    lists.iter().flatten().flat_map(|l| l.iter().map(Some)).collect();
                let present: NullBuffer = lists.iter().map(Option::is_some).collect();
                let element = Arc::new(of.field("element"));
                Arc::new(ListArray::try_new(element, offsets, of.array(&inner)?, Some(present))?)
            }
            Type::Object(fields) => {
                let objects: Vec<Option<&Map<String, Value>>> =
                    values().map(|v| v.and_then(Value::as_object)).collect();
                let mut columns = Vec::with_capacity(fields.len());
                for (name, of) in fields {
                    let inner: Vec<Option<&Value>> =
                        objects.iter().map(|o| o.and_then(|o| o.get(name))).collect();
                    columns.push(of.array(&inner)?);
                }
                let present: NullBuffer = objects.iter().map(Option::is_some).collect();
                let fields = fields.iter().map(|(name, of)| of.field(name)).collect::<Fields>();
                Arc::new(StructArray::try_new(fields, columns, Some(present))?)
            }
        })
    }
}

/// The columns of some JSON rows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Table(pub Vec<(String, Type)>);

impl Table {
    /// Adds a row's fields.
    pub fn take(&mut self, row: &Map<String, Value>) {
        for (name, value) in row {
            match self.0.iter_mut().find(|(own, _)| own == name) {
                Some((_, own)) => own.take(Type::of(value)),
                None => self.0.push((name.clone(), Type::of(value))),
            }
        }
    }

    /// Adds other rows' columns.
    pub fn merge(&mut self, other: Table) {
        for (name, of) in other.0 {
            match self.0.iter_mut().find(|(own, _)| *own == name) {
                Some((_, own)) => own.take(of),
                None => self.0.push((name, of)),
            }
        }
    }

    /// The columns as a file can have them.
    pub fn settled(self) -> Self {
        Self(self.0.into_iter().map(|(name, of)| (name, of.settled())).collect())
    }

    /// Columns whose values are of different types, and stay JSON text.
    pub fn mixed(&self) -> Vec<String> {
        let mixed = self.0.iter().filter(|(_, of)| *of == Type::Json);
        mixed.map(|(name, _)| name.clone()).collect()
    }

    /// Their schema.
    pub fn schema(&self) -> SchemaRef {
        Arc::new(Schema::new(self.0.iter().map(|(name, of)| of.field(name)).collect::<Fields>()))
    }

    /// Rows as a batch; `texts` are their own texts, of which columns of JSON text are cut, so that
    /// numbers keep their digits.
    ///
    /// # Errors
    /// A row that was not among those that the columns were made of.
    pub fn batch(
        &self,
        rows: &[Map<String, Value>],
        texts: &[&str],
    ) -> Result<RecordBatch, ArrowError> {
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.0.len());
        let raw: Vec<BTreeMap<String, &RawValue>> = match self.mixed().is_empty() {
            true => Vec::new(),
            false => texts.iter().map(|t| serde_json::from_str(t).unwrap_or_default()).collect(),
        };
        for (name, of) in &self.0 {
            if *of == Type::Json {
                let own = raw.iter().map(|row| row.get(name).map(|v| v.get()));
                columns.push(Arc::new(
                    own.map(|t| t.filter(|t| *t != "null")).collect::<StringArray>(),
                ));
                continue;
            }
            let values: Vec<Option<&Value>> = rows.iter().map(|row| row.get(name)).collect();
            columns.push(of.array(&values)?);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        RecordBatch::try_new_with_options(self.schema(), columns, &options)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rows(text: &str) -> Vec<Map<String, Value>> {
        text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    }

    fn table(rows: &[Map<String, Value>]) -> Table {
        let mut table = Table::default();
        rows.iter().for_each(|row| table.take(row));
        table.settled()
    }

    #[test]
    fn types_are_those_of_all_rows() {
        let rows = rows(concat!(
            r#"{"a": 1, "b": 1, "c": "x", "d": [1, null], "e": {"f": 1}, "g": null}"#,
            "\n",
            r#"{"a": 2, "b": 1.5, "c": 7, "d": [], "e": {"h": "y"}, "i": 18446744073709551615}"#,
            "\n",
            r#"{"a": null, "d": [2.5], "e": null, "j": {}}"#,
        ));
        let table = table(&rows);
        let of = |name: &str| table.0.iter().find(|(n, _)| n == name).unwrap().1.clone();
        assert_eq!(of("a"), Type::Int);
        assert_eq!(of("b"), Type::Float);
        assert_eq!(of("c"), Type::Json);
        assert_eq!(of("d"), Type::List(Box::new(Type::Float)));
        let fields = vec![("f".into(), Type::Int), ("h".into(), Type::Text)];
        assert_eq!(of("e"), Type::Object(fields));
        assert_eq!((of("g"), of("i"), of("j")), (Type::Null, Type::Json, Type::Json));
        let texts: Vec<String> = rows.iter().map(|r| json!(r).to_string()).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let batch = table.batch(&rows, &texts).unwrap();
        let mut back = Vec::new();
        for row in 0..3 {
            let is_json = |f: &Field| f.extension_type_name() == Some(JSON_EXTENSION);
            back.push(crate::data::json_value::row(&batch, row, is_json).unwrap());
        }
        assert_eq!(back[0], r#"{"a":1,"b":1.0,"c":"x","d":[1.0,null],"e":{"f":1,"h":null}}"#);
        assert!(back[1].contains(r#""c":7"#) && back[1].contains("18446744073709551615"));
        assert_eq!(back[2], r#"{"d":[2.5],"j":{}}"#);
    }
}
