//! GGUF files: tensors under Hugging Face's names, matrices in the file's own blocks; configuration from
//! the metadata, tokenizer from `tokenizer.ggml.*`; and a whole file as a Hugging Face folder.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::{Content, TensorInfo, Value};
use candle_core::{DType, Device, Tensor};
use serde_json::{Map, json};

use super::projection::Projection;
use super::save::{Entry, SHARD_BYTES, config_for, write_json, write_weights};
use super::slots::{NormPlace, Slot};
use super::{HfConfig, ModelError};
use crate::fs::{AtomicDir, io_error};
use crate::ops::quant::{Blocks, Quantized};
use crate::text::conversion;

mod configuration;
mod metadata;

use metadata::Metadata;

pub use crate::text::conversion::gguf::is_file;

/// Name of a GGUF file that stands in a model folder for its weights.
pub const IN_FOLDER: &str = "model.gguf";

/// The tensor's name in a GGUF file.
pub(crate) fn gguf_name(slot: Slot) -> String {
    let projection = |p: Projection| match p {
        Projection::Q => "attn_q",
        Projection::K => "attn_k",
        Projection::V => "attn_v",
        Projection::Qkv => "attn_qkv",
        Projection::O => "attn_output",
        Projection::Gate => "ffn_gate",
        Projection::Up | Projection::GateUp => "ffn_up",
        Projection::Down => "ffn_down",
    };
    let norm = |place: NormPlace| match place {
        NormPlace::Input => "attn_norm",
        NormPlace::Query => "attn_q_norm",
        NormPlace::Key => "attn_k_norm",
        NormPlace::AttentionOutput => "post_attention_norm",
        NormPlace::Mlp => "ffn_norm",
        NormPlace::MlpOutput => "post_ffw_norm",
    };
    match slot {
        Slot::Embed => "token_embd.weight".into(),
        Slot::Positions => "position_embd.weight".into(),
        Slot::EmbedNorm => "token_embd_norm.weight".into(),
        Slot::EmbedNormBias => "token_embd_norm.bias".into(),
        Slot::FinalNorm => "output_norm.weight".into(),
        Slot::FinalNormBias => "output_norm.bias".into(),
        Slot::LmHead => "output.weight".into(),
        Slot::Norm(l, place) => format!("blk.{l}.{}.weight", norm(place)),
        Slot::NormBias(l, place) => format!("blk.{l}.{}.bias", norm(place)),
        Slot::Weight(l, p) => format!("blk.{l}.{}.weight", projection(p)),
        Slot::Bias(l, p) => format!("blk.{l}.{}.bias", projection(p)),
        // Files hold all experts of a layer in one tensor; families with experts are not imported.
        Slot::Router(l) => format!("blk.{l}.ffn_gate_inp.weight"),
        Slot::Expert(l, e, p) => format!("blk.{l}.{}.{e}.weight", projection(p)),
    }
}

/// The row of a GGUF file that holds row `row` of LLaMA's queries or keys: llama.cpp has the halves of
/// each rotation pair side by side, Hugging Face the two halves of a head one after the other.
fn permuted_row(row: usize, rows: usize, heads: usize) -> usize {
    let head_dim = rows / heads;
    let (head, within) = (row / head_dim, row % head_dim);
    let (half, i) = (within / (head_dim / 2), within % (head_dim / 2));
    head * head_dim + 2 * i + half
}

/// An open file whose metadata were found sound.
pub struct GgufFile {
    path: PathBuf,
    file: File,
    content: Content,
    architecture: String,
    /// The model's configuration.
    pub config: HfConfig,
    by_name: BTreeMap<String, Slot>,
}

