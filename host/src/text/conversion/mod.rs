//! Tokenizers in other formats, turned into the contents of a `tokenizer.json`: SentencePiece models,
//! tiktoken's rank files, `vocab.json` with `merges.txt`, and the metadata of GGUF files. Encoding stays the tokenizers crate's.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::TextError;
use crate::{fs, limits};

mod byte_level;
mod chatglm;
pub mod gguf;
mod protobuf;
pub mod sentencepiece;
mod special;
pub mod tiktoken;

pub use byte_level::{CL100K, GPT2, QWEN};
pub use special::SpecialTokens;

/// A converted tokenizer.
#[derive(Clone, Debug)]
pub struct Converted {
    /// The contents of a `tokenizer.json`.
    pub json: Value,
    /// The file it was made from.
    pub source: PathBuf,
    /// What `tokenizer_config.json` lacks: names of special tokens that the format implies.
    pub config: Map<String, Value>,
}

/// A vocabulary and how texts become its pieces, without special tokens.
struct Conversion {
    model: Value,
    normalizer: Value,
    pre_tokenizer: Value,
    decoder: Value,
    /// Added tokens: those of the format, special ones among them.
    added: Vec<Added>,
    /// What an encoded text begins and ends with, by token.
    frame: (Vec<String>, Vec<String>),
    config: Map<String, Value>,
}

/// A token that is found in a text as it stands.
#[derive(Clone, Debug, PartialEq)]
struct Added {
    id: u64,
    content: String,
    special: bool,
    normalized: bool,
    lstrip: bool,
    rstrip: bool,
    single_word: bool,
}

impl Added {
    fn new(id: u64, content: impl Into<String>, special: bool) -> Self {
        let (normalized, lstrip, rstrip, single_word) = (false, false, false, false);
        Self { id, content: content.into(), special, normalized, lstrip, rstrip, single_word }
    }
}

/// Names of SentencePiece models in model folders.
const SENTENCEPIECE: [&str; 5] =
    ["tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "spm.model", chatglm::FILE];

/// The tokenizer of a GGUF file, or of a folder without `tokenizer.json`; `None` when it has none in a known format.
///
/// # Errors
/// [`TextError::Tokenizer`] for a file that can't be used.
pub fn convert(dir: &Path, config: &Map<String, Value>) -> Result<Option<Converted>, TextError> {
    if gguf::is_file(dir) {
        return gguf::convert(dir).map(Some);
    }
    let read = |path: &Path| fs::read_limited(path, limits::TOKENIZER_BYTES_MAX);
    let special = SpecialTokens::read(dir, config)?;
    let found = SENTENCEPIECE.iter().map(|name| dir.join(name)).find(|p| p.is_file());
    if let Some(path) = found {
        let bytes = read(&path)?;
        let fault = |reason: String| TextError::Tokenizer { path: path.clone(), reason };
        // LLaMA 3's and GLM-4's are tiktoken's ranks under SentencePiece's name.
        let made = match tiktoken::looks_like(&bytes) {
            true => tiktoken::convert(&bytes, &path, &special),
            false => sentencepiece::convert(&bytes, &path, &special),
        };
        return finish(made.map_err(fault)?, path, special).map(Some);
    }
    if let Some(path) = tiktoken_file(dir) {
        let made = tiktoken::convert(&read(&path)?, &path, &special)
            .map_err(|reason| TextError::Tokenizer { path: path.clone(), reason })?;
        return finish(made, path, special).map(Some);
    }
    let (vocab, merges) = (dir.join("vocab.json"), dir.join("merges.txt"));
    if vocab.is_file() && merges.is_file() {
        let made = byte_level::convert(&read(&vocab)?, &read(&merges)?, &special)
            .map_err(|(file, reason)| TextError::Tokenizer { path: dir.join(file), reason })?;
        return finish(made, vocab, special).map(Some);
    }
    Ok(None)
}

fn tiktoken_file(dir: &Path) -> Option<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(dir)
        .ok()?
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.extension().is_some_and(|e| e == "tiktoken"))
        .chain([dir.join("tiktoken.model")])
        .filter(|p| p.is_file())
        .collect();
    found.sort();
    found.into_iter().next()
}

/// Puts the whole together, with the special tokens that the folder's other files name.
fn finish(
    made: Conversion,
    source: PathBuf,
    special: SpecialTokens,
) -> Result<Converted, TextError> {
    let fault = |reason: String| TextError::Tokenizer { path: source.clone(), reason };
    let Conversion { mut model, normalizer, pre_tokenizer, decoder, added, frame, config } = made;
    let added = special.complete(&mut model, added).map_err(fault)?;
    let id_of = |token: &String| added.iter().find(|a| a.content == *token).map(|a| a.id);
    let single = |tokens: &[String]| -> Option<Vec<(String, u64)>> {
        tokens.iter().map(|t| Some((t.clone(), id_of(t)?))).collect()
    };
    let (before, after) = (single(&frame.0), single(&frame.1));
    let (before, after) = (before.unwrap_or_default(), after.unwrap_or_default());
    let post_processor = match before.is_empty() && after.is_empty() {
        true => Value::Null,
        false => template(&before, &after),
    };
    let added: Vec<Value> = added
        .iter()
        .map(|a| {
            json!({
                "id": a.id, "content": a.content, "single_word": a.single_word, "lstrip": a.lstrip,
                "rstrip": a.rstrip, "normalized": a.normalized, "special": a.special,
            })
        })
        .collect();
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": post_processor,
        "decoder": decoder, "model": model,
    });
    Ok(Converted { json, source, config })
}

/// A post-processor that frames a text by tokens.
fn template(before: &[(String, u64)], after: &[(String, u64)]) -> Value {
    let special = |(token, _): &(String, u64)| json!({"SpecialToken": {"id": token, "type_id": 0}});
    let sequence = |name: &str, type_id: u64| json!({"Sequence": {"id": name, "type_id": type_id}});
    let framed = |text: Value| -> Vec<Value> {
        let before = before.iter().map(special);
        before.chain([text]).chain(after.iter().map(special)).collect()
    };
    let single = framed(sequence("A", 0));
    let pair: Vec<Value> = single.iter().cloned().chain(framed(sequence("B", 1))).collect();
    let tokens: Map<String, Value> = before
        .iter()
        .chain(after)
        .map(|(token, id)| (token.clone(), json!({"id": token, "ids": [id], "tokens": [token]})))
        .collect();
    json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens})
}

/// A normaliser, pre-tokenizer or decoder that replaces a text.
fn replace(from: &str, to: &str) -> Value {
    json!({"type": "Replace", "pattern": {"String": from}, "content": to})
}

fn replace_regex(from: &str, to: &str) -> Value {
    json!({"type": "Replace", "pattern": {"Regex": from}, "content": to})
}

/// Several steps as one; `Null` for none.
fn sequence(key: &str, mut steps: Vec<Value>) -> Value {
    match steps.len() {
        0 => Value::Null,
        1 => steps.remove(0),
        _ => json!({"type": "Sequence", key: steps}),
    }
}
