//! Tensors of a model folder, one at a time: safetensors (one file or shards with an index),
//! PyTorch's `.bin`, by a reader that executes nothing, and GGUF.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use candle_core::pickle::PthTensors;
use candle_core::quantized::GgmlDType;
use candle_core::{DType, Device, Tensor};
use safetensors::tensor::{Dtype, Metadata, TensorInfo};

use super::ModelError;
use super::gguf::{self, GgufFile};
use crate::ops::quant::Quantized;
use crate::{fs, limits};

/// Largest safetensors header, bytes.
const HEADER_BYTES_MAX: u64 = 32 << 20;

/// One safetensors file, its header checked, its data read on demand (never mapped: a file cut
/// short by somebody else is then an error and not a signal).
pub struct SafetensorsFile {
    path: PathBuf,
    file: File,
    data_start: u64,
    metadata: Metadata,
}

impl SafetensorsFile {
    /// Opens and checks `path`.
    ///
    /// # Errors
    /// [`ModelError::Weights`] when the header or the length is wrong.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let damaged = |reason: String| ModelError::Weights { path: path.into(), reason };
        let file = File::open(path).map_err(fs::io_error("read", path))?;
        let length = file.metadata().map_err(fs::io_error("read", path))?.len();
        let mut size = [0u8; 8];
        if length < 8 {
            return Err(damaged(format!("it has {length} bytes, fewer than a header")));
        }
        file.read_exact_at(&mut size, 0).map_err(fs::io_error("read", path))?;
        let header_bytes = u64::from_le_bytes(size);
        if header_bytes > HEADER_BYTES_MAX || header_bytes > length - 8 {
            return Err(damaged(format!(
                "its header claims {header_bytes} bytes in a file of {length}"
            )));
        }
        let mut header = vec![0u8; header_bytes as usize];
        file.read_exact_at(&mut header, 8).map_err(fs::io_error("read", path))?;
        let metadata: Metadata = serde_json::from_slice(&header)
            .map_err(|e| damaged(format!("its header is wrong ({e})")))?;
        let end = metadata.tensors().values().map(|t| t.data_offsets.1 as u64).max().unwrap_or(0);
        let data_start = 8 + header_bytes;
        if data_start + end != length {
            return Err(damaged(format!(
                "its tensors need {} bytes and it has {length}",
                data_start + end
            )));
        }
        Ok(Self { path: path.into(), file, data_start, metadata })
    }

    /// Names of its tensors, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.metadata.tensors().into_keys().collect();
        names.sort();
        names
    }

    /// The text that belongs to `key` in its `__metadata__`.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.metadata().as_ref()?.get(key).map(String::as_str)
    }

    /// One tensor in its own type.
    ///
    /// # Errors
    /// [`ModelError::Weights`] when it is absent or of a type that holds no weights.
    pub fn read(&self, name: &str) -> Result<Tensor, ModelError> {
        let damaged = |reason: String| ModelError::Weights { path: self.path.clone(), reason };
        let info = self
            .metadata
            .info(name)
            .ok_or_else(|| damaged(format!("it has no tensor `{name}`")))?;
        let dtype = match info.dtype {
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            Dtype::F32 => DType::F32,
            Dtype::F64 => DType::F64,
            Dtype::U32 => DType::U32,
            Dtype::I64 => DType::I64,
            Dtype::U8 => DType::U8,
            other => {
                return Err(damaged(format!("tensor `{name}` has type {other:?}, not a float")));
            }
        };
        Ok(Tensor::from_raw_buffer(&self.bytes(info)?, dtype, &info.shape, &Device::Cpu)?)
    }

    /// Values and shape of a tensor of signed bytes; `None` for one that is absent or of another type.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn read_i8(&self, name: &str) -> Result<Option<(Vec<i8>, Vec<usize>)>, ModelError> {
        match self.metadata.info(name) {
            Some(info) if info.dtype == Dtype::I8 => {
                let values = self.bytes(info)?.into_iter().map(|b| b as i8).collect();
                Ok(Some((values, info.shape.clone())))
            }
            _ => Ok(None),
        }
    }

    fn bytes(&self, info: &TensorInfo) -> Result<Vec<u8>, ModelError> {
        let (start, end) = info.data_offsets;
        let mut bytes = vec![0u8; end - start];
        self.file
            .read_exact_at(&mut bytes, self.data_start + start as u64)
            .map_err(fs::io_error("read", &self.path))?;
        Ok(bytes)
    }
}

enum Source {
    Safetensors(SafetensorsFile),
    Pickle(PathBuf, PthTensors),
    Gguf(Box<GgufFile>),
}

/// All tensors of a model folder.
pub struct WeightFiles {
    sources: Vec<Source>,
    by_name: BTreeMap<String, usize>,
    dir: PathBuf,
}

