//! Files of JSON objects: one per line, the elements of one array, or objects one after the
//! other. A row's fields are cut out of its text; values nobody asked for are passed over, and
//! values wanted as JSON keep their own text.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashSet};
use std::io::BufRead;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::bytes::{self, ByteStream};
use super::elements::{Element, ElementError, Elements};
use super::lines::{Line, Lines};
use super::rows::{Cell, Fault, Free, Gather};
use super::{FileReader, ReadOptions, SourceBatch, SourceFile};
use crate::data::column::{ColumnKind, ColumnNeed, Projection};
use crate::data::error::{DataError, RejectKind, names, nearest, shown};
use crate::limits::{JSON_DEPTH_MAX, JSONL_LINE_BYTES_MAX};

/// Fields remembered for messages.
const FOUND_MAX: usize = 200;

enum Rows {
    Lines(Lines<ByteStream>),
    Elements(Elements<ByteStream>),
}

/// Reads a file of JSON objects.
pub(super) struct JsonReader {
    file: SourceFile,
    rows: Rows,
    gather: Gather,
    /// Required columns that no row had so far.
    unseen: Vec<String>,
    found: BTreeSet<String>,
    any_row: bool,
    any_blank: bool,
    done: bool,
    part: bool,
}

impl JsonReader {
    pub fn open(file: &SourceFile, options: &ReadOptions) -> Result<Self, DataError> {
        let mut stream = bytes::open(&file.path, &file.name, file.compression)?;
        let rows = match layout_of(file, &mut stream)? {
            Layout::Lines => Rows::Lines(Lines::new(stream, JSONL_LINE_BYTES_MAX)),
            Layout::Array => Rows::Elements(Elements::array(stream, JSONL_LINE_BYTES_MAX)),
            Layout::Objects => Rows::Elements(Elements::sequence(stream, JSONL_LINE_BYTES_MAX)),
        };
        Ok(Self::reading(file, rows, options))
    }

    /// Reads lines that are a part of a file: what only the whole file can tell (that it has rows,
    /// and every column) is not checked.
    pub fn part(file: &SourceFile, lines: Lines<ByteStream>, options: &ReadOptions) -> Self {
        Self { part: true, ..Self::reading(file, Rows::Lines(lines), options) }
    }

    fn reading(file: &SourceFile, rows: Rows, options: &ReadOptions) -> Self {
        let unseen = match &options.projection {
            Projection::All => Vec::new(),
            Projection::Columns { needs, .. } => {
                needs.iter().filter(|n| !n.optional).map(|n| n.name.clone()).collect()
            }
        };
        Self {
            file: file.clone(),
            rows,
            gather: Gather::new(file.name.clone(), options.projection.clone(), options.batch_rows),
            unseen,
            found: BTreeSet::new(),
            any_row: false,
            any_blank: false,
            done: false,
            part: false,
        }
    }

    /// Reads one row; false at the end of the file.
    fn step(&mut self) -> Result<bool, DataError> {
        let file = &self.file;
        let failed = |e| bytes::failed(&file.path, &file.name, file.compression, e);
        let (number, bytes, too_long) = match &mut self.rows {
            Rows::Lines(lines) => match lines.advance().map_err(failed)? {
                None => return Ok(false),
                Some(line) => (lines.number(), lines.bytes(), line == Line::TooLong),
            },
            Rows::Elements(elements) => match elements.advance() {
                Ok(None) => return Ok(false),
                Ok(Some(element)) => {
                    (elements.number(), elements.bytes(), element == Element::TooLong)
                }
                Err(ElementError::Io(e)) => return Err(failed(e)),
                Err(ElementError::Broken(problem)) => {
                    return Err(DataError::Broken {
                        file: shown(&file.name),
                        row: elements.number() + 1,
                        problem: problem.into(),
                    });
                }
            },
        };
        if bytes.trim_ascii().is_empty() {
            self.gather.blank();
            self.any_blank = true;
            return Ok(true);
        }
        self.any_row = true;
        let read = if too_long {
            let reason =
                format!("is longer than {JSONL_LINE_BYTES_MAX} bytes; cut it into smaller rows");
            Err(Fault::new(RejectKind::TooLong, reason))
        } else {
            read_row(bytes, number, &mut self.gather, &mut self.unseen, &mut self.found)
        };
        if let Err(fault) = read {
            self.gather.reject(number, fault, bytes);
        }
        Ok(true)
    }
}

