//! The tokenizer in a GGUF file's metadata, `tokenizer.ggml.*`, as llama.cpp's converter writes it.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use candle_core::quantized::gguf_file::{Content, Value};
use serde_json::{Map, json};

use super::sentencepiece::{self, Listed};
use super::{Converted, SpecialTokens, finish};
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

    fn flag(&self, key: &str) -> Option<bool> {
        self.get(key)?.to_bool().ok()
    }

    fn texts(&self, key: &str) -> Result<Vec<&str>, TextError> {
        let list = self.get(key).and_then(|v| v.to_vec().ok());
        let list = list.ok_or_else(|| self.fault(format!("its metadata lack `{key}`")))?;
        list.iter()
            .map(|v| v.to_string().map(String::as_str))
            .collect::<Result<_, _>>()
            .map_err(|_| self.fault(format!("`{key}` holds something else than texts")))
    }

    /// The kinds of `count` tokens; ordinary ones where the file does not say.
    fn kinds(&self, count: usize) -> Vec<f64> {
        let listed = self.get("tokenizer.ggml.token_type").and_then(|v| v.to_vec().ok());
        let mut kinds: Vec<f64> =
            listed.map_or_else(Vec::new, |l| l.iter().filter_map(number).collect());
        kinds.resize(count, 1.0);
        kinds
    }

    /// Whether texts begin with bos where the file does not say.
    fn begins_with_bos(&self) -> bool {
        self.text("tokenizer.ggml.model") == Some("llama")
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
/// [`TextError::Tokenizer`] for a damaged file or a tokenizer of another kind than byte-level BPE and
/// SentencePiece's BPE.
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

    let tokens = m.texts("tokenizer.ggml.tokens")?;
    let json = match m.text("tokenizer.ggml.model").unwrap_or("") {
        "gpt2" => byte_level_bpe(&m, &tokens)?,
        "llama" => scored_bpe(&m, &tokens)?,
        other => {
            let other = crate::error::excerpt(other);
            return Err(m.fault(format!(
                "its tokenizer is of kind `{other}`, of which only `gpt2` (byte-level BPE) and `llama` \
                 (SentencePiece's BPE) can be imported; use the model's Hugging Face folder"
            )));
        }
    };
    let token = |key: &str| m.id(key).and_then(|id| tokens.get(id as usize)).copied();
    let add_bos = m.flag("tokenizer.ggml.add_bos_token").unwrap_or(m.begins_with_bos());
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

/// A tokenizer whose merges are listed.
fn byte_level_bpe(m: &Metadata<'_>, tokens: &[&str]) -> Result<serde_json::Value, TextError> {
    /// Token types of GGUF that are matched before merging.
    const CONTROL: f64 = 3.0;
    const USER_DEFINED: f64 = 4.0;
    let pre = m.text("tokenizer.ggml.pre").unwrap_or("default");
    let pre_tokenizer = pre_tokenizer(pre).ok_or_else(|| {
        let pre = crate::error::excerpt(pre);
        m.fault(format!(
            "its pre-tokenizer `{pre}` is not known; use the model's Hugging Face folder"
        ))
    })?;
    let merges = m.texts("tokenizer.ggml.merges")?;
    let types = m.kinds(tokens.len());
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
    let add_bos = m.flag("tokenizer.ggml.add_bos_token").unwrap_or(false);
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
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": null, "pre_tokenizer": pre_tokenizer, "post_processor": post_processor,
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": pre == "llama-bpe", "vocab": vocab, "merges": merges,
        },
    }))
}

/// A tokenizer that merges by the scores of its tokens, as SentencePiece does.
fn scored_bpe(m: &Metadata<'_>, tokens: &[&str]) -> Result<serde_json::Value, TextError> {
    let scores = m.get("tokenizer.ggml.scores").and_then(|v| v.to_vec().ok());
    let scores: Vec<f64> = scores
        .ok_or_else(|| m.fault("its metadata lack `tokenizer.ggml.scores`"))?
        .iter()
        .filter_map(number)
        .collect();
    if scores.len() != tokens.len() {
        let (scores, tokens) = (scores.len(), tokens.len());
        return Err(
            m.fault(format!("it has {scores} scores for {tokens} tokens; convert it again"))
        );
    }
    let kinds = m.kinds(tokens.len());
    let pieces = tokens.iter().zip(&scores).zip(&kinds);
    let listed = Listed {
        pieces: pieces
            .map(|((token, score), kind)| (*token, *score as f32, *kind as u64))
            .collect(),
        ids: ["unknown", "bos", "eos", "padding"]
            .map(|role| m.id(&format!("tokenizer.ggml.{role}_token_id"))),
        add_dummy_prefix: m.flag("tokenizer.ggml.add_space_prefix").unwrap_or(true),
    };
    // llama.cpp puts its space before whatever follows a special token too.
    let flag = |key: &str, otherwise: bool| {
        json!(m.flag(&format!("tokenizer.ggml.{key}")).unwrap_or(otherwise))
    };
    let settings = [
        ("legacy", json!(true)),
        ("add_bos_token", flag("add_bos_token", true)),
        ("add_eos_token", flag("add_eos_token", false)),
    ];
    let settings = settings.map(|(name, value)| (name.to_string(), value));
    let special = SpecialTokens::of_config(settings.into_iter().collect());
    let made = sentencepiece::of_listed(listed, &special).map_err(|e| m.fault(e))?;
    Ok(finish(made, m.path.into(), special)?.json)
}
