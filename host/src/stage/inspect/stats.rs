//! What some files hold: rows, columns with types, missing values and lengths, duplicates.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;
use serde_json::{Map, Value};

use super::duplicates::{Compared, Method, Seen};
use super::histogram::{Histogram, Summary};
use super::leaves::{fingerprint, texts};
use super::{Input, Watch};
use crate::data::source::{Format, SourceFile, peek};
use crate::data::{Ledger, Reject, Totals};
use crate::error::Result;
use crate::stage::convert::Type;
use crate::text::{TextError, TextTokenizer};

/// Different values of a column that are counted; of more only that there are more is known.
const DISTINCT_MAX: usize = 10_000;
/// Different short values of a column that are listed with their counts.
const VALUES_MAX: usize = 20;
/// Longest value that is listed, characters.
const VALUE_CHARS_MAX: usize = 40;

/// What is wanted beside the counts.
#[derive(Default)]
pub struct StatsOptions {
    /// Counts tokens, too.
    pub tokenizer: Option<TextTokenizer>,
    /// Looks for duplicates.
    pub duplicates: Option<Compared>,
}

/// A file.
#[derive(Clone, Debug, Serialize)]
pub struct FileStats {
    /// As the user named it.
    pub file: String,
    /// Its format.
    pub format: &'static str,
    /// What it is wrapped in, if anything.
    pub compression: Option<&'static str>,
    /// Its size, bytes.
    pub bytes: u64,
    /// Rows read of it, blank lines included.
    pub rows: u64,
}

/// A column.
#[derive(Clone, Debug, Serialize)]
pub struct ColumnStats {
    /// Its name.
    pub name: String,
    /// The type of its values, as the file declares it or as they have in common.
    #[serde(rename = "type")]
    pub kind: String,
    /// Rows with a value.
    pub present: u64,
    /// Rows where it is null or absent.
    pub missing: u64,
    /// Different values; `None`: more than are counted.
    pub distinct: Option<usize>,
    /// The values with their counts, most frequent first, where there are few and short ones.
    pub values: Vec<(String, u64)>,
    /// Characters of all texts in a value.
    pub chars: Option<Summary>,
    /// Tokens of all texts in a value.
    pub tokens: Option<Summary>,
    /// Elements of a list.
    pub items: Option<Summary>,
    /// Least and largest number.
    pub range: Option<(f64, f64)>,
}

/// Rows that say what earlier ones said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct DuplicateStats {
    /// Equal to an earlier row.
    pub exact: u64,
    /// Near an earlier row; `None`: not looked for.
    pub near: Option<u64>,
}

/// All of it.
#[derive(Clone, Debug, Serialize)]
pub struct Stats {
    /// The files.
    pub files: Vec<FileStats>,
    /// Rows read, usable and rejected.
    pub totals: Totals,
    /// The columns, in order of appearance.
    pub columns: Vec<ColumnStats>,
    /// Characters of all texts in a row.
    pub chars: Option<Summary>,
    /// Tokens of all texts in a row.
    pub tokens: Option<Summary>,
    /// Duplicates, if they were looked for.
    pub duplicates: Option<DuplicateStats>,
    /// The first rejected rows.
    pub rejects: Vec<Reject>,
    /// The account in words.
    #[serde(skip)]
    pub account: Vec<String>,
}

/// Counts of a column.
#[derive(Default)]
struct Column {
    kind: Type,
    present: u64,
    distinct: HashSet<u64>,
    many: bool,
    values: BTreeMap<String, u64>,
    unlisted: bool,
    chars: Histogram,
    tokens: Histogram,
    items: Histogram,
    range: Option<(f64, f64)>,
}