impl FileReader for JsonReader {
    fn next_batch(&mut self) -> Result<Option<SourceBatch>, DataError> {
        while !self.done && !self.gather.is_full() {
            if !self.step()? {
                self.done = true;
                if self.part {
                    break;
                }
                if !self.any_row {
                    let detail = if self.any_blank { ", only blank lines" } else { "" };
                    return Err(DataError::NoRows { file: shown(&self.file.name), detail });
                }
                if let Some(column) = self.unseen.first().filter(|_| !self.found.is_empty()) {
                    return Err(DataError::NoColumn {
                        file: shown(&self.file.name),
                        column: shown(column),
                        found: names(self.found.iter().map(String::as_str)),
                        nearest: nearest(column, self.found.iter().map(String::as_str)),
                    });
                }
            }
        }
        self.gather.take()
    }
}

/// How the rows of a JSON file lie in it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Layout {
    /// One a line.
    Lines,
    /// Elements of one array.
    Array,
    /// Objects one after the other, over several lines each.
    Objects,
}

/// The layout of a file, by its name and the beginning of its `stream`, which stays unread.
pub(super) fn layout_of(file: &SourceFile, stream: &mut ByteStream) -> Result<Layout, DataError> {
    let head = stream
        .fill_buf()
        .map_err(|e| bytes::failed(&file.path, &file.name, file.compression, e))?;
    let lower = file.name.to_ascii_lowercase();
    let stem = lower.strip_suffix(".gz").or_else(|| lower.strip_suffix(".zst"));
    Ok(layout(head, stem.unwrap_or(&lower).ends_with(".json")))
}

/// How the rows lie in a file that begins with `head`. Objects written over several lines are
/// looked for only under the name `.json`: in a `.jsonl` file such a line is a fault.
fn layout(head: &[u8], free_form: bool) -> Layout {
    let text = head.trim_ascii_start();
    if text.first() == Some(&b'[') {
        return Layout::Array;
    }
    let Some(end) = text.iter().position(|&b| b == b'\n').filter(|_| free_form) else {
        return Layout::Lines;
    };
    let line = text[..end].trim_ascii_end();
    let goes_on = line.last().is_some_and(|b| b"{[,:".contains(b));
    let cut = serde_json::from_slice::<&RawValue>(line).is_err_and(|e| e.is_eof());
    if goes_on && cut { Layout::Objects } else { Layout::Lines }
}

fn read_row(
    bytes: &[u8],
    number: u64,
    gather: &mut Gather,
    unseen: &mut Vec<String>,
    found: &mut BTreeSet<String>,
) -> Result<(), Fault> {
    let text = text_of(bytes)?;
    let fields = fields(text)?;
    if found.len() < FOUND_MAX {
        for (name, _) in &fields {
            if !found.contains(name.as_ref()) {
                found.insert(name.to_string());
            }
        }
    }
    unseen.retain(|column| !fields.iter().any(|(name, _)| name == column));
    match gather.projection() {
        Projection::All => {
            let mut row = Vec::with_capacity(fields.len());
            for (name, value) in &fields {
                check(name, value.get())?;
                row.push((name.as_ref(), Free::Json(value.get())));
            }
            gather.push_free(number, &row, bytes.len());
        }
        Projection::Columns { needs, whole_row } => {
            let mut cells = Vec::with_capacity(needs.len());
            for need in needs {
                cells.push(cell(need, &fields)?);
            }
            let whole = whole_row.then(|| text.trim().to_string());
            if whole.is_some() {
                for (name, value) in &fields {
                    check(name, value.get())?;
                }
            }
            gather.push(number, cells, whole, bytes.len());
        }
    }
    Ok(())
}