impl GgufFile {
    /// Opens `path` and checks that every tensor of its architecture is there, in the right shape.
    ///
    /// # Errors
    /// [`ModelError::Gguf`] for a damaged file or an architecture that is not supported.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let fault = |reason: String| ModelError::Gguf { path: path.into(), reason };
        let file = File::open(path).map_err(io_error("read", path))?;
        let content = Content::read(&mut BufReader::new(&file)).map_err(|e| {
            let reason = crate::error::excerpt(&e.to_string());
            fault(format!("it is not a sound GGUF file ({reason}); download it again"))
        })?;
        let architecture = match content.metadata.get("general.architecture").map(Value::to_string)
        {
            Some(Ok(name)) => name.clone(),
            _ => {
                let reason = "its metadata name no architecture; convert the model again";
                return Err(fault(reason.into()));
            }
        };
        let metadata = Metadata { path, content: &content, architecture: &architecture };
        let raw = configuration::configuration(&metadata)?;
        let config = HfConfig::parse(raw).map_err(|faults| fault(faults.join("; ")))?;
        let spec = &config.spec;
        let by_name = Slot::all(spec).into_iter().map(|slot| (slot.name(spec), slot)).collect();
        let out = Self { path: path.into(), file, content, architecture, by_name, config };
        for &slot in out.by_name.values() {
            let (info, shape) = (out.info(slot)?, slot.shape(&out.config.spec));
            if info.shape.dims() != shape {
                return Err(out.fault(format!(
                    "tensor `{}` has shape {:?}, expected {shape:?}; convert the model again",
                    gguf_name(slot),
                    info.shape.dims()
                )));
            }
        }
        Ok(out)
    }

    fn fault(&self, reason: String) -> ModelError {
        ModelError::Gguf { path: self.path.clone(), reason }
    }

    /// Names of its tensors as Hugging Face's files have them, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }

    fn slot(&self, name: &str) -> Result<Slot, ModelError> {
        let slot = self.by_name.get(name).copied();
        slot.ok_or_else(|| self.fault(format!("it has no tensor `{name}`")))
    }

    fn info(&self, slot: Slot) -> Result<&TensorInfo, ModelError> {
        let name = gguf_name(slot);
        self.content.tensor_infos.get(&name).ok_or_else(|| {
            self.fault(format!("tensor `{name}` is missing; convert the model again"))
        })
    }

    /// Bytes of a tensor as it is stored; 0 for one that is absent.
    pub fn stored_bytes(&self, name: &str) -> usize {
        let info = self.slot(name).and_then(|slot| self.info(slot));
        info.map_or(0, |i| {
            i.shape.elem_count() / i.ggml_dtype.block_size() * i.ggml_dtype.type_size()
        })
    }

    /// The kind of blocks of a matrix that is stored in some.
    pub fn blocks(&self, name: &str) -> Option<GgmlDType> {
        let slot = self.slot(name).ok()?;
        let dtype = self.info(slot).ok()?.ggml_dtype;
        (slot.shape(&self.config.spec).len() == 2 && Blocks::is_known(dtype)).then_some(dtype)
    }

    /// The tensor's bytes, its rows in Hugging Face's order.
    fn bytes(&self, slot: Slot) -> Result<(GgmlDType, Vec<u8>), ModelError> {
        let info = self.info(slot)?;
        let (dtype, values) = (info.ggml_dtype, info.shape.elem_count());
        let length = values / dtype.block_size() * dtype.type_size();
        let at = self.content.tensor_data_offset.saturating_add(info.offset);
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, at).map_err(|e| {
            let name = gguf_name(slot);
            self.fault(format!("tensor `{name}` can't be read ({e}); download it again"))
        })?;
        let spec = &self.config.spec;
        let heads = match slot {
            Slot::Weight(_, Projection::Q) => spec.num_heads,
            Slot::Weight(_, Projection::K) => spec.num_kv_heads,
            _ => return Ok((dtype, bytes)),
        };
        if self.architecture != "llama" {
            return Ok((dtype, bytes));
        }
        let rows = info.shape.dims()[0];
        let row_bytes = length / rows;
        let ordered = (0..rows).flat_map(|row| {
            let first = permuted_row(row, rows, heads) * row_bytes;
            bytes[first..first + row_bytes].iter().copied()
        });
        Ok((dtype, ordered.collect()))
    }

    /// A tensor as f32.
    ///
    /// # Errors
    /// When it is absent, can't be read, or is of a type that is not known.
    pub fn read(&self, name: &str) -> Result<Tensor, ModelError> {
        let slot = self.slot(name)?;
        let shape = slot.shape(&self.config.spec);
        if let Some(blocks) = self.read_blocks(name)? {
            return Ok(blocks.dequantize(&Device::Cpu)?.reshape(shape)?);
        }
        let (dtype, bytes) = self.bytes(slot)?;
        let dtype = match dtype {
            GgmlDType::F32 => DType::F32,
            GgmlDType::F16 => DType::F16,
            GgmlDType::BF16 => DType::BF16,
            other => {
                return Err(self.fault(format!(
                    "tensor `{name}` is of type {other:?}, which is not read; quantise the model again"
                )));
            }
        };
        let tensor = Tensor::from_raw_buffer(&bytes, dtype, &shape, &Device::Cpu)?;
        Ok(tensor.to_dtype(DType::F32)?)
    }

    /// A matrix in the file's own blocks; `None` where it is stored in whole numbers of another kind.
    ///
    /// # Errors
    /// As [`GgufFile::read`].
    pub fn read_blocks(&self, name: &str) -> Result<Option<Quantized>, ModelError> {
        let slot = self.slot(name)?;
        let shape = slot.shape(&self.config.spec);
        let (&[rows, width], Some(_)) = (&shape[..], self.blocks(name)) else { return Ok(None) };
        let (dtype, bytes) = self.bytes(slot)?;
        let blocks = Blocks::from_bytes(&bytes, dtype, rows, width).map_err(|e| {
            self.fault(format!("tensor `{name}` can't be used ({e}); convert the model again"))
        })?;
        Ok(Some(Quantized::Blocks(blocks)))
    }

    /// Writes `config.json` and the tokenizer's files into `dir`.
    fn write_companions(&self, dir: &Path, dtype: DType) -> Result<(), ModelError> {
        let config = &self.config;
        let value = config_for(&config.raw, dtype, config.spec.vocab_size);
        write_json(&dir.join("config.json"), &value, 2)?;
        let generation = json!({
            "_from_model_config": true,
            "bos_token_id": config.bos_token_id,
            "eos_token_id": config.eos_token_ids,
            "pad_token_id": config.pad_token_id,
        });
        write_json(&dir.join("generation_config.json"), &generation, 2)?;
        self.write_tokenizer(dir)
    }

    fn write_tokenizer(&self, dir: &Path) -> Result<(), ModelError> {
        let made = conversion::gguf::of_content(&self.path, &self.content)
            .map_err(|e| self.fault(e.to_string()))?;
        write_json(&dir.join("tokenizer.json"), &made.json, 1)?;
        let roles = ["bos_token", "eos_token", "pad_token", "unk_token"];
        let special = made.config.iter().filter(|(key, _)| roles.contains(&key.as_str()));
        let special: Map<String, serde_json::Value> =
            special.map(|(key, value)| (key.clone(), value.clone())).collect();
        if let Some(template) = made.config.get("chat_template").and_then(|t| t.as_str()) {
            crate::fs::write_atomic(&dir.join("chat_template.jinja"), template.as_bytes())?;
        }
        write_json(&dir.join("tokenizer_config.json"), &json!(made.config), 2)?;
        write_json(&dir.join("special_tokens_map.json"), &json!(special), 2)
    }
}

