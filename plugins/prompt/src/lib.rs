//! Prompts to be answered, and what a reward needs to judge the answers:
//!
//! - `{"question", "answer"}`; of an answer with `####` what follows it is the reference
//! - `{"prompt": "…" or [{role, content}, …], "answer" or "reference" or "solution"}`
//! - `{"messages" or "conversations": [turns]}`; the answer to the last question is the reference

use serde::Deserialize;
use serde_json::{Map, Value};
use trainer_plugin::fields::{first, system, tools, turns};
use trainer_plugin::{
    About, Conversation, Example, Formatter, Message, Need, Outcome, Prompt, Reads, Role, Row,
    json_kind,
};

const SCHEMA: &str = r#"{
  "type": "object",
  "additionalProperties": false,
  "properties": {
    "prompt": {"type": "string", "default": "", "description": "column of the prompt; question, prompt, messages or conversations"},
    "reference": {"type": "string", "default": "", "description": "column of the right answer; answer, reference or solution"},
    "system": {"type": "string", "default": "", "description": "system prompt of rows that have none"},
    "whole_answer": {"type": "boolean", "default": false, "description": "keep what stands before #### in the answer"},
    "columns": {"type": "array", "items": {"type": "string"}, "default": [], "description": "further columns that rewards read"}
  }
}"#;

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Options {
    prompt: String,
    reference: String,
    system: String,
    whole_answer: bool,
    columns: Vec<String>,
}

struct Prompts {
    prompt: Vec<String>,
    reference: Vec<String>,
    options: Options,
}

fn columns(given: &str, usual: &[&str]) -> Vec<String> {
    match given {
        "" => usual.iter().map(|c| c.to_string()).collect(),
        given => vec![given.to_string()],
    }
}

impl Formatter for Prompts {
    type Options = Options;
    const ABOUT: About = About::new(
        "prompt",
        env!("CARGO_PKG_VERSION"),
        "Prompts to be answered, with reference and columns for rewards.",
    )
    .options(SCHEMA);

    fn new(options: Options, _seed: u64) -> Result<Self, String> {
        Ok(Self {
            prompt: columns(&options.prompt, &["question", "prompt", "messages", "conversations"]),
            reference: columns(&options.reference, &["answer", "reference", "solution"]),
            options,
        })
    }

    fn reads(&self) -> Reads {
        let own = self.prompt.iter().chain(&self.reference).chain(&self.options.columns);
        let mut names: Vec<String> = own.cloned().collect();
        names.extend(["system_prompt", "system", "tools"].map(String::from));
        names.sort_unstable();
        names.dedup();
        Reads::columns(names.into_iter().map(|name| Need::json(name).optional()))
    }

    fn format_row(&self, row: &Row<'_>) -> Outcome {
        match self.prompt(row) {
            Ok(prompt) => Outcome::keep(vec![Example::Prompt(prompt)]),
            Err(reason) => Outcome::reject(reason),
        }
    }
}

impl Prompts {
    fn prompt(&self, row: &Row<'_>) -> Result<Prompt, String> {
        let (column, value) = first(row, &self.prompt)?;
        let mut answer = None;
        let mut messages = match value {
            Value::String(text) if text.trim().is_empty() => {
                return Err(format!("field `{column}` is empty"));
            }
            Value::String(text) => vec![Message::new(Role::User, text)],
            Value::Array(list) => {
                let mut messages = turns(list, column)?;
                let asked = messages
                    .iter()
                    .rposition(|m| matches!(m.role, Role::User | Role::Tool))
                    .ok_or_else(|| format!("field `{column}` holds no user's turn"))?;
                let spoken = messages.get(asked + 1).filter(|m| m.role == Role::Assistant);
                answer = spoken.map(|m| m.content.clone()).filter(|text| !text.is_empty());
                messages.truncate(asked + 1);
                messages
            }
            other => {
                return Err(format!(
                    "field `{column}` is {}, not a text or a list of turns",
                    json_kind(&other)
                ));
            }
        };
        let own = system(row)?.or_else(|| Some(self.options.system.clone()));
        if !messages.iter().any(|m| m.role == Role::System)
            && let Some(text) = own.filter(|text| !text.is_empty())
        {
            messages.insert(0, Message::new(Role::System, text));
        }
        let reference = self.reference(row)?.or(answer);
        let mut extra = Map::new();
        for name in &self.options.columns {
            if let Some(value) = row.json::<Value>(name)? {
                extra.insert(name.clone(), value);
            }
        }
        let columns = (!extra.is_empty()).then(|| Value::Object(extra).to_string());
        let conversation = Conversation { messages, tools: tools(row)? };
        Ok(Prompt { conversation, reference, columns })
    }

    fn reference(&self, row: &Row<'_>) -> Result<Option<String>, String> {
        let text = match first(row, &self.reference) {
            Err(_) => return Ok(None),
            Ok((_, Value::String(text))) => text,
            Ok((_, Value::Number(number))) => number.to_string(),
            Ok((column, other)) => {
                return Err(format!(
                    "field `{column}` is {}, not a text or a number",
                    json_kind(&other)
                ));
            }
        };
        let text = match text.rsplit_once("####") {
            Some((_, answer)) if !self.options.whole_answer => answer.trim().to_string(),
            _ => text,
        };
        Ok(Some(text).filter(|text| !text.trim().is_empty()))
    }
}

trainer_plugin::export_formatter!(Prompts);
