//! The format of a file: what its name says, checked against its first bytes.

use std::path::Path;

use crate::data::error::{DataError, shown};

/// The extensions that are understood, for messages.
pub const EXTENSIONS: &str =
    ".jsonl .ndjson .json .csv .tsv .txt (each also .gz or .zst), .parquet, .arrow .ipc .feather";

/// How the rows of a file are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// JSON objects: one per line, or the elements of one array.
    Json,
    /// A table in text with this separator and a header line.
    Delimited(u8),
    /// One document per line.
    Text,
    /// Apache Parquet.
    Parquet,
    /// Arrow IPC, file or stream.
    Arrow,
}

impl Format {
    /// The format in words.
    pub fn name(self) -> &'static str {
        match self {
            Format::Json => "JSON",
            Format::Delimited(b'\t') => "tab-separated text",
            Format::Delimited(_) => "comma-separated text",
            Format::Text => "plain text",
            Format::Parquet => "Parquet",
            Format::Arrow => "Arrow IPC",
        }
    }

    fn is_text(self) -> bool {
        !matches!(self, Format::Parquet | Format::Arrow)
    }
}

/// What a text file is wrapped in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Nothing.
    None,
    /// gzip, one or several members.
    Gzip,
    /// Zstandard, one or several frames.
    Zstd,
}

impl Compression {
    /// The format in words.
    pub fn name(self) -> &'static str {
        match self {
            Compression::None => "uncompressed data",
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
        }
    }
}

/// Format and compression that a name tells; `None` when it tells neither.
pub fn by_name(path: &Path) -> Option<(Format, Compression)> {
    let name = path.file_name()?.to_str()?.to_ascii_lowercase();
    let (stem, compression) = match name.strip_suffix(".gz") {
        Some(stem) => (stem, Compression::Gzip),
        None => match name.strip_suffix(".zst") {
            Some(stem) => (stem, Compression::Zstd),
            None => (name.as_str(), Compression::None),
        },
    };
    let format = match stem.rsplit_once('.')?.1 {
        "jsonl" | "ndjson" | "json" => Format::Json,
        "csv" => Format::Delimited(b','),
        "tsv" => Format::Delimited(b'\t'),
        "txt" => Format::Text,
        "parquet" => Format::Parquet,
        "arrow" | "ipc" | "feather" => Format::Arrow,
        _ => return None,
    };
    // Columnar formats compress inside; a wrapped one can't be sought in.
    (format.is_text() || compression == Compression::None).then_some((format, compression))
}

/// Whether a name tells a format.
pub fn is_data_name(path: &Path) -> bool {
    by_name(path).is_some()
}

/// What the first bytes of a file show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Parquet,
    Arrow,
    Gzip,
    Zstd,
    Foreign(&'static str),
    Utf16,
    Plain,
}

fn by_content(head: &[u8]) -> Content {
    let foreign: [(&[u8], &str); 9] = [
        (b"PK\x03\x04", "a zip archive"),
        (b"BZh", "bzip2 data"),
        (b"\xfd7zXZ\0", "xz data"),
        (b"GGUF", "a GGUF model"),
        (b"\x93NUMPY", "a NumPy array"),
        (b"\x89HDF\r\n", "an HDF5 file"),
        (b"%PDF-", "a PDF document"),
        (b"SQLite format 3", "an SQLite database"),
        (b"FEA1", "a Feather version 1 file"),
    ];
    if let Some((_, name)) = foreign.iter().find(|(magic, _)| head.starts_with(magic)) {
        return Content::Foreign(name);
    }
    let utf32_or_16 = head.starts_with(b"\xff\xfe") || head.starts_with(b"\xfe\xff");
    match head {
        _ if head.starts_with(b"PAR1") || head.starts_with(b"PARE") => Content::Parquet,
        _ if head.starts_with(b"ARROW1") || head.starts_with(b"\xff\xff\xff\xff") => Content::Arrow,
        _ if head.starts_with(b"\x1f\x8b") => Content::Gzip,
        _ if head.starts_with(b"\x28\xb5\x2f\xfd") => Content::Zstd,
        _ if utf32_or_16 => Content::Utf16,
        // Without a mark: ASCII characters of two bytes.
        [0, b, 0, d, ..] | [b, 0, d, 0, ..] if *b != 0 && *d != 0 => Content::Utf16,
        [0x80, 2..=5, ..] => Content::Foreign("a Python pickle"),
        _ => Content::Plain,
    }
}

/// How to read a file named for `named` whose first bytes are `head`: text that is compressed
/// under a plain name is read as what it is.
///
/// # Errors
/// [`DataError::Content`] when the bytes are certainly something else.
pub fn check(
    file: &str,
    (format, compression): (Format, Compression),
    head: &[u8],
) -> Result<(Format, Compression), DataError> {
    let wrong = |expected, got, remedy| {
        Err(DataError::Content { file: shown(file), expected, got, remedy })
    };
    let content = by_content(head);
    if format.is_text() && compression != Compression::None {
        return match (compression, content) {
            (Compression::Gzip, Content::Gzip) | (Compression::Zstd, Content::Zstd) => {
                Ok((format, compression))
            }
            (_, Content::Gzip) => wrong(compression.name(), "gzip", "rename it to end in .gz"),
            (_, Content::Zstd) => wrong(compression.name(), "zstd", "rename it to end in .zst"),
            _ => wrong(
                compression.name(),
                "something else",
                "remove the ending .gz or .zst or compress it again",
            ),
        };
    }
    if format.is_text() {
        return match content {
            Content::Plain => Ok((format, compression)),
            Content::Gzip => Ok((format, Compression::Gzip)),
            Content::Zstd => Ok((format, Compression::Zstd)),
            Content::Parquet => wrong(format.name(), "Parquet", "rename it to end in .parquet"),
            Content::Arrow => wrong(format.name(), "Arrow IPC", "rename it to end in .arrow"),
            Content::Utf16 => wrong(format.name(), "UTF-16 text", "save it as UTF-8"),
            Content::Foreign(got) => wrong(format.name(), got, "extract or convert it first"),
        };
    }
    match (format, content) {
        (Format::Parquet, Content::Parquet) => Ok((format, compression)),
        // A stream of Arrow's first versions begins with a length and has no mark.
        (Format::Arrow, Content::Arrow | Content::Plain) if head.len() >= 8 => {
            Ok((format, compression))
        }
        (_, Content::Parquet) => wrong(format.name(), "Parquet", "rename it to end in .parquet"),
        (_, Content::Arrow) => wrong(format.name(), "Arrow IPC", "rename it to end in .arrow"),
        (_, Content::Gzip | Content::Zstd) => wrong(
            format.name(),
            "compressed data",
            "decompress it: such files compress their columns themselves",
        ),
        (_, Content::Foreign(got)) => wrong(format.name(), got, "convert it first"),
        _ if head.is_empty() => {
            wrong(format.name(), "nothing", "the file is empty, so write it again")
        }
        _ => wrong(
            format.name(),
            "something else",
            "check that it was written whole and is named right",
        ),
    }
}

/// The format of a file whose name tells none, if its first bytes do.
pub fn by_magic(head: &[u8]) -> Option<Format> {
    match by_content(head) {
        Content::Parquet => Some(Format::Parquet),
        Content::Arrow => Some(Format::Arrow),
        _ => None,
    }
}
