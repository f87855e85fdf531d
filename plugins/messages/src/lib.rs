//! Conversations in the shape of OpenAI's chat messages: `{"messages": [{role, content,
//! tool_calls, …}, …], "tools": […]}`.
//!
//! Reading one turn is in `turn`. Nothing is reordered: what a row says is what is learnt, and a
//! row that says it in another shape is rejected with the field.

mod turn;

use serde::Deserialize;
use serde_json::Value;
use trainer_plugin::fields::tools;
use trainer_plugin::{
    About, Conversation, Formatter, Message, Need, Outcome, Reads, Role, Row, json_kind,
};

const SCHEMA: &str = r#"{
  "type": "object",
  "additionalProperties": false,
  "properties": {
    "column": {"type": "string", "default": "messages", "minLength": 1,
      "description": "column that holds the list of messages"},
    "system": {"type": "string", "default": "",
      "description": "system prompt of rows that have none"},
    "other_parts": {"type": "string", "enum": ["reject", "drop"], "default": "reject",
      "description": "what to do with content parts that are not text: reject the row, or drop the part"}
  }
}"#;

/// What becomes of an image, a sound or a file among the parts of a content.
#[derive(Clone, Copy, Default, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum OtherParts {
    #[default]
    Reject,
    Drop,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Messages {
    column: String,
    system: String,
    other_parts: OtherParts,
}

impl Default for Messages {
    fn default() -> Self {
        Self {
            column: "messages".into(),
            system: String::new(),
            other_parts: OtherParts::default(),
        }
    }
}

impl Formatter for Messages {
    type Options = Messages;
    const ABOUT: About = About::new(
        "messages",
        env!("CARGO_PKG_VERSION"),
        "Conversations as lists of {role, content} with tool calls, as OpenAI's API has them.",
    )
    .options(SCHEMA);

    fn new(options: Messages, _seed: u64) -> Result<Self, String> {
        if options.column.is_empty() {
            return Err("`column` is empty; give the name of the column of messages".into());
        }
        Ok(options)
    }

    fn reads(&self) -> Reads {
        Reads::columns([Need::json(&self.column), Need::json("tools").optional()])
    }

    fn format_row(&self, row: &Row<'_>) -> Outcome {
        let mut notes = Vec::new();
        match self.conversation(row, &mut notes) {
            Ok(Some(conversation)) => Outcome::conversation(conversation).with_notes(notes),
            Ok(None) => Outcome::skip("no assistant turn").with_notes(notes),
            Err(reason) => Outcome::reject(reason),
        }
    }
}

impl Messages {
    /// The row's conversation; `None` where there is nothing to learn in it.
    fn conversation(
        &self,
        row: &Row<'_>,
        notes: &mut Vec<String>,
    ) -> Result<Option<Conversation>, String> {
        let column = &self.column;
        let list = match row.json::<Value>(column)? {
            None => return Err(format!("field `{column}` is missing")),
            Some(Value::Array(list)) if list.is_empty() => {
                return Err(format!("field `{column}` is empty"));
            }
            Some(Value::Array(list)) => list,
            Some(other) => {
                return Err(format!(
                    "field `{column}` is {}, not a list of messages",
                    json_kind(&other)
                ));
            }
        };
        let mut messages = Vec::with_capacity(list.len() + 1);
        for (index, value) in list.iter().enumerate() {
            let place = format!("{column}[{index}]");
            messages.push(turn::read(value, &place, self.other_parts, notes)?);
        }
        check_answers(&messages, column)?;
        while messages.last().is_some_and(|last| last.role != Role::Assistant) {
            messages.pop();
            notes.push("trailing turn without an answer dropped".into());
        }
        if messages.is_empty() {
            return Ok(None);
        }
        if !self.system.is_empty() && !messages.iter().any(|m| m.role == Role::System) {
            messages.insert(0, Message::new(Role::System, &self.system));
        }
        Ok(Some(Conversation { messages, tools: tools(row)? }))
    }
}

/// The answer of a tool names a call that was made before it, where both have ids.
fn check_answers(messages: &[Message], column: &str) -> Result<(), String> {
    let mut ids: Vec<&str> = Vec::new();
    for (index, message) in messages.iter().enumerate() {
        ids.extend(message.tool_calls.iter().filter_map(|call| call.id.as_deref()));
        if let Some(id) = &message.tool_call_id
            && !ids.contains(&id.as_str())
        {
            return Err(format!("field `{column}[{index}].tool_call_id` names no call before it"));
        }
    }
    Ok(())
}

trainer_plugin::export_formatter!(Messages);
