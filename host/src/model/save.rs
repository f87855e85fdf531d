//! Writing Hugging Face model folders, tensor by tensor.

use std::io::Write;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use safetensors::tensor::{Dtype, Metadata, TensorInfo, View};
use serde_json::{Map, Value, json};

use super::ModelError;
use crate::fs;

/// Default size of a shard, bytes (transformers 4's).
pub const SHARD_BYTES: usize = 5_000_000_000;

/// A tensor to be written: its name, type and shape are known before its values are.
pub struct Entry<'a> {
    /// Name in the file.
    pub name: String,
    /// Type it is written as.
    pub dtype: DType,
    /// Whether its bytes (`DType::U8`) are signed.
    pub signed: bool,
    /// Shape.
    pub shape: Vec<usize>,
    /// Its values, asked for when their turn comes.
    pub tensor: Box<dyn FnOnce() -> Result<Tensor, ModelError> + 'a>,
}

impl<'a> Entry<'a> {
    /// A tensor at hand.
    pub fn of(name: impl Into<String>, tensor: Tensor) -> Self {
        Self {
            name: name.into(),
            dtype: tensor.dtype(),
            signed: false,
            shape: tensor.dims().to_vec(),
            tensor: Box::new(move || Ok(tensor)),
        }
    }

    /// A tensor of `shape` and `dtype` that `make` has when its turn comes.
    pub fn later(
        name: impl Into<String>,
        dtype: DType,
        shape: Vec<usize>,
        make: impl FnOnce() -> Result<Tensor, ModelError> + 'a,
    ) -> Self {
        Self { name: name.into(), dtype, signed: false, shape, tensor: Box::new(make) }
    }

    fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.size_in_bytes()
    }
}

fn file_dtype(dtype: DType) -> Result<Dtype, ModelError> {
    Ok(match dtype {
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        DType::F32 => Dtype::F32,
        DType::F64 => Dtype::F64,
        DType::U8 => Dtype::U8,
        DType::U32 => Dtype::U32,
        DType::I64 => Dtype::I64,
        other => {
            let text = format!("tensors of type {other:?} are not written");
            return Err(candle_core::Error::Msg(text).into());
        }
    })
}

/// Writes one safetensors file whole or not at all, `__metadata__` = `{"format": "pt"}` and
/// `extra`. Only one tensor's values are in memory at a time.
///
/// # Errors
/// A full disk and the like; then no file of that name appears.
pub fn write_safetensors(
    path: &Path,
    entries: Vec<Entry<'_>>,
    extra: &[(&str, String)],
) -> Result<(), ModelError> {
    let mut offset = 0;
    let mut infos = Vec::with_capacity(entries.len());
    for entry in &entries {
        let end = offset + entry.bytes();
        let info = TensorInfo {
            dtype: if entry.signed { Dtype::I8 } else { file_dtype(entry.dtype)? },
            shape: entry.shape.clone(),
            data_offsets: (offset, end),
        };
        infos.push((entry.name.clone(), info));
        offset = end;
    }
    let header =
        header(infos, extra).map_err(|reason| ModelError::Weights { path: path.into(), reason })?;
    let mut failed = None;
    let written = fs::write_atomic_with(path, |out| {
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(header.as_bytes())?;
        for entry in entries {
            let (dtype, shape) = (entry.dtype, entry.shape.clone());
            let tensor = match (entry.tensor)()
                .and_then(|t| Ok(t.to_device(&Device::Cpu)?.to_dtype(dtype)?.contiguous()?))
            {
                Ok(tensor) if tensor.dims() == shape => tensor,
                Ok(tensor) => {
                    let text = format!("`{}` became {:?}", entry.name, tensor.dims());
                    failed = Some(candle_core::Error::Msg(text).into());
                    return Err(std::io::ErrorKind::InvalidData.into());
                }
                Err(e) => {
                    failed = Some(e);
                    return Err(std::io::ErrorKind::InvalidData.into());
                }
            };
            out.write_all(&tensor.data())?;
        }
        Ok(())
    });
    match failed {
        Some(e) => Err(e),
        None => Ok(written?),
    }
}

/// The header, padded so that the data begin at a multiple of eight; `__metadata__` sorted.
fn header(infos: Vec<(String, TensorInfo)>, extra: &[(&str, String)]) -> Result<String, String> {
    let tensors: Vec<(String, Value)> = infos
        .iter()
        .map(|(name, info)| Ok((name.clone(), serde_json::to_value(info)?)))
        .collect::<Result<_, serde_json::Error>>()
        .map_err(|e| e.to_string())?;
    // The crate's own check of names, offsets and shapes.
    Metadata::new(None, infos).map_err(|e| e.to_string())?;
    let mut metadata = std::collections::BTreeMap::from([("format", "pt".to_string())]);
    metadata.extend(extra.iter().map(|(k, v)| (*k, v.clone())));
    let mut map = Map::new();
    map.insert("__metadata__".into(), json!(metadata));
    map.extend(tensors);
    let mut text = Value::Object(map).to_string();
    while !text.len().is_multiple_of(8) {
        text.push(' ');
    }
    Ok(text)
}

