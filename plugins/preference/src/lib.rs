//! Pairs of a better and a worse answer, in the three shapes that are about, and single answers
//! that are known to be good or bad:
//!
//! - `{"conversations": [{from, value}, …], "chosen": "…", "rejected": "…", "tools", "system_prompt"}`
//! - `{"prompt": "…" or [{role, content}, …], "chosen", "rejected"}`, the answers as text or as turns
//! - `{"system", "history": [[question, answer], …], "question", "response_chosen",
//!   "response_rejected"}`
//! - any of these prompts with `"completion"` (text or turns) and `"label"`, true for a good one

use serde::Deserialize;
use serde_json::Value;
use trainer_plugin::fields::{first, system, tools, turns};
use trainer_plugin::{
    About, Conversation, Example, Formatter, Message, Need, Outcome, Preference, Reads, Role, Row,
    json_kind,
};

const SCHEMA: &str = r#"{
  "type": "object",
  "additionalProperties": false,
  "properties": {
    "chosen": {"type": "string", "default": "", "description": "column of the better answer; chosen or response_chosen"},
    "rejected": {"type": "string", "default": "", "description": "column of the worse answer; rejected or response_rejected"},
    "prompt": {"type": "string", "default": "", "description": "column of the prompt; conversations, prompt or question"},
    "completion": {"type": "string", "default": "completion", "minLength": 1, "description": "column of a single answer"},
    "label": {"type": "string", "default": "label", "minLength": 1, "description": "column that says whether a single answer is good"},
    "margin": {"type": "string", "default": "margin", "minLength": 1, "description": "column that says how much better"}
  }
}"#;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    chosen: String,
    rejected: String,
    prompt: String,
    completion: String,
    label: String,
    margin: String,
}

impl Default for Options {
    fn default() -> Self {
        let none = String::new;
        Self {
            chosen: none(),
            rejected: none(),
            prompt: none(),
            completion: "completion".into(),
            label: "label".into(),
            margin: "margin".into(),
        }
    }
}

struct Pairs {
    chosen: Vec<String>,
    rejected: Vec<String>,
    prompt: Vec<String>,
    completion: [String; 1],
    label: String,
    margin: String,
}

fn columns(given: String, usual: &[&str]) -> Vec<String> {
    if given.is_empty() { usual.iter().map(|c| c.to_string()).collect() } else { vec![given] }
}

impl Formatter for Pairs {
    type Options = Options;
    const ABOUT: About = About::new(
        "preference",
        env!("CARGO_PKG_VERSION"),
        "Prompts with a better and a worse answer, or with a single one that is good or bad.",
    )
    .options(SCHEMA);

    fn new(options: Options, _seed: u64) -> Result<Self, String> {
        Ok(Self {
            chosen: columns(options.chosen, &["chosen", "response_chosen"]),
            rejected: columns(options.rejected, &["rejected", "response_rejected"]),
            prompt: columns(options.prompt, &["conversations", "prompt", "question"]),
            completion: [options.completion],
            label: options.label,
            margin: options.margin,
        })
    }

    fn reads(&self) -> Reads {
        let own = self.chosen.iter().chain(&self.rejected).chain(&self.prompt);
        let own = own.chain(&self.completion).chain(std::iter::once(&self.label));
        let others = ["history", "system_prompt", "system", "tools"].map(String::from);
        let names: Vec<String> =
            own.cloned().chain(others).chain(std::iter::once(self.margin.clone())).collect();
        Reads::columns(names.into_iter().map(|name| Need::json(name).optional()))
    }

    fn format_row(&self, row: &Row<'_>) -> Outcome {
        match self.preference(row) {
            Ok(preference) if preference.chosen == preference.rejected => {
                Outcome::skip("both answers are the same")
            }
            Ok(preference) => Outcome::keep(vec![Example::Preference(preference)]),
            Err(reason) => Outcome::reject(reason),
        }
    }
}