impl WeightFiles {
    /// Opens the weight files of `dir`.
    ///
    /// # Errors
    /// [`ModelError::NotAModel`] when there are none; [`ModelError::Weights`] for damaged ones.
    pub fn open(dir: &Path) -> Result<Self, ModelError> {
        let mut files = Self { sources: Vec::new(), by_name: BTreeMap::new(), dir: dir.into() };
        if gguf::is_file(dir) {
            files.add(dir)?;
            return Ok(files);
        }
        for (single, index) in [
            ("model.safetensors", "model.safetensors.index.json"),
            ("pytorch_model.bin", "pytorch_model.bin.index.json"),
        ] {
            if dir.join(index).is_file() {
                for name in shard_names(&dir.join(index))? {
                    files.add(&fs::confine(dir, &name)?)?;
                }
                return Ok(files);
            }
            if dir.join(single).is_file() {
                files.add(&dir.join(single))?;
                return Ok(files);
            }
        }
        if dir.join(gguf::IN_FOLDER).is_file() {
            files.add(&dir.join(gguf::IN_FOLDER))?;
            return Ok(files);
        }
        Err(ModelError::NotAModel { path: dir.into(), missing: "model.safetensors" })
    }

    fn add(&mut self, path: &Path) -> Result<(), ModelError> {
        let index = self.sources.len();
        let (names, source) = open_source(path)?;
        for name in names {
            if self.by_name.insert(name.clone(), index).is_some() {
                return Err(ModelError::Weights {
                    path: path.into(),
                    reason: format!("tensor `{name}` is in two files"),
                });
            }
        }
        self.sources.push(source);
        Ok(())
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }

    /// Whether there is such a tensor.
    pub fn contains(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// Bytes of a tensor as it is stored; 0 for one that is absent or in a pickle.
    pub fn stored_bytes(&self, name: &str) -> usize {
        match self.by_name.get(name).map(|&index| &self.sources[index]) {
            Some(Source::Safetensors(file)) => {
                file.metadata.info(name).map_or(0, |i| i.data_offsets.1 - i.data_offsets.0)
            }
            Some(Source::Gguf(file)) => file.stored_bytes(name),
            _ => 0,
        }
    }

    /// Whether a tensor is stored in signed bytes.
    pub fn is_i8(&self, name: &str) -> bool {
        match self.by_name.get(name).map(|&index| &self.sources[index]) {
            Some(Source::Safetensors(file)) => {
                file.metadata.info(name).is_some_and(|i| i.dtype == Dtype::I8)
            }
            _ => false,
        }
    }

    /// Whether a matrix is stored in GGUF's blocks, and which.
    pub fn blocks(&self, name: &str) -> Option<GgmlDType> {
        match self.by_name.get(name).map(|&index| &self.sources[index]) {
            Some(Source::Gguf(file)) => file.blocks(name),
            _ => None,
        }
    }

    /// As [`SafetensorsFile::read_i8`].
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn read_i8(&self, name: &str) -> Result<Option<(Vec<i8>, Vec<usize>)>, ModelError> {
        match self.by_name.get(name).map(|&index| &self.sources[index]) {
            Some(Source::Safetensors(file)) => file.read_i8(name),
            _ => Ok(None),
        }
    }

    /// A matrix in GGUF's blocks; `None` for one that is stored otherwise.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn read_blocks(&self, name: &str) -> Result<Option<Quantized>, ModelError> {
        match self.by_name.get(name).map(|&index| &self.sources[index]) {
            Some(Source::Gguf(file)) => file.read_blocks(name),
            _ => Ok(None),
        }
    }

    /// One tensor in its own type; f32 out of GGUF.
    ///
    /// # Errors
    /// [`ModelError::Weights`] when it is absent or can't be read.
    pub fn read(&self, name: &str) -> Result<Tensor, ModelError> {
        let Some(&index) = self.by_name.get(name) else {
            let reason = format!("it has no tensor `{name}`");
            return Err(ModelError::Weights { path: self.dir.clone(), reason });
        };
        read_source(&self.sources[index], name)
    }
}

fn open_source(path: &Path) -> Result<(Vec<String>, Source), ModelError> {
    if gguf::is_file(path) {
        let file = GgufFile::open(path)?;
        let names = file.names().map(str::to_string).collect();
        return Ok((names, Source::Gguf(Box::new(file))));
    }
    if path.extension().is_some_and(|e| e == "bin") {
        let tensors = pickle(path)?;
        let names = tensors.tensor_infos().keys().cloned().collect();
        return Ok((names, Source::Pickle(path.into(), tensors)));
    }
    let file = SafetensorsFile::open(path)?;
    Ok((file.names(), Source::Safetensors(file)))
}