/// The row as text: UTF-8 without NUL.
pub(super) fn text_of(bytes: &[u8]) -> Result<&str, Fault> {
    if let Some(at) = memchr::memchr(0, bytes) {
        let reason = format!(
            "holds a NUL byte (column {}); the file is damaged or no text, so write it again",
            at + 1
        );
        return Err(Fault::new(RejectKind::Encoding, reason));
    }
    std::str::from_utf8(bytes).map_err(|e| {
        let reason =
            format!("is not UTF-8 (column {}); save the file as UTF-8", e.valid_up_to() + 1);
        Fault::new(RejectKind::Encoding, reason)
    })
}

/// A field's name and the text of its value.
pub(super) type Field<'a> = (Cow<'a, str>, &'a RawValue);

/// The fields of an object, each with the text of its value.
pub(super) fn fields(text: &str) -> Result<Vec<Field<'_>>, Fault> {
    if deeper_than(text, JSON_DEPTH_MAX) {
        let reason = format!("is nested deeper than {JSON_DEPTH_MAX}; flatten it");
        return Err(Fault::new(RejectKind::TooDeep, reason));
    }
    let mut reader = serde_json::Deserializer::from_str(text);
    let fields = Fields.deserialize(&mut reader).and_then(|f| reader.end().map(|()| f));
    let fields = match fields {
        Ok(fields) => fields,
        Err(e) => return Err(Fault::new(RejectKind::Json, why_not_an_object(text, &e))),
    };
    let mut keys = Keys::default();
    if let Some((name, _)) = fields.iter().find(|(n, _)| keys.seen(Cow::Borrowed(n)).is_some()) {
        let reason = format!("has the key `{}` twice; keep one of them", shown(name));
        return Err(Fault::new(RejectKind::DuplicateKey, reason));
    }
    Ok(fields)
}

fn why_not_an_object(text: &str, error: &serde_json::Error) -> String {
    if error.is_data() || serde_json::from_str::<&RawValue>(text).is_ok() {
        return format!(
            "is {}, not an object of fields; write each row as {{…}}",
            type_of(text.trim())
        );
    }
    if error.is_eof() {
        return "ends inside its JSON value: it is cut off; write it again".into();
    }
    format!("is not valid JSON: {} (column {}); fix it", plain_message(error), error.column())
}

/// serde_json's message without its place, which counts lines of the row.
fn plain_message(error: &serde_json::Error) -> String {
    let message = error.to_string();
    let end = message.rfind(" at line ").unwrap_or(message.len());
    shown(&message[..end])
}

/// What a JSON text is, by its first character.
fn type_of(text: &str) -> &'static str {
    match text.as_bytes().first() {
        Some(b'"') => "a string",
        Some(b'{') => "an object",
        Some(b'[') => "a list",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number",
    }
}

