//! Reading a batch row by row.

use serde::de::DeserializeOwned;

use crate::{Batch, Column, Values};

/// The rows of one call.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    batch: &'a Batch,
}

impl<'a> Rows<'a> {
    /// Wraps a batch.
    pub fn new(batch: &'a Batch) -> Self {
        Self { batch }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.batch.rows as usize
    }

    /// True when there is no row.
    pub fn is_empty(&self) -> bool {
        self.batch.rows == 0
    }

    /// The rows in order.
    pub fn iter(&self) -> impl Iterator<Item = Row<'a>> + use<'a> {
        let batch = self.batch;
        (0..batch.rows as usize).map(move |index| Row { batch, index })
    }
}

/// One row. Accessors answer `None` for a column that is absent, null at this row, or of another
/// kind than asked for in `reads`.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    batch: &'a Batch,
    index: usize,
}

impl<'a> Row<'a> {
    /// Position within the batch.
    pub fn index(&self) -> usize {
        self.index
    }

    fn column(&self, name: &str) -> Option<&'a Column> {
        let column = self.batch.columns.iter().find(|c| c.name == name)?;
        let null = column.nulls.binary_search(&(self.index as u32)).is_ok();
        (!null).then_some(column)
    }

    /// Value of a `utf8` column.
    pub fn text(&self, name: &str) -> Option<&'a str> {
        match &self.column(name)?.values {
            Values::Utf8(v) => v.get(self.index).map(String::as_str),
            _ => None,
        }
    }

    /// JSON text of a value of a `json` column. A JSON `null` counts as no value.
    pub fn json_text(&self, name: &str) -> Option<&'a str> {
        match &self.column(name)?.values {
            Values::Json(v) => v.get(self.index).map(String::as_str).filter(|t| t.trim() != "null"),
            _ => None,
        }
    }

    /// Value of a `json` column read into a type; `Ok(None)` when there is none.
    ///
    /// # Errors
    /// A reason for a reject, naming the column.
    pub fn json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, String> {
        self.json_text(name)
            .map(|text| serde_json::from_str(text).map_err(|e| format!("field `{name}`: {e}")))
            .transpose()
    }

    /// Value of an `int64` column.
    pub fn int(&self, name: &str) -> Option<i64> {
        match &self.column(name)?.values {
            Values::Int64(v) => v.get(self.index).copied(),
            _ => None,
        }
    }

    /// Value of a `float64` column.
    pub fn float(&self, name: &str) -> Option<f64> {
        match &self.column(name)?.values {
            Values::Float64(v) => v.get(self.index).copied(),
            _ => None,
        }
    }

    /// Value of a `boolean` column.
    pub fn boolean(&self, name: &str) -> Option<bool> {
        match &self.column(name)?.values {
            Values::Boolean(v) => v.get(self.index).copied(),
            _ => None,
        }
    }

    /// Value of a `binary` column.
    pub fn bytes(&self, name: &str) -> Option<&'a [u8]> {
        match &self.column(name)?.values {
            Values::Binary(v) => v.get(self.index).map(Vec::as_slice),
            _ => None,
        }
    }

    /// The row as one JSON object, when `reads` asked for whole rows.
    pub fn whole(&self) -> Option<&'a str> {
        self.batch.whole_rows.get(self.index).map(String::as_str)
    }
}

/// What a JSON value is, for reasons of rejects: "a number", "an object" …
pub fn json_kind(value: &serde_json::Value) -> &'static str {
    match value {
        serde_json::Value::Null => "null",
        serde_json::Value::Bool(_) => "a boolean",
        serde_json::Value::Number(_) => "a number",
        serde_json::Value::String(_) => "a string",
        serde_json::Value::Array(_) => "a list",
        serde_json::Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_null_and_other_kinds_are_no_value() {
        let batch = Batch {
            rows: 2,
            columns: vec![
                Column {
                    name: "a".into(),
                    values: Values::Utf8(vec!["x".into(), String::new()]),
                    nulls: vec![1],
                },
                Column {
                    name: "j".into(),
                    values: Values::Json(vec!["[1,2]".into(), "null".into()]),
                    nulls: vec![],
                },
            ],
            whole_rows: vec![],
        };
        let rows: Vec<Row<'_>> = Rows::new(&batch).iter().collect();
        assert_eq!(rows[0].text("a"), Some("x"));
        assert_eq!(rows[1].text("a"), None);
        assert_eq!(rows[0].text("b"), None);
        assert_eq!(rows[0].int("a"), None);
        assert_eq!(rows[0].json::<Vec<i32>>("j"), Ok(Some(vec![1, 2])));
        assert_eq!(rows[1].json::<Vec<i32>>("j"), Ok(None));
        assert!(rows[0].json::<String>("j").unwrap_err().contains("field `j`"));
        assert_eq!(rows[0].whole(), None);
    }
}