impl Column {
    fn merge(&mut self, other: Self) {
        self.kind.take(other.kind);
        self.present += other.present;
        self.many |= other.many;
        if !self.many {
            self.distinct.extend(other.distinct);
        }
        self.unlisted |= other.unlisted;
        if !self.unlisted {
            for (value, count) in other.values {
                *self.values.entry(value).or_default() += count;
            }
        }
        self.chars.merge(&other.chars);
        self.tokens.merge(&other.tokens);
        self.items.merge(&other.items);
        self.range = match (self.range, other.range) {
            (Some(a), Some(b)) => Some((a.0.min(b.0), a.1.max(b.1))),
            (a, b) => a.or(b),
        };
        self.bound();
    }

    fn bound(&mut self) {
        if self.distinct.len() > DISTINCT_MAX {
            self.many = true;
            self.distinct.clear();
        }
        if self.values.len() > VALUES_MAX {
            self.unlisted = true;
            self.values.clear();
        }
    }

    fn take(&mut self, value: &Value, chars: u64, tokens: Option<u64>) {
        self.kind.take(Type::of(value));
        self.present += 1;
        if !self.many {
            self.distinct.insert(fingerprint([Some(value)]) as u64);
        }
        if !self.unlisted {
            let text = match value {
                Value::String(text) => Some(text.clone()),
                Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
                _ => None,
            };
            match text.filter(|t| t.chars().count() <= VALUE_CHARS_MAX) {
                Some(text) => *self.values.entry(text).or_default() += 1,
                None => {
                    self.unlisted = true;
                    self.values.clear();
                }
            }
        }
        if !matches!(value, Value::Bool(_) | Value::Number(_)) {
            self.chars.add(chars);
            tokens.into_iter().for_each(|n| self.tokens.add(n));
        }
        if let Value::Array(items) = value {
            self.items.add(items.len() as u64);
        }
        if let Some(number) = value.as_f64() {
            let (low, high) = self.range.unwrap_or((number, number));
            self.range = Some((low.min(number), high.max(number)));
        }
        self.bound();
    }
}

/// Counts of some rows.
#[derive(Default)]
struct Counts {
    columns: Vec<(String, Column)>,
    chars: Histogram,
    tokens: Histogram,
    ledger: Ledger,
}

impl Counts {
    fn column(&mut self, name: &str) -> &mut Column {
        let at = match self.columns.iter().position(|(own, _)| own == name) {
            Some(at) => at,
            None => {
                self.columns.push((name.to_string(), Column::default()));
                self.columns.len() - 1
            }
        };
        &mut self.columns[at].1
    }

    fn take(
        &mut self,
        row: &Map<String, Value>,
        tokenizer: Option<&TextTokenizer>,
    ) -> Result<(), TextError> {
        let (mut all_chars, mut all_tokens) = (0, 0);
        for (name, value) in row {
            if value.is_null() {
                self.column(name);
                continue;
            }
            let (mut chars, mut tokens) = (0, 0);
            let mut failed = None;
            texts(value, &mut |text| {
                chars += text.chars().count() as u64;
                match tokenizer.map(|t| t.encode(text, false)) {
                    Some(Ok(encoded)) => tokens += encoded.ids.len() as u64,
                    Some(Err(e)) => failed = Some(e),
                    None => {}
                }
            });
            if let Some(e) = failed {
                return Err(e);
            }
            all_chars += chars;
            all_tokens += tokens;
            self.column(name).take(value, chars, tokenizer.map(|_| tokens));
        }
        self.chars.add(all_chars);
        if tokenizer.is_some() {
            self.tokens.add(all_tokens);
        }
        Ok(())
    }

    fn merge(&mut self, other: Self) {
        for (name, column) in other.columns {
            self.column(&name).merge(column);
        }
        self.chars.merge(&other.chars);
        self.tokens.merge(&other.tokens);
        self.ledger.merge(&other.ledger);
    }
}