fn deeper_than(text: &str, limit: usize) -> bool {
    // Few brackets can't be deep, and counting them is much faster than looking where they are.
    let opening = |b: &&u8| **b == b'{' || **b == b'[';
    if text.as_bytes().iter().filter(opening).count() <= limit {
        return false;
    }
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for b in text.bytes() {
        if in_string {
            match b {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match b {
            b'"' => in_string = true,
            b'{' | b'[' => {
                depth += 1;
                if depth > limit {
                    return true;
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

fn cell(need: &ColumnNeed, fields: &[Field<'_>]) -> Result<Cell, Fault> {
    let Some((_, value)) = fields.iter().find(|(name, _)| *name == need.name) else {
        if need.optional {
            return Ok(Cell::Null);
        }
        let found = fields.iter().map(|(name, _)| name.as_ref());
        let reason = format!(
            "has no field `{}`; found fields: {}{}",
            shown(&need.name),
            names(found.clone()),
            nearest(&need.name, found)
        );
        return Err(Fault::new(RejectKind::MissingField, reason));
    };
    let text = value.get();
    if text == "null" {
        return Ok(Cell::Null);
    }
    let wrong = || {
        let got = match type_of(text) {
            "a number" => format!("the number {}", shown(text)),
            other => other.to_string(),
        };
        let reason =
            format!("has {got} in field `{}`, expected {}", shown(&need.name), need.kind.name());
        Fault::new(RejectKind::WrongType, reason)
    };
    let string =
        |text: &str| serde_json::from_str::<String>(text).map_err(|e| bad_value(&need.name, &e));
    let is_string = text.starts_with('"');
    Ok(match need.kind {
        ColumnKind::Json => {
            check(&need.name, text)?;
            Cell::Text(text.to_string())
        }
        ColumnKind::Utf8 if is_string => Cell::Text(string(text)?),
        ColumnKind::Binary if is_string => Cell::Bytes(string(text)?.into_bytes()),
        ColumnKind::Int64 => Cell::Int(text.parse().map_err(|_| wrong())?),
        ColumnKind::Float64 => {
            // Rust reads "inf" and "nan" too, which valid JSON can't be here.
            Cell::Float(text.parse().ok().filter(|v: &f64| v.is_finite()).ok_or_else(wrong)?)
        }
        ColumnKind::Boolean if text == "true" => Cell::Bool(true),
        ColumnKind::Boolean if text == "false" => Cell::Bool(false),
        ColumnKind::Utf8 | ColumnKind::Binary | ColumnKind::Boolean => return Err(wrong()),
    })
}

fn bad_value(name: &str, error: &serde_json::Error) -> Fault {
    let reason = format!("has a bad value in field `{}`: {}", shown(name), plain_message(error));
    Fault::new(RejectKind::Json, reason)
}

/// Checks a value that is handed on as text: strings are Unicode, numbers finite, keys unique.
fn check(name: &str, text: &str) -> Result<(), Fault> {
    let mut twice = None;
    let mut reader = serde_json::Deserializer::from_str(text);
    Check(&mut twice).deserialize(&mut reader).map_err(|e| bad_value(name, &e))?;
    match twice {
        None => Ok(()),
        Some(key) => {
            let reason = format!(
                "has the key `{}` twice in an object of field `{}`; keep one of them",
                shown(&key),
                shown(name)
            );
            Err(Fault::new(RejectKind::DuplicateKey, reason))
        }
    }
}

/// Cuts an object into its fields.
struct Fields;

impl<'de> DeserializeSeed<'de> for Fields {
    type Value = Vec<Field<'de>>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Fields {
    type Value = Vec<Field<'de>>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Vec::new();
        while let Some(name) = map.next_key_seed(Key)? {
            fields.push((name, map.next_value::<&RawValue>()?));
        }
        Ok(fields)
    }
}

/// Walks a value and keeps nothing but the first key that is twice in an object.
struct Check<'a>(&'a mut Option<String>);

impl<'de> DeserializeSeed<'de> for Check<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Check<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        if value.is_finite() { Ok(()) } else { Err(E::custom("number out of range")) }
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(Check(&mut *self.0))?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut keys = Keys::default();
        while let Some(key) = map.next_key_seed(Key)? {
            if let Some(key) = keys.seen(key)
                && self.0.is_none()
            {
                *self.0 = Some(key.into_owned());
            }
            map.next_value_seed(Check(&mut *self.0)).map_err(A::Error::custom)?;
        }
        Ok(())
    }
}

/// A key, borrowed from the text unless it has escapes.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_string()))
    }
}

/// The keys of an object so far. Most objects have few: those are compared one by one.
#[derive(Default)]
struct Keys<'de> {
    few: Vec<Cow<'de, str>>,
    many: HashSet<Cow<'de, str>>,
}

impl<'de> Keys<'de> {
    /// Adds a key; answers it if it was there.
    fn seen(&mut self, key: Cow<'de, str>) -> Option<Cow<'de, str>> {
        const FEW: usize = 12;
        if self.few.contains(&key) || self.many.contains(&key) {
            return Some(key);
        }
        if self.few.len() < FEW {
            self.few.push(key);
        } else {
            self.many.insert(key);
        }
        None
    }
}