impl Pairs {
    fn preference(&self, row: &Row<'_>) -> Result<Preference, String> {
        let (prompt_column, prompt) = first(row, &self.prompt)?;
        let mut messages = match prompt {
            Value::String(text) if text.trim().is_empty() => {
                return Err(format!("field `{prompt_column}` is empty"));
            }
            Value::String(text) => vec![Message::new(Role::User, text)],
            Value::Array(list) if list.is_empty() => {
                return Err(format!("field `{prompt_column}` is empty"));
            }
            Value::Array(list) => turns(list, prompt_column)?,
            other => {
                return Err(format!(
                    "field `{prompt_column}` is {}, not a text or a list of turns",
                    json_kind(&other)
                ));
            }
        };
        if messages.last().is_some_and(|m| m.role == Role::Assistant) {
            return Err(format!(
                "field `{prompt_column}` ends with an answer, not with a question"
            ));
        }
        let earlier = history(row)?;
        let system = system(row)?;
        if !messages.iter().any(|m| m.role == Role::System)
            && let Some(text) = system
        {
            messages.insert(0, Message::new(Role::System, text));
        }
        let at = messages.iter().position(|m| m.role != Role::System).unwrap_or(messages.len());
        messages.splice(at..at, earlier);
        let prompt = Conversation { messages, tools: tools(row)? };
        if let Some(good) = self.single(row)? {
            let completion = answer(row, &self.completion)?;
            let (chosen, rejected) =
                if good { (completion, Vec::new()) } else { (Vec::new(), completion) };
            return Ok(Preference { prompt, chosen, rejected, margin: None });
        }
        let margin = match row.json::<Value>(&self.margin)? {
            None | Some(Value::Null) => None,
            Some(value) => Some(value.as_f64().ok_or_else(|| {
                format!("field `{}` is {}, not a number", self.margin, json_kind(&value))
            })?),
        };
        let (chosen, rejected) = (answer(row, &self.chosen)?, answer(row, &self.rejected)?);
        Ok(Preference { prompt, chosen, rejected, margin })
    }

    /// The label of a single answer; none where the row holds a pair.
    fn single(&self, row: &Row<'_>) -> Result<Option<bool>, String> {
        let has = |names: &[String]| first(row, names).is_ok();
        if has(&self.chosen) || has(&self.rejected) || !has(&self.completion) {
            return Ok(None);
        }
        let name = &self.label;
        match row.json::<Value>(name)? {
            Some(Value::Bool(good)) => Ok(Some(good)),
            Some(Value::Number(n)) if n.as_f64() == Some(1.0) => Ok(Some(true)),
            Some(Value::Number(n)) if n.as_f64() == Some(0.0) => Ok(Some(false)),
            None | Some(Value::Null) => Err(format!("field `{name}` is missing")),
            Some(other) => {
                Err(format!("field `{name}` is {}, not true or false", json_kind(&other)))
            }
        }
    }
}

fn answer(row: &Row<'_>, names: &[String]) -> Result<Vec<Message>, String> {
    let (column, value) = first(row, names)?;
    let messages = match value {
        Value::String(text) if !text.trim().is_empty() => {
            return Ok(vec![Message::new(Role::Assistant, text)]);
        }
        Value::Array(list) if !list.is_empty() => turns(list, column)?,
        Value::Object(_) => turns(vec![value], column)?,
        Value::String(_) | Value::Array(_) => return Err(format!("field `{column}` is empty")),
        other => return Err(format!("field `{column}` is {}, not an answer", json_kind(&other))),
    };
    match messages.iter().any(|m| m.role == Role::Assistant) {
        true => Ok(messages),
        false => Err(format!("field `{column}` holds no assistant's turn")),
    }
}

/// Earlier questions and answers of the older shape.
fn history(row: &Row<'_>) -> Result<Vec<Message>, String> {
    let list = match row.json::<Value>("history")? {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::String(text)) if text.trim().is_empty() => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
        Some(other) => {
            return Err(format!("field `history` is {}, not a list of pairs", json_kind(&other)));
        }
    };
    let mut messages = Vec::new();
    for (index, pair) in list.iter().enumerate() {
        let sides = pair.as_array().map(Vec::as_slice);
        let Some([Value::String(question), Value::String(answer)]) = sides else {
            return Err(format!("field `history[{index}]` is not a pair of texts"));
        };
        messages.push(Message::new(Role::User, question.clone()));
        messages.push(Message::new(Role::Assistant, answer.clone()));
    }
    Ok(messages)
}

trainer_plugin::export_formatter!(Pairs);
