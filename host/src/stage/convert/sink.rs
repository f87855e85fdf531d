//! Files of converted rows: written aside, hashed on the way, and renamed when whole.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::ipc::CompressionType;
use arrow::ipc::writer::{FileWriter, IpcWriteOptions};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::{ArrowColumnChunk, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::basic::{Compression as ParquetCompression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::rows::{Rows, joined_columns, texts};
use crate::config::ConfigError;
use crate::data::Compression;
use crate::error::Result;
use crate::fs::{FsError, io_error};

/// Level of all zstd compression: beyond it files shrink little and time grows much.
const ZSTD_LEVEL: i32 = 3;

/// How a converted file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputFormat {
    /// Parquet, compressed by zstd, with page index.
    Parquet,
    /// An Arrow file, compressed by zstd.
    Arrow,
    /// JSON lines.
    Lines(Compression),
}

impl OutputFormat {
    /// The format that a name tells.
    ///
    /// # Errors
    /// A name that tells none.
    pub fn by_name(path: &Path) -> Result<Self> {
        let name = path.file_name().map(|n| n.to_string_lossy().to_ascii_lowercase());
        let name = name.unwrap_or_default();
        let (stem, compression) = match (name.strip_suffix(".gz"), name.strip_suffix(".zst")) {
            (Some(stem), _) => (stem, Compression::Gzip),
            (_, Some(stem)) => (stem, Compression::Zstd),
            _ => (name.as_str(), Compression::None),
        };
        let extension = stem.rsplit_once('.').map_or("", |(_, e)| e);
        Ok(match (extension, compression) {
            ("jsonl" | "ndjson", compression) => OutputFormat::Lines(compression),
            ("parquet", Compression::None) => OutputFormat::Parquet,
            ("arrow" | "ipc" | "feather", Compression::None) => OutputFormat::Arrow,
            _ => {
                let fault = format!(
                    "`--output {}` tells no format; end it in .parquet, .jsonl, .jsonl.gz, \
                     .jsonl.zst or .arrow",
                    path.display()
                );
                return Err(ConfigError::one(fault).into());
            }
        })
    }

    /// Whether rows are written as columns.
    pub fn is_columnar(self) -> bool {
        !matches!(self, OutputFormat::Lines(_))
    }
}

/// What workers need to encode rows for a file.
pub struct Encoder {
    format: OutputFormat,
    /// `None`: lines, which have no schema.
    schema: Option<SchemaRef>,
    row_groups: Option<ArrowRowGroupWriterFactory>,
}

/// Rows as they stand in a file.
pub enum Encoded {
    /// A row group.
    RowGroup(Vec<ArrowColumnChunk>),
    /// Bytes to append, in parts.
    Bytes(Vec<Vec<u8>>),
    /// Columns, which the file's writer encodes itself.
    Batch(RecordBatch),
}

fn properties() -> Result<WriterProperties> {
    let level = ZstdLevel::try_new(ZSTD_LEVEL).map_err(|e| failed_encoding(&e))?;
    Ok(WriterProperties::builder()
        .set_compression(ParquetCompression::ZSTD(level))
        .set_created_by(concat!("trainer ", env!("CARGO_PKG_VERSION")).into())
        .build())
}

fn failed_encoding(error: &dyn std::fmt::Display) -> crate::error::Error {
    let reason = format!("the rows can't be written in this format: {error}; try .jsonl");
    ConfigError::one(reason).into()
}

impl Encoder {
    /// An encoder for files of these columns.
    ///
    /// # Errors
    /// A schema that the format can't hold.
    pub fn new(format: OutputFormat, schema: Option<SchemaRef>) -> Result<Self> {
        let mut row_groups = None;
        if let (OutputFormat::Parquet, Some(schema)) = (format, &schema) {
            let writer = ArrowWriter::try_new(io::sink(), schema.clone(), Some(properties()?))
                .and_then(ArrowWriter::into_serialized_writer)
                .map_err(|e| failed_encoding(&e))?;
            row_groups = Some(writer.1);
        }
        Ok(Self { format, schema, row_groups })
    }

    /// Encodes rows; on any thread.
    ///
    /// # Errors
    /// Values that the format can't hold.
    pub fn encode(&self, parts: Vec<Rows>) -> Result<Encoded> {
        let OutputFormat::Lines(compression) = self.format else {
            let batch = joined_columns(parts).map_err(|e| failed_encoding(&e))?;
            let batch = batch.ok_or_else(|| failed_encoding(&"lines have no columns"))?;
            return match self.format {
                OutputFormat::Parquet => self.row_group(&batch),
                _ => Ok(Encoded::Batch(batch)),
            };
        };
        let texts = texts(parts);
        // Members and frames that follow each other are one file.
        let packed = match compression {
            Compression::None => return Ok(Encoded::Bytes(texts)),
            Compression::Gzip => {
                let level = flate2::Compression::default();
                let mut out = flate2::write::GzEncoder::new(Vec::new(), level);
                let written = texts.iter().try_for_each(|text| out.write_all(text));
                written.and_then(|()| out.finish())
            }
            Compression::Zstd => zstd::Encoder::new(Vec::new(), ZSTD_LEVEL).and_then(|mut out| {
                texts.iter().try_for_each(|text| out.write_all(text))?;
                out.finish()
            }),
        };
        Ok(Encoded::Bytes(vec![packed.map_err(|e| failed_encoding(&e))?]))
    }

    fn row_group(&self, batch: &RecordBatch) -> Result<Encoded> {
        let Some(factory) = &self.row_groups else {
            return Err(failed_encoding(&"there is no schema"));
        };
        let encode = || {
            let mut writers = factory.create_column_writers(0)?.into_iter();
            let mut chunks = Vec::new();
            for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
                for leaf in compute_leaves(field, column)? {
                    if let Some(mut writer) = writers.next() {
                        writer.write(&leaf)?;
                        chunks.push(writer.close()?);
                    }
                }
            }
            Ok::<_, parquet::errors::ParquetError>(chunks)
        };
        encode().map(Encoded::RowGroup).map_err(|e| failed_encoding(&e))
    }
}

