//! GGUF files → Hugging Face folders: weights dequantised tensor by tensor, configuration from the
//! metadata, tokenizer from `tokenizer.ggml.*`.

use std::cell::RefCell;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::{DType, Device, Tensor};
use serde_json::{Map, json};

use super::projection::Projection;
use super::save::{Entry, SHARD_BYTES, config_for, write_json, write_weights};
use super::slots::{NormPlace, Slot};
use super::spec::DecoderSpec;
use super::{HfConfig, ModelError, families};
use crate::fs::{AtomicDir, io_error};

/// What an import did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportReport {
    /// Tensors written.
    pub num_tensors: usize,
}

/// The metadata of a file, with errors that name it.
struct Metadata<'a> {
    path: &'a Path,
    content: &'a Content,
    architecture: String,
}

impl Metadata<'_> {
    fn fault(&self, reason: impl Into<String>) -> ModelError {
        ModelError::Gguf { path: self.path.into(), reason: reason.into() }
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.content.metadata.get(key)
    }

    /// A key of the architecture, `llama.block_count`.
    fn own(&self, key: &str) -> Option<&Value> {
        self.get(&format!("{}.{key}", self.architecture))
    }

    fn count(&self, key: &str) -> Result<u64, ModelError> {
        self.own(key).and_then(number).map(|n| n as u64).ok_or_else(|| {
            self.fault(format!(
                "its metadata lack `{}.{key}`; convert the model again",
                self.architecture
            ))
        })
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.get(key)?.to_string().ok().map(String::as_str)
    }

    fn id(&self, key: &str) -> Option<u64> {
        self.get(key).and_then(number).map(|n| n as u64)
    }
}

fn number(value: &Value) -> Option<f64> {
    Some(match value {
        Value::U8(n) => f64::from(*n),
        Value::I8(n) => f64::from(*n),
        Value::U16(n) => f64::from(*n),
        Value::I16(n) => f64::from(*n),
        Value::U32(n) => f64::from(*n),
        Value::I32(n) => f64::from(*n),
        Value::U64(n) => *n as f64,
        Value::I64(n) => *n as f64,
        Value::F32(n) => f64::from(*n),
        Value::F64(n) => *n,
        _ => return None,
    })
}

/// An f32 as people write it: 0.00001 rather than 9.999999747378752e-6.
fn short(value: f64) -> f64 {
    (value as f32).to_string().parse().unwrap_or(value)
}

/// The tensor's name in a GGUF file.
fn gguf_name(slot: Slot) -> String {
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
    }
}

/// Families whose GGUF files this importer reads: those that differ from LLaMA in biases and norms alone.
const IMPORTED: [&str; 4] = ["llama", "mistral", "qwen2", "qwen3"];

/// llama.cpp stores the rows of LLaMA's queries and keys with the halves of each rotation pair side
/// by side; Hugging Face has the two halves of a head one after the other.
fn unpermute(weight: &Tensor, heads: usize) -> candle_core::Result<Tensor> {
    let (rows, columns) = weight.dims2()?;
    weight
        .reshape((heads, rows / heads / 2, 2, columns))?
        .transpose(1, 2)?
        .contiguous()?
        .reshape((rows, columns))
}

/// Imports `path` into a new model folder, weights as `dtype`. The folder appears whole or not at
/// all; one tensor is in memory at a time.
///
/// # Errors
/// [`ModelError::Gguf`] for a damaged file, an architecture or a tokenizer that is not supported.
pub fn import(path: &Path, output_dir: &Path, dtype: DType) -> Result<ImportReport, ModelError> {
    let fault = |reason: String| ModelError::Gguf { path: path.into(), reason };
    let file = File::open(path).map_err(io_error("read", path))?;
    let mut reader = BufReader::new(file);
    let content = Content::read(&mut reader).map_err(|e| {
        let reason = crate::error::excerpt(&e.to_string());
        fault(format!("it is not a sound GGUF file ({reason}); download it again"))
    })?;
    let architecture = match content.metadata.get("general.architecture").map(Value::to_string) {
        Some(Ok(name)) => name.clone(),
        _ => {
            return Err(fault("its metadata name no architecture; convert the model again".into()));
        }
    };
    let metadata = Metadata { path, content: &content, architecture };
    let raw = configuration(&metadata)?;
    let config = HfConfig::parse(raw).map_err(|faults| fault(faults.join("; ")))?;
    let spec = &config.spec;
    let reader = RefCell::new(reader);
    let mut entries = Vec::new();
    for slot in Slot::all(spec) {
        let (name, shape) = (gguf_name(slot), slot.shape(spec));
        let info = content
            .tensor_infos
            .get(&name)
            .ok_or_else(|| fault(format!("tensor `{name}` is missing; convert the model again")))?;
        if info.shape.dims() != shape {
            return Err(fault(format!(
                "tensor `{name}` has shape {:?}, expected {shape:?}; convert the model again",
                info.shape.dims()
            )));
        }
        let (reader, content, metadata) = (&reader, &content, &metadata);
        let tensor = move || read(reader, content, metadata, slot, spec);
        entries.push(Entry { name: slot.name(spec), dtype, shape, tensor: Box::new(tensor) });
    }
    let num_tensors = entries.len();
    let out = AtomicDir::create(output_dir)?;
    write_weights(out.path(), entries, SHARD_BYTES)?;
    let value = config_for(&config.raw, dtype, spec.vocab_size);
    write_json(&out.path().join("config.json"), &value, 2)?;
    let generation = json!({
        "_from_model_config": true,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_ids,
        "pad_token_id": config.pad_token_id,
    });
    write_json(&out.path().join("generation_config.json"), &generation, 2)?;
    tokenizer(&metadata, out.path())?;
    out.commit()?;
    Ok(ImportReport { num_tensors })
}

