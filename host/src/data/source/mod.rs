//! Sources: which files there are, and their rows as record batches with provenance. Files are
//! streamed: what is in memory at a time is bounded by a batch (for Parquet by the pages of one
//! row group, for Arrow by one message), never by a file.

mod blocks;
mod bytes;
mod columnar;
mod delimited;
mod discover;
mod elements;
mod format;
mod ipc;
mod json;
mod lines;
mod parquet;
mod rows;
mod text;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::SchemaRef;

pub use blocks::{Block, Blocks, Unit, units};
pub use discover::{Discovered, Ignored, discover, discover_file, discover_folder, listed};
pub use format::{Compression, EXTENSIONS, Format, is_data_name};

use super::column::{Projection, ROW_COLUMN};
use super::error::{DataError, Reject};
use super::example::Provenance;
use crate::limits::PLUGIN_BATCH_ROWS;

/// A file that holds rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its path as the user named it; what messages and provenance show.
    pub name: Arc<str>,
    /// How its rows are written.
    pub format: Format,
    /// What it is wrapped in.
    pub compression: Compression,
    /// Its size, bytes.
    pub bytes: u64,
}

/// How sources are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadOptions {
    /// The columns wanted.
    pub projection: Projection,
    /// Most rows of a batch, at least 1.
    pub batch_rows: usize,
    /// Plain text: the whole file is one document instead of every line.
    pub whole_file_text: bool,
}

impl ReadOptions {
    /// Batches of [`PLUGIN_BATCH_ROWS`] rows of these columns; a line of plain text is a document.
    pub fn new(projection: Projection) -> Self {
        Self { projection, batch_rows: PLUGIN_BATCH_ROWS, whole_file_text: false }
    }
}

/// Consecutive rows of one file. Together `rows`, `rejects` and `blank` account for every row
/// that was read for it; a batch may hold rejects only.
#[derive(Clone, Debug)]
pub struct SourceBatch {
    /// The usable rows.
    pub batch: RecordBatch,
    /// The file, as the user named it.
    pub file: Arc<str>,
    /// 1-based row of every row of `batch`, ascending; in line formats (and tables in text) the
    /// line.
    pub rows: Vec<u64>,
    /// The rows between and around them that can't be used, ascending.
    pub rejects: Vec<Reject>,
    /// Blank lines that were passed over.
    pub blank: u64,
}

impl SourceBatch {
    /// The JSON texts of its rows, of a batch that was read with whole rows.
    pub fn whole_rows(&self) -> impl Iterator<Item = &str> {
        let column = self.batch.column_by_name(ROW_COLUMN).and_then(|c| c.as_string_opt::<i32>());
        column.into_iter().flat_map(|c| c.iter().map(|text| text.unwrap_or("{}")))
    }

    /// Where row `index` of the batch came from.
    pub fn provenance(&self, index: usize) -> Provenance {
        Provenance {
            file: self.file.clone(),
            row: self.rows.get(index).copied().unwrap_or_default(),
        }
    }
}

/// What each format's reader does.
trait FileReader {
    /// The next rows; `None` at the end of the file.
    fn next_batch(&mut self) -> Result<Option<SourceBatch>, DataError>;
}

/// The rows of some files, in order. After an error it ends.
pub struct SourceReader {
    files: VecDeque<SourceFile>,
    options: ReadOptions,
    current: Option<Box<dyn FileReader + Send>>,
}

impl SourceReader {
    /// Reads `files` one after the other.
    pub fn new(files: impl IntoIterator<Item = SourceFile>, options: ReadOptions) -> Self {
        Self { files: files.into_iter().collect(), options, current: None }
    }

    fn advance(&mut self) -> Result<Option<SourceBatch>, DataError> {
        loop {
            if let Some(reader) = &mut self.current {
                match reader.next_batch()? {
                    Some(batch) => return Ok(Some(batch)),
                    None => self.current = None,
                }
            }
            match self.files.pop_front() {
                Some(file) => self.current = Some(open(&file, &self.options)?),
                None => return Ok(None),
            }
        }
    }
}

impl Iterator for SourceReader {
    type Item = Result<SourceBatch, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.advance();
        if next.is_err() {
            self.files.clear();
            self.current = None;
        }
        next.transpose()
    }
}

fn open(file: &SourceFile, options: &ReadOptions) -> Result<Box<dyn FileReader + Send>, DataError> {
    Ok(match file.format {
        Format::Json => Box::new(json::JsonReader::open(file, options)?),
        Format::Delimited(by) => Box::new(delimited::DelimitedReader::open(file, by, options)?),
        Format::Text => Box::new(text::TextReader::open(file, options)?),
        Format::Parquet => Box::new(parquet::ParquetReader::open(file, options)?),
        Format::Arrow => Box::new(ipc::IpcReader::open(file, options)?),
    })
}

/// The columns of a file's first usable row; `None` when it has no such row.
///
/// # Errors
/// As reading the file up to that row.
pub fn peek(file: &SourceFile) -> Result<Option<SchemaRef>, DataError> {
    let options = ReadOptions { batch_rows: 1, ..ReadOptions::new(Projection::All) };
    for batch in SourceReader::new([file.clone()], options) {
        let batch = batch?;
        if !batch.rows.is_empty() {
            return Ok(Some(batch.batch.schema()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