/// A finished file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// Its name.
    pub file: String,
    /// Its rows.
    pub rows: u64,
    /// Its size, bytes.
    pub bytes: u64,
    /// sha256 of it, hexadecimal.
    pub sha256: String,
}

/// Counts and hashes what goes to the file.
struct Hashing {
    file: BufWriter<File>,
    hasher: Sha256,
    bytes: u64,
}

impl Write for Hashing {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let n = self.file.write(data)?;
        self.hasher.update(&data[..n]);
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

enum Writer {
    Parquet(Box<SerializedFileWriter<Hashing>>),
    Arrow(Box<FileWriter<Hashing>>),
    Lines(Hashing),
}

/// A file that is being written under another name.
pub struct Sink {
    writer: Option<Writer>,
    aside: PathBuf,
    target: PathBuf,
    rows: u64,
    done: bool,
}

impl Sink {
    /// Begins the file that will be `target`.
    ///
    /// # Errors
    /// A folder that can't be written to.
    pub fn create(target: &Path, encoder: &Encoder) -> Result<Self> {
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let aside = target.with_file_name(format!(".{name}.part"));
        let file = File::create(&aside).map_err(io_error("create", &aside))?;
        let out = Hashing {
            file: BufWriter::with_capacity(1 << 20, file),
            hasher: Sha256::new(),
            bytes: 0,
        };
        let schema = || encoder.schema.clone().ok_or_else(|| failed_encoding(&"no schema"));
        let writer = match encoder.format {
            OutputFormat::Lines(_) => Writer::Lines(out),
            OutputFormat::Parquet => {
                let made = ArrowWriter::try_new(out, schema()?, Some(properties()?))
                    .and_then(ArrowWriter::into_serialized_writer);
                Writer::Parquet(Box::new(made.map_err(|e| write_error(&aside, &e))?.0))
            }
            OutputFormat::Arrow => {
                let options = IpcWriteOptions::default()
                    .try_with_compression(Some(CompressionType::ZSTD))
                    .map_err(|e| failed_encoding(&e))?;
                let made = FileWriter::try_new_with_options(out, schema()?.as_ref(), options);
                Writer::Arrow(Box::new(made.map_err(|e| write_error(&aside, &e))?))
            }
        };
        Ok(Self { writer: Some(writer), aside, target: target.to_path_buf(), rows: 0, done: false })
    }

    /// Appends encoded rows.
    ///
    /// # Errors
    /// A full disk and the like.
    pub fn append(&mut self, encoded: Encoded, rows: u64) -> Result<()> {
        let aside = &self.aside;
        self.rows += rows;
        match (&mut self.writer, encoded) {
            (Some(Writer::Parquet(writer)), Encoded::RowGroup(chunks)) => {
                let append = || {
                    let mut group = writer.next_row_group()?;
                    for chunk in chunks {
                        chunk.append_to_row_group(&mut group)?;
                    }
                    group.close().map(|_| ())
                };
                Ok(append().map_err(|e| write_error(aside, &e))?)
            }
            (Some(Writer::Arrow(writer)), Encoded::Batch(batch)) => {
                Ok(writer.write(&batch).map_err(|e| write_error(aside, &e))?)
            }
            (Some(Writer::Lines(out)), Encoded::Bytes(parts)) => {
                let written = parts.iter().try_for_each(|part| out.write_all(part));
                Ok(written.map_err(io_error("write", aside))?)
            }
            _ => Err(failed_encoding(&"the rows were encoded for another format")),
        }
    }

    /// Ends the file and gives it its name.
    ///
    /// # Errors
    /// A full disk and the like.
    pub fn finish(mut self) -> Result<Written> {
        let aside = self.aside.clone();
        let out = match self.writer.take() {
            Some(Writer::Lines(out)) => out,
            Some(Writer::Parquet(writer)) => {
                writer.into_inner().map_err(|e| write_error(&aside, &e))?
            }
            Some(Writer::Arrow(mut writer)) => {
                let finished = writer.finish().and_then(|()| writer.into_inner());
                finished.map_err(|e| write_error(&aside, &e))?
            }
            None => return Err(failed_encoding(&"the file was ended before")),
        };
        let Hashing { file, hasher, bytes } = out;
        let synced = file.into_inner().map_err(io::IntoInnerError::into_error);
        synced.and_then(|f| f.sync_all()).map_err(io_error("write", &aside))?;
        std::fs::rename(&aside, &self.target).map_err(io_error("rename", &aside))?;
        self.done = true;
        let parent = self.target.parent().filter(|p| !p.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        File::open(parent).and_then(|d| d.sync_all()).map_err(io_error("sync", parent))?;
        let digest = hasher.finalize();
        Ok(Written {
            file: self.target.display().to_string(),
            rows: self.rows,
            bytes,
            sha256: digest.iter().map(|b| format!("{b:02x}")).collect(),
        })
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        if !self.done {
            // The aside file is ours alone; failing to remove it changes nothing for the reader.
            let _ = std::fs::remove_file(&self.aside);
        }
    }
}

fn write_error(path: &Path, error: &dyn std::fmt::Display) -> FsError {
    FsError::Io {
        action: "write",
        path: path.to_path_buf(),
        source: io::Error::other(error.to_string()),
    }
}
