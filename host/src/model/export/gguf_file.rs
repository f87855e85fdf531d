//! Writing GGUF files, version 3 (llama.cpp's `docs/gguf.md`): metadata, then tensors one by one, each
//! on a border of 32 bytes.

use std::io::Write;
use std::path::Path;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Tensor};
use safetensors::tensor::View;

use crate::fs;
use crate::model::ModelError;

const MAGIC: &[u8; 4] = b"GGUF";
const VERSION: u32 = 3;
const ALIGNMENT: u64 = 32;

/// A value of the metadata.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A count or an id.
    U32(u32),
    /// A number.
    F32(f32),
    /// True or false.
    Bool(bool),
    /// A text.
    Text(String),
    /// Texts.
    Texts(Vec<String>),
    /// Numbers.
    Floats(Vec<f32>),
    /// Kinds of tokens.
    Ints(Vec<i32>),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::Text(text.into())
    }
}

impl Value {
    /// The number by which the file names the type.
    fn type_id(&self) -> u32 {
        match self {
            Value::U32(_) => 4,
            Value::F32(_) => 6,
            Value::Bool(_) => 7,
            Value::Text(_) => 8,
            Value::Texts(_) | Value::Floats(_) | Value::Ints(_) => 9,
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        fn list<T>(out: &mut Vec<u8>, kind: u32, items: &[T], write: impl Fn(&mut Vec<u8>, &T)) {
            out.extend(kind.to_le_bytes());
            out.extend((items.len() as u64).to_le_bytes());
            items.iter().for_each(|item| write(out, item));
        }
        match self {
            Value::U32(n) => out.extend(n.to_le_bytes()),
            Value::F32(x) => out.extend(x.to_le_bytes()),
            Value::Bool(b) => out.push(u8::from(*b)),
            Value::Text(t) => text(out, t),
            Value::Texts(list_of) => list(out, 8, list_of, |out, t| text(out, t)),
            Value::Floats(list_of) => list(out, 6, list_of, |out, x| out.extend(x.to_le_bytes())),
            Value::Ints(list_of) => list(out, 5, list_of, |out, n| out.extend(n.to_le_bytes())),
        }
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// Metadata in the order in which they are written.
pub type Metadata = Vec<(String, Value)>;

/// How a tensor is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// 32 bits.
    F32,
    /// 16 bits.
    F16,
    /// 16 bits with the range of f32.
    Bf16,
    /// Blocks of 32 values in 8 bits.
    Q8_0,
    /// Blocks of 32 values in 4 bits.
    Q4_0,
    /// Blocks of 256 values in 4 bits, with scales and minima of their eighths.
    Q4K,
    /// The same in 5 bits.
    Q5K,
    /// Blocks of 256 values in 6 bits, with scales of their sixteenths.
    Q6K,
}

impl Storage {
    fn type_id(self) -> u32 {
        match self {
            Storage::F32 => 0,
            Storage::F16 => 1,
            Storage::Q4_0 => 2,
            Storage::Q8_0 => 8,
            Storage::Q4K => 12,
            Storage::Q5K => 13,
            Storage::Q6K => 14,
            Storage::Bf16 => 30,
        }
    }

    /// Values of a block and its bytes.
    fn block(self) -> (usize, usize) {
        match self {
            Storage::F32 => (1, 4),
            Storage::F16 | Storage::Bf16 => (1, 2),
            Storage::Q8_0 => (32, 34),
            Storage::Q4_0 => (32, 18),
            Storage::Q4K => (256, 144),
            Storage::Q5K => (256, 176),
            Storage::Q6K => (256, 210),
        }
    }

    /// The storage of rows of `width` values: this one where they are whole blocks, else a wider one.
    pub fn fitting(self, width: usize) -> Self {
        let fits = |s: &Self| width.is_multiple_of(s.block().0);
        [self, Storage::Q8_0].into_iter().find(fits).unwrap_or(Storage::F16)
    }

    fn bytes(self, shape: &[usize]) -> u64 {
        let (values, bytes) = self.block();
        (shape.iter().product::<usize>() / values * bytes) as u64
    }

    /// The bytes of a tensor.
    fn encode(self, tensor: &Tensor) -> candle_core::Result<Vec<u8>> {
        let plain = |dtype| Ok(tensor.to_dtype(dtype)?.contiguous()?.data().to_vec());
        let blocks = |dtype| -> candle_core::Result<Vec<u8>> {
            let wide = tensor.to_dtype(DType::F32)?.contiguous()?;
            Ok(QTensor::quantize(&wide, dtype)?.data()?.into_owned())
        };
        match self {
            Storage::F32 => plain(DType::F32),
            Storage::F16 => plain(DType::F16),
            Storage::Bf16 => plain(DType::BF16),
            Storage::Q8_0 => blocks(GgmlDType::Q8_0),
            Storage::Q4_0 => blocks(GgmlDType::Q4_0),
            Storage::Q4K => blocks(GgmlDType::Q4K),
            Storage::Q5K => blocks(GgmlDType::Q5K),
            Storage::Q6K => blocks(GgmlDType::Q6K),
        }
    }
}

/// A tensor to be written; its values are asked for when their turn comes.
pub struct Entry<'a> {
    /// Name.
    pub name: String,
    /// Shape, rows first.
    pub shape: Vec<usize>,
    /// How it is stored.
    pub storage: Storage,
    /// Its values.
    pub tensor: Box<dyn FnOnce() -> Result<Tensor, ModelError> + 'a>,
}

/// Writes a file whole or not at all.
///
/// # Errors
/// A full disk, or a tensor whose values can't be had.
pub fn write(path: &Path, metadata: &Metadata, entries: Vec<Entry<'_>>) -> Result<(), ModelError> {
    let mut head = Vec::new();
    head.extend(MAGIC);
    head.extend(VERSION.to_le_bytes());
    head.extend((entries.len() as u64).to_le_bytes());
    head.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        text(&mut head, key);
        head.extend(value.type_id().to_le_bytes());
        value.write(&mut head);
    }
    let mut offset = 0u64;
    for entry in &entries {
        text(&mut head, &entry.name);
        head.extend((entry.shape.len() as u32).to_le_bytes());
        // The fastest dimension comes first.
        entry.shape.iter().rev().for_each(|&d| head.extend((d as u64).to_le_bytes()));
        head.extend(entry.storage.type_id().to_le_bytes());
        head.extend(offset.to_le_bytes());
        offset += entry.storage.bytes(&entry.shape).next_multiple_of(ALIGNMENT);
    }
    head.resize(head.len().next_multiple_of(ALIGNMENT as usize), 0);
    let mut failed = None;
    let written = fs::write_atomic_with(path, |out| {
        out.write_all(&head)?;
        for Entry { name, shape, storage, tensor } in entries {
            let bytes = tensor().and_then(|t| match t.dims() == shape {
                true => Ok(storage.encode(&t)?),
                false => {
                    let text = format!("`{name}` became {:?}", t.dims());
                    Err(candle_core::Error::Msg(text).into())
                }
            });
            let mut bytes = match bytes {
                Ok(bytes) => bytes,
                Err(e) => {
                    failed = Some(e);
                    return Err(std::io::ErrorKind::InvalidData.into());
                }
            };
            bytes.resize(bytes.len().next_multiple_of(ALIGNMENT as usize), 0);
            out.write_all(&bytes)?;
        }
        Ok(())
    });
    match failed {
        Some(e) => Err(e),
        None => Ok(written?),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use candle_core::Device;
    use candle_core::quantized::gguf_file::Content;

    #[test]
    fn what_is_written_is_read_by_another_reader() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.gguf");
        let values: Vec<f32> = (0..512).map(|i| (i % 192) as f32 / 7.0 - 13.0).collect();
        let tensor = Tensor::from_vec(values.clone(), (2, 256), &Device::Cpu).unwrap();
        let storages = [
            Storage::F32,
            Storage::F16,
            Storage::Bf16,
            Storage::Q8_0,
            Storage::Q4_0,
            Storage::Q4K,
            Storage::Q5K,
            Storage::Q6K,
        ];
        let entries = storages.into_iter().enumerate().map(|(i, storage)| {
            let tensor = tensor.clone();
            let tensor = Box::new(move || Ok(tensor));
            Entry { name: format!("t{i}"), shape: vec![2, 256], storage, tensor }
        });
        let metadata: Metadata = vec![
            ("a".into(), Value::U32(7)),
            ("b".into(), Value::F32(0.5)),
            ("c".into(), Value::Bool(true)),
            ("d".into(), "text".into()),
            ("e".into(), Value::Texts(vec!["x".into(), "yz".into()])),
            ("f".into(), Value::Floats(vec![1.0, -2.0])),
            ("g".into(), Value::Ints(vec![1, 3])),
        ];
        write(&path, &metadata, entries.collect()).unwrap();
        let mut file = std::fs::File::open(&path).unwrap();
        let content = Content::read(&mut file).unwrap();
        assert_eq!(content.metadata["a"].to_u32().unwrap(), 7);
        assert_eq!(content.metadata["b"].to_f32().unwrap(), 0.5);
        assert!(content.metadata["c"].to_bool().unwrap());
        assert_eq!(content.metadata["d"].to_string().unwrap(), "text");
        assert_eq!(content.metadata["e"].to_vec().unwrap()[1].to_string().unwrap(), "yz");
        assert_eq!(content.metadata["f"].to_vec().unwrap()[1].to_f32().unwrap(), -2.0);
        assert_eq!(content.metadata["g"].to_vec().unwrap()[1].to_i32().unwrap(), 3);
        // A step of the largest value: 14 in 8 bits of mantissa, 127 and 8 steps; within a range of 32
        // values 15 and 31 steps, of 16 values 32 steps.
        let tolerances = [0.0, 0.01, 0.06, 0.12, 2.0, 0.7, 0.4, 0.5];
        for (i, tolerance) in tolerances.into_iter().enumerate() {
            let read = content.tensor(&mut file, &format!("t{i}"), &Device::Cpu).unwrap();
            let read = read.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap();
            for (got, want) in read.to_vec1::<f32>().unwrap().iter().zip(&values) {
                assert!((got - want).abs() <= tolerance, "t{i}: {got} {want}");
            }
        }
    }

    #[test]
    fn rows_that_are_no_whole_blocks_are_stored_wider() {
        assert_eq!(Storage::Q4K.fitting(512), Storage::Q4K);
        assert_eq!(Storage::Q4K.fitting(576), Storage::Q8_0);
        assert_eq!(Storage::Q4_0.fitting(100), Storage::F16);
        assert_eq!(Storage::F32.fitting(100), Storage::F32);
    }

    #[test]
    fn a_tensor_that_fails_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.gguf");
        let tensor = Box::new(|| Err(candle_core::Error::Msg("lost".into()).into()));
        let entry = Entry { name: "t".into(), shape: vec![1], storage: Storage::F32, tensor };
        assert!(write(&path, &Vec::new(), vec![entry]).unwrap_err().to_string().contains("lost"));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
