//! The tokenizer in a GGUF file's metadata, `tokenizer.ggml.*`, as llama.cpp's converter writes it.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use candle_core::quantized::gguf_file::{Content, Value};
use serde_json::{Map, json};

use super::Converted;
use crate::fs::io_error;
use crate::text::TextError;

/// Whether `path` is a GGUF file by its name.
pub fn is_file(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) && path.is_file()
}

/// The number of a value of any numeric type.
pub fn number(value: &Value) -> Option<f64> {
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

/// The metadata of a file, with errors that name it.
struct Metadata<'a> {
    path: &'a Path,
    content: &'a Content,
}

impl Metadata<'_> {
    fn fault(&self, reason: impl Into<String>) -> TextError {
        TextError::Tokenizer { path: self.path.into(), reason: reason.into() }
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.content.metadata.get(key)
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.get(key)?.to_string().ok().map(String::as_str)
    }

    fn id(&self, key: &str) -> Option<u64> {
        self.get(key).and_then(number).map(|n| n as u64)
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

/// The tokenizer of the file at `path`.
///
/// # Errors
/// [`TextError::Tokenizer`] for a damaged file or a tokenizer of another kind than byte-level BPE.
pub fn convert(path: &Path) -> Result<Converted, TextError> {
    let file = File::open(path).map_err(io_error("read", path))?;
    let content = Content::read(&mut BufReader::new(file)).map_err(|e| {
        let reason = crate::error::excerpt(&e.to_string());
        let reason = format!("it is not a sound GGUF file ({reason}); download it again");
        TextError::Tokenizer { path: path.into(), reason }
    })?;
    of_content(path, &content)
}

/// As [`convert`], of a file that was read.
///
/// # Errors
/// As [`convert`].
pub fn of_content(path: &Path, content: &Content) -> Result<Converted, TextError> {
    let m = Metadata { path, content };

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
    let strings = |key: &str| -> Result<Vec<&str>, TextError> {
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
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": null, "pre_tokenizer": pre_tokenizer, "post_processor": post_processor,
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": pre == "llama-bpe", "vocab": vocab, "merges": merges,
        },
    });
    let mut config = Map::new();
    for (name, key) in [
        ("bos_token", "tokenizer.ggml.bos_token_id"),
        ("eos_token", "tokenizer.ggml.eos_token_id"),
        ("pad_token", "tokenizer.ggml.padding_token_id"),
        ("unk_token", "tokenizer.ggml.unknown_token_id"),
    ] {
        if let Some(text) = token(key) {
            config.insert(name.into(), text.into());
        }
    }
    config.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
    config.insert("add_bos_token".into(), add_bos.into());
    config.insert("clean_up_tokenization_spaces".into(), false.into());
    let architecture = m.text("general.architecture").unwrap_or_default();
    if let Some(length) = m.id(&format!("{architecture}.context_length")) {
        config.insert("model_max_length".into(), length.into());
    }
    if let Some(template) = m.text("tokenizer.chat_template") {
        config.insert("chat_template".into(), template.into());
    }
    Ok(Converted { json, source: path.into(), config })
}
