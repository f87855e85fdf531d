//! Tables in text: a header line, then one record per row, quoted as RFC 4180 has it. Values are
//! strings; where a number or a boolean is wanted an empty value is null.

use std::io::{self, Read};

use csv::{ByteRecord, ErrorKind, ReaderBuilder};

use super::bytes::{self, ByteStream};
use super::json::text_of;
use super::rows::{Cell, Fault, Free, Gather};
use super::{FileReader, ReadOptions, SourceBatch, SourceFile};
use crate::data::column::{ColumnKind, Projection};
use crate::data::error::{DataError, RejectKind, names, nearest, shown};
use crate::data::json_value;
use crate::limits::{DATA_COLUMNS_MAX, JSONL_LINE_BYTES_MAX};

/// Reads a table in text.
pub(super) struct DelimitedReader {
    file: SourceFile,
    reader: csv::Reader<Budget>,
    header: Vec<String>,
    /// For every wanted column its place in the header.
    places: Vec<Option<usize>>,
    record: ByteRecord,
    /// Lines read so far.
    lines: u64,
    gather: Gather,
    any_row: bool,
    done: bool,
}

/// Stops a record that never ends: a quote left open would take the rest of the file as one value.
struct Budget {
    stream: ByteStream,
    left: usize,
    /// Bytes read so far, and the last of them.
    total: u64,
    last: u8,
}

#[derive(Debug, thiserror::Error)]
#[error("a record without an end")]
struct Endless;

/// Bytes one record may take; the reader below reads ahead a little.
const RECORD_BYTES_MAX: usize = JSONL_LINE_BYTES_MAX + (64 << 10);

impl Read for Budget {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Err(io::Error::other(Endless));
        }
        let n = self.stream.read(buf)?;
        self.left = self.left.saturating_sub(n);
        self.total += n as u64;
        self.last = buf[..n].last().copied().unwrap_or(self.last);
        Ok(n)
    }
}

impl DelimitedReader {
    pub fn open(
        file: &SourceFile,
        separator: u8,
        options: &ReadOptions,
    ) -> Result<Self, DataError> {
        let stream = bytes::open(&file.path, &file.name, file.compression)?;
        let reader = ReaderBuilder::new()
            .delimiter(separator)
            .has_headers(false)
            .flexible(true)
            // The `\r` of an ending is cut off below: so that lines can be counted, records end
            // at one byte only.
            .terminator(csv::Terminator::Any(b'\n'))
            .buffer_capacity(32 << 10)
            .from_reader(Budget { stream, left: RECORD_BYTES_MAX, total: 0, last: 0 });
        let mut this = Self {
            file: file.clone(),
            reader,
            header: Vec::new(),
            places: Vec::new(),
            record: ByteRecord::new(),
            lines: 0,
            gather: Gather::new(file.name.clone(), options.projection.clone(), options.batch_rows),
            any_row: false,
            done: false,
        };
        this.read_header()?;
        Ok(this)
    }

    fn read_header(&mut self) -> Result<(), DataError> {
        let name = shown(&self.file.name);
        if self.read_record()?.is_none() {
            return Err(DataError::NoRows { file: name, detail: "" });
        }
        let wrong = |problem: String| DataError::Header { file: name.clone(), problem };
        if self.record.len() > DATA_COLUMNS_MAX {
            return Err(wrong(format!(
                "has {} columns, more than the {DATA_COLUMNS_MAX} allowed",
                self.record.len()
            )));
        }
        for column in &self.record {
            let column = text_of(column).map_err(|fault| wrong(fault.reason))?.trim().to_string();
            if self.header.contains(&column) {
                return Err(wrong(format!("has the column `{}` twice", shown(&column))));
            }
            self.header.push(column);
        }
        if let Projection::Columns { needs, .. } = self.gather.projection() {
            for need in needs {
                let place = self.header.iter().position(|h| *h == need.name);
                if place.is_none() && !need.optional {
                    return Err(DataError::NoColumn {
                        file: name,
                        column: shown(&need.name),
                        found: names(self.header.iter().map(String::as_str)),
                        nearest: nearest(&need.name, self.header.iter().map(String::as_str)),
                    });
                }
                self.places.push(place);
            }
        }
        Ok(())
    }

    /// Reads the next record that is no blank line and says in which line it begins; `None` at
    /// the end.
    fn read_record(&mut self) -> Result<Option<u64>, DataError> {
        loop {
            self.reader.get_mut().left = RECORD_BYTES_MAX;
            let more = self.reader.read_byte_record(&mut self.record);
            if !more.map_err(|e| failed(&self.file, self.lines + 1, e))? {
                return Ok(None);
            }
            // The reader passes over empty lines before the record, so that only its end is sure.
            let end = self.reader.position();
            let stream = self.reader.get_ref();
            let unfinished = end.byte() == stream.total && stream.last != b'\n';
            let last_line = end.line() - u64::from(!unfinished);
            let inner = self.record.as_slice().iter().filter(|&&b| b == b'\n').count() as u64;
            let line = last_line - inner.min(last_line);
            for _ in self.lines + 1..line {
                self.gather.blank();
            }
            self.lines = last_line;
            if let Some(bare) = self.record.as_slice().strip_suffix(b"\r") {
                if bare.is_empty() && self.record.len() == 1 {
                    self.gather.blank();
                    continue;
                }
                let kept = self.record.len() - 1;
                let last = self.record.get(kept).unwrap_or_default();
                let last = last.strip_suffix(b"\r").unwrap_or(last).to_vec();
                self.record.truncate(kept);
                self.record.push_field(&last);
            }
            return Ok(Some(line));
        }
    }

