//! Arrow IPC: streams, and files, which are a stream between two marks with a footer. Messages
//! are framed here, so that no length in the file is believed before the bytes are there.
//! Layout: <https://arrow.apache.org/docs/format/Columnar.html#serialization-and-interprocess-communication-ipc>.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::convert::fb_to_schema;
use arrow::ipc::reader::{RecordBatchDecoder, read_dictionary};
use arrow::ipc::{MessageHeader, root_as_message};

use super::columnar::{convert, fence, wanted};
use super::{FileReader, ReadOptions, SourceBatch, SourceFile};
use crate::data::column::Projection;
use crate::data::error::{DataError, shown};
use crate::fs::io_error;
use crate::limits::{DATA_BLOCK_BYTES_MAX, DATA_RATIO_FREE_BYTES, DATA_RATIO_MAX};

const FORMAT: &str = "Arrow";
/// Largest description of one message, bytes; a schema of 4,096 columns takes under 1 MiB.
const METADATA_BYTES_MAX: u64 = 16 << 20;
/// Where the first message of a file begins at the latest.
const PADDING_BYTES_MAX: u64 = 4096;
const MAGIC: &[u8] = b"ARROW1";

/// Reads an Arrow file or stream.
pub(super) struct IpcReader {
    file: SourceFile,
    projection: Projection,
    batch_rows: usize,
    stream: io::Take<BufReader<File>>,
    schema: SchemaRef,
    columns: Vec<usize>,
    dictionaries: HashMap<i64, ArrayRef>,
    batch: Option<RecordBatch>,
    /// Rows of `batch` already delivered.
    delivered: usize,
    next_row: u64,
}

/// One framed message.
struct Message {
    metadata: Vec<u8>,
    body: Buffer,
}

impl IpcReader {
    pub fn open(file: &SourceFile, options: &ReadOptions) -> Result<Self, DataError> {
        let failed = io_error("read", &file.path);
        let stream = bounded(file).map_err(failed)?;
        let mut stream = stream.ok_or_else(|| broken(file, "its end is missing: it is cut off"))?;
        let first =
            message(file, &mut stream)?.ok_or_else(|| broken(file, "there is no schema"))?;
        let schema = fence(&file.name, FORMAT, || {
            let message = parse(&first.metadata)?;
            let schema = message.header_as_schema();
            schema.map(fb_to_schema).ok_or_else(|| decode("the first message is no schema"))
        })?;
        let columns = wanted(&file.name, &schema, &options.projection)?;
        Ok(Self {
            file: file.clone(),
            projection: options.projection.clone(),
            batch_rows: options.batch_rows.max(1),
            stream,
            schema: Arc::new(schema),
            columns,
            dictionaries: HashMap::new(),
            batch: None,
            delivered: 0,
            next_row: 1,
        })
    }

    /// Decodes messages up to the next record batch.
    fn decode_next(&mut self) -> Result<Option<RecordBatch>, DataError> {
        while let Some(next) = message(&self.file, &mut self.stream)? {
            let dictionaries = &mut self.dictionaries;
            let (schema, columns) = (&self.schema, &self.columns);
            let batch = fence(&self.file.name, FORMAT, || {
                let message = parse(&next.metadata)?;
                let version = message.version();
                if let Some(batch) = message.header_as_record_batch() {
                    check_buffers(&next.body, &batch)?;
                    return RecordBatchDecoder::try_new(
                        &next.body,
                        batch,
                        schema.clone(),
                        dictionaries,
                        &version,
                    )?
                    .with_projection(Some(columns))
                    .read_record_batch()
                    .map(Some);
                }
                if let Some(dictionary) = message.header_as_dictionary_batch() {
                    if let Some(data) = dictionary.data() {
                        check_buffers(&next.body, &data)?;
                    }
                    read_dictionary(&next.body, dictionary, schema, dictionaries, &version)?;
                    return Ok(None);
                }
                match message.header_type() {
                    MessageHeader::NONE => Ok(None),
                    other => Err(decode(&format!("a message of type {other:?} is not understood"))),
                }
            })?;
            if batch.is_some() {
                return Ok(batch);
            }
        }
        Ok(None)
    }
}

impl FileReader for IpcReader {
    fn next_batch(&mut self) -> Result<Option<SourceBatch>, DataError> {
        let batch = match self.batch.take() {
            Some(batch) => batch,
            None => match self.decode_next()? {
                Some(batch) => batch,
                None => return Ok(None),
            },
        };
        let rows = (batch.num_rows() - self.delivered).min(self.batch_rows);
        let piece = batch.slice(self.delivered, rows);
        let first = self.next_row;
        self.next_row += rows as u64;
        self.delivered += rows;
        if self.delivered < batch.num_rows() {
            self.batch = Some(batch);
        } else {
            self.delivered = 0;
        }
        let (name, projection) = (&self.file.name, &self.projection);
        convert(name, &piece, first, projection).map(Some)
    }
}

fn broken(file: &SourceFile, problem: &str) -> DataError {
    DataError::Columnar { file: shown(&file.name), format: FORMAT, problem: problem.into() }
}

fn decode(problem: &str) -> ArrowError {
    ArrowError::IpcError(problem.to_string())
}

