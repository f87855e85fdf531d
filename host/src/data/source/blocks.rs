//! Sources cut into blocks, which workers read independently: whole lines of text, row groups of
//! Parquet. Formats that can only be read from front to back (tables in text, JSON arrays, Arrow)
//! come as rows that are read already. Where blocks begin and end depends on the files alone.

use std::collections::VecDeque;
use std::io::BufRead;
use std::sync::Arc;

use super::bytes::{self, ByteStream};
use super::json::{JsonReader, Layout, layout_of};
use super::lines::Lines;
use super::parquet::{ParquetReader, row_groups};
use super::text::TextReader;
use super::{Compression, FileReader, Format, ReadOptions, SourceBatch, SourceFile, open};
use crate::data::error::{DataError, shown};
use crate::limits::{DATA_BLOCK_TEXT_BYTES, DATA_RANGE_BYTES, JSONL_LINE_BYTES_MAX};

/// A part of one file.
pub enum Block {
    /// Whole lines.
    Lines {
        /// The file.
        file: Arc<SourceFile>,
        /// Its lines, with their endings.
        bytes: Vec<u8>,
        /// Lines of the file before them.
        before: u64,
    },
    /// A row group of a Parquet file.
    RowGroup {
        /// The file.
        file: Arc<SourceFile>,
        /// Index of the row group.
        group: usize,
        /// Rows of the file before it.
        before: u64,
    },
    /// Rows that are read already.
    Rows(SourceBatch),
}

impl Block {
    /// Its rows.
    ///
    /// # Errors
    /// As reading the file.
    pub fn read(self, options: &ReadOptions) -> Result<Vec<SourceBatch>, DataError> {
        let mut reader: Box<dyn FileReader> = match self {
            Block::Rows(batch) => return Ok(vec![batch]),
            Block::Lines { file, bytes, before } => {
                let lines = Lines::after(bytes::of_bytes(bytes), JSONL_LINE_BYTES_MAX, before);
                match file.format {
                    Format::Text => Box::new(TextReader::part(&file, lines, options)),
                    _ => Box::new(JsonReader::part(&file, lines, options)),
                }
            }
            Block::RowGroup { file, group, before } => {
                Box::new(ParquetReader::group(&file, options, group, before)?)
            }
        };
        let mut batches = Vec::new();
        while let Some(batch) = reader.next_batch()? {
            batches.push(batch);
        }
        Ok(batches)
    }

    /// Bytes of text in it; 0 where they are not read yet.
    pub fn bytes(&self) -> u64 {
        match self {
            Block::Lines { bytes, .. } => bytes.len() as u64,
            _ => 0,
        }
    }
}

enum Current {
    Lines {
        file: Arc<SourceFile>,
        stream: ByteStream,
        before: u64,
        /// Bytes within which further lines may begin; none: the whole file's.
        left: Option<u64>,
        any: bool,
    },
    Groups {
        file: Arc<SourceFile>,
        rows: Vec<u64>,
        next: usize,
        before: u64,
    },
    Rows(Box<dyn FileReader + Send>),
}

/// What several machines deal out among them: a file, or a part of one that can be read by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A whole file.
    File(SourceFile),
    /// Row group `group` of a Parquet file, behind `before` rows.
    RowGroup {
        /// The file.
        file: SourceFile,
        /// Index of the row group.
        group: usize,
        /// Rows before it.
        before: u64,
    },
    /// The lines that begin within these bytes of a file; rows are counted from there.
    Range {
        /// The file, its name telling the range.
        file: SourceFile,
        /// First byte.
        start: u64,
        /// The byte behind the last.
        end: u64,
    },
}

/// The parts that `count` machines deal out among them; machine `index` takes every `count`-th.
///
/// # Errors
/// A Parquet file that can't be read.
pub fn units(files: Vec<SourceFile>, index: u64, count: u64) -> Result<Vec<Unit>, DataError> {
    if count <= 1 {
        return Ok(files.into_iter().map(Unit::File).collect());
    }
    let mut all = Vec::new();
    for file in files {
        let lower = file.name.to_ascii_lowercase();
        let by_line =
            file.format == Format::Text || file.format == Format::Json && !lower.ends_with(".json");
        if file.format == Format::Parquet {
            let mut before = 0;
            for (group, rows) in row_groups(&file)?.into_iter().enumerate() {
                all.push(Unit::RowGroup { file: file.clone(), group, before });
                before += rows;
            }
        } else if by_line && file.compression == Compression::None {
            for start in (0..file.bytes.max(1)).step_by(DATA_RANGE_BYTES as usize) {
                let end = (start + DATA_RANGE_BYTES).min(file.bytes);
                let name = match file.bytes > DATA_RANGE_BYTES {
                    true => format!("{}[bytes {start}-{end}]", file.name).into(),
                    false => file.name.clone(),
                };
                all.push(Unit::Range { file: SourceFile { name, ..file.clone() }, start, end });
            }
        } else {
            all.push(Unit::File(file));
        }
    }
    let own = all.into_iter().enumerate().filter(|(i, _)| *i as u64 % count == index);
    Ok(own.map(|(_, unit)| unit).collect())
}

/// The blocks of some units, in order. After an error it ends.
pub struct Blocks {
    units: VecDeque<Unit>,
    options: ReadOptions,
    current: Option<Current>,
}

impl Blocks {
    /// Cuts `units`, one after the other.
    pub fn new(units: impl IntoIterator<Item = Unit>, options: ReadOptions) -> Self {
        Self { units: units.into_iter().collect(), options, current: None }
    }