    fn row(&mut self, line: u64) -> Result<(), Fault> {
        let record = &self.record;
        if record.len() != self.header.len() {
            let reason = format!(
                "has {} fields, but the header has {}; quote values that hold the separator",
                record.len(),
                self.header.len()
            );
            return Err(Fault::new(RejectKind::FieldCount, reason));
        }
        let mut texts = Vec::with_capacity(record.len());
        for (value, name) in record.iter().zip(&self.header) {
            texts.push(text_of(value).map_err(|fault| Fault {
                reason: format!("{} in field `{}`", fault.reason, shown(name)),
                ..fault
            })?);
        }
        let bytes = record.as_slice().len();
        match self.gather.projection() {
            Projection::All => {
                let fields: Vec<_> = (self.header.iter().map(String::as_str))
                    .zip(texts.into_iter().map(Free::Plain))
                    .collect();
                self.gather.push_free(line, &fields, bytes);
            }
            Projection::Columns { needs, whole_row } => {
                let mut cells = Vec::with_capacity(needs.len());
                for (need, place) in needs.iter().zip(&self.places) {
                    cells.push(match place.and_then(|p| texts.get(p)) {
                        Some(text) => cell(&need.name, need.kind, text)?,
                        None => Cell::Null,
                    });
                }
                let whole = whole_row.then(|| object(self.header.iter().zip(&texts)));
                self.gather.push(line, cells, whole, bytes);
            }
        }
        Ok(())
    }
}

impl FileReader for DelimitedReader {
    fn next_batch(&mut self) -> Result<Option<SourceBatch>, DataError> {
        while !self.done && !self.gather.is_full() {
            let Some(line) = self.read_record()? else {
                self.done = true;
                if !self.any_row {
                    return Err(DataError::NoRows {
                        file: shown(&self.file.name),
                        detail: " below its header",
                    });
                }
                break;
            };
            self.any_row = true;
            if let Err(fault) = self.row(line) {
                let start: Vec<u8> = self.record.iter().collect::<Vec<_>>().join(&b' ');
                self.gather.reject(line, fault, &start);
            }
        }
        self.gather.take()
    }
}

fn failed(file: &SourceFile, line: u64, error: csv::Error) -> DataError {
    let problem = match error.into_kind() {
        ErrorKind::Io(e) if e.get_ref().is_some_and(|e| e.is::<Endless>()) => format!(
            "the record is longer than {JSONL_LINE_BYTES_MAX} bytes; a quote seems to be left open"
        ),
        ErrorKind::Io(e) => return bytes::failed(&file.path, &file.name, file.compression, e),
        other => shown(&format!("{other:?}")),
    };
    DataError::Broken { file: shown(&file.name), row: line, problem }
}

/// A JSON object of plain texts.
pub(super) fn object<'a>(fields: impl Iterator<Item = (&'a String, &'a &'a str)>) -> String {
    let mut out = String::from("{");
    for (name, text) in fields {
        if out.len() > 1 {
            out.push(',');
        }
        json_value::string(name, &mut out);
        out.push(':');
        json_value::string(text, &mut out);
    }
    out.push('}');
    out
}

/// A plain text as another kind.
pub(super) fn cell(name: &str, kind: ColumnKind, text: &str) -> Result<Cell, Fault> {
    let trimmed = text.trim();
    let typed = matches!(kind, ColumnKind::Int64 | ColumnKind::Float64 | ColumnKind::Boolean);
    if typed && trimmed.is_empty() {
        return Ok(Cell::Null);
    }
    let parsed = match kind {
        ColumnKind::Utf8 => Some(Cell::Text(text.to_string())),
        ColumnKind::Binary => Some(Cell::Bytes(text.as_bytes().to_vec())),
        ColumnKind::Json => {
            let mut out = String::new();
            json_value::string(text, &mut out);
            Some(Cell::Text(out))
        }
        ColumnKind::Int64 => trimmed.parse().ok().map(Cell::Int),
        ColumnKind::Float64 => {
            trimmed.parse().ok().filter(|v: &f64| v.is_finite()).map(Cell::Float)
        }
        ColumnKind::Boolean => match trimmed {
            "true" | "True" | "TRUE" => Some(Cell::Bool(true)),
            "false" | "False" | "FALSE" => Some(Cell::Bool(false)),
            _ => None,
        },
    };
    parsed.ok_or_else(|| {
        let reason =
            format!("has `{}` in field `{}`, expected {}", shown(text), shown(name), kind.name());
        Fault::new(RejectKind::WrongType, reason)
    })
}
