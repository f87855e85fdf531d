//! What can be wrong with a source: faults of a whole file ([`DataError`]) and of one row
//! ([`Reject`]).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::fs::FsError;

/// Longest excerpt of a source in a message, characters.
const SHOWN_CHARS_MAX: usize = 200;

/// Text from a file as it may be shown: control characters escaped, cut after 200 characters.
pub fn shown(text: &str) -> String {
    let mut out = String::new();
    for (i, c) in text.chars().enumerate() {
        if i == SHOWN_CHARS_MAX {
            out.push('…');
            break;
        }
        // Direction overrides and other format characters could disguise what a message says.
        let hidden = matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}');
        if c.is_control() || hidden {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// As [`shown`], of bytes that may be no text.
pub fn shown_bytes(bytes: &[u8]) -> String {
    shown(&String::from_utf8_lossy(&bytes[..bytes.len().min(4 * SHOWN_CHARS_MAX + 8)]))
}

/// A list of names for a message: back-quoted, at most twenty.
pub(crate) fn names<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let all: Vec<&str> = names.into_iter().collect();
    if all.is_empty() {
        return "none".into();
    }
    let mut out =
        all.iter().take(20).map(|n| format!("`{}`", shown(n))).collect::<Vec<_>>().join(", ");
    if all.len() > 20 {
        out.push_str(&format!(" and {} more", all.len() - 20));
    }
    out
}

/// "; did you mean `x`" when a name is close to the one wanted.
pub(crate) fn nearest<'a>(wanted: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    names
        .into_iter()
        .take(1000)
        .map(|n| (strsim::damerau_levenshtein(&n.to_lowercase(), &wanted.to_lowercase()), n))
        .filter(|(d, n)| *d <= 1 + wanted.len().min(n.len()) / 4)
        .min()
        .map(|(_, n)| format!("; did you mean `{}`", shown(n)))
        .unwrap_or_default()
}

/// Why a row was rejected: the class under which the ledger counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RejectKind {
    /// Not UTF-8, or a NUL byte.
    Encoding,
    /// Not valid JSON, or not an object.
    Json,
    /// A key twice in one object.
    DuplicateKey,
    /// Longer than the limit.
    TooLong,
    /// Nested deeper than the limit.
    TooDeep,
    /// A required field is absent.
    MissingField,
    /// A field holds another type than asked for.
    WrongType,
    /// A row of a table with more or fewer fields than its header.
    FieldCount,
    /// Token ids or labels that can't be trained on.
    Tokens,
    /// Refused by a formatter.
    Formatter,
    /// Anything else.
    Other,
}

impl RejectKind {
    /// A few words for a report.
    pub fn label(self) -> &'static str {
        match self {
            RejectKind::Encoding => "not UTF-8 text",
            RejectKind::Json => "not a JSON object",
            RejectKind::DuplicateKey => "duplicate key",
            RejectKind::TooLong => "too long",
            RejectKind::TooDeep => "nested too deep",
            RejectKind::MissingField => "missing field",
            RejectKind::WrongType => "wrong type",
            RejectKind::FieldCount => "wrong number of fields",
            RejectKind::Tokens => "bad token columns",
            RejectKind::Formatter => "rejected by the formatter",
            RejectKind::Other => "other",
        }
    }
}

/// One row that can't be used, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reject {
    /// The file, as the user named it.
    pub file: Arc<str>,
    /// 1-based row; in line formats, the line.
    pub row: u64,
    /// The class it is counted under.
    pub kind: RejectKind,
    /// The reason, to be read after "row N of FILE …".
    pub reason: String,
    /// The start of the row, escaped; empty where there is no text to show.
    pub excerpt: String,
}

impl std::fmt::Display for Reject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "row {} of {} {}", self.row, shown(&self.file), self.reason)?;
        if !self.excerpt.is_empty() {
            write!(f, " (it starts: {})", self.excerpt)?;
        }
        Ok(())
    }
}

