//! Special and added tokens as a folder's other files name them: `tokenizer_config.json`,
//! `special_tokens_map.json`, `added_tokens.json`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Map, Value, json};

use super::Added;
use crate::text::TextError;
use crate::text::tokenizer::{json_object, token_text};

/// Most ids that may lie free between the vocabulary and the added tokens.
const GAP_MAX: u64 = 1 << 16;

/// What the files say.
#[derive(Clone, Debug, Default)]
pub struct SpecialTokens {
    config: Map<String, Value>,
    map: Map<String, Value>,
    /// Tokens with ids.
    added: BTreeMap<String, Added>,
}

impl SpecialTokens {
    /// Those of `dir`; `config` is its `tokenizer_config.json`.
    ///
    /// # Errors
    /// A file that is not a JSON object.
    pub fn read(dir: &Path, config: &Map<String, Value>) -> Result<Self, TextError> {
        let map = json_object(&dir.join("special_tokens_map.json"))?;
        let mut tokens = Self { config: config.clone(), map, added: BTreeMap::new() };
        for (content, id) in json_object(&dir.join("added_tokens.json"))? {
            if let Some(id) = id.as_u64() {
                let special = tokens.is_special(&content);
                tokens.added.insert(content.clone(), Added::new(id, content, special));
            }
        }
        let decoder = config.get("added_tokens_decoder").and_then(Value::as_object);
        for (id, token) in decoder.into_iter().flatten() {
            let (Ok(id), Some(content)) = (id.parse(), token["content"].as_str()) else { continue };
            let flag = |key: &str| token[key].as_bool().unwrap_or(false);
            let added = Added {
                id,
                content: content.into(),
                special: flag("special"),
                normalized: flag("normalized"),
                lstrip: flag("lstrip"),
                rstrip: flag("rstrip"),
                single_word: flag("single_word"),
            };
            tokens.added.insert(content.into(), added);
        }
        Ok(tokens)
    }

    /// Those that a `tokenizer_config.json` alone would name.
    pub fn of_config(config: Map<String, Value>) -> Self {
        Self { config, map: Map::new(), added: BTreeMap::new() }
    }

    /// The class that the folder names; empty: none.
    pub fn class(&self) -> &str {
        self.config.get("tokenizer_class").and_then(Value::as_str).unwrap_or("")
    }

    /// A setting that is true or false.
    pub fn flag(&self, name: &str) -> Option<bool> {
        self.config.get(name)?.as_bool()
    }

    /// A setting that is a number.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.config.get(name)?.as_u64()
    }

    /// The text of a role's token, `bos_token`.
    pub fn token(&self, role: &str) -> Option<String> {
        token_text(self.config.get(role)).or_else(|| token_text(self.map.get(role)))
    }

    /// Whether the files give this token an id.
    pub fn names(&self, token: &str) -> bool {
        self.added.contains_key(token)
    }

    /// Texts of tokens that have a role, or are listed as special.
    fn listed(&self) -> BTreeSet<String> {
        let mut all = BTreeSet::new();
        for source in [&self.config, &self.map] {
            for role in [
                "bos_token",
                "eos_token",
                "unk_token",
                "pad_token",
                "sep_token",
                "cls_token",
                "mask_token",
            ] {
                all.extend(token_text(source.get(role)));
            }
            for key in ["additional_special_tokens", "extra_special_tokens"] {
                let list = source.get(key).and_then(Value::as_array);
                all.extend(list.into_iter().flatten().filter_map(|t| token_text(Some(t))));
            }
        }
        all
    }

    fn is_special(&self, token: &str) -> bool {
        self.listed().contains(token)
    }

    /// The added tokens of the whole: the format's own, those with ids in the files, and special ones
    /// without, which come last. What `model`'s vocabulary lacks is put into it, so that ids stay what
    /// they are.
    ///
    /// # Errors
    /// An id that another token has, or one far beyond the vocabulary.
    pub(super) fn complete(
        &self,
        model: &mut Value,
        own: Vec<Added>,
    ) -> Result<Vec<Added>, String> {
        let mut vocab = Vocabulary::of(model)?;
        let mut all: BTreeMap<String, Added> =
            own.into_iter().map(|a| (a.content.clone(), a)).collect();
        for added in all.values() {
            vocab.put(&added.content, added.id)?;
        }
        for (content, added) in &self.added {
            vocab.put(content, added.id)?;
            all.insert(content.clone(), added.clone());
        }
        for content in self.listed() {
            if content.is_empty() || all.contains_key(&content) {
                continue;
            }
            let id = match vocab.ids.get(&content) {
                Some(&id) => id,
                None => {
                    let id = vocab.next();
                    vocab.put(&content, id)?;
                    id
                }
            };
            all.insert(content.clone(), Added::new(id, content, true));
        }
        vocab.write(model);
        let mut all: Vec<Added> = all.into_values().collect();
        all.sort_by_key(|a| a.id);
        Ok(all)
    }
}