fn parse(metadata: &[u8]) -> Result<arrow::ipc::Message<'_>, ArrowError> {
    root_as_message(metadata).map_err(|e| decode(&format!("a message is damaged: {e}")))
}

/// The stream of messages within the file; `None` when a file's footer is missing.
fn bounded(file: &SourceFile) -> io::Result<Option<io::Take<BufReader<File>>>> {
    let mut handle = File::open(&file.path)?;
    let length = handle.metadata()?.len();
    let mut head = [0; 8];
    handle.read_exact(&mut head)?;
    if !head.starts_with(MAGIC) {
        handle.seek(SeekFrom::Start(0))?;
        return Ok(Some(BufReader::new(handle).take(length)));
    }
    // Mark, padding, stream, footer, its length (4 bytes), mark.
    let mut tail = [0; 10];
    if length < 18 {
        return Ok(None);
    }
    handle.seek(SeekFrom::End(-10))?;
    handle.read_exact(&mut tail)?;
    let [a, b, c, d, mark @ ..] = tail;
    let footer = u64::from(u32::from_le_bytes([a, b, c, d]));
    let Some(end) = (length - 10).checked_sub(footer).filter(|end| *end >= 8 && mark == MAGIC)
    else {
        return Ok(None);
    };
    // Writers that align to more than 8 bytes pad the mark with zeros.
    let mut start = 8;
    let mut word = [0; 8];
    handle.seek(SeekFrom::Start(start))?;
    while start + 8 <= end.min(PADDING_BYTES_MAX) {
        handle.read_exact(&mut word)?;
        if word != [0; 8] {
            break;
        }
        start += 8;
    }
    handle.seek(SeekFrom::Start(start))?;
    Ok(Some(BufReader::new(handle).take(end - start)))
}

/// Reads the next message; `None` at the end of the stream.
fn message(
    file: &SourceFile,
    stream: &mut io::Take<BufReader<File>>,
) -> Result<Option<Message>, DataError> {
    let cut = || broken(file, "it ends inside a message: it is cut off");
    let mut length = match exactly(file, stream, 4)? {
        bytes if bytes.is_empty() => return Ok(None),
        bytes => bytes,
    };
    if length == [0xff; 4] {
        length = exactly(file, stream, 4)?;
    }
    let length = <[u8; 4]>::try_from(length.as_slice()).map_err(|_| cut())?;
    let length = u64::from(u32::from_le_bytes(length));
    if length == 0 {
        return Ok(None);
    }
    limit(file, "the description of a message", length, METADATA_BYTES_MAX)?;
    let metadata = exactly(file, stream, length)?;
    if metadata.len() as u64 != length {
        return Err(cut());
    }
    let body = fence(&file.name, FORMAT, || parse(&metadata).map(|m| m.bodyLength()))?;
    let body = u64::try_from(body).map_err(|_| broken(file, "a message has a negative length"))?;
    limit(file, "a message", body, DATA_BLOCK_BYTES_MAX)?;
    let bytes = exactly(file, stream, body)?;
    if bytes.len() as u64 != body {
        return Err(cut());
    }
    Ok(Some(Message { metadata, body: Buffer::from_vec(bytes) }))
}

/// Up to `count` bytes; memory grows only as they arrive.
fn exactly(
    file: &SourceFile,
    stream: &mut io::Take<BufReader<File>>,
    count: u64,
) -> Result<Vec<u8>, DataError> {
    let mut bytes = Vec::new();
    stream.by_ref().take(count).read_to_end(&mut bytes).map_err(io_error("read", &file.path))?;
    Ok(bytes)
}

fn limit(file: &SourceFile, what: &'static str, got: u64, limit: u64) -> Result<(), DataError> {
    if got <= limit {
        return Ok(());
    }
    let remedy = "write it with smaller batches";
    Err(DataError::TooLarge { file: shown(&file.name), what, got, limit, remedy })
}

/// Checks the lengths that compressed buffers claim to have before anything is allocated for them.
fn check_buffers(body: &Buffer, batch: &arrow::ipc::RecordBatch<'_>) -> Result<(), ArrowError> {
    if batch.length() < 0 {
        return Err(decode("a batch has a negative number of rows"));
    }
    if batch.compression().is_none() {
        return Ok(());
    }
    let mut total = 0u64;
    for buffer in batch.buffers().iter().flatten() {
        if buffer.length() == 0 {
            continue;
        }
        let start = usize::try_from(buffer.offset()).ok();
        let claimed = start
            .and_then(|at| body.as_slice().get(at..)?.first_chunk::<8>())
            .map(|bytes| i64::from_le_bytes(*bytes))
            .ok_or_else(|| decode("a buffer lies outside its message"))?;
        // -1 marks a buffer that was left uncompressed.
        total = total.saturating_add(u64::try_from(claimed).unwrap_or(0));
    }
    let by_ratio = (body.len() as u64).saturating_mul(DATA_RATIO_MAX).max(DATA_RATIO_FREE_BYTES);
    let limit = by_ratio.min(DATA_BLOCK_BYTES_MAX);
    if total > limit {
        return Err(decode(&format!(
            "a message unpacks to {total} bytes, more than the {limit} allowed"
        )));
    }
    Ok(())
}
