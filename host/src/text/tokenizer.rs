//! A Hugging Face tokenizer folder: `tokenizer.json` and the files beside it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tokenizers::Tokenizer;

use super::TextError;
use crate::{fs, limits};

/// A tokenizer with its special tokens.
pub struct TextTokenizer {
    inner: Tokenizer,
    dir: PathBuf,
    /// `tokenizer_config.json` as it stands (empty when absent).
    pub config: Map<String, Value>,
    bos: Option<(String, u32)>,
    eos: Option<(String, u32)>,
    pad: Option<(String, u32)>,
    unk: Option<(String, u32)>,
    /// What was assumed where the folder says nothing.
    pub notices: Vec<String>,
}

/// A tokenized text with, for each token, its range of characters in the text.
#[derive(Clone, Debug, PartialEq)]
pub struct WithOffsets {
    /// Token ids.
    pub ids: Vec<u32>,
    /// `(start, end)` in characters; equal for tokens that stand for no character.
    pub offsets: Vec<(usize, usize)>,
}

fn json_object(path: &Path) -> Result<Map<String, Value>, TextError> {
    if !path.is_file() {
        return Ok(Map::new());
    }
    let bytes = fs::read_limited(path, limits::TOKENIZER_BYTES_MAX)?;
    serde_json::from_slice(&bytes).map_err(|e| TextError::Tokenizer {
        path: path.into(),
        reason: format!("it is not a JSON object ({e})"),
    })
}

/// The text of a special token: a string, or an object with `content`.
fn token_text(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::String(text) => Some(text.clone()),
        Value::Object(o) => o.get("content")?.as_str().map(str::to_string),
        _ => None,
    }
}

impl TextTokenizer {
    /// Loads the tokenizer of `dir`. `fallback_ids` are the model configuration's bos, eos and
    /// pad, used where the tokenizer's own files name none.
    ///
    /// Missing tokens: no eos becomes `</s>` where the vocabulary has it; no pad becomes unk, else
    /// eos. (Padding is never stored, so its id matters to other programs only.)
    ///
    /// # Errors
    /// [`TextError::NoTokenizer`], [`TextError::Tokenizer`].
    pub fn load(dir: &Path, fallback_ids: [Option<u32>; 3]) -> Result<Self, TextError> {
        let path = dir.join("tokenizer.json");
        if !path.is_file() {
            return Err(TextError::NoTokenizer(dir.into()));
        }
        let bytes = fs::read_limited(&path, limits::TOKENIZER_BYTES_MAX)?;
        let fault = |reason: String| TextError::Tokenizer { path: path.clone(), reason };
        // The tokenizers crate panics on some damaged files.
        let mut inner = match catch_unwind(|| Tokenizer::from_bytes(&bytes)) {
            Ok(Ok(tokenizer)) => tokenizer,
            Ok(Err(e)) => return Err(fault(crate::error::excerpt(&e.to_string()))),
            Err(_) => return Err(fault("its contents make no tokenizer".into())),
        };
        // Cutting and padding are ours to do and to account for.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| fault(crate::error::excerpt(&e.to_string())))?;
        let config = json_object(&dir.join("tokenizer_config.json"))?;
        let map = json_object(&dir.join("special_tokens_map.json"))?;
        let special = |key: &str| -> Option<(String, u32)> {
            let text = token_text(config.get(key)).or_else(|| token_text(map.get(key)))?;
            let id = inner.token_to_id(&text)?;
            Some((text, id))
        };
        let by_id = |id: Option<u32>| Some((inner.id_to_token(id?)?, id?));
        let by_text = |text: &str| Some((text.to_string(), inner.token_to_id(text)?));
        let [bos_id, eos_id, pad_id] = fallback_ids;
        let mut notices = Vec::new();
        let unk = special("unk_token");
        let bos = special("bos_token").or_else(|| by_id(bos_id));
        let eos = special("eos_token").or_else(|| by_id(eos_id)).or_else(|| {
            let found = by_text("</s>").or_else(|| by_text("<|endoftext|>"))?;
            notices.push(format!("no eos token is named; `{}` is used", found.0));
            Some(found)
        });
        let pad = special("pad_token").or_else(|| by_id(pad_id)).or_else(|| {
            let found = unk.clone().or_else(|| eos.clone())?;
            notices.push(format!("no pad token is named; `{}` is written as one", found.0));
            Some(found)
        });
        Ok(Self { inner, dir: dir.into(), config, bos, eos, pad, unk, notices })
    }

    /// The folder it came from.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Text and id of the first token, if any.
    pub fn bos(&self) -> Option<(&str, u32)> {
        self.bos.as_ref().map(|(t, i)| (t.as_str(), *i))
    }

    /// Text and id of the token that ends a text, if any.
    pub fn eos(&self) -> Option<(&str, u32)> {
        self.eos.as_ref().map(|(t, i)| (t.as_str(), *i))
    }

    /// Text and id of the padding token, if any.
    pub fn pad(&self) -> Option<(&str, u32)> {
        self.pad.as_ref().map(|(t, i)| (t.as_str(), *i))
    }

    /// Text and id of the token for the unknown, if any.
    pub fn unk(&self) -> Option<(&str, u32)> {
        self.unk.as_ref().map(|(t, i)| (t.as_str(), *i))
    }

