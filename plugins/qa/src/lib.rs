//! Questions with answers: `{"question", "answer"}` or `{"input", "output"}`, whatever the columns
//! are called, with earlier pairs and a system prompt where the rows have them.

use serde::Deserialize;
use serde_json::Value;
use trainer_plugin::fields::{first, pairs};
use trainer_plugin::{
    About, Conversation, Formatter, Message, Need, Outcome, Reads, Role, Row, json_kind,
};

const SCHEMA: &str = r#"{
  "type": "object",
  "additionalProperties": false,
  "properties": {
    "question": {"type": "string", "default": "", "description": "column of the question; question or input"},
    "answer": {"type": "string", "default": "", "description": "column of the answer; answer or output"},
    "history": {"type": "string", "default": "history", "minLength": 1, "description": "column of earlier [question, answer] pairs"},
    "system": {"type": "string", "default": "system", "minLength": 1, "description": "column of the system prompt"},
    "system_prompt": {"type": "string", "default": "", "description": "system prompt of rows that have none"}
  }
}"#;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    question: String,
    answer: String,
    history: String,
    system: String,
    system_prompt: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            question: String::new(),
            answer: String::new(),
            history: "history".into(),
            system: "system".into(),
            system_prompt: String::new(),
        }
    }
}

struct Qa {
    question: Vec<String>,
    answer: Vec<String>,
    options: Options,
}

fn columns(given: &str, usual: [&str; 2]) -> Vec<String> {
    match given {
        "" => usual.map(String::from).to_vec(),
        given => vec![given.to_string()],
    }
}

impl Formatter for Qa {
    type Options = Options;
    const ABOUT: About =
        About::new("qa", env!("CARGO_PKG_VERSION"), "Questions with answers and earlier pairs.")
            .options(SCHEMA);

    fn new(options: Options, _seed: u64) -> Result<Self, String> {
        Ok(Self {
            question: columns(&options.question, ["question", "input"]),
            answer: columns(&options.answer, ["answer", "output"]),
            options,
        })
    }

    fn reads(&self) -> Reads {
        // A column that the user named has to be there; of the usual ones either will do.
        let own = [&self.question, &self.answer].into_iter().flat_map(|names| {
            names.iter().map(|name| match names.len() {
                1 => Need::json(name),
                _ => Need::json(name).optional(),
            })
        });
        let others = [&self.options.history, &self.options.system];
        Reads::columns(own.chain(others.map(|name| Need::json(name).optional())))
    }

    fn format_row(&self, row: &Row<'_>) -> Outcome {
        match self.messages(row) {
            Ok(messages) => Outcome::conversation(Conversation::new(messages)),
            Err(reason) => Outcome::reject(reason),
        }
    }
}

impl Qa {
    fn messages(&self, row: &Row<'_>) -> Result<Vec<Message>, String> {
        let mut messages = Vec::new();
        let own = match row.json::<Value>(&self.options.system)? {
            None => None,
            Some(Value::String(text)) => Some(text).filter(|text| !text.trim().is_empty()),
            Some(other) => {
                let (name, kind) = (&self.options.system, json_kind(&other));
                return Err(format!("field `{name}` is {kind}, not a string"));
            }
        };
        let system = own.unwrap_or_else(|| self.options.system_prompt.clone());
        if !system.is_empty() {
            messages.push(Message::new(Role::System, system));
        }
        for (question, answer) in pairs(row, &self.options.history)? {
            messages.push(Message::new(Role::User, question));
            messages.push(Message::new(Role::Assistant, answer));
        }
        messages.push(Message::new(Role::User, text(row, &self.question)?));
        messages.push(Message::new(Role::Assistant, text(row, &self.answer)?));
        Ok(messages)
    }
}

/// The text of the first of these columns. Tables have answers such as 42 or true, which are
/// their own text.
fn text(row: &Row<'_>, names: &[String]) -> Result<String, String> {
    let (column, value) = first(row, names)?;
    let text = match value {
        Value::String(text) => text,
        Value::Number(number) => number.to_string(),
        Value::Bool(value) => value.to_string(),
        other => {
            return Err(format!("field `{column}` is {}, not a text", json_kind(&other)));
        }
    };
    if text.trim().is_empty() {
        return Err(format!("field `{column}` is empty"));
    }
    Ok(text)
}

trainer_plugin::export_formatter!(Qa);
