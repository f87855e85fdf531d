//! One row's list of turns, checked and with roles understood. Nothing is repaired here but
//! turns of unknown roles, which are left out.

use serde_json::Value;
use serde_json::value::RawValue;
use trainer_plugin::{Message, Role, Row, ToolCall, json_kind};

/// Longest role name shown in a note.
const ROLE_CHARS_SHOWN: usize = 30;

enum Speaker {
    Says(Role),
    CallsTools,
}

fn speaker(name: &str) -> Option<Speaker> {
    Some(match name {
        "system" => Speaker::Says(Role::System),
        "human" | "user" => Speaker::Says(Role::User),
        "gpt" | "assistant" => Speaker::Says(Role::Assistant),
        "observation" | "tool" => Speaker::Says(Role::Tool),
        "function_call" => Speaker::CallsTools,
        _ => return None,
    })
}

/// The turns of `column`, in order.
///
/// # Errors
/// Why the row is rejected, naming the field.
pub fn read(
    row: &Row<'_>,
    column: &str,
    drop_unknown: bool,
    notes: &mut Vec<String>,
) -> Result<Vec<Message>, String> {
    let list = match row.json::<Value>(column)? {
        None => return Err(format!("field `{column}` is missing")),
        Some(Value::Array(list)) if list.is_empty() => {
            return Err(format!("field `{column}` is empty"));
        }
        Some(Value::Array(list)) => list,
        Some(other) => {
            return Err(format!("field `{column}` is {}, not a list of turns", json_kind(&other)));
        }
    };
    let mut messages = Vec::with_capacity(list.len());
    for (index, turn) in list.iter().enumerate() {
        let place = format!("{column}[{index}]");
        let Value::Object(turn) = turn else {
            return Err(format!("field `{place}` is {}, not an object", json_kind(turn)));
        };
        let (role_key, role) = match (turn.get("from"), turn.get("role")) {
            (Some(role), _) => ("from", role),
            (None, Some(role)) => ("role", role),
            (None, None) => return Err(format!("field `{place}.from` is missing")),
        };
        let Value::String(role) = role else {
            return Err(format!("field `{place}.{role_key}` is {}, not a string", json_kind(role)));
        };
        let Some(speaker) = speaker(role.trim()) else {
            let shown: String = role.chars().take(ROLE_CHARS_SHOWN).collect();
            if drop_unknown {
                notes.push(format!("turn of unknown role `{shown}` dropped"));
                continue;
            }
            return Err(format!("field `{place}.{role_key}` is `{shown}`, not a known role"));
        };
        messages.push(message(turn, &place, speaker, notes)?);
    }
    Ok(messages)
}

type Object = serde_json::Map<String, Value>;

fn message(
    turn: &Object,
    place: &str,
    speaker: Speaker,
    notes: &mut Vec<String>,
) -> Result<Message, String> {
    let calls = tool_calls(turn, place)?;
    let (key, content) = match (turn.get("value"), turn.get("content")) {
        (Some(value), _) => ("value", value),
        (None, Some(value)) => ("content", value),
        (None, None) if !calls.is_empty() => ("content", &Value::Null),
        (None, None) => return Err(format!("field `{place}.value` is missing")),
    };
    let place_of_text = format!("{place}.{key}");
    let text = match content {
        Value::String(text) => text.clone(),
        Value::Null if !calls.is_empty() => String::new(),
        other => {
            return Err(format!("field `{place_of_text}` is {}, not a string", json_kind(other)));
        }
    };
    let mut message = match speaker {
        Speaker::CallsTools => function_call(text, &place_of_text, notes)?,
        Speaker::Says(role) => {
            // An empty system turn says nothing; the repair drops it.
            if text.trim().is_empty() && calls.is_empty() && role != Role::System {
                return Err(format!("field `{place_of_text}` is empty"));
            }
            if !calls.is_empty() && role != Role::Assistant {
                return Err(format!("field `{place}.tool_calls` is not in an assistant's turn"));
            }
            Message { tool_calls: calls, ..Message::new(role, text) }
        }
    };
    if message.role == Role::Tool {
        message.tool_call_id = string(turn, "tool_call_id", place)?;
        message.name = string(turn, "name", place)?;
    }
    message.weight = weight(turn, place)?;
    Ok(message)
}

