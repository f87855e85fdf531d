//! Rows of text sources → record batches of the wanted columns.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryBuilder, BooleanBuilder, Float64Builder, Int64Builder, RecordBatch,
    RecordBatchOptions, StringBuilder,
};
use arrow::datatypes::{DataType, Field, Schema};

use super::SourceBatch;
use crate::data::column::{ColumnKind, JSON_METADATA_KEY, Projection, ROW_COLUMN};
use crate::data::error::{DataError, Reject, RejectKind, shown, shown_bytes};
use crate::limits::DATA_BATCH_BYTES;

/// One value of a wanted column.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Cell {
    Null,
    /// A string, or JSON text where JSON is wanted.
    Text(String),
    Int(i64),
    Float(f64),
    Bool(bool),
    Bytes(Vec<u8>),
}

/// One field of a row when all are wanted: the JSON text of its value, or a plain text.
pub(super) enum Free<'a> {
    Json(&'a str),
    Plain(&'a str),
}

/// A column when all are wanted.
#[derive(Default)]
struct FreeColumn {
    values: Vec<Option<String>>,
    plain: bool,
    all_strings: bool,
}

/// Why a row can't be used.
pub(super) struct Fault {
    pub kind: RejectKind,
    pub reason: String,
}

impl Fault {
    pub fn new(kind: RejectKind, reason: impl Into<String>) -> Self {
        Self { kind, reason: reason.into() }
    }
}

/// The field of the Arrow schema for a wanted column.
pub(super) fn field(name: &str, kind: ColumnKind) -> Field {
    let data_type = match kind {
        ColumnKind::Utf8 | ColumnKind::Json => DataType::Utf8,
        ColumnKind::Int64 => DataType::Int64,
        ColumnKind::Float64 => DataType::Float64,
        ColumnKind::Boolean => DataType::Boolean,
        ColumnKind::Binary => DataType::Binary,
    };
    let field = Field::new(name, data_type, true);
    if kind == ColumnKind::Json { as_json(field) } else { field }
}

fn as_json(field: Field) -> Field {
    field.with_metadata(HashMap::from([(JSON_METADATA_KEY.to_string(), "true".to_string())]))
}

/// The rows of the batch being gathered.
pub(super) struct Gather {
    file: Arc<str>,
    projection: Projection,
    batch_rows: usize,
    rows: Vec<u64>,
    rejects: Vec<Reject>,
    blank: u64,
    bytes: usize,
    /// Wanted columns, row by row.
    named: Vec<Vec<Cell>>,
    whole_rows: Vec<String>,
    /// All columns, in order of appearance.
    free: Vec<(String, FreeColumn)>,
    free_index: HashMap<String, usize>,
}

impl Gather {
    pub fn new(file: Arc<str>, projection: Projection, batch_rows: usize) -> Self {
        Self {
            file,
            projection,
            batch_rows: batch_rows.max(1),
            rows: Vec::new(),
            rejects: Vec::new(),
            blank: 0,
            bytes: 0,
            named: Vec::new(),
            whole_rows: Vec::new(),
            free: Vec::new(),
            free_index: HashMap::new(),
        }
    }

    pub fn projection(&self) -> &Projection {
        &self.projection
    }

    /// Adds a row of the wanted columns, in their order.
    pub fn push(&mut self, row: u64, cells: Vec<Cell>, whole_row: Option<String>, bytes: usize) {
        self.named.push(cells);
        self.whole_rows.extend(whole_row);
        self.rows.push(row);
        self.bytes += bytes;
    }

    /// Adds a row with whatever fields it has; JSON texts must be valid.
    pub fn push_free(&mut self, row: u64, fields: &[(&str, Free<'_>)], bytes: usize) {
        for (name, value) in fields {
            let index = match self.free_index.get(*name) {
                Some(&index) => index,
                None => {
                    self.free_index.insert((*name).to_string(), self.free.len());
                    let column = FreeColumn { all_strings: true, ..FreeColumn::default() };
                    self.free.push(((*name).to_string(), column));
                    self.free.len() - 1
                }
            };
            let Some((_, column)) = self.free.get_mut(index) else { continue };
            column.values.resize(self.rows.len(), None);
            match value {
                Free::Plain(text) => {
                    column.plain = true;
                    column.values.push(Some((*text).to_string()));
                }
                Free::Json("null") => column.values.push(None),
                Free::Json(text) => {
                    column.all_strings &= text.starts_with('"');
                    column.values.push(Some((*text).to_string()));
                }
            }
        }
        self.rows.push(row);
        self.bytes += bytes;
    }

    pub fn reject(&mut self, row: u64, fault: Fault, source: &[u8]) {
        self.rejects.push(Reject {
            file: self.file.clone(),
            row,
            kind: fault.kind,
            reason: fault.reason,
            excerpt: shown_bytes(source),
        });
        self.bytes += 1024;
    }

    pub fn blank(&mut self) {
        self.blank += 1;
    }

    pub fn is_full(&self) -> bool {
        self.rows.len() + self.rejects.len() >= self.batch_rows || self.bytes >= DATA_BATCH_BYTES
    }

    /// What was gathered; `None` when that is nothing at all.
    pub fn take(&mut self) -> Result<Option<SourceBatch>, DataError> {
        if self.rows.is_empty() && self.rejects.is_empty() && self.blank == 0 {
            return Ok(None);
        }
        self.bytes = 0;
        let rows = std::mem::take(&mut self.rows);
        let (fields, columns) = match &self.projection {
            Projection::All => {
                self.free_index.clear();
                free_columns(std::mem::take(&mut self.free), rows.len())
            }
            Projection::Columns { needs, whole_row } => {
                let cells = std::mem::take(&mut self.named);
                let mut fields = Vec::new();
                let mut columns = Vec::new();
                for (i, need) in needs.iter().enumerate() {
                    fields.push(field(&need.name, need.kind));
                    columns.push(array(need.kind, cells.iter().filter_map(|row| row.get(i))));
                }
                if *whole_row {
                    fields.push(field(ROW_COLUMN, ColumnKind::Json));
                    let mut texts = StringBuilder::new();
                    for text in self.whole_rows.drain(..) {
                        texts.append_value(text);
                    }
                    columns.push(Arc::new(texts.finish()) as ArrayRef);
                }
                (fields, columns)
            }
        };
        let batch = record_batch(&self.file, fields, columns, rows.len())?;
        Ok(Some(SourceBatch {
            batch,
            file: self.file.clone(),
            rows,
            rejects: std::mem::take(&mut self.rejects),
            blank: std::mem::take(&mut self.blank),
        }))
    }
}

/// A record batch that keeps its number of rows when it has no column.
pub(super) fn record_batch(
    file: &str,
    fields: Vec<Field>,
    columns: Vec<ArrayRef>,
    rows: usize,
) -> Result<RecordBatch, DataError> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options).map_err(
        |e| DataError::Columnar {
            file: shown(file),
            format: "columns",
            problem: shown(&e.to_string()),
        },
    )
}

fn free_columns(free: Vec<(String, FreeColumn)>, rows: usize) -> (Vec<Field>, Vec<ArrayRef>) {
    let mut fields = Vec::new();
    let mut columns = Vec::new();
    for (name, mut column) in free {
        column.values.resize(rows, None);
        let mut texts = StringBuilder::new();
        let decode = !column.plain && column.all_strings;
        for value in column.values {
            match value {
                // The text was checked when its row was read, so that decoding can't fail.
                Some(text) if decode => {
                    texts.append_option(serde_json::from_str::<String>(&text).ok());
                }
                other => texts.append_option(other),
            }
        }
        let field = Field::new(name, DataType::Utf8, true);
        fields.push(if column.plain || decode { field } else { as_json(field) });
        columns.push(Arc::new(texts.finish()) as ArrayRef);
    }
    (fields, columns)
}

/// An array of `kind`; a cell of another kind, which readers do not make, would be null.
pub(super) fn array<'a>(kind: ColumnKind, cells: impl Iterator<Item = &'a Cell>) -> ArrayRef {
    macro_rules! build {
        ($builder:ty, $pattern:pat => $value:expr) => {{
            let mut builder = <$builder>::new();
            for cell in cells {
                match cell {
                    $pattern => builder.append_value($value),
                    _ => builder.append_null(),
                }
            }
            Arc::new(builder.finish()) as ArrayRef
        }};
    }
    match kind {
        ColumnKind::Utf8 | ColumnKind::Json => build!(StringBuilder, Cell::Text(text) => text),
        ColumnKind::Int64 => build!(Int64Builder, Cell::Int(v) => *v),
        ColumnKind::Float64 => build!(Float64Builder, Cell::Float(v) => *v),
        ColumnKind::Boolean => build!(BooleanBuilder, Cell::Bool(v) => *v),
        ColumnKind::Binary => build!(BinaryBuilder, Cell::Bytes(v) => v),
    }
}
