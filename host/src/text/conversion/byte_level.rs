//! Byte-level BPE: bytes as printable characters (GPT-2), how texts are cut before merging, and
//! `vocab.json` with `merges.txt`.

use serde_json::{Map, Value, json};

use super::special::SpecialTokens;
use super::{Conversion, sequence};

/// How GPT-2 cuts a text.
pub const GPT2: &str = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// How Qwen does: digits one by one.
pub const QWEN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// How `cl100k_base`, LLaMA 3 and GLM-4 do: up to three digits together.
pub const CL100K: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// How `o200k_base` does.
pub const O200K: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// GPT-2's character for a byte: printable ones stand for themselves.
pub fn character(byte: u8) -> char {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if printable(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|&b| !printable(b)).count() as u32;
    char::from_u32(256 + before).unwrap_or(' ')
}

/// A token's bytes as text.
pub fn text(bytes: &[u8]) -> String {
    bytes.iter().map(|&b| character(b)).collect()
}

fn bytes_only() -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false})
}

/// Cuts by `pattern`, then shows bytes as characters.
pub fn pre_tokenizer(pattern: &str) -> Value {
    let split = json!({
        "type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false,
    });
    sequence("pretokenizers", vec![split, bytes_only()])
}

/// Back from characters to bytes.
pub fn decoder() -> Value {
    bytes_only()
}

/// From `vocab.json` and `merges.txt`; an error names its file.
pub(super) fn convert(
    vocab: &[u8],
    merges: &[u8],
    special: &SpecialTokens,
) -> Result<Conversion, (&'static str, String)> {
    let fault = |reason: String| ("vocab.json", reason);
    let vocab: Map<String, Value> = serde_json::from_slice(vocab)
        .map_err(|e| fault(format!("it is not a JSON object ({e})")))?;
    if let Some((token, _)) =
        vocab.iter().find(|(_, id)| id.as_u64().is_none_or(|id| id > u32::MAX.into()))
    {
        return Err(fault(format!("`{}` has no id", crate::error::excerpt(token))));
    }
    let text =
        std::str::from_utf8(merges).map_err(|_| ("merges.txt", "it is not UTF-8".to_string()))?;
    let mut pairs = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.is_empty() || number == 0 && line.starts_with("#version") {
            continue;
        }
        let pair = line.split_once(' ').filter(|(_, right)| !right.contains(' '));
        let Some((left, right)) = pair else {
            let reason = format!("line {} is not two tokens", number + 1);
            return Err(("merges.txt", reason));
        };
        for part in [left.to_string(), right.to_string(), format!("{left}{right}")] {
            if !vocab.contains_key(&part) {
                let part = crate::error::excerpt(&part);
                let reason = format!("line {} needs `{part}`, which vocab.json lacks", number + 1);
                return Err(("merges.txt", reason));
            }
        }
        pairs.push(json!([left, right]));
    }
    let class = special.class().trim_end_matches("Fast");
    let qwen = class == "Qwen2Tokenizer";
    let bos = special.flag("add_bos_token").unwrap_or(false);
    let before = bos.then(|| special.token("bos_token")).flatten().into_iter().collect();
    Ok(Conversion {
        model: json!({
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": false, "vocab": vocab, "merges": pairs,
        }),
        normalizer: if qwen { json!({"type": "NFC"}) } else { Value::Null },
        pre_tokenizer: pre_tokenizer(if qwen { QWEN } else { GPT2 }),
        decoder: decoder(),
        added: Vec::new(),
        frame: (before, Vec::new()),
        config: Map::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_gpt2s_characters() {
        assert_eq!(text(b"a b\n"), "a\u{120}b\u{10A}");
        assert_eq!((character(0), character(0xAD), character(0xFF)), ('\u{100}', '\u{143}', 'ÿ'));
        let mut all: Vec<char> = (0..=255).map(character).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 256);
    }
}
