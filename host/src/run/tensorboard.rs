//! TensorBoard event files: TFRecords of `tensorflow.Event` messages, written by hand.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::fs::{FsError, io_error};

/// Writes scalars and texts to one event file.
pub struct EventWriter {
    file: File,
    path: PathBuf,
}

/// CRC-32C as TFRecord stores it.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xA282_EAD8)
}

/// A length-delimited record.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut out = length.to_vec();
    out.extend(masked_crc(&length).to_le_bytes());
    out.extend(data);
    out.extend(masked_crc(data).to_le_bytes());
    out
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A field holding bytes (wire type 2).
fn bytes_field(number: u64, bytes: &[u8], out: &mut Vec<u8>) {
    varint(number << 3 | 2, out);
    varint(bytes.len() as u64, out);
    out.extend(bytes);
}

/// A field holding an integer (wire type 0).
fn int_field(number: u64, value: u64, out: &mut Vec<u8>) {
    varint(number << 3, out);
    varint(value, out);
}

/// An event: wall time (field 1, double), step (2), then one of its contents.
fn event(step: u64, content: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let seconds =
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |elapsed| elapsed.as_secs_f64());
    let mut out = vec![1 << 3 | 1];
    out.extend(seconds.to_le_bytes());
    int_field(2, step, &mut out);
    content(&mut out);
    out
}

/// `Summary { value { tag, simple_value } }` in field 5.
fn scalar(tag: &str, value: f32, out: &mut Vec<u8>) {
    let mut inner = Vec::new();
    bytes_field(1, tag.as_bytes(), &mut inner);
    inner.push(2 << 3 | 5);
    inner.extend(value.to_le_bytes());
    let mut summary = Vec::new();
    bytes_field(1, &inner, &mut summary);
    bytes_field(5, &summary, out);
}

/// `Summary { value { tag, metadata { plugin text }, tensor { DT_STRING } } }` in field 5.
fn text(tag: &str, value: &str, out: &mut Vec<u8>) {
    const DT_STRING: u64 = 7;
    let mut tensor = Vec::new();
    int_field(1, DT_STRING, &mut tensor);
    let mut dim = Vec::new();
    int_field(1, 1, &mut dim);
    let mut shape = Vec::new();
    bytes_field(2, &dim, &mut shape);
    bytes_field(2, &shape, &mut tensor);
    bytes_field(8, value.as_bytes(), &mut tensor);
    let mut plugin = Vec::new();
    bytes_field(1, b"text", &mut plugin);
    let mut metadata = Vec::new();
    bytes_field(1, &plugin, &mut metadata);
    let mut inner = Vec::new();
    bytes_field(1, format!("{tag}/text_summary").as_bytes(), &mut inner);
    bytes_field(9, &metadata, &mut inner);
    bytes_field(8, &tensor, &mut inner);
    let mut summary = Vec::new();
    bytes_field(1, &inner, &mut summary);
    bytes_field(5, &summary, out);
}

impl EventWriter {
    /// A new event file in `dir` (made if absent), which a reader shows from `first_step` on:
    /// what older files of the folder hold at or beyond that step is set aside by it.
    ///
    /// # Errors
    /// A file operation.
    pub fn create(dir: &Path, first_step: u64) -> Result<Self, FsError> {
        std::fs::create_dir_all(dir).map_err(io_error("create", dir))?;
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs());
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let pid = std::process::id();
        let path = (0..u32::MAX)
            .map(|n| dir.join(format!("events.out.tfevents.{seconds}.{host}.{pid}.{n}")))
            .find(|p| !p.exists())
            .unwrap_or_else(|| dir.join("events.out.tfevents"));
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(io_error("create", &path))?;
        let mut writer = Self { file, path };
        writer.write(&event(0, |out| bytes_field(3, b"brain.Event:2", out)))?;
        if first_step > 0 {
            // SessionLog { status: START } in field 7.
            let start = event(first_step, |out| bytes_field(7, &[1 << 3, 1], out));
            writer.write(&start)?;
        }
        Ok(writer)
    }

    fn write(&mut self, data: &[u8]) -> Result<(), FsError> {
        // One call a record: a killed run leaves whole records.
        self.file.write_all(&record(data)).map_err(io_error("write", &self.path))
    }

    /// A value at a step.
    ///
    /// # Errors
    /// A full disk.
    pub fn scalar(&mut self, tag: &str, value: f64, step: u64) -> Result<(), FsError> {
        self.write(&event(step, |out| scalar(tag, value as f32, out)))
    }

    /// A text.
    ///
    /// # Errors
    /// A full disk.
    pub fn text(&mut self, tag: &str, value: &str) -> Result<(), FsError> {
        self.write(&event(0, |out| text(tag, value, out)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn crc_is_the_published_one() {
        // The check value of CRC-32C for "123456789".
        assert_eq!(crc32c::crc32c(b"123456789"), 0xE306_9283);
    }

    /// The records of a file, their checksums verified.
    fn records(bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let length = &bytes[at..at + 8];
            let n = u64::from_le_bytes(length.try_into().unwrap()) as usize;
            let crc = |range: std::ops::Range<usize>| {
                u32::from_le_bytes(bytes[range].try_into().unwrap())
            };
            assert_eq!(crc(at + 8..at + 12), masked_crc(length));
            let data = bytes[at + 12..at + 12 + n].to_vec();
            assert_eq!(crc(at + 12 + n..at + 16 + n), masked_crc(&data));
            out.push(data);
            at += 16 + n;
        }
        out
    }

    #[test]
    fn a_scalar_is_laid_out_as_torchs_writer_lays_it() {
        let Some(dir) = crate::test_data("tfevents") else { return };
        let mut reference = Vec::new();
        let mut folders = vec![dir];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                if path.is_dir() {
                    folders.push(path);
                } else if name.contains("tfevents") {
                    reference = records(&std::fs::read(path).unwrap());
                }
            }
        }
        assert!(reference.len() > 1, "no event file in the shared data");
        let version = b"brain.Event:2";
        assert!(reference[0].windows(version.len()).any(|w| w == version));
        // Bytes after the wall time: step, then the summary.
        let theirs = &reference[1];
        let out = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(out.path(), 0).unwrap();
        writer.scalar("loss", 0.5, 3).unwrap();
        let ours = records(&std::fs::read(&writer.path).unwrap());
        assert!(ours[0].ends_with(b"brain.Event:2"));
        assert_eq!(ours[1][0], theirs[0]);
        let mut want = vec![2 << 3, 3, 5 << 3 | 2, 13, 1 << 3 | 2, 11, 1 << 3 | 2, 4];
        want.extend(b"loss");
        want.push(2 << 3 | 5);
        want.extend(0.5f32.to_le_bytes());
        assert_eq!(&ours[1][9..], want);
    }
}
