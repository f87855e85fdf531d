//! The bytes of a text source as a stream: decompressed within bounds, without a byte order mark.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::format::Compression;
use crate::data::error::{DataError, shown};
use crate::fs::io_error;
use crate::limits::{DATA_DECOMPRESSED_BYTES_MAX, DATA_RATIO_FREE_BYTES, DATA_RATIO_MAX};

/// Bytes read from the disk at a time.
const BUFFER_BYTES: usize = 64 << 10;

/// A text source, opened.
pub type ByteStream = BufReader<Box<dyn Read + Send>>;

/// Opens `path`; a UTF-8 byte order mark at the start is passed over.
///
/// # Errors
/// [`DataError::Fs`]; UTF-16 inside a compressed file is [`DataError::Content`].
pub fn open(path: &Path, name: &str, compression: Compression) -> Result<ByteStream, DataError> {
    let file = File::open(path).map_err(io_error("read", path))?;
    let read = Arc::new(AtomicU64::new(0));
    let counted = BufReader::with_capacity(BUFFER_BYTES, Counted { file, read: read.clone() });
    let inner: Box<dyn Read + Send> = match compression {
        Compression::None => Box::new(counted),
        Compression::Gzip => {
            Box::new(Bounded { inner: flate2::bufread::MultiGzDecoder::new(counted), read, out: 0 })
        }
        Compression::Zstd => {
            let decoder = zstd::Decoder::with_buffer(counted).map_err(io_error("read", path))?;
            Box::new(Bounded { inner: decoder, read, out: 0 })
        }
    };
    let mut stream = BufReader::with_capacity(BUFFER_BYTES, inner);
    let head = stream.fill_buf().map_err(|e| failed(path, name, compression, e))?;
    if head.starts_with(b"\xff\xfe") || head.starts_with(b"\xfe\xff") {
        return Err(DataError::Content {
            file: shown(name),
            expected: "UTF-8 text",
            got: "UTF-16 text",
            remedy: "save it as UTF-8",
        });
    }
    if head.starts_with(b"\xef\xbb\xbf") {
        stream.consume(3);
    }
    Ok(stream)
}

/// Opens a plain file at byte `start`.
///
/// # Errors
/// [`DataError::Fs`].
pub fn open_at(path: &Path, name: &str, start: u64) -> Result<ByteStream, DataError> {
    if start == 0 {
        return open(path, name, Compression::None);
    }
    let mut file = File::open(path).map_err(io_error("read", path))?;
    file.seek(SeekFrom::Start(start)).map_err(io_error("read", path))?;
    Ok(BufReader::with_capacity(BUFFER_BYTES, Box::new(file)))
}

/// Bytes in memory as such a stream.
pub fn of_bytes(bytes: Vec<u8>) -> ByteStream {
    BufReader::with_capacity(BUFFER_BYTES, Box::new(io::Cursor::new(bytes)))
}

/// A read error of such a stream as what it means.
pub fn failed(path: &Path, name: &str, compression: Compression, error: io::Error) -> DataError {
    if let Some(bomb) = error.get_ref().and_then(|e| e.downcast_ref::<BombError>()) {
        return DataError::Bomb { file: shown(name), limit: bomb.0.clone() };
    }
    match compression {
        Compression::None => io_error("read", path)(error).into(),
        _ => DataError::Compressed {
            file: shown(name),
            kind: compression.name(),
            problem: shown(&error.to_string()),
        },
    }
}

/// A file that counts what was read of it.
struct Counted {
    file: File,
    read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read(buf)?;
        self.read.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

#[derive(Debug, thiserror::Error)]
#[error("more than {0}")]
struct BombError(String);

/// A decompressor whose output is bounded, in all and per byte read.
struct Bounded<R> {
    inner: R,
    read: Arc<AtomicU64>,
    out: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.out += n as u64;
        if self.out > DATA_DECOMPRESSED_BYTES_MAX {
            return Err(io::Error::other(BombError(format!(
                "{DATA_DECOMPRESSED_BYTES_MAX} bytes"
            ))));
        }
        let by_ratio = self.read.load(Ordering::Relaxed).saturating_mul(DATA_RATIO_MAX);
        if self.out > by_ratio.max(DATA_RATIO_FREE_BYTES) {
            return Err(io::Error::other(BombError(format!("{DATA_RATIO_MAX} times its size"))));
        }
        Ok(n)
    }
}
