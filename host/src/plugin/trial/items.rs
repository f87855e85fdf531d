//! What a plugin is tried on, and its answers as JSON: one line of a golden file each.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, StringArray, UInt64Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, Field, Schema};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::super::component::World;
use super::super::error::PluginError;
use super::super::formatter::{RowOutcome, Verdict};
use super::super::pool::Plugin;
use super::super::reward::Score;
use super::super::template::{RenderOptions, Rendering};
use super::super::{JSON_METADATA_KEY, Reads};
use crate::data::{Conversation, Example};

/// A conversation, and how it is to be rendered.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// The conversation.
    pub conversation: Conversation,
    /// How.
    pub options: RenderOptions,
}

/// Rows for a formatter or a reward, cases for a template.
#[derive(Clone, Debug)]
pub enum Items {
    /// Rows.
    Rows(RecordBatch),
    /// Conversations.
    Cases(Vec<Case>),
}

impl Items {
    /// The items of lines of JSON as in a golden `in.jsonl`: rows with one column per key, each
    /// value as its own text; or `{"messages", "tools", "options"}` for a template.
    ///
    /// # Errors
    /// The first line that is no such thing, in words.
    pub fn parse(lines: &[&str], world: World) -> Result<Self, String> {
        if world != World::Template {
            return rows(lines).map(Items::Rows);
        }
        let cases: Result<Vec<Case>, String> = lines
            .iter()
            .enumerate()
            .map(|(i, line)| case(line).map_err(|e| format!("line {}: {e}", i + 1)))
            .collect();
        cases.map(Items::Cases)
    }

    /// How many.
    pub fn len(&self) -> usize {
        match self {
            Items::Rows(batch) => batch.num_rows(),
            Items::Cases(cases) => cases.len(),
        }
    }

    /// True without any.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The items at these positions, in this order. Positions out of range are left out.
    pub fn pick(&self, positions: &[usize]) -> Self {
        let sound = positions.iter().copied().filter(|i| *i < self.len());
        match self {
            Items::Rows(batch) => {
                let indices: UInt64Array = sound.map(|i| i as u64).collect();
                // Positions in range can be taken; rows without columns need not be.
                let taken = match batch.num_columns() {
                    0 => rows_without_columns(batch.schema(), indices.len()),
                    _ => take_record_batch(batch, &indices).ok(),
                };
                Items::Rows(taken.unwrap_or_else(|| batch.slice(0, 0)))
            }
            Items::Cases(cases) => Items::Cases(sound.map(|i| cases[i].clone()).collect()),
        }
    }

    /// These items again and again, `len` of them in all.
    pub fn cycled(&self, len: usize) -> Self {
        let positions: Vec<usize> = (0..len).map(|i| i % self.len().max(1)).collect();
        self.pick(&positions)
    }

    /// Bytes of the texts in them, about what crosses.
    pub fn bytes(&self, reads: &Reads) -> usize {
        match self {
            Items::Rows(batch) if reads.whole_rows => batch.get_array_memory_size(),
            Items::Rows(batch) => reads
                .columns
                .iter()
                .filter_map(|need| batch.column_by_name(&need.name))
                .map(|column| column.to_data().get_slice_memory_size().unwrap_or(0))
                .sum(),
            Items::Cases(cases) => cases
                .iter()
                .flat_map(|case| &case.conversation.messages)
                .map(|message| message.content.len())
                .sum(),
        }
    }

    /// One answer per item, the items cut into calls of `sizes`, over and over.
    ///
    /// # Errors
    /// As [`Plugin::format`], [`Plugin::render`] and [`Plugin::score`].
    pub fn answers(&self, plugin: &Plugin, sizes: &[usize]) -> Result<Vec<Value>, PluginError> {
        let cuts = cuts(self.len(), sizes);
        match self {
            Items::Rows(batch) => {
                let parts: Vec<RecordBatch> =
                    cuts.into_iter().map(|r| batch.slice(r.start, r.len())).collect();
                match plugin.world() {
                    World::Reward => Ok(plugin.score(&parts)?.iter().map(score).collect()),
                    _ => Ok(plugin.format(&parts)?.iter().map(outcome).collect()),
                }
            }
            Items::Cases(cases) => {
                let mut answers = Vec::with_capacity(cases.len());
                for cut in cuts {
                    // A call has one set of options.
                    for run in cases[cut].chunk_by(|a, b| a.options == b.options) {
                        let of: Vec<Conversation> =
                            run.iter().map(|case| case.conversation.clone()).collect();
                        let options = run.first().map(|c| c.options.clone()).unwrap_or_default();
                        let before = answers.len();
                        let rendered = plugin.render(&of, &options).map_err(|e| e.later(before))?;
                        answers.extend(rendered.iter().map(rendering));
                    }
                }
                Ok(answers)
            }
        }
    }
}

fn cuts(len: usize, sizes: &[usize]) -> Vec<Range<usize>> {
    let mut cuts = Vec::new();
    let mut start = 0;
    for size in sizes.iter().cycle().take(len) {
        if start == len {
            break;
        }
        let end = len.min(start + (*size).max(1));
        cuts.push(start..end);
        start = end;
    }
    cuts
}