    /// The id of a token given by its text.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Largest id that can come out.
    pub fn largest_id(&self) -> u32 {
        self.inner.get_vocab(true).values().copied().max().unwrap_or(0)
    }

    /// A token that another tokenizer gives another id, or does not have; `None`: both give every
    /// token the same id.
    pub fn differs_from(&self, other: &Self) -> Option<String> {
        let (own, theirs) = (self.inner.get_vocab(true), other.inner.get_vocab(true));
        let differs = |(token, id): &(&String, &u32)| theirs.get(*token) != Some(*id);
        let least = own.iter().filter(differs).min_by_key(|(_, id)| **id);
        let more = theirs.keys().filter(|token| !own.contains_key(*token)).min();
        least.map(|(token, _)| token.clone()).or_else(|| more.cloned())
    }

    /// Checks that every id has a row in the model's embedding.
    ///
    /// # Errors
    /// [`TextError::VocabularyMismatch`].
    pub fn check_fits(&self, rows: usize) -> Result<(), TextError> {
        let largest = self.largest_id();
        if largest as usize >= rows {
            return Err(TextError::VocabularyMismatch { largest, rows });
        }
        Ok(())
    }

    /// Ids of `text`, with the special tokens that the tokenizer adds to a plain text when
    /// `add_special` says so; offsets in characters of `text`.
    ///
    /// # Errors
    /// [`TextError::Encode`].
    pub fn encode(&self, text: &str, add_special: bool) -> Result<WithOffsets, TextError> {
        let run = || self.inner.encode_char_offsets(text, add_special);
        // Some pre-tokenizers panic when their expression backtracks too long.
        match catch_unwind(AssertUnwindSafe(run)) {
            Ok(Ok(encoding)) => Ok(WithOffsets {
                ids: encoding.get_ids().to_vec(),
                offsets: encoding.get_offsets().to_vec(),
            }),
            Ok(Err(e)) => Err(TextError::Encode(crate::error::excerpt(&e.to_string()))),
            Err(_) => Err(TextError::Encode("its rules don't end on this text".into())),
        }
    }

    /// Text of `ids`.
    ///
    /// # Errors
    /// [`TextError::Encode`].
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, TextError> {
        let run = || self.inner.decode(ids, skip_special);
        match catch_unwind(AssertUnwindSafe(run)) {
            Ok(Ok(text)) => Ok(text),
            Ok(Err(e)) => Err(TextError::Encode(crate::error::excerpt(&e.to_string()))),
            Err(_) => Err(TextError::Encode("its decoder failed".into())),
        }
    }

    /// A decoder that answers text as tokens come, whole characters only.
    pub fn stream(&self, skip_special: bool) -> StreamDecoder<'_> {
        StreamDecoder { tokenizer: self, skip_special, ids: Vec::new(), shown: 0 }
    }

    /// Writes the tokenizer's files into `dir`, as they stand in the folder they came from.
    ///
    /// # Errors
    /// A file operation.
    pub fn save(&self, dir: &Path) -> Result<(), TextError> {
        // Copying a file onto itself would empty it.
        if let (Ok(own), Ok(target)) = (self.dir.canonicalize(), dir.canonicalize())
            && own == target
        {
            return Ok(());
        }
        const FILES: [&str; 6] = [
            "tokenizer.json",
            "tokenizer_config.json",
            "special_tokens_map.json",
            "added_tokens.json",
            "chat_template.jinja",
            "tokenizer.model",
        ];
        for name in FILES {
            let from = self.dir.join(name);
            if from.is_file() {
                std::fs::copy(&from, dir.join(name)).map_err(fs::io_error("copy", &from))?;
            }
        }
        Ok(())
    }
}

/// See [`TextTokenizer::stream`].
pub struct StreamDecoder<'a> {
    tokenizer: &'a TextTokenizer,
    skip_special: bool,
    ids: Vec<u32>,
    /// Bytes of the text already answered.
    shown: usize,
}

impl StreamDecoder<'_> {
    /// The text that `id` completes; empty while a character is incomplete.
    ///
    /// # Errors
    /// [`TextError::Encode`].
    pub fn push(&mut self, id: u32) -> Result<String, TextError> {
        self.ids.push(id);
        let text = self.tokenizer.decode(&self.ids, self.skip_special)?;
        // An incomplete character decodes to the replacement character.
        if text.ends_with('\u{FFFD}') || text.len() <= self.shown {
            return Ok(String::new());
        }
        let new = text.get(self.shown..).unwrap_or_default().to_string();
        self.shown = text.len();
        Ok(new)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn damaged_tokenizers_are_errors_not_panics() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(
            TextTokenizer::load(dir.path(), [None; 3]),
            Err(TextError::NoTokenizer(_))
        ));
        for bad in ["", "{", "[]", "{}", r#"{"version":"1.0","model":{"type":"BPE"}}"#] {
            std::fs::write(dir.path().join("tokenizer.json"), bad).unwrap();
            let error = TextTokenizer::load(dir.path(), [None; 3]).err().unwrap().to_string();
            assert!(error.contains("download it again"), "{error}");
        }
    }
}