/// Tokens of a model by text and by id.
struct Vocabulary {
    ids: std::collections::HashMap<String, u64>,
    used: std::collections::HashMap<u64, String>,
    known: u64,
    fresh: Vec<(u64, String)>,
}

impl Vocabulary {
    fn of(model: &Value) -> Result<Self, String> {
        let ids: std::collections::HashMap<String, u64> = match &model["vocab"] {
            Value::Object(map) => {
                map.iter().filter_map(|(t, id)| Some((t.clone(), id.as_u64()?))).collect()
            }
            Value::Array(list) => list
                .iter()
                .zip(0..)
                .filter_map(|(entry, id)| Some((entry[0].as_str()?.to_string(), id)))
                .collect(),
            _ => return Err("it holds no vocabulary".into()),
        };
        let used: std::collections::HashMap<u64, String> =
            ids.iter().map(|(t, &id)| (id, t.clone())).collect();
        let known = used.keys().max().map_or(0, |id| id + 1);
        Ok(Self { ids, used, known, fresh: Vec::new() })
    }

    fn next(&self) -> u64 {
        self.fresh.iter().map(|(id, _)| id + 1).max().unwrap_or(0).max(self.known)
    }

    fn put(&mut self, token: &str, id: u64) -> Result<(), String> {
        let token_shown = || crate::error::excerpt(token);
        match (self.ids.get(token), self.used.get(&id)) {
            (Some(&own), _) if own == id => Ok(()),
            (Some(own), _) => Err(format!(
                "its vocabulary gives `{}` the id {own}, and the files beside it say {id}",
                token_shown()
            )),
            (None, Some(other)) => Err(format!(
                "the files beside it give `{}` the id {id}, which `{}` has",
                token_shown(),
                crate::error::excerpt(other)
            )),
            (None, None) if id > self.next() + GAP_MAX => Err(format!(
                "the files beside it give `{}` the id {id}, far beyond the vocabulary's {}",
                token_shown(),
                self.known
            )),
            (None, None) => {
                self.ids.insert(token.into(), id);
                self.used.insert(id, token.into());
                self.fresh.push((id, token.into()));
                Ok(())
            }
        }
    }

    /// A map may have free ids; a list is filled up.
    fn write(mut self, model: &mut Value) {
        self.fresh.sort();
        match &mut model["vocab"] {
            Value::Object(map) => {
                map.extend(self.fresh.into_iter().map(|(id, token)| (token, json!(id))));
            }
            Value::Array(list) => {
                let score = |entry: &Value| entry[1].as_f64();
                let least = list.iter().filter_map(score).fold(0f64, f64::min);
                for (id, token) in self.fresh {
                    while (list.len() as u64) < id {
                        list.push(json!([format!("<free_{}>", list.len()), least]));
                    }
                    list.push(json!([token, least]));
                }
            }
            _ => {}
        }
    }
}
