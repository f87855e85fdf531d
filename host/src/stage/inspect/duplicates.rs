//! Which rows say what an earlier row said: equal ones by a hash of their values, near ones by
//! MinHash. The first of equal or near rows is kept; later rows are compared with kept ones only.
//!
//! Memory is about 40 bytes for every kept row, and with MinHash some 500 more.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value};

use super::leaves::{at, fingerprint, texts};
use super::minhash::{Index, MinHash, Signature};
use crate::config::ConfigError;
use crate::error::Result;

/// How duplicates are found.
#[derive(Clone, Debug, PartialEq)]
pub enum Method {
    /// Equal values.
    Exact,
    /// Equal values, and texts that share most of their words.
    MinHash(MinHash),
}

impl Method {
    /// MinHash with these settings.
    ///
    /// # Errors
    /// A threshold that is no share.
    pub fn minhash(threshold: f64, ngram: usize, functions: usize, seed: u64) -> Result<Self> {
        if !(threshold > 0.0 && threshold <= 1.0) {
            let fault =
                format!("`--threshold` is {threshold}, expected a number above 0, at most 1");
            return Err(ConfigError::one(fault).into());
        }
        Ok(Method::MinHash(MinHash::new(threshold, ngram, functions, seed)))
    }
}

/// What of a row is compared.
#[derive(Clone, Debug, PartialEq)]
pub struct Compared {
    /// How.
    pub method: Method,
    /// Columns, or paths of values; none: the whole row.
    pub columns: Vec<String>,
}

/// What is remembered of a row.
pub struct Key {
    fingerprint: u128,
    signature: Option<Signature>,
}

impl Compared {
    /// The key of a row.
    pub fn key(&self, row: &Map<String, Value>) -> Key {
        let values: Vec<Option<&Value>> = match self.columns.is_empty() {
            // By name, so that the order of fields does not count.
            true => {
                let mut fields: Vec<_> = row.iter().filter(|(_, v)| !v.is_null()).collect();
                fields.sort_unstable_by_key(|(name, _)| *name);
                let names: Vec<Value> =
                    fields.iter().map(|(n, _)| Value::from(n.as_str())).collect();
                let names = Value::Array(names);
                let values: Vec<Option<&Value>> = fields.iter().map(|(_, v)| Some(*v)).collect();
                let all = std::iter::once(Some(&names)).chain(values.iter().copied());
                return Key { fingerprint: fingerprint(all), signature: self.signature(&values) };
            }
            false => self.columns.iter().map(|path| at(row, path)).collect(),
        };
        Key { fingerprint: fingerprint(values.iter().copied()), signature: self.signature(&values) }
    }

    fn signature(&self, values: &[Option<&Value>]) -> Option<Signature> {
        let Method::MinHash(minhash) = &self.method else { return None };
        let mut found = Vec::new();
        values.iter().flatten().for_each(|value| texts(value, &mut |text| found.push(text)));
        minhash.signature(&found)
    }
}

/// A row by its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The file, as the user named it.
    pub file: Arc<str>,
    /// 1-based row; in line formats, the line.
    pub row: u64,
}

/// A row that says what an earlier one said.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Duplicate {
    /// The row.
    #[serde(flatten)]
    pub at: Place,
    /// Whether it is equal, and not only near.
    pub exact: bool,
    /// Similarity: 1 where equal, else as estimated.
    pub similarity: f64,
    /// The row that is kept instead.
    pub of: Place,
}

/// The kept rows.
pub struct Seen {
    by_value: HashMap<u128, u32>,
    index: Option<Index>,
    /// The kept row of each entry of the index.
    of_entry: Vec<u32>,
    kept: Vec<(u32, u64)>,
    files: Vec<Arc<str>>,
}

impl Seen {
    /// None yet.
    pub fn new(method: &Method) -> Self {
        let index = match method {
            Method::Exact => None,
            Method::MinHash(minhash) => Some(Index::new(minhash.clone())),
        };
        Self {
            by_value: HashMap::new(),
            index,
            of_entry: Vec::new(),
            kept: Vec::new(),
            files: Vec::new(),
        }
    }

    fn place(&self, kept: u32) -> Place {
        let (file, row) = self.kept[kept as usize];
        Place { file: self.files[file as usize].clone(), row }
    }

    /// Takes the next row: keeps it, or answers what it is a duplicate of.
    pub fn take(&mut self, file: &Arc<str>, row: u64, key: &Key) -> Option<Duplicate> {
        let duplicate = |this: &Self, kept, exact, similarity| {
            let (at, of) = (Place { file: file.clone(), row }, this.place(kept));
            Some(Duplicate { at, exact, similarity, of })
        };
        if let Some(&kept) = self.by_value.get(&key.fingerprint) {
            return duplicate(self, kept, true, 1.0);
        }
        let near = self.index.as_ref().zip(key.signature.as_ref()).and_then(|(i, s)| i.find(s));
        if let Some((entry, similarity)) = near {
            return duplicate(self, self.of_entry[entry as usize], false, similarity);
        }
        let number = self.kept.len() as u32;
        self.by_value.insert(key.fingerprint, number);
        if let (Some(index), Some(signature)) = (&mut self.index, &key.signature) {
            index.add(signature);
            self.of_entry.push(number);
        }
        // Rows come file by file.
        if self.files.last() != Some(file) {
            self.files.push(file.clone());
        }
        self.kept.push((self.files.len() as u32 - 1, row));
        None
    }
}
