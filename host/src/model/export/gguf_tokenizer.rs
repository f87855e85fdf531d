//! A tokenizer as GGUF's metadata (`tokenizer.ggml.*`), from a `tokenizer.json`: byte-level BPE by its
//! merges, SentencePiece's BPE by scores that keep the order of the merges.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::gguf_file::{Metadata, Value};
use crate::text::conversion::{CL100K, GPT2, QWEN};

/// `token_type` of llama.cpp.
#[derive(Clone, Copy)]
enum Kind {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

/// Ids and texts that a tokenizer's other files name.
#[derive(Clone, Debug, Default)]
pub struct Roles {
    /// Begins a text.
    pub bos: Option<u32>,
    /// Ends it.
    pub eos: Option<u32>,
    /// Stands for what the vocabulary lacks.
    pub unk: Option<u32>,
    /// Fills rows.
    pub pad: Option<u32>,
    /// The chat template, Jinja.
    pub chat_template: Option<String>,
}

fn is_byte(token: &str) -> bool {
    token.len() == 6
        && token.starts_with("<0x")
        && token.ends_with('>')
        && token.get(3..5).is_some_and(|hex| u8::from_str_radix(hex, 16).is_ok())
}

/// All steps of a `Sequence`, or the one step.
fn steps<'a>(part: &'a Json, list: &str) -> Vec<&'a Json> {
    match part[list].as_array() {
        Some(steps) => steps.iter().collect(),
        None if part.is_object() => vec![part],
        None => Vec::new(),
    }
}

/// llama.cpp's name for the way in which texts are cut.
fn pre_tokenizer(json: &Json) -> Option<&'static str> {
    let steps = steps(&json["pre_tokenizer"], "pretokenizers");
    let kind = |step: &Json, name: &str| step["type"] == name;
    match steps.as_slice() {
        [bytes] if kind(bytes, "ByteLevel") && bytes["use_regex"] != false => Some("gpt-2"),
        [digits, bytes] if kind(digits, "Digits") && kind(bytes, "ByteLevel") => Some("smollm"),
        [split, bytes] if kind(split, "Split") && kind(bytes, "ByteLevel") => {
            match split["pattern"]["Regex"].as_str()? {
                QWEN => Some("qwen2"),
                CL100K => Some("llama-bpe"),
                GPT2 => Some("gpt-2"),
                _ => None,
            }
        }
        _ => None,
    }
}

/// Both halves of every merge, in order.
fn merges(json: &Json) -> Option<Vec<(&str, &str)>> {
    json["model"]["merges"]
        .as_array()?
        .iter()
        .map(|merge| match merge {
            Json::String(text) => text.split_once(' '),
            pair => Some((pair[0].as_str()?, pair[1].as_str()?)),
        })
        .collect()
}

/// Whether an encoded text begins, and ends, with a token of its own.
fn frame(json: &Json) -> (bool, bool) {
    let post = &json["post_processor"];
    let of = |step: &Json| -> Option<(bool, bool)> {
        let single = step["single"].as_array()?;
        let special = |part: Option<&Json>| part.is_some_and(|p| p["SpecialToken"].is_object());
        Some((special(single.first()), special(single.last())))
    };
    steps(post, "processors").into_iter().find_map(of).unwrap_or((false, false))
}