/// Writes a model's weights into `dir`: `model.safetensors`, or shards with their index when
/// there are more than `shard_bytes`.
///
/// # Errors
/// As [`write_safetensors`].
pub fn write_weights(
    dir: &Path,
    entries: Vec<Entry<'_>>,
    shard_bytes: usize,
) -> Result<(), ModelError> {
    let total: usize = entries.iter().map(Entry::bytes).sum();
    if total <= shard_bytes {
        return write_safetensors(&dir.join("model.safetensors"), entries, &[]);
    }
    let parameters: usize = entries.iter().map(|e| e.shape.iter().product::<usize>()).sum();
    let mut shards: Vec<Vec<Entry<'_>>> = vec![Vec::new()];
    let mut filled = 0;
    for entry in entries {
        let bytes = entry.bytes();
        if filled > 0 && filled + bytes > shard_bytes {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += bytes;
        if let Some(last) = shards.last_mut() {
            last.push(entry);
        }
    }
    let count = shards.len();
    let mut weight_map = std::collections::BTreeMap::new();
    for (i, shard) in shards.into_iter().enumerate() {
        let name = format!("model-{:05}-of-{count:05}.safetensors", i + 1);
        weight_map.extend(shard.iter().map(|e| (e.name.clone(), name.clone())));
        write_safetensors(&dir.join(&name), shard, &[])?;
    }
    let index = json!({
        "metadata": {"total_parameters": parameters, "total_size": total},
        "weight_map": weight_map,
    });
    write_json(&dir.join("model.safetensors.index.json"), &index, 2)
}

/// JSON with the given indentation and a final newline, whole or not at all.
///
/// # Errors
/// A full disk and the like.
pub fn write_json(path: &Path, value: &Value, indent: usize) -> Result<(), ModelError> {
    let spaces = vec![b' '; indent];
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(&spaces);
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
    serde::Serialize::serialize(value, &mut serializer)
        .map_err(|e| ModelError::Weights { path: path.into(), reason: e.to_string() })?;
    bytes.push(b'\n');
    Ok(fs::write_atomic(path, &bytes)?)
}

/// The configuration to save beside weights of `dtype`: the base's own, changed only in what
/// changed.
pub fn config_for(raw: &Map<String, Value>, dtype: DType, vocab_size: usize) -> Value {
    let mut raw = raw.clone();
    let name = match dtype {
        DType::BF16 => "bfloat16",
        DType::F16 => "float16",
        _ => "float32",
    };
    let key = if raw.contains_key("dtype") { "dtype" } else { "torch_dtype" };
    raw.insert(key.into(), name.into());
    raw.insert("vocab_size".into(), vocab_size.into());
    // It described how the base's matrices were stored; these are whole.
    raw.remove("quantization_config");
    Value::Object(raw)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::model::reader::WeightFiles;
    use candle_core::Device;

    fn entries() -> Vec<Entry<'static>> {
        (0..5)
            .map(|i| {
                let values: Vec<f32> = (0..6).map(|j| (i * 10 + j) as f32).collect();
                Entry::of(format!("t{i}"), Tensor::from_vec(values, (2, 3), &Device::Cpu).unwrap())
            })
            .collect()
    }

    #[test]
    fn shards_and_one_file_read_back_the_same() {
        let one = tempfile::tempdir().unwrap();
        let many = tempfile::tempdir().unwrap();
        write_weights(one.path(), entries(), SHARD_BYTES).unwrap();
        write_weights(many.path(), entries(), 50).unwrap();
        assert!(many.path().join("model-00003-of-00003.safetensors").is_file());
        let (a, b) =
            (WeightFiles::open(one.path()).unwrap(), WeightFiles::open(many.path()).unwrap());
        for i in 0..5 {
            let read =
                |f: &WeightFiles| f.read(&format!("t{i}")).unwrap().to_vec2::<f32>().unwrap();
            assert_eq!(read(&a), read(&b));
            assert_eq!(read(&a)[1][2], (i * 10 + 5) as f32);
        }
    }

    #[test]
    fn a_tensor_that_fails_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let mut list = entries();
        let lost = || Err(candle_core::Error::Msg("lost".into()).into());
        list.push(Entry::later("bad", DType::F32, vec![1], lost));
        let error = write_weights(dir.path(), list, SHARD_BYTES).unwrap_err();
        assert!(error.to_string().contains("lost"), "{error}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
