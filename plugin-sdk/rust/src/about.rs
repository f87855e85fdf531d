//! What a plugin says about itself.

use crate::{Kind, Need, Reads};

/// Name, version and options of a plugin.
#[derive(Clone, Copy, Debug)]
pub struct About {
    pub(crate) name: &'static str,
    pub(crate) version: &'static str,
    pub(crate) summary: &'static str,
    pub(crate) options: &'static str,
    pub(crate) deterministic: bool,
}

impl About {
    /// `name` in lower-case letters, digits and dashes; `version` semantic
    /// (`env!("CARGO_PKG_VERSION")`); `summary` one sentence.
    pub const fn new(name: &'static str, version: &'static str, summary: &'static str) -> Self {
        Self { name, version, summary, options: "", deterministic: true }
    }

    /// The JSON Schema of the options: an object with `properties`. The host checks names and
    /// types against it, then [`serde`] reads the options into the plugin's own type.
    pub const fn options(mut self, schema: &'static str) -> Self {
        self.options = schema;
        self
    }

    /// For plugins whose output is not a function of row, options and seed.
    pub const fn not_deterministic(mut self) -> Self {
        self.deterministic = false;
        self
    }
}

impl Need {
    /// A column that must be there.
    pub fn new(name: impl Into<String>, kind: Kind) -> Self {
        Self { name: name.into(), kind, optional: false }
    }

    /// A column of strings.
    pub fn text(name: impl Into<String>) -> Self {
        Self::new(name, Kind::Utf8)
    }

    /// A column of any values, each handed over as JSON text.
    pub fn json(name: impl Into<String>) -> Self {
        Self::new(name, Kind::Json)
    }

    /// The same column, but a source may do without it.
    pub fn optional(mut self) -> Self {
        self.optional = true;
        self
    }
}

impl Reads {
    /// Only these columns.
    pub fn columns(columns: impl IntoIterator<Item = Need>) -> Self {
        Self { columns: columns.into_iter().collect(), whole_rows: false }
    }

    /// Only the row as a whole, as one JSON object.
    pub fn whole_rows() -> Self {
        Self { columns: Vec::new(), whole_rows: true }
    }
}
