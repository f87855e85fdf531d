//! Which columns of a source are wanted, and as what.

/// The type in which a column's values are delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ColumnKind {
    /// Strings (Arrow `Utf8`).
    Utf8,
    /// Integers that fit 64 bits (Arrow `Int64`).
    Int64,
    /// Finite numbers (Arrow `Float64`).
    Float64,
    /// True or false (Arrow `Boolean`).
    Boolean,
    /// Bytes (Arrow `Binary`).
    Binary,
    /// Any value as JSON text: Arrow `Utf8` with [`JSON_METADATA_KEY`] set. Of a JSON source it
    /// is the value's own text, never parsed and written again.
    Json,
}

impl ColumnKind {
    /// What a value of the kind is, for messages.
    pub fn name(self) -> &'static str {
        match self {
            ColumnKind::Utf8 => "a string",
            ColumnKind::Int64 => "a 64-bit integer",
            ColumnKind::Float64 => "a finite number",
            ColumnKind::Boolean => "true or false",
            ColumnKind::Binary => "bytes",
            ColumnKind::Json => "a JSON value",
        }
    }
}

/// A field with this metadata key set to `true` holds JSON texts.
pub const JSON_METADATA_KEY: &str = "trainer:json";

/// Arrow's canonical extension type of JSON text in files
/// (<https://arrow.apache.org/docs/format/CanonicalExtensions.html#json>).
pub const JSON_EXTENSION: &str = "arrow.json";

/// Name of the column that holds whole rows as JSON text, see [`Projection::Columns`].
pub const ROW_COLUMN: &str = "__row__";

/// One column that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnNeed {
    /// The column's name.
    pub name: String,
    /// The type wanted.
    pub kind: ColumnKind,
    /// True: a source, or a row, may lack it; its value is then null.
    pub optional: bool,
}

impl ColumnNeed {
    /// A column every row must have.
    pub fn required(name: impl Into<String>, kind: ColumnKind) -> Self {
        Self { name: name.into(), kind, optional: false }
    }

    /// A column a row may lack.
    pub fn optional(name: impl Into<String>, kind: ColumnKind) -> Self {
        Self { name: name.into(), kind, optional: true }
    }
}

/// The columns to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Projection {
    /// Every column in its own type. JSON sources: the union of the fields of the batch in order
    /// of appearance, strings as `Utf8`, all else as JSON text; tables in text: `Utf8`.
    All,
    /// These columns, in this order; the others are not read.
    Columns {
        /// The columns.
        needs: Vec<ColumnNeed>,
        /// True: a last column [`ROW_COLUMN`] holds each whole row as the text of a JSON object
        /// (of a JSON source: the row's own text).
        whole_row: bool,
    },
}

impl Projection {
    /// These columns and nothing else.
    pub fn columns(needs: Vec<ColumnNeed>) -> Self {
        Projection::Columns { needs, whole_row: false }
    }
}