fn read_source(source: &Source, name: &str) -> Result<Tensor, ModelError> {
    match source {
        Source::Safetensors(file) => file.read(name),
        Source::Gguf(file) => file.read(name),
        Source::Pickle(path, tensors) => {
            let damaged = |reason: String| ModelError::Weights { path: path.clone(), reason };
            tensors
                .get(name)
                .map_err(|e| damaged(format!("tensor `{name}`: {e}")))?
                .ok_or_else(|| damaged(format!("it has no tensor `{name}`")))
        }
    }
}

/// PyTorch's zip of pickles. The reader knows tensors and containers only; anything else in the
/// file is an error.
fn pickle(path: &Path) -> Result<PthTensors, ModelError> {
    let damaged = |reason: String| ModelError::Weights { path: path.into(), reason };
    // The reader is not ours, and the file may come from anywhere.
    match std::panic::catch_unwind(|| PthTensors::new(path, None)) {
        Ok(Ok(tensors)) => Ok(tensors),
        Ok(Err(e)) => Err(damaged(format!("not a PyTorch weight file ({e})"))),
        Err(_) => Err(damaged("not a PyTorch weight file".into())),
    }
}

/// Reads every tensor of one `.safetensors` or `.bin` file.
///
/// # Errors
/// [`ModelError::Weights`].
pub fn read_all(path: &Path) -> Result<BTreeMap<String, Tensor>, ModelError> {
    let (names, source) = open_source(path)?;
    names
        .into_iter()
        .map(|name| {
            let tensor = read_source(&source, &name)?;
            Ok((name, tensor))
        })
        .collect()
}

fn shard_names(index: &Path) -> Result<Vec<String>, ModelError> {
    let bytes = fs::read_limited(index, limits::WEIGHT_INDEX_BYTES_MAX)?;
    let damaged = |reason: String| ModelError::Weights { path: index.into(), reason };
    let value: serde_json::Value =
        serde_json::from_slice(&bytes).map_err(|e| damaged(format!("it is not JSON ({e})")))?;
    let map = value
        .get("weight_map")
        .and_then(|m| m.as_object())
        .ok_or_else(|| damaged("it has no `weight_map`".into()))?;
    let mut names = std::collections::BTreeSet::new();
    for (tensor, file) in map {
        let file = file.as_str().ok_or_else(|| {
            damaged(format!("`{}` has no file name", crate::error::excerpt(tensor)))
        })?;
        names.insert(file.to_string());
    }
    if names.is_empty() {
        return Err(damaged("its `weight_map` is empty".into()));
    }
    Ok(names.into_iter().collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn file_with(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        std::fs::write(&path, bytes).unwrap();
        (dir, path)
    }

    fn with_header(header: &str, data: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    }

    #[test]
    fn a_sound_file_is_read() {
        let header = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
        let (_dir, path) = file_with(&with_header(header, 8));
        let file = SafetensorsFile::open(&path).unwrap();
        assert_eq!(file.read("a").unwrap().to_vec1::<f32>().unwrap(), [0.0, 0.0]);
        assert!(file.read("b").is_err());
    }

    #[test]
    fn damaged_files_are_refused() {
        let tensor = |dtype: &str, shape: &str, offsets: &str| {
            format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
        };
        let cases: Vec<Vec<u8>> = vec![
            vec![],
            vec![0; 7],
            u64::MAX.to_le_bytes().to_vec(),
            (1u64 << 40).to_le_bytes().to_vec(),
            with_header("not json", 0),
            with_header("[]", 0),
            with_header(&tensor("F32", "[2]", "[0,8]"), 7),
            with_header(&tensor("F32", "[2]", "[0,8]"), 9),
            with_header(&tensor("F32", "[3]", "[0,8]"), 8),
            with_header(&tensor("F32", "[2]", "[8,0]"), 8),
            with_header(&tensor("F32", "[2]", "[4,12]"), 12),
            with_header(&tensor("F99", "[2]", "[0,8]"), 8),
            with_header(&tensor("F32", "[-2]", "[0,8]"), 8),
            with_header(&tensor("F32", "[18446744073709551615,18446744073709551615]", "[0,8]"), 8),
        ];
        for (i, bytes) in cases.iter().enumerate() {
            let (_dir, path) = file_with(bytes);
            let error = SafetensorsFile::open(&path).err().unwrap_or_else(|| panic!("case {i}"));
            assert!(error.to_string().contains("download or convert it again"), "{error}");
        }
    }

    #[test]
    fn an_index_can_not_leave_its_folder() {
        let dir = tempfile::tempdir().unwrap();
        let index = dir.path().join("model.safetensors.index.json");
        for bad in ["../x.safetensors", "/etc/passwd"] {
            std::fs::write(&index, format!(r#"{{"weight_map":{{"a":"{bad}"}}}}"#)).unwrap();
            let error = WeightFiles::open(dir.path()).err().unwrap();
            assert!(error.to_string().contains("leaves its folder"), "{error}");
        }
    }
}
