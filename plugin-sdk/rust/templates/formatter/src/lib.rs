//! A formatter: a row's question and answer become a conversation.

use serde::Deserialize;
use trainer_plugin::{About, Conversation, Formatter, Message, Need, Outcome, Reads, Role, Row};

const SCHEMA: &str = r#"{
  "type": "object",
  "additionalProperties": false,
  "properties": {
    "system": {"type": "string", "description": "a system prompt before every question"}
  }
}"#;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    #[serde(default)]
    system: String,
}

struct Plugin {
    system: String,
}

impl Formatter for Plugin {
    type Options = Options;
    const ABOUT: About = About::new(
        "my-plugin",
        env!("CARGO_PKG_VERSION"),
        "Questions and answers as conversations.",
    )
    .options(SCHEMA);

    fn new(options: Options, _seed: u64) -> Result<Self, String> {
        Ok(Self { system: options.system })
    }

    fn reads(&self) -> Reads {
        Reads::columns([Need::json("question").optional(), Need::json("answer").optional()])
    }

    fn format_row(&self, row: &Row<'_>) -> Outcome {
        let (question, answer) = match (text(row, "question"), text(row, "answer")) {
            (Ok(question), Ok(answer)) => (question, answer),
            (Err(reason), _) | (_, Err(reason)) => return Outcome::reject(reason),
        };
        if answer.trim().is_empty() {
            return Outcome::skip("empty answer");
        }
        let mut messages = Vec::new();
        if !self.system.is_empty() {
            messages.push(Message::new(Role::System, &self.system));
        }
        messages.push(Message::new(Role::User, question));
        messages.push(Message::new(Role::Assistant, answer));
        Outcome::conversation(Conversation::new(messages))
    }
}

fn text(row: &Row<'_>, field: &str) -> Result<String, String> {
    let json = row.json_text(field).ok_or_else(|| format!("field `{field}` is missing"))?;
    serde_json::from_str(json).map_err(|_| format!("field `{field}` is not a string"))
}

trainer_plugin::export_formatter!(Plugin);
