//! A Hugging Face tokenizer folder: `tokenizer.json` and the files beside it, or another format that
//! is converted.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tokenizers::Tokenizer;

use super::{TextError, conversion};
use crate::{fs, limits};

/// A tokenizer with its special tokens.
pub struct TextTokenizer {
    inner: Tokenizer,
    dir: PathBuf,
    /// The file it was made from.
    source: PathBuf,
    /// Whether that is of another format.
    converted: bool,
    /// Whether tokens were added to what the files have.
    changed: bool,
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

pub(super) fn json_object(path: &Path) -> Result<Map<String, Value>, TextError> {
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
pub(super) fn token_text(value: Option<&Value>) -> Option<String> {
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
        let mut config = json_object(&dir.join("tokenizer_config.json"))?;
        let mut path = dir.join("tokenizer.json");
        let converted = !path.is_file();
        let bytes = if converted {
            let Some(made) = conversion::convert(dir, &config)? else {
                return Err(TextError::NoTokenizer(dir.into()));
            };
            path = made.source;
            for (key, value) in made.config {
                if config.get(&key).is_none_or(Value::is_null) {
                    config.insert(key, value);
                }
            }
            made.json.to_string().into_bytes()
        } else {
            fs::read_limited(&path, limits::TOKENIZER_BYTES_MAX)?
        };
        let fault = |reason: String| TextError::Tokenizer { path: path.clone(), reason };
        // The tokenizers crate panics on some damaged files.
        let mut inner = match catch_unwind(|| Tokenizer::from_bytes(&bytes)) {
            Ok(Ok(tokenizer)) => tokenizer,
            Ok(Err(e)) => return Err(fault(crate::error::excerpt(&e.to_string()))),
            Err(_) => return Err(fault("its contents make no tokenizer".into())),
        };
        drop(bytes);
        // Cutting and padding are ours to do and to account for.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| fault(crate::error::excerpt(&e.to_string())))?;
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
        if converted {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            notices.push(format!("the tokenizer was converted from {name}"));
        }
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
        let source = path.clone();
        let (dir, changed) = (dir.into(), false);
        Ok(Self { inner, dir, source, converted, changed, config, bos, eos, pad, unk, notices })
    }

    /// The folder it came from.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The file it was made from.
    pub fn source(&self) -> &Path {
        &self.source
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

    /// Adds those of `tokens` that it lacks, and answers the ids of all of them.
    ///
    /// # Errors
    /// A token that can't be added.
    pub fn add_tokens(&mut self, tokens: &[String], special: bool) -> Result<Vec<u32>, TextError> {
        let fault = |token: &str| TextError::Tokenizer {
            path: self.source.clone(),
            reason: format!("`{}` can't be added to it", crate::error::excerpt(token)),
        };
        let added = tokens
            .iter()
            .map(|t| tokenizers::AddedToken::from(t.as_str(), special).normalized(false));
        let added: Vec<_> = added.collect();
        let count = match special {
            true => self.inner.add_special_tokens(added),
            false => self.inner.add_tokens(added),
        };
        let count = count.map_err(|_| fault(tokens.first().map_or("", String::as_str)))?;
        self.changed |= count > 0;
        tokens.iter().map(|t| self.inner.token_to_id(t).ok_or_else(|| fault(t))).collect()
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

    /// The contents of its `tokenizer.json`.
    ///
    /// # Errors
    /// [`TextError::Tokenizer`].
    pub fn to_json(&self) -> Result<Value, TextError> {
        let fault = |reason: String| TextError::Tokenizer { path: self.source.clone(), reason };
        let text = self.inner.to_string(false).map_err(|e| fault(e.to_string()))?;
        serde_json::from_str(&text).map_err(|e| fault(e.to_string()))
    }

    /// Writes the tokenizer's files into `dir`, as they stand in the folder they came from. A
    /// converted tokenizer is written as `tokenizer.json`, under a class that every reader has.
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
        match (self.converted, self.changed) {
            (true, _) => self.save_converted(dir),
            (false, true) => self.save_json(dir),
            (false, false) => Ok(()),
        }
    }

    fn save_json(&self, dir: &Path) -> Result<(), TextError> {
        let text = self.to_json()?.to_string();
        Ok(fs::write_atomic(&dir.join("tokenizer.json"), text.as_bytes())?)
    }

    fn save_converted(&self, dir: &Path) -> Result<(), TextError> {
        self.save_json(dir)?;
        let mut config = self.config.clone();
        // Code of its own, which nobody should run to read a tokenizer.json.
        config.remove("auto_map");
        // The file has the added tokens.
        config.remove("added_tokens_decoder");
        config.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
        let roles = [
            ("bos_token", &self.bos),
            ("eos_token", &self.eos),
            ("pad_token", &self.pad),
            ("unk_token", &self.unk),
        ];
        for (role, token) in roles {
            if let Some((text, _)) = token {
                config.insert(role.into(), text.clone().into());
            }
        }
        let text = format!("{:#}\n", Value::Object(config));
        Ok(fs::write_atomic(&dir.join("tokenizer_config.json"), text.as_bytes())?)
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