/// A source file or a row of it that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file operation.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// The hub of data sets.
    #[error(transparent)]
    Hub(#[from] super::hub::HubError),
    /// An input that does not exist.
    #[error("there is no file or folder `{path}`{hint}; check the path")]
    NotFound {
        /// The path as given.
        path: String,
        /// The nearest name beside it.
        hint: String,
    },
    /// A pattern no file matches.
    #[error(
        "no file matches `{pattern}`; check the pattern (`*`, `?`, `[…]` and `**` are understood)"
    )]
    NoMatch {
        /// The pattern as given.
        pattern: String,
    },
    /// A folder where a file is wanted.
    #[error("`{path}` is a folder, but a file is wanted here; name a file in it")]
    NotAFile {
        /// The path as given.
        path: String,
    },
    /// A file where a folder is wanted.
    #[error(
        "`{path}` is a file, but a folder of data files is wanted here; give the folder that holds it"
    )]
    NotAFolder {
        /// The path as given.
        path: String,
    },
    /// A folder with nothing in it.
    #[error("folder `{path}` is empty; put data files into it ({})", super::source::EXTENSIONS)]
    EmptyFolder {
        /// The path as given.
        path: String,
    },
    /// A folder with files, none of which holds data.
    #[error(
        "no data file in `{path}`; found {found}, expected {}; convert or rename the files",
        super::source::EXTENSIONS
    )]
    NoDataFile {
        /// The path as given.
        path: String,
        /// What is there instead.
        found: String,
    },
    /// A file whose name tells no format.
    #[error(
        "can't tell the format of `{path}` from its name; expected {}; rename it",
        super::source::EXTENSIONS
    )]
    UnknownFormat {
        /// The path as given.
        path: String,
    },
    /// A file whose content is not what its name says.
    #[error("`{file}` should hold {expected} by its name but holds {got}; {remedy}")]
    Content {
        /// The file.
        file: String,
        /// The format of its name.
        expected: &'static str,
        /// The format of its content.
        got: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// Compressed data that can't be decompressed.
    #[error(
        "can't decompress `{file}` as {kind}: {problem}; the file is damaged or incomplete, so fetch or compress it again"
    )]
    Compressed {
        /// The file.
        file: String,
        /// `gzip` or `zstd`.
        kind: &'static str,
        /// What the decompressor says.
        problem: String,
    },
    /// Compressed data that grow beyond reason.
    #[error(
        "`{file}` decompresses to more than {limit}; it looks like a decompression bomb, so decompress it yourself if it is real data"
    )]
    Bomb {
        /// The file.
        file: String,
        /// The limit that was passed.
        limit: String,
    },
    /// A text file without a single row.
    #[error("`{file}` holds no rows{detail}; remove it or check how it was written")]
    NoRows {
        /// The file.
        file: String,
        /// What it holds instead.
        detail: &'static str,
    },
    /// A required column that no row of a file has.
    #[error(
        "`{file}` has no field `{column}`; found {found}{nearest}; rename the field or use a plugin that reads these"
    )]
    NoColumn {
        /// The file.
        file: String,
        /// The column wanted.
        column: String,
        /// The fields found.
        found: String,
        /// A similar name, as "; did you mean …".
        nearest: String,
    },
    /// A column of a type that can't be what is asked for.
    #[error(
        "column `{column}` of `{file}` is of type {got}, expected {expected}; convert the column or use a plugin that reads this type"
    )]
    ColumnType {
        /// The file.
        file: String,
        /// The column.
        column: String,
        /// Its type.
        got: String,
        /// What it should be.
        expected: &'static str,
    },
    /// The header of a table.
    #[error("the header of `{file}` {problem}; fix its first line")]
    Header {
        /// The file.
        file: String,
        /// What is wrong.
        problem: String,
    },
    /// A file whose structure breaks at a row, so that nothing after it can be read.
    #[error("`{file}` can't be read on from row {row}: {problem}; fix the file there")]
    Broken {
        /// The file.
        file: String,
        /// The 1-based row.
        row: u64,
        /// What is wrong.
        problem: String,
    },
    /// A Parquet or Arrow file that can't be decoded.
    #[error(
        "can't read `{file}` as {format}: {problem}; the file is damaged or of an unsupported kind, so write it again"
    )]
    Columnar {
        /// The file.
        file: String,
        /// `Parquet` or `Arrow`.
        format: &'static str,
        /// What the decoder says.
        problem: String,
    },
    /// Something larger than its limit.
    #[error("{what} of `{file}` is {got}, more than the {limit} allowed; {remedy}")]
    TooLarge {
        /// The file.
        file: String,
        /// What is too large.
        what: &'static str,
        /// Its size.
        got: u64,
        /// The limit.
        limit: u64,
        /// What to do.
        remedy: &'static str,
    },
    /// A column that is of different types in files that become one.
    #[error(
        "column `{column}` of `{file}` is {got}, in the files before it is {expected}; convert them apart, or to .jsonl"
    )]
    ColumnsDiffer {
        /// The file.
        file: String,
        /// The column.
        column: String,
        /// Its type.
        got: String,
        /// Its type in files before.
        expected: String,
    },
    /// Too large a share of rejected rows.
    #[error(
        "{rejected} of {rows} rows are rejected, more than {} %; the first: {first}{listed}; fix the data or the formatter's options, or raise --max_reject_rate",
        limit * 100.0
    )]
    TooManyRejects {
        /// Rows rejected.
        rejected: u64,
        /// Rows read.
        rows: u64,
        /// Share allowed.
        limit: f64,
        /// The first of them.
        first: String,
        /// Where they are listed so far, as "; … are in FILE".
        listed: String,
    },
    /// Data that were looked at and are not as they should be.
    #[error("{rejected} rows are rejected and {broken} files can't be read on; fix or remove them")]
    Invalid {
        /// Rows rejected.
        rejected: u64,
        /// Files that can't be read on.
        broken: u64,
    },
    /// A bad row where bad rows end the command.
    #[error("{0}; fix or remove the row")]
    Row(Box<Reject>),
    /// Rows that are in no account, or in two.
    #[error("the rows of `{file}` do not add up: {read} read, but {used} used + {skipped} skipped + {rejected} rejected = {sum}; please report this fault with the data that shows it", sum = used + skipped + rejected)]
    Unbalanced {
        /// The file.
        file: String,
        /// Rows read.
        read: u64,
        /// Rows used.
        used: u64,
        /// Rows skipped.
        skipped: u64,
        /// Rows rejected.
        rejected: u64,
    },
    /// More rows than can be numbered.
    #[error("{got} rows are more than the {} that can be ordered; use fewer files", u32::MAX)]
    TooManyRows {
        /// Rows found.
        got: usize,
    },
    /// A percentage outside 0 to 100.
    #[error("a validation split of {got} % is impossible; give a number from 0 to below 100")]
    Percentage {
        /// The number given.
        got: f64,
    },
}

impl From<Reject> for DataError {
    fn from(reject: Reject) -> Self {
        DataError::Row(Box::new(reject))
    }
}