/// One batch of JSON objects, one column per key, each value as its own text.
fn rows(lines: &[&str]) -> Result<RecordBatch, String> {
    let mut keys: Vec<String> = Vec::new();
    let mut parsed: Vec<HashMap<String, &RawValue>> = Vec::with_capacity(lines.len());
    for (i, line) in lines.iter().enumerate() {
        let wrong = |e| format!("line {} is no JSON object: {e}", i + 1);
        let row: serde_json::Map<String, Value> = serde_json::from_str(line).map_err(wrong)?;
        keys.extend(row.keys().filter(|key| !keys.contains(key)).cloned().collect::<Vec<_>>());
        parsed.push(serde_json::from_str(line).map_err(wrong)?);
    }
    let mut fields = Vec::new();
    let mut columns: Vec<ArrayRef> = Vec::new();
    for key in keys {
        let texts: StringArray = parsed.iter().map(|row| row.get(&key).map(|v| v.get())).collect();
        fields.push(json_field(&key));
        columns.push(Arc::new(texts));
    }
    let schema = Arc::new(Schema::new(fields));
    if columns.is_empty() {
        let none = || "rows without columns can't be made".to_string();
        return rows_without_columns(schema, lines.len()).ok_or_else(none);
    }
    RecordBatch::try_new(schema, columns).map_err(|e| e.to_string())
}

fn rows_without_columns(schema: Arc<Schema>, len: usize) -> Option<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(len));
    RecordBatch::try_new_with_options(schema, Vec::new(), &options).ok()
}

/// A column of JSON texts.
pub(super) fn json_field(name: &str) -> Field {
    let metadata = HashMap::from([(JSON_METADATA_KEY.to_string(), "true".to_string())]);
    Field::new(name, DataType::Utf8, true).with_metadata(metadata)
}

fn case(line: &str) -> Result<Case, String> {
    let conversation: Conversation = serde_json::from_str(line).map_err(|e| e.to_string())?;
    let value: Value = serde_json::from_str(line).map_err(|e| e.to_string())?;
    let options = &value["options"];
    let text = |key: &str| options[key].as_str().unwrap_or_default().to_string();
    let flag = |key: &str| options[key].as_bool().unwrap_or(false);
    let options = RenderOptions {
        add_generation_prompt: flag("add_generation_prompt"),
        continue_final_message: flag("continue_final_message"),
        bos: text("bos"),
        eos: text("eos"),
    };
    Ok(Case { conversation, options })
}

fn example(example: &Example) -> Value {
    match example {
        Example::Text(text) => json!({ "text": text }),
        Example::Conversation(c) => json!({ "conversation": c }),
        Example::Preference { prompt, chosen, rejected, margin } => {
            json!({ "prompt": prompt, "chosen": chosen, "rejected": rejected, "margin": margin })
        }
        Example::Prompt { prompt, reference, columns } => {
            json!({ "prompt": prompt, "reference": reference, "columns": columns })
        }
        Example::Tokens { input_ids, labels } => {
            json!({ "input_ids": input_ids, "labels": labels })
        }
    }
}

/// An outcome as a line of a golden file: `{"keep": […]}`, `{"skip": why}` or `{"reject": why}`,
/// with `notes` where there are any.
pub fn outcome(outcome: &RowOutcome) -> Value {
    let mut value = match &outcome.verdict {
        Verdict::Keep(examples) => {
            json!({ "keep": examples.iter().map(example).collect::<Vec<_>>() })
        }
        Verdict::Skip(reason) => json!({ "skip": reason }),
        Verdict::Reject(reason) => json!({ "reject": reason }),
    };
    if !outcome.notes.is_empty() {
        value["notes"] = json!(outcome.notes);
    }
    value
}

/// A rendering as a line of a golden file: `{"segments": [[role, weight, text], …]}` or
/// `{"reject": why}`.
pub fn rendering(rendering: &Rendering) -> Value {
    match rendering {
        Ok(segments) => {
            let segments = segments.iter().map(|s| json!([s.role, s.weight, s.text]));
            json!({ "segments": segments.collect::<Vec<_>>() })
        }
        Err(reason) => json!({ "reject": reason }),
    }
}

/// A score as a line of a golden file: `{"value": …, "parts": {name: value}}`.
pub fn score(score: &Score) -> Value {
    let parts: serde_json::Map<String, Value> =
        score.parts.iter().map(|p| (p.name.clone(), json!(p.value))).collect();
    json!({ "value": score.value, "parts": parts })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn items_are_cut_picked_and_cycled() {
        assert_eq!(cuts(7, &[2, 3]), [0..2, 2..5, 5..7]);
        assert_eq!(cuts(3, &[9]), std::slice::from_ref(&(0..3)));
        assert!(cuts(0, &[1]).is_empty() && cuts(3, &[]).is_empty());
        let items = Items::parse(&[r#"{"a":1}"#, r#"{"b":"x"}"#], World::Reward).unwrap();
        let Items::Rows(batch) = items.pick(&[1, 0, 1, 9]) else { panic!() };
        assert_eq!((batch.num_rows(), batch.num_columns()), (3, 2));
        assert_eq!(items.cycled(5).len(), 5);
        assert_eq!(Items::parse(&["{}", "{}"], World::Reward).unwrap().cycled(5).len(), 5);
        let error = Items::parse(&["{}", "[]"], World::Formatter).unwrap_err();
        assert!(error.contains("line 2"), "{error}");
        let cases = [r#"{"messages":[],"options":{"bos":"<s>"}}"#];
        let Items::Cases(cases) = Items::parse(&cases, World::Template).unwrap() else { panic!() };
        assert_eq!(cases[0].options.bos, "<s>");
    }
}
