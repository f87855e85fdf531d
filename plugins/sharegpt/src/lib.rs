//! ShareGPT conversations: `{"conversations": [{"from": …, "value": …}, …]}`.
//!
//! Reading one row is in `turns`; what is repaired, and in which order, in `repair`. A repair is
//! always a note, a row without anything to learn a skip, a broken row a reject.

mod repair;
mod turns;

use serde::Deserialize;
use trainer_plugin::{
    About, Conversation, Formatter, Message, Need, Outcome, Reads, Role, Row, json_kind,
};

const SCHEMA: &str = r#"{
  "type": "object",
  "additionalProperties": false,
  "properties": {
    "column": {"type": "string", "default": "conversations", "minLength": 1,
      "description": "column that holds the list of turns"},
    "unknown_role": {"type": "string", "enum": ["drop", "reject"], "default": "drop",
      "description": "what to do with a turn whose role is not known: drop the turn, or reject the row"}
  }
}"#;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    #[serde(default = "default_column")]
    column: String,
    #[serde(default)]
    unknown_role: UnknownRole,
}

#[derive(Clone, Copy, Default, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
enum UnknownRole {
    #[default]
    Drop,
    Reject,
}

fn default_column() -> String {
    "conversations".into()
}

pub struct ShareGpt {
    column: String,
    unknown_role: UnknownRole,
}

impl Formatter for ShareGpt {
    type Options = Options;
    const ABOUT: About = About::new(
        "sharegpt",
        env!("CARGO_PKG_VERSION"),
        "Conversations as lists of {from, value} or {role, content}, tools included.",
    )
    .options(SCHEMA);

    fn new(options: Options, _seed: u64) -> Result<Self, String> {
        if options.column.is_empty() {
            return Err("`column` is empty; give the name of the column of turns".into());
        }
        Ok(Self { column: options.column, unknown_role: options.unknown_role })
    }

    fn reads(&self) -> Reads {
        Reads::columns([
            Need::json(&self.column),
            Need::json("system_prompt").optional(),
            Need::json("system").optional(),
            Need::json("tools").optional(),
        ])
    }

    fn format_row(&self, row: &Row<'_>) -> Outcome {
        let mut notes = Vec::new();
        match self.conversation(row, &mut notes) {
            Ok(Some(conversation)) => Outcome::conversation(conversation).with_notes(notes),
            Ok(None) => Outcome::skip("no human/gpt pair").with_notes(notes),
            Err(reason) => Outcome::reject(reason),
        }
    }
}

impl ShareGpt {
    /// The row's conversation, repaired; `None` when nothing in it can be learnt.
    fn conversation(
        &self,
        row: &Row<'_>,
        notes: &mut Vec<String>,
    ) -> Result<Option<Conversation>, String> {
        let drop_unknown = self.unknown_role == UnknownRole::Drop;
        let turns = turns::read(row, &self.column, drop_unknown, notes)?;
        let tools = tools(row)?;
        let from_column = match system_column(row, "system_prompt")? {
            Some(text) => Some(text),
            None => system_column(row, "system")?,
        };
        let Some((system, mut messages)) = repair::repair(turns, notes) else {
            return Ok(None);
        };
        // The conversation's own system turn wins over the column.
        if let Some(text) = system.or(from_column) {
            messages.insert(0, Message::new(Role::System, text));
        }
        Ok(Some(Conversation { messages, tools }))
    }
}

/// Text of a system column; an empty one is none.
fn system_column(row: &Row<'_>, name: &str) -> Result<Option<String>, String> {
    match row.json::<serde_json::Value>(name)? {
        None => Ok(None),
        Some(serde_json::Value::String(text)) => Ok((!text.trim().is_empty()).then_some(text)),
        Some(other) => Err(format!("field `{name}` is {}, not a string", json_kind(&other))),
    }
}

/// The `tools` column as JSON text of a list: the list itself or a string that holds it. An empty
/// list or string is none.
fn tools(row: &Row<'_>) -> Result<Option<String>, String> {
    let Some(own_text) = row.json_text("tools") else { return Ok(None) };
    let value: serde_json::Value =
        serde_json::from_str(own_text).map_err(|e| format!("field `tools`: {e}"))?;
    let (text, value) = match value {
        serde_json::Value::String(text) if text.trim().is_empty() => return Ok(None),
        serde_json::Value::String(text) => {
            let inner = serde_json::from_str(&text)
                .map_err(|e| format!("field `tools` is a string that is not JSON: {e}"))?;
            (text, inner)
        }
        value => (own_text.to_string(), value),
    };
    match value {
        serde_json::Value::Null => Ok(None),
        serde_json::Value::Array(list) if list.is_empty() => Ok(None),
        serde_json::Value::Array(_) => Ok(Some(text)),
        other => Err(format!("field `tools` is {}, not a list of tools", json_kind(&other))),
    }
}

trainer_plugin::export_formatter!(ShareGpt);
