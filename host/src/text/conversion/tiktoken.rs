//! tiktoken's rank files: one token a line, base64 of its bytes, a space, its rank, which is its id.

use std::collections::HashMap;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::special::SpecialTokens;
use super::{Added, Conversion, byte_level};

/// Most tokens, and longest token in bytes.
const TOKENS_MAX: usize = 1 << 20;
const TOKEN_BYTES_MAX: usize = 2048;

/// A vocabulary that is known by its name or class: how it cuts texts, and its special tokens.
struct Known {
    pattern: &'static str,
    /// From the id after the last rank on; an empty name leaves an id free.
    special: Vec<String>,
    end: &'static str,
    begin: Option<&'static str>,
}

fn qwen() -> Known {
    let fixed = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"].map(String::from);
    let special = fixed.into_iter().chain((0..205).map(|i| format!("<|extra_{i}|>"))).collect();
    Known { pattern: byte_level::QWEN, special, end: "<|endoftext|>", begin: None }
}

fn llama3() -> Known {
    let reserved = |i: usize| format!("<|reserved_special_token_{i}|>");
    let mut special: Vec<String> =
        ["<|begin_of_text|>", "<|end_of_text|>"].map(String::from).into();
    special.extend((0..4).map(reserved));
    special.extend(["<|start_header_id|>", "<|end_header_id|>"].map(String::from));
    special.extend([reserved(4), "<|eot_id|>".into()]);
    special.extend((5..251).map(reserved));
    Known {
        pattern: byte_level::CL100K,
        special,
        end: "<|end_of_text|>",
        begin: Some("<|begin_of_text|>"),
    }
}

fn listed(pattern: &'static str, special: &[&str], end: &'static str) -> Known {
    let special = special.iter().map(ToString::to_string).collect();
    Known { pattern, special, end, begin: None }
}

/// By the file's name and the class that the folder names. A file that nothing is known of is cut as
/// most are.
fn known(path: &Path, special: &SpecialTokens) -> Known {
    let name = path.file_stem().and_then(|n| n.to_str()).unwrap_or("");
    match (name, special.class()) {
        ("qwen", _) | (_, "QWenTokenizer") => qwen(),
        ("r50k_base" | "gpt2", _) => listed(byte_level::GPT2, &["<|endoftext|>"], "<|endoftext|>"),
        ("cl100k_base", _) => listed(
            byte_level::CL100K,
            &["", "<|endoftext|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"],
            "<|endoftext|>",
        ),
        ("o200k_base", _) => listed(byte_level::O200K, &["", "<|endoftext|>"], "<|endoftext|>"),
        // GLM-4's are in its `added_tokens_decoder`.
        (_, "ChatGLM4Tokenizer") => listed(byte_level::CL100K, &[], "<|endoftext|>"),
        ("tokenizer", _) => llama3(),
        _ => listed(byte_level::CL100K, &[], ""),
    }
}

/// Whether `bytes` begin as a rank file does.
pub fn looks_like(bytes: &[u8]) -> bool {
    let line = bytes.split(|&b| b == b'\n').next().unwrap_or(&[]);
    line.len() <= 64 && parse_line(line).is_some()
}

fn parse_line(line: &[u8]) -> Option<(Vec<u8>, u64)> {
    let text = std::str::from_utf8(line).ok()?.trim_end_matches('\r');
    let (token, rank) = text.split_once(' ')?;
    let token = STANDARD.decode(token).ok().filter(|t| !t.is_empty())?;
    Some((token, rank.parse().ok()?))
}

/// Tokens by rank, sorted.
fn ranks(bytes: &[u8]) -> Result<Vec<(u64, Vec<u8>)>, String> {
    let mut ranks = Vec::new();
    for (number, line) in bytes.split(|&b| b == b'\n').enumerate() {
        if line.is_empty() || line == b"\r" {
            continue;
        }
        let (token, rank) = parse_line(line)
            .ok_or_else(|| format!("line {} is not a token and its rank", number + 1))?;
        if token.len() > TOKEN_BYTES_MAX || rank > u32::MAX.into() || ranks.len() == TOKENS_MAX {
            return Err(format!("line {} is beyond what a vocabulary has", number + 1));
        }
        ranks.push((rank, token));
    }
    ranks.sort();
    if let Some(pair) = ranks.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(format!("two tokens have the rank {}", pair[0].0));
    }
    if ranks.is_empty() {
        return Err("it holds no tokens".into());
    }
    Ok(ranks)
}

/// From the bytes of a rank file. Merges are all pairs of tokens that make a third, by its rank; a
/// piece that is a token is taken whole, as tiktoken does.
pub(super) fn convert(
    bytes: &[u8],
    path: &Path,
    special: &SpecialTokens,
) -> Result<Conversion, String> {
    let ranks = ranks(bytes)?;
    let by_bytes: HashMap<&[u8], u64> = ranks.iter().map(|(r, t)| (t.as_slice(), *r)).collect();
    if by_bytes.len() != ranks.len() {
        return Err("it has a token twice".into());
    }
    if let Some(byte) = (0..=255u8).find(|b| !by_bytes.contains_key([*b].as_slice())) {
        return Err(format!("it lacks the token of byte {byte}"));
    }
    let mut vocab = Map::new();
    let mut merges = Vec::new();
    for (rank, token) in &ranks {
        vocab.insert(byte_level::text(token), json!(rank));
        let mut splits: Vec<(u64, u64, usize)> = (1..token.len())
            .filter_map(|at| {
                let (left, right) = token.split_at(at);
                Some((*by_bytes.get(left)?, *by_bytes.get(right)?, at))
            })
            .collect();
        splits.sort_unstable();
        merges.extend(splits.iter().map(|&(_, _, at)| {
            json!([byte_level::text(&token[..at]), byte_level::text(&token[at..])])
        }));
    }
    let known = known(path, special);
    let first = ranks.last().map_or(0, |(rank, _)| rank + 1);
    let named = known.special.iter().zip(first..).filter(|(name, _)| !name.is_empty());
    let added = named
        .filter(|(name, _)| !special.names(name))
        .map(|(name, id)| Added::new(id, name.clone(), true))
        .collect();
    let mut config = Map::new();
    for (role, token) in [("eos_token", Some(known.end)), ("bos_token", known.begin)] {
        if let Some(token) = token.filter(|t| !t.is_empty()) {
            config.insert(role.into(), token.into());
        }
    }
    let mut frame = (Vec::new(), Vec::new());
    if special.class() == "ChatGLM4Tokenizer" {
        frame.0.extend(["[gMASK]", "<sop>"].map(String::from));
    }
    frame.0.extend(known.begin.map(String::from));
    Ok(Conversion {
        model: json!({
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": true, "vocab": vocab, "merges": merges,
        }),
        normalizer: Value::Null,
        pre_tokenizer: byte_level::pre_tokenizer(known.pattern),
        decoder: byte_level::decoder(),
        added,
        frame,
        config,
    })
}