fn read(
    reader: &RefCell<BufReader<File>>,
    content: &Content,
    metadata: &Metadata<'_>,
    slot: Slot,
    spec: &DecoderSpec,
) -> Result<Tensor, ModelError> {
    let name = gguf_name(slot);
    let tensor = content
        .tensor(&mut *reader.borrow_mut(), &name, &Device::Cpu)
        .and_then(|t| t.dequantize(&Device::Cpu))
        .map_err(|e| {
            let reason = crate::error::excerpt(&e.to_string());
            metadata.fault(format!("tensor `{name}` can't be read ({reason}); download it again"))
        })?;
    let permuted = metadata.architecture == "llama";
    Ok(match slot {
        Slot::Weight(_, Projection::Q) if permuted => unpermute(&tensor, spec.num_heads)?,
        Slot::Weight(_, Projection::K) if permuted => unpermute(&tensor, spec.num_kv_heads)?,
        _ => tensor,
    })
}

/// `config.json` from the metadata.
fn configuration(m: &Metadata<'_>) -> Result<Map<String, serde_json::Value>, ModelError> {
    let found = families::find(&m.architecture).filter(|f| IMPORTED.contains(&f.model_type));
    let family = found.ok_or_else(|| {
        let name = crate::error::excerpt(&m.architecture);
        m.fault(format!(
            "architecture `{name}` is not supported; this version knows {}",
            IMPORTED.join(", ")
        ))
    })?;
    let hidden = m.count("embedding_length")?;
    let heads = m.count("attention.head_count")?;
    let head_dim = match m.own("attention.key_length").and_then(number) {
        Some(n) => n as u64,
        None => hidden.checked_div(heads).unwrap_or(0),
    };
    let tokens = m.get("tokenizer.ggml.tokens").and_then(|v| v.to_vec().ok()).map_or(0, Vec::len);
    let has = |name: &str| m.content.tensor_infos.contains_key(name);
    if m.own("rope.scaling.type").is_some_and(|v| v.to_string().is_ok_and(|t| t != "none"))
        || has("rope_freqs.weight")
    {
        return Err(m.fault("it rescales its rotary positions, which this importer does not read; use the model's Hugging Face folder"));
    }
    let raw = json!({
        "architectures": [family.architecture],
        "attention_bias": has("blk.0.attn_q.bias"),
        "attention_dropout": 0.0,
        "bos_token_id": m.id("tokenizer.ggml.bos_token_id"),
        "eos_token_id": m.id("tokenizer.ggml.eos_token_id"),
        "head_dim": head_dim,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "initializer_range": 0.02,
        "intermediate_size": m.count("feed_forward_length")?,
        "max_position_embeddings": m.count("context_length")?,
        "mlp_bias": false,
        "model_type": family.model_type,
        "num_attention_heads": heads,
        "num_hidden_layers": m.count("block_count")?,
        "num_key_value_heads": m.count("attention.head_count_kv").unwrap_or(heads),
        "pad_token_id": m.id("tokenizer.ggml.padding_token_id"),
        "rms_norm_eps": m.own("attention.layer_norm_rms_epsilon").and_then(number).map_or(1e-6, short),
        "rope_scaling": null,
        "rope_theta": m.own("rope.freq_base").and_then(number).map_or(10_000.0, short),
        "tie_word_embeddings": !has("output.weight"),
        "torch_dtype": "float32",
        "use_cache": true,
        "vocab_size": tokens,
    });
    match raw {
        serde_json::Value::Object(map) => Ok(map),
        _ => Ok(Map::new()),
    }
}

/// How a text is cut before merging, by GGUF's name for it. The expressions are those of the
/// tokenizers of that name.
fn pre_tokenizer(name: &str) -> Option<serde_json::Value> {
    let byte_level = |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
    let split = |pattern: &str| {
        json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false},
            byte_level(false),
        ]})
    };
    let words = |digits: &str| {
        split(&format!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        ))
    };
    Some(match name {
        "gpt-2" | "default" => byte_level(true),
        "smollm" => json!({"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": true}, byte_level(true),
        ]}),
        "llama-bpe" | "llama3" => words(r"\p{N}{1,3}"),
        "qwen2" => words(r"\p{N}"),
        _ => return None,
    })
}