/// A `function_call` turn: JSON of one call `{name, arguments}` or of a list of them. Other JSON
/// stays the text it is.
fn function_call(text: String, place: &str, notes: &mut Vec<String>) -> Result<Message, String> {
    if text.trim().is_empty() {
        return Err(format!("field `{place}` is empty"));
    }
    let value: Value = serde_json::from_str(&text)
        .map_err(|e| format!("field `{place}` is a function_call that is not JSON: {e}"))?;
    let is_call =
        |v: &Value| v.get("name").is_some_and(Value::is_string) && v.get("arguments").is_some();
    #[derive(serde::Deserialize)]
    struct Call<'a> {
        name: String,
        #[serde(borrow)]
        arguments: &'a RawValue,
    }
    let broken = |e: serde_json::Error| format!("field `{place}`: {e}");
    let calls: Vec<Call<'_>> = match &value {
        Value::Array(list) if !list.is_empty() && list.iter().all(is_call) => {
            serde_json::from_str(&text).map_err(broken)?
        }
        Value::Object(_) if is_call(&value) => vec![serde_json::from_str(&text).map_err(broken)?],
        _ => {
            notes.push("function_call without name and arguments kept as text".into());
            return Ok(Message::new(Role::Assistant, text));
        }
    };
    let tool_calls = calls
        .into_iter()
        .map(|call| ToolCall { name: call.name, arguments: arguments(call.arguments), id: None })
        .collect();
    Ok(Message { tool_calls, ..Message::new(Role::Assistant, "") })
}

/// Arguments as JSON text: a string already holds it, anything else is it.
fn arguments(raw: &RawValue) -> String {
    serde_json::from_str::<String>(raw.get()).unwrap_or_else(|_| raw.get().to_string())
}

/// `tool_calls` of a turn: `[{"id": …, "function": {"name": …, "arguments": …}}]`.
fn tool_calls(turn: &Object, place: &str) -> Result<Vec<ToolCall>, String> {
    let list = match turn.get("tool_calls") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
        Some(other) => {
            return Err(format!("field `{place}.tool_calls` is {}, not a list", json_kind(other)));
        }
    };
    let mut calls = Vec::with_capacity(list.len());
    for (index, call) in list.iter().enumerate() {
        let place = format!("{place}.tool_calls[{index}]");
        let function = call.get("function").unwrap_or(call);
        let Some(Value::String(name)) = function.get("name") else {
            return Err(format!("field `{place}.function.name` is missing or not a string"));
        };
        let arguments = match function.get("arguments") {
            None | Some(Value::Null) => "{}".to_string(),
            Some(Value::String(text)) => text.clone(),
            Some(value) => value.to_string(),
        };
        let id = match call.get("id") {
            Some(Value::String(id)) => Some(id.clone()),
            _ => None,
        };
        calls.push(ToolCall { name: name.clone(), arguments, id });
    }
    Ok(calls)
}

fn string(turn: &Object, key: &str, place: &str) -> Result<Option<String>, String> {
    match turn.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => Err(format!("field `{place}.{key}` is {}, not a string", json_kind(other))),
    }
}

fn weight(turn: &Object, place: &str) -> Result<Option<f32>, String> {
    let bad = |got: &Value| {
        format!(
            "field `{place}.weight` is {}; it must be a number that is not negative",
            shown(got)
        )
    };
    match turn.get("weight") {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_f64() {
            Some(w) if (w as f32).is_finite() && w >= 0.0 => Ok(Some(w as f32)),
            _ => Err(bad(value)),
        },
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Number(number) => number.to_string(),
        other => json_kind(other).to_string(),
    }
}
