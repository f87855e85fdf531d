//! Plain text: one document per line, or the whole file as one; the only column is `text`.

use std::io::Read;

use super::bytes::{self, ByteStream};
use super::delimited::{cell, object};
use super::json::text_of;
use super::lines::{Line, Lines};
use super::rows::{Cell, Fault, Free, Gather};
use super::{FileReader, ReadOptions, SourceBatch, SourceFile};
use crate::data::column::Projection;
use crate::data::error::{DataError, RejectKind, nearest, shown};
use crate::limits::JSONL_LINE_BYTES_MAX;

/// Name of the column a plain text has.
const TEXT_COLUMN: &str = "text";

/// Reads plain text.
pub(super) struct TextReader {
    file: SourceFile,
    documents: Documents,
    gather: Gather,
    any_row: bool,
    done: bool,
}

enum Documents {
    Lines(Lines<ByteStream>),
    Whole(ByteStream),
}

impl TextReader {
    pub fn open(file: &SourceFile, options: &ReadOptions) -> Result<Self, DataError> {
        if let Projection::Columns { needs, .. } = &options.projection
            && let Some(need) = needs.iter().find(|n| !n.optional && n.name != TEXT_COLUMN)
        {
            return Err(DataError::NoColumn {
                file: shown(&file.name),
                column: shown(&need.name),
                found: format!("only `{TEXT_COLUMN}`, since it is plain text"),
                nearest: nearest(&need.name, [TEXT_COLUMN]),
            });
        }
        let stream = bytes::open(&file.path, &file.name, file.compression)?;
        let documents = if options.whole_file_text {
            Documents::Whole(stream)
        } else {
            Documents::Lines(Lines::new(stream, JSONL_LINE_BYTES_MAX))
        };
        Ok(Self::reading(file, documents, options))
    }

    /// Reads lines that are a part of a file, which may be blank as a whole.
    pub fn part(file: &SourceFile, lines: Lines<ByteStream>, options: &ReadOptions) -> Self {
        Self { any_row: true, ..Self::reading(file, Documents::Lines(lines), options) }
    }

    fn reading(file: &SourceFile, documents: Documents, options: &ReadOptions) -> Self {
        Self {
            file: file.clone(),
            documents,
            gather: Gather::new(file.name.clone(), options.projection.clone(), options.batch_rows),
            any_row: false,
            done: false,
        }
    }

    fn step(&mut self) -> Result<bool, DataError> {
        let file = &self.file;
        let failed = |e| bytes::failed(&file.path, &file.name, file.compression, e);
        let mut whole = Vec::new();
        let (number, bytes, too_long) = match &mut self.documents {
            Documents::Lines(lines) => match lines.advance().map_err(failed)? {
                None => return Ok(false),
                Some(line) => (lines.number(), lines.bytes(), line == Line::TooLong),
            },
            Documents::Whole(stream) => {
                let limit = JSONL_LINE_BYTES_MAX as u64;
                stream.take(limit + 1).read_to_end(&mut whole).map_err(failed)?;
                self.done = true;
                (1, whole.as_slice(), whole.len() > JSONL_LINE_BYTES_MAX)
            }
        };
        if !too_long && bytes.trim_ascii().is_empty() {
            if !bytes.is_empty() || !self.done {
                self.gather.blank();
            }
            return Ok(true);
        }
        self.any_row = true;
        let document = if too_long {
            let reason = format!("is longer than {JSONL_LINE_BYTES_MAX} bytes; cut it into lines");
            Err(Fault::new(RejectKind::TooLong, reason))
        } else {
            read_document(bytes, number, &mut self.gather)
        };
        if let Err(fault) = document {
            self.gather.reject(number, fault, bytes);
        }
        Ok(true)
    }
}

fn read_document(bytes: &[u8], number: u64, gather: &mut Gather) -> Result<(), Fault> {
    let text = text_of(bytes)?;
    match gather.projection() {
        Projection::All => {
            gather.push_free(number, &[(TEXT_COLUMN, Free::Plain(text))], bytes.len());
        }
        Projection::Columns { needs, whole_row } => {
            let mut cells = Vec::with_capacity(needs.len());
            for need in needs {
                cells.push(match need.name == TEXT_COLUMN {
                    true => cell(TEXT_COLUMN, need.kind, text)?,
                    false => Cell::Null,
                });
            }
            let name = TEXT_COLUMN.to_string();
            let whole = whole_row.then(|| object(std::iter::once((&name, &text))));
            gather.push(number, cells, whole, bytes.len());
        }
    }
    Ok(())
}

impl FileReader for TextReader {
    fn next_batch(&mut self) -> Result<Option<SourceBatch>, DataError> {
        while !self.done && !self.gather.is_full() {
            if !self.step()? {
                self.done = true;
            }
            if self.done && !self.any_row {
                return Err(DataError::NoRows {
                    file: shown(&self.file.name),
                    detail: " but blanks",
                });
            }
        }
        self.gather.take()
    }
}