/// The metadata of a tokenizer for a model with `rows` rows in its embedding.
///
/// # Errors
/// A kind of tokenizer that llama.cpp would cut otherwise.
pub fn metadata(json: &Json, roles: &Roles, rows: usize) -> Result<Metadata, String> {
    let vocab = json["model"]["vocab"].as_object().filter(|_| json["model"]["type"] == "BPE");
    let vocab = vocab.ok_or("its tokenizer is no BPE, the only kind that is exported")?;
    let mut by_id: BTreeMap<u64, (&str, Kind)> = BTreeMap::new();
    let byte_fallback = json["model"]["byte_fallback"] == true;
    let unknown = json["model"]["unk_token"].as_str();
    for (token, id) in vocab {
        let kind = match token.as_str() {
            t if byte_fallback && is_byte(t) => Kind::Byte,
            t if unknown == Some(t) => Kind::Unknown,
            _ => Kind::Normal,
        };
        by_id.insert(id.as_u64().ok_or("its vocabulary has a token without an id")?, (token, kind));
    }
    for added in json["added_tokens"].as_array().into_iter().flatten() {
        let (Some(id), Some(token)) = (added["id"].as_u64(), added["content"].as_str()) else {
            continue;
        };
        let kind = match (added["special"] == true, unknown == Some(token)) {
            (_, true) => Kind::Unknown,
            (true, _) => Kind::Control,
            (false, _) => Kind::UserDefined,
        };
        by_id.insert(id, (token, kind));
    }
    let most = by_id.keys().next_back().map_or(0, |id| id + 1);
    if most > rows as u64 {
        return Err(format!("its tokenizer has {most} ids, and its embedding {rows} rows"));
    }
    let mut tokens = Vec::with_capacity(rows);
    let mut kinds = Vec::with_capacity(rows);
    for id in 0..rows as u64 {
        let (token, kind) = match by_id.get(&id) {
            Some(&(token, kind)) => (token.to_string(), kind),
            None => (format!("[PAD{id}]"), Kind::Unused),
        };
        tokens.push(token);
        kinds.push(kind as i32);
    }
    let merges = merges(json).ok_or("its tokenizer has no merges")?;
    let mut out: Metadata = Vec::new();
    let mut put = |key: &str, value: Value| out.push((format!("tokenizer.ggml.{key}"), value));
    if byte_fallback {
        let normalizers = steps(&json["normalizer"], "normalizers");
        let known = |step: &&Json| step["type"] == "Prepend" || step["type"] == "Replace";
        if !normalizers.iter().all(known) {
            return Err("its tokenizer changes texts in a way that GGUF has no name for".into());
        }
        let metaspace = json["pre_tokenizer"]["type"] == "Metaspace";
        let prefix = metaspace || normalizers.iter().any(|step| step["type"] == "Prepend");
        // SentencePiece merges what makes the token with the best score; the order of the merges is
        // that of the scores.
        let mut rank: BTreeMap<String, usize> = BTreeMap::new();
        for (left, right) in &merges {
            let next = rank.len();
            rank.entry(format!("{left}{right}")).or_insert(next);
        }
        let last = rank.len();
        let score = |(token, kind): (&String, &i32)| match *kind == Kind::Normal as i32 {
            true => -(rank.get(token).copied().unwrap_or(last) as f32),
            false => 0.0,
        };
        let scores = tokens.iter().zip(&kinds).map(score).collect();
        put("model", "llama".into());
        put("pre", "default".into());
        put("tokens", Value::Texts(tokens));
        put("scores", Value::Floats(scores));
        put("token_type", Value::Ints(kinds));
        put("add_space_prefix", Value::Bool(prefix));
    } else {
        let pre = pre_tokenizer(json)
            .ok_or("its tokenizer cuts texts in a way that GGUF has no name for")?;
        if json["normalizer"].is_object() && json["normalizer"]["type"] != "NFC" {
            return Err("its tokenizer changes texts in a way that GGUF has no name for".into());
        }
        put("model", "gpt2".into());
        put("pre", pre.into());
        put("tokens", Value::Texts(tokens));
        put("token_type", Value::Ints(kinds));
        let merges = merges.iter().map(|(left, right)| format!("{left} {right}")).collect();
        put("merges", Value::Texts(merges));
    }
    let ids = [
        ("bos_token_id", roles.bos),
        ("eos_token_id", roles.eos),
        ("unknown_token_id", roles.unk),
        ("padding_token_id", roles.pad),
    ];
    for (key, id) in ids {
        if let Some(id) = id {
            put(key, Value::U32(id));
        }
    }
    let (begins, ends) = frame(json);
    put("add_bos_token", Value::Bool(begins));
    put("add_eos_token", Value::Bool(ends));
    if let Some(template) = &roles.chat_template {
        out.push(("tokenizer.chat_template".into(), Value::Text(template.clone())));
    }
    Ok(out)
}
