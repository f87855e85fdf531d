//! Alpaca rows: `{"instruction", "input", "output", "system", "history"}`.
//!
//! The user's turn is the instruction and, where it is not blank, the input; answers in `history`
//! are trained like the last one.

use serde::Deserialize;
use serde_json::Value;
use trainer_plugin::fields::pairs;
use trainer_plugin::{
    About, Conversation, Formatter, Message, Need, Outcome, Reads, Role, Row, json_kind,
};

const SCHEMA: &str = r#"{
  "type": "object",
  "additionalProperties": false,
  "properties": {
    "separator": {"type": "string", "default": "\n",
      "description": "what stands between instruction and input"},
    "instruction": {"type": "string", "default": "instruction", "minLength": 1, "description": "column of the instruction"},
    "input": {"type": "string", "default": "input", "minLength": 1, "description": "column of the input"},
    "output": {"type": "string", "default": "output", "minLength": 1, "description": "column of the answer"},
    "system": {"type": "string", "default": "system", "minLength": 1, "description": "column of the system prompt"},
    "history": {"type": "string", "default": "history", "minLength": 1, "description": "column of earlier [question, answer] pairs"}
  }
}"#;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Alpaca {
    separator: String,
    instruction: String,
    input: String,
    output: String,
    system: String,
    history: String,
}

impl Default for Alpaca {
    fn default() -> Self {
        Self {
            separator: "\n".into(),
            instruction: "instruction".into(),
            input: "input".into(),
            output: "output".into(),
            system: "system".into(),
            history: "history".into(),
        }
    }
}

impl Formatter for Alpaca {
    type Options = Alpaca;
    const ABOUT: About = About::new(
        "alpaca",
        env!("CARGO_PKG_VERSION"),
        "Instructions with input, output, system prompt and history.",
    )
    .options(SCHEMA);

    fn new(options: Alpaca, _seed: u64) -> Result<Self, String> {
        Ok(options)
    }

    fn reads(&self) -> Reads {
        Reads::columns([
            Need::json(&self.instruction),
            Need::json(&self.input).optional(),
            Need::json(&self.output),
            Need::json(&self.system).optional(),
            Need::json(&self.history).optional(),
        ])
    }

    fn format_row(&self, row: &Row<'_>) -> Outcome {
        match self.messages(row) {
            Ok(messages) => Outcome::conversation(Conversation::new(messages)),
            Err(reason) => Outcome::reject(reason),
        }
    }
}

impl Alpaca {
    fn messages(&self, row: &Row<'_>) -> Result<Vec<Message>, String> {
        let mut messages = Vec::new();
        if let Some(system) = text(row, &self.system)?.filter(|s| !s.trim().is_empty()) {
            messages.push(Message::new(Role::System, system));
        }
        for (question, answer) in pairs(row, &self.history)? {
            messages.push(Message::new(Role::User, question));
            messages.push(Message::new(Role::Assistant, answer));
        }
        let instruction = text(row, &self.instruction)?
            .ok_or_else(|| format!("field `{}` is missing", self.instruction))?;
        let input = text(row, &self.input)?.unwrap_or_default();
        let parts: Vec<&str> =
            [&*instruction, &*input].into_iter().filter(|s| !s.trim().is_empty()).collect();
        if parts.is_empty() {
            return Err(format!("field `{}` is empty", self.instruction));
        }
        let output = text(row, &self.output)?
            .ok_or_else(|| format!("field `{}` is missing", self.output))?;
        if output.trim().is_empty() {
            return Err(format!("field `{}` is empty", self.output));
        }
        messages.push(Message::new(Role::User, parts.join(&self.separator)));
        messages.push(Message::new(Role::Assistant, output));
        Ok(messages)
    }
}

fn text(row: &Row<'_>, column: &str) -> Result<Option<String>, String> {
    match row.json::<Value>(column)? {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(format!("field `{column}` is {}, not a string", json_kind(&other))),
    }
}

trainer_plugin::export_formatter!(Alpaca);
