//! One message, checked and understood.

use serde_json::Value;
use trainer_plugin::{Message, Role, ToolCall, json_kind};

use crate::OtherParts;

/// Longest foreign name shown in a reason.
const CHARS_SHOWN: usize = 30;

type Object = serde_json::Map<String, Value>;

/// The message `value`, which stands at `place`.
///
/// # Errors
/// Why the row is rejected, naming the field.
pub fn read(
    value: &Value,
    place: &str,
    other_parts: OtherParts,
    notes: &mut Vec<String>,
) -> Result<Message, String> {
    let Value::Object(turn) = value else {
        return Err(format!("field `{place}` is {}, not an object", json_kind(value)));
    };
    let role = role(turn, place)?;
    let mut calls = tool_calls(turn, place)?;
    if let Some(call) = turn.get("function_call").filter(|call| !call.is_null()) {
        calls.push(function(call, None, &format!("{place}.function_call"))?);
    }
    if !calls.is_empty() && role != Role::Assistant {
        return Err(format!("field `{place}.tool_calls` is not in an assistant's turn"));
    }
    let mut content = content(turn, place, other_parts, notes)?;
    if content.is_none()
        && role == Role::Assistant
        && let Some(refusal) = string(turn, "refusal", place)?
    {
        notes.push("refusal used as the answer".into());
        content = Some(refusal);
    }
    let text = match content {
        Some(text) => text,
        None if !calls.is_empty() => String::new(),
        None => return Err(format!("field `{place}.content` is missing")),
    };
    // What a tool answers may be nothing; what a person or a model says may not.
    if text.trim().is_empty() && calls.is_empty() && role != Role::Tool {
        return Err(format!("field `{place}.content` is empty"));
    }
    let mut message = Message { tool_calls: calls, ..Message::new(role, text) };
    if role == Role::Tool {
        message.tool_call_id = string(turn, "tool_call_id", place)?;
        message.name = string(turn, "name", place)?;
    }
    message.weight = weight(turn, place)?;
    Ok(message)
}

fn role(turn: &Object, place: &str) -> Result<Role, String> {
    let name = match turn.get("role") {
        Some(Value::String(name)) => name,
        None => return Err(format!("field `{place}.role` is missing")),
        Some(other) => {
            return Err(format!("field `{place}.role` is {}, not a string", json_kind(other)));
        }
    };
    Ok(match name.as_str() {
        "system" | "developer" => Role::System,
        "user" => Role::User,
        "assistant" => Role::Assistant,
        "tool" | "function" => Role::Tool,
        other => {
            let shown: String = other.chars().take(CHARS_SHOWN).collect();
            return Err(format!("field `{place}.role` is `{shown}`, not a known role"));
        }
    })
}

/// The text of `content`: a string, or parts of which the texts are joined.
fn content(
    turn: &Object,
    place: &str,
    other_parts: OtherParts,
    notes: &mut Vec<String>,
) -> Result<Option<String>, String> {
    let parts = match turn.get("content") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => return Ok(Some(text.clone())),
        Some(Value::Array(parts)) => parts,
        Some(other) => {
            return Err(format!(
                "field `{place}.content` is {}, not a string or a list of parts",
                json_kind(other)
            ));
        }
    };
    let mut text = String::new();
    for (index, part) in parts.iter().enumerate() {
        let place = format!("{place}.content[{index}]");
        let kind = match part {
            Value::String(part) => {
                text.push_str(part);
                continue;
            }
            Value::Object(part) => part.get("type").and_then(Value::as_str),
            other => return Err(format!("field `{place}` is {}, not a part", json_kind(other))),
        };
        let key = match kind {
            Some("text" | "input_text" | "output_text") => "text",
            Some("refusal") => "refusal",
            None => return Err(format!("field `{place}.type` is missing")),
            Some(kind) => {
                let shown: String = kind.chars().take(CHARS_SHOWN).collect();
                if other_parts == OtherParts::Reject {
                    return Err(format!("field `{place}` is a part of type `{shown}`, not text"));
                }
                notes.push(format!("content part of type `{shown}` dropped"));
                continue;
            }
        };
        match part.get(key) {
            Some(Value::String(part)) => text.push_str(part),
            _ => return Err(format!("field `{place}.{key}` is missing or not a string")),
        }
    }
    Ok(Some(text))
}

/// `tool_calls`: `[{"id": …, "type": "function", "function": {"name": …, "arguments": …}}]`.
fn tool_calls(turn: &Object, place: &str) -> Result<Vec<ToolCall>, String> {
    let list = match turn.get("tool_calls") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
        Some(other) => {
            return Err(format!("field `{place}.tool_calls` is {}, not a list", json_kind(other)));
        }
    };
    list.iter()
        .enumerate()
        .map(|(index, call)| {
            let place = format!("{place}.tool_calls[{index}]");
            let id = match call.get("id") {
                Some(Value::String(id)) => Some(id.clone()),
                None | Some(Value::Null) => None,
                Some(other) => {
                    return Err(format!(
                        "field `{place}.id` is {}, not a string",
                        json_kind(other)
                    ));
                }
            };
            match call.get("function") {
                Some(call) => function(call, id, &format!("{place}.function")),
                None => function(call, id, &place),
            }
        })
        .collect()
}

/// `{"name": …, "arguments": …}`; arguments are JSON text, or the JSON itself.
fn function(call: &Value, id: Option<String>, place: &str) -> Result<ToolCall, String> {
    let Some(Value::String(name)) = call.get("name") else {
        return Err(format!("field `{place}.name` is missing or not a string"));
    };
    if name.is_empty() {
        return Err(format!("field `{place}.name` is empty"));
    }
    let arguments = match call.get("arguments") {
        None | Some(Value::Null) => "{}".to_string(),
        Some(Value::String(text)) if text.trim().is_empty() => "{}".to_string(),
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
    };
    Ok(ToolCall { name: name.clone(), arguments, id })
}

fn string(turn: &Object, key: &str, place: &str) -> Result<Option<String>, String> {
    match turn.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => Err(format!("field `{place}.{key}` is {}, not a string", json_kind(other))),
    }
}

/// `weight` of a turn; OpenAI has 0 and 1, any other share is as good.
fn weight(turn: &Object, place: &str) -> Result<Option<f32>, String> {
    match turn.get("weight") {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_f64() {
            Some(w) if (w as f32).is_finite() && w >= 0.0 => Ok(Some(w as f32)),
            _ => Err(format!("field `{place}.weight` is not a number that is not negative")),
        },
    }
}