    fn advance(&mut self) -> Result<Option<Block>, DataError> {
        loop {
            let block = match &mut self.current {
                Some(Current::Lines { file, stream, before, left, any }) => {
                    let block = lines(file, stream, before, left)?;
                    let found = block.is_some();
                    if !found && !*any {
                        let file = shown(&file.name);
                        return Err(DataError::NoRows { file, detail: "" });
                    }
                    *any |= found;
                    block
                }
                Some(Current::Groups { file, rows, next, before }) => {
                    rows.get(*next).copied().map(|n| {
                        let (group, start) = (*next, *before);
                        *next += 1;
                        *before += n;
                        Block::RowGroup { file: file.clone(), group, before: start }
                    })
                }
                Some(Current::Rows(reader)) => reader.next_batch()?.map(Block::Rows),
                None => None,
            };
            if block.is_some() {
                return Ok(block);
            }
            let Some(unit) = self.units.pop_front() else {
                self.current = None;
                return Ok(None);
            };
            self.current = Some(begin(unit, &self.options)?);
        }
    }
}

impl Iterator for Blocks {
    type Item = Result<Block, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.advance();
        if next.is_err() {
            self.units.clear();
            self.current = None;
        }
        next.transpose()
    }
}

/// The lines that begin in `start..end` of a plain file.
fn begin_range(file: SourceFile, start: u64, end: u64) -> Result<Current, DataError> {
    let failed = |e| bytes::failed(&file.path, &file.name, file.compression, e);
    let mut stream = bytes::open_at(&file.path, &file.name, start.saturating_sub(1))?;
    let mut left = end - start;
    if start > 0 {
        // The line that the byte before belongs to is another range's.
        let mut passed = 0u64;
        loop {
            let piece = stream.fill_buf().map_err(failed)?;
            if piece.is_empty() {
                break;
            }
            let end = memchr::memchr(b'\n', piece);
            let used = end.map_or(piece.len(), |at| at + 1);
            stream.consume(used);
            passed += used as u64;
            if end.is_some() {
                break;
            }
        }
        left = (left + 1).saturating_sub(passed);
    }
    Ok(Current::Lines { file: Arc::new(file), stream, before: 0, left: Some(left), any: true })
}

fn begin(unit: Unit, options: &ReadOptions) -> Result<Current, DataError> {
    let file = match unit {
        Unit::File(file) => file,
        Unit::Range { file, start, end } => return begin_range(file, start, end),
        Unit::RowGroup { file, group, before } => {
            return Ok(Current::Rows(Box::new(ParquetReader::group(
                &file, options, group, before,
            )?)));
        }
    };
    let by_line = match file.format {
        Format::Text => {
            // Refuses columns that plain text does not have.
            let _ = TextReader::open(&file, options)?;
            !options.whole_file_text
        }
        Format::Json => true,
        Format::Parquet => {
            let rows = row_groups(&file)?;
            return Ok(Current::Groups { file: Arc::new(file), rows, next: 0, before: 0 });
        }
        Format::Delimited(_) | Format::Arrow => false,
    };
    if by_line {
        let mut stream = bytes::open(&file.path, &file.name, file.compression)?;
        if file.format == Format::Text || layout_of(&file, &mut stream)? == Layout::Lines {
            let file = Arc::new(file);
            return Ok(Current::Lines { file, stream, before: 0, left: None, any: false });
        }
    }
    Ok(Current::Rows(open(&file, options)?))
}

/// The next block of whole lines. Of a line beyond the limit no more is kept than shows that it
/// is.
fn lines(
    file: &Arc<SourceFile>,
    stream: &mut ByteStream,
    before: &mut u64,
    left: &mut Option<u64>,
) -> Result<Option<Block>, DataError> {
    if *left == Some(0) {
        return Ok(None);
    }
    let failed = |e| bytes::failed(&file.path, &file.name, file.compression, e);
    let mut bytes = Vec::with_capacity(DATA_BLOCK_TEXT_BYTES + DATA_BLOCK_TEXT_BYTES / 4);
    // Where the line that is being read began.
    let mut start = 0;
    loop {
        let piece = stream.fill_buf().map_err(failed)?;
        if piece.is_empty() {
            break;
        }
        // Once full, only the rest of the line is taken.
        let most = left.map_or(DATA_BLOCK_TEXT_BYTES, |l| DATA_BLOCK_TEXT_BYTES.min(l as usize));
        let full = bytes.len() >= most;
        let piece = if full { piece } else { &piece[..piece.len().min(most - bytes.len())] };
        let end = match full {
            true => memchr::memchr(b'\n', piece),
            false => memchr::memrchr(b'\n', piece),
        };
        let used = match (full, end) {
            (true, Some(at)) => at + 1,
            _ => piece.len(),
        };
        let line_begins = end.filter(|_| !full).map(|at| bytes.len() + at + 1);
        let kept = bytes.len() - start;
        let too_long = full && kept > JSONL_LINE_BYTES_MAX + 1;
        if !too_long {
            bytes.extend_from_slice(&piece[..used]);
        } else if end.is_some() {
            bytes.push(b'\n');
        }
        if let Some(at) = line_begins {
            start = at;
        }
        stream.consume(used);
        let whole = bytes.len() >= most && bytes.last() == Some(&b'\n');
        if full && end.is_some() || !full && whole {
            break;
        }
    }
    if bytes.is_empty() {
        return Ok(None);
    }
    let count = memchr::memchr_iter(b'\n', &bytes).count() as u64;
    let unended = u64::from(bytes.last() != Some(&b'\n'));
    if let Some(left) = left {
        *left = left.saturating_sub(bytes.len() as u64);
    }
    let block = Block::Lines { file: file.clone(), bytes, before: *before };
    *before += count + unended;
    Ok(Some(block))
}