/// Types of columns as Parquet and Arrow files declare them; nothing where another format is among
/// them, or where they differ.
fn declared(files: &[SourceFile]) -> Result<BTreeMap<String, String>> {
    let mut types: BTreeMap<String, String> = BTreeMap::new();
    let mut differ = HashSet::new();
    for file in files {
        if !matches!(file.format, Format::Parquet | Format::Arrow) {
            return Ok(BTreeMap::new());
        }
        for field in peek(file)?.iter().flat_map(|schema| schema.fields().iter()) {
            let own = field.data_type().to_string();
            let before = types.entry(field.name().clone()).or_insert_with(|| own.clone());
            if *before != own {
                differ.insert(field.name().clone());
            }
        }
    }
    types.retain(|name, _| !differ.contains(name));
    Ok(types)
}

/// Reads everything and counts. Memory is bounded, but for duplicates: about 40 bytes a row that is
/// no duplicate, and with MinHash some 500 more.
///
/// # Errors
/// Files that can't be read; a tokenizer that fails on a text.
pub fn stats(input: &Input, options: &StatsOptions, watch: &mut Watch<'_>) -> Result<Stats> {
    let files = input.files()?.files;
    let declared = declared(&files)?;
    let mut counts = Counts::default();
    let mut seen = options.duplicates.as_ref().map(|d| Seen::new(&d.method));
    let (mut exact, mut near) = (0, 0);
    input.scan(
        files.clone(),
        watch,
        |batches| {
            let mut counts = Counts::default();
            let mut keys = Vec::new();
            for batch in &batches {
                counts.ledger.read(batch);
                for (i, text) in batch.whole_rows().enumerate() {
                    let row: Map<String, Value> = serde_json::from_str(text).unwrap_or_default();
                    counts.take(&row, options.tokenizer.as_ref())?;
                    counts.ledger.used(&batch.provenance(i), 1);
                    if let Some(compared) = &options.duplicates {
                        keys.push((batch.file.clone(), batch.rows[i], compared.key(&row)));
                    }
                }
            }
            Ok((counts, keys))
        },
        |(found, keys)| {
            let rows = found.ledger.totals().rows;
            counts.merge(found);
            for (file, row, key) in keys {
                let duplicate = seen.as_mut().and_then(|seen| seen.take(&file, row, &key));
                match duplicate {
                    Some(d) if d.exact => exact += 1,
                    Some(_) => near += 1,
                    None => {}
                }
            }
            Ok(rows)
        },
    )?;
    counts.ledger.check()?;
    let rows = counts.ledger.totals().used;
    let columns = counts.columns.into_iter().map(|(name, column)| {
        let mut values: Vec<(String, u64)> = column.values.into_iter().collect();
        values.sort_by_key(|value| std::cmp::Reverse(value.1));
        ColumnStats {
            kind: declared.get(&name).cloned().unwrap_or_else(|| column.kind.describe()),
            present: column.present,
            missing: rows - column.present,
            distinct: (!column.many).then_some(column.distinct.len()),
            values,
            chars: column.chars.summary(),
            tokens: column.tokens.summary(),
            items: column.items.summary(),
            range: column.range,
            name,
        }
    });
    let columns = columns.collect();
    let of = |file: &SourceFile| FileStats {
        file: file.name.to_string(),
        format: file.format.name(),
        compression: match file.compression {
            crate::data::Compression::None => None,
            other => Some(other.name()),
        },
        bytes: file.bytes,
        rows: counts.ledger.files.get(file.name.as_ref()).map_or(0, |f| f.rows),
    };
    let looked_near =
        options.duplicates.as_ref().is_some_and(|d| matches!(d.method, Method::MinHash(_)));
    Ok(Stats {
        files: files.iter().map(of).collect(),
        totals: counts.ledger.totals(),
        columns,
        chars: counts.chars.summary(),
        tokens: counts.tokens.summary(),
        duplicates: options
            .duplicates
            .is_some()
            .then_some(DuplicateStats { exact, near: looked_near.then_some(near) }),
        rejects: counts.ledger.first_rejects.clone(),
        account: counts.ledger.lines(),
    })
}
