//! JSON lines as record batches, and outcomes as JSON.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use trainer::data::Example;
use trainer::plugin::{JSON_METADATA_KEY, RowOutcome, Verdict};

/// One batch of JSON objects, one column per key, each value as its own text.
pub fn batch(lines: &[&str]) -> RecordBatch {
    type Row<'a> = serde_json::Map<String, Value>;
    let keys: Vec<String> = {
        let mut keys = Vec::new();
        for line in lines {
            for key in serde_json::from_str::<Row<'_>>(line).unwrap().keys() {
                if !keys.contains(key) {
                    keys.push(key.clone());
                }
            }
        }
        keys
    };
    let rows: Vec<HashMap<String, &RawValue>> =
        lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let metadata = HashMap::from([(JSON_METADATA_KEY.to_string(), "true".to_string())]);
    let mut fields = Vec::new();
    let mut columns: Vec<ArrayRef> = Vec::new();
    for key in keys {
        let texts: StringArray = rows.iter().map(|row| row.get(&key).map(|v| v.get())).collect();
        fields.push(Field::new(key, DataType::Utf8, true).with_metadata(metadata.clone()));
        columns.push(Arc::new(texts));
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
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

/// An outcome as one line of a golden file.
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