/// What a folder made from a file holds for weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImportAs {
    /// safetensors of this type.
    Dense(DType),
    /// The file itself: matrices stay in its blocks.
    Blocks,
}

/// Imports `path` into a new model folder. The folder appears whole or not at all; one tensor is in
/// memory at a time. Answers the number of tensors.
///
/// # Errors
/// [`ModelError::Gguf`] for a damaged file, an architecture or a tokenizer that is not supported.
pub fn import(path: &Path, output_dir: &Path, weights: ImportAs) -> Result<usize, ModelError> {
    let file = GgufFile::open(path)?;
    let spec = &file.config.spec;
    let slots = Slot::all(spec);
    let out = AtomicDir::create(output_dir)?;
    let dtype = match weights {
        ImportAs::Dense(dtype) => {
            let entry = |&slot: &Slot| {
                let name = slot.name(spec);
                let (file, read) = (&file, name.clone());
                Entry::later(name, dtype, slot.shape(spec), move || file.read(&read))
            };
            write_weights(out.path(), slots.iter().map(entry).collect(), SHARD_BYTES)?;
            dtype
        }
        ImportAs::Blocks => {
            let to = out.path().join(IN_FOLDER);
            std::fs::copy(path, &to).map_err(io_error("copy", path))?;
            DType::F32
        }
    };
    file.write_companions(out.path(), dtype)?;
    out.commit()?;
    Ok(slots.len())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::model::reader::WeightFiles;
    use candle_core::quantized::{GgmlDType, QTensor, gguf_file};

    /// What llama.cpp's converter does to LLaMA's queries and keys.
    fn permute(weight: &Tensor, heads: usize) -> Tensor {
        let (rows, columns) = weight.dims2().unwrap();
        let w = weight.reshape((heads, 2, rows / heads / 2, columns)).unwrap();
        w.transpose(1, 2).unwrap().contiguous().unwrap().reshape((rows, columns)).unwrap()
    }

    fn write(
        path: &Path,
        architecture: &str,
        pre: &str,
    ) -> std::collections::BTreeMap<String, Tensor> {
        let text = |t: &str| Value::String(t.to_string());
        let n = |key: &str, v: u32| (format!("llama.{key}"), Value::U32(v));
        let tokens: Vec<Value> = ["<s>", "a", "b", "ab"].iter().map(|t| text(t)).collect();
        let types = [3, 1, 1, 1].map(Value::I32).to_vec();
        let mut metadata = vec![
            ("general.architecture".to_string(), text(architecture)),
            n("block_count", 1),
            n("context_length", 64),
            n("embedding_length", 32),
            n("feed_forward_length", 64),
            n("attention.head_count", 4),
            n("attention.head_count_kv", 2),
            ("llama.attention.layer_norm_rms_epsilon".into(), Value::F32(1e-5)),
            ("tokenizer.ggml.model".into(), text("gpt2")),
            ("tokenizer.ggml.pre".into(), text(pre)),
            ("tokenizer.ggml.tokens".into(), Value::Array(tokens)),
            ("tokenizer.ggml.token_type".into(), Value::Array(types)),
            ("tokenizer.ggml.merges".into(), Value::Array(vec![text("a b")])),
            ("tokenizer.ggml.eos_token_id".into(), Value::U32(0)),
        ];
        metadata.sort_by(|a, b| a.0.cmp(&b.0));
        let raw = serde_json::json!({"model_type": "llama", "hidden_size": 32, "intermediate_size": 64,
            "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 4,
            "tie_word_embeddings": true});
        let spec = HfConfig::parse(raw.as_object().unwrap().clone()).unwrap().spec;
        let (mut want, mut stored) = (std::collections::BTreeMap::new(), Vec::new());
        for (i, slot) in Slot::all(&spec).into_iter().enumerate() {
            let shape = slot.shape(&spec);
            let count: usize = shape.iter().product();
            let values: Vec<f32> = (0..count).map(|j| ((i * 31 + j * 7) % 97) as f32).collect();
            let tensor = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
            let in_file = match slot {
                Slot::Weight(_, Projection::Q) => permute(&tensor, 4),
                Slot::Weight(_, Projection::K) => permute(&tensor, 2),
                _ => tensor.clone(),
            };
            want.insert(slot.name(&spec), tensor);
            stored.push((gguf_name(slot), QTensor::quantize(&in_file, GgmlDType::F32).unwrap()));
        }
        let mut file = File::create(path).unwrap();
        let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(k, v)| (k.as_str(), v)).collect();
        let tensors: Vec<(&str, &QTensor)> = stored.iter().map(|(k, v)| (k.as_str(), v)).collect();
        gguf_file::write(&mut file, &metadata, &tensors).unwrap();
        want
    }

    #[test]
    fn weights_come_back_in_hugging_faces_order_with_a_tokenizer() {
        let dir = tempfile::tempdir().unwrap();
        let (path, out) = (dir.path().join("m.gguf"), dir.path().join("m"));
        let want = write(&path, "llama", "smollm");
        import(&path, &out, ImportAs::Dense(DType::F32)).unwrap();
        let files = WeightFiles::open(&out).unwrap();
        assert_eq!(files.names().count(), want.len());
        for (name, want) in want {
            let got = files.read(&name).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(got, want.flatten_all().unwrap().to_vec1::<f32>().unwrap(), "{name}");
        }
        let config = HfConfig::read(&out).unwrap();
        assert_eq!((config.spec.norm_eps, config.spec.vocab_size), (1e-5, 4));
        let tokenizer = std::fs::read(out.join("tokenizer.json")).unwrap();
        let tokenizer = tokenizers::Tokenizer::from_bytes(tokenizer).unwrap();
        assert_eq!(tokenizer.encode("ab<s>a", false).unwrap().get_ids(), [3, 0, 1]);
    }

    #[test]
    fn what_is_not_supported_is_refused_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (path, out) = (dir.path().join("m.gguf"), dir.path().join("m"));
        for (architecture, pre, part) in
            [("mamba", "smollm", "`mamba`"), ("llama", "unheard", "`unheard`")]
        {
            write(&path, architecture, pre);
            let error = import(&path, &out, ImportAs::Dense(DType::F32)).unwrap_err().to_string();
            assert!(error.contains(part) && !out.exists(), "{error}");
        }
        let bytes = std::fs::read(&path).unwrap();
        for end in [0, 10, bytes.len() / 3, bytes.len() - 100] {
            std::fs::write(&path, &bytes[..end]).unwrap();
            assert!(import(&path, &out, ImportAs::Dense(DType::F32)).is_err());
            assert!(!out.exists());
        }
    }
}