/// Writes the tokenizer's files.
fn tokenizer(m: &Metadata<'_>, dir: &Path) -> Result<(), ModelError> {
    /// Token types of GGUF that are matched before merging.
    const CONTROL: f64 = 3.0;
    const USER_DEFINED: f64 = 4.0;
    let model = m.text("tokenizer.ggml.model").unwrap_or("");
    if model != "gpt2" {
        let model = crate::error::excerpt(model);
        return Err(m.fault(format!(
            "its tokenizer is of kind `{model}`, of which only `gpt2` (byte-level BPE) can be \
             imported; use the model's Hugging Face folder"
        )));
    }
    let pre = m.text("tokenizer.ggml.pre").unwrap_or("default");
    let pre_tokenizer = pre_tokenizer(pre).ok_or_else(|| {
        let pre = crate::error::excerpt(pre);
        m.fault(format!(
            "its pre-tokenizer `{pre}` is not known; use the model's Hugging Face folder"
        ))
    })?;
    let strings = |key: &str| -> Result<Vec<&str>, ModelError> {
        let list = m.get(key).and_then(|v| v.to_vec().ok());
        let list = list.ok_or_else(|| m.fault(format!("its metadata lack `{key}`")))?;
        list.iter()
            .map(|v| v.to_string().map(String::as_str))
            .collect::<Result<_, _>>()
            .map_err(|_| m.fault(format!("`{key}` holds something else than texts")))
    };
    let (tokens, merges) = (strings("tokenizer.ggml.tokens")?, strings("tokenizer.ggml.merges")?);
    let types: Vec<f64> = match m.get("tokenizer.ggml.token_type").and_then(|v| v.to_vec().ok()) {
        Some(list) => list.iter().filter_map(number).collect(),
        None => vec![1.0; tokens.len()],
    };
    let mut vocab = Map::new();
    let mut added = Vec::new();
    for (id, token) in tokens.iter().enumerate() {
        if vocab.insert((*token).to_string(), id.into()).is_some() {
            let token = crate::error::excerpt(token);
            return Err(m.fault(format!("its vocabulary has `{token}` twice; convert it again")));
        }
        let kind = types.get(id).copied().unwrap_or(1.0);
        if kind == CONTROL || kind == USER_DEFINED {
            added.push(json!({
                "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": kind == CONTROL,
            }));
        }
    }
    let token = |key: &str| m.id(key).and_then(|id| tokens.get(id as usize)).copied();
    let bos = token("tokenizer.ggml.bos_token_id");
    let add_bos =
        m.get("tokenizer.ggml.add_bos_token").is_some_and(|v| v.to_bool().unwrap_or(false));
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    let post_processor = match (add_bos, bos, m.id("tokenizer.ggml.bos_token_id")) {
        (true, Some(text), Some(id)) => json!({
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": text, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {text: {"id": text, "ids": [id], "tokens": [text]}},
        }),
        _ => serde_json::Value::Null,
    };
    let value = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": null, "pre_tokenizer": pre_tokenizer, "post_processor": post_processor,
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": pre == "llama-bpe", "vocab": vocab, "merges": merges,
        },
    });
    write_json(&dir.join("tokenizer.json"), &value, 1)?;
    let mut special = Map::new();
    for (name, key) in [
        ("bos_token", "tokenizer.ggml.bos_token_id"),
        ("eos_token", "tokenizer.ggml.eos_token_id"),
        ("pad_token", "tokenizer.ggml.padding_token_id"),
        ("unk_token", "tokenizer.ggml.unknown_token_id"),
    ] {
        if let Some(text) = token(key) {
            special.insert(name.into(), text.into());
        }
    }
    let mut config = special.clone();
    config.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
    config.insert("add_bos_token".into(), add_bos.into());
    config.insert("clean_up_tokenization_spaces".into(), false.into());
    config.insert("model_max_length".into(), m.count("context_length")?.into());
    if let Some(template) = m.text("tokenizer.chat_template") {
        config.insert("chat_template".into(), template.into());
        crate::fs::write_atomic(&dir.join("chat_template.jinja"), template.as_bytes())?;
    }
    write_json(&dir.join("tokenizer_config.json"), &json!(config), 2)?;
    write_json(&dir.join("special_tokens_map.json"), &json!(special), 2)
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
        import(&path, &out, DType::F32).unwrap();
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
            let error = import(&path, &out, DType::F32).unwrap_err().to_string();
            assert!(error.contains(part) && !out.exists(), "{error}");
        }
        let bytes = std::fs::read(&path).unwrap();
        for end in [0, 10, bytes.len() / 3, bytes.len() - 100] {
            std::fs::write(&path, &bytes[..end]).unwrap();
            assert!(import(&path, &out, DType::F32).is_err());
            assert!(!out.exists());
        }
    }
}
