//! Fields that many datasets share: lists of turns, earlier pairs, system prompts, tools.

use serde_json::Value;

use crate::{Message, Role, Row, ToolCall, json_kind};

/// The first of these columns that has a value.
///
/// # Errors
/// A reason for a reject, naming the columns.
pub fn first<'a>(row: &Row<'_>, names: &'a [String]) -> Result<(&'a str, Value), String> {
    for name in names {
        match row.json::<Value>(name)? {
            None | Some(Value::Null) => {}
            Some(value) => return Ok((name, value)),
        }
    }
    Err(format!("field `{}` is missing", names.join("` or `")))
}

/// The turns of a list of `{from, value}` or `{role, content}`, of which `column` is the name.
///
/// # Errors
/// A reason for a reject, naming the field.
pub fn turns(list: Vec<Value>, column: &str) -> Result<Vec<Message>, String> {
    list.into_iter()
        .enumerate()
        .map(|(index, turn)| {
            let place = format!("{column}[{index}]");
            let Value::Object(turn) = turn else {
                return Err(format!("field `{place}` is {}, not an object", json_kind(&turn)));
            };
            let text = |keys: [&str; 2]| -> Result<String, String> {
                match turn.get(keys[0]).or_else(|| turn.get(keys[1])) {
                    Some(Value::String(text)) => Ok(text.clone()),
                    Some(other) => Err(format!(
                        "field `{place}.{}` is {}, not a string",
                        keys[0],
                        json_kind(other)
                    )),
                    None => Err(format!("field `{place}.{}` is missing", keys[0])),
                }
            };
            let name = text(["from", "role"])?;
            let role = match name.as_str() {
                "system" => Role::System,
                "human" | "user" => Role::User,
                "gpt" | "assistant" | "function_call" => Role::Assistant,
                "observation" | "tool" => Role::Tool,
                other => {
                    let shown: String = other.chars().take(30).collect();
                    return Err(format!("field `{place}.from` is `{shown}`, not a known role"));
                }
            };
            let content = text(["value", "content"])?;
            if name == "function_call"
                && let Some(calls) = tool_calls(&content)
            {
                return Ok(Message { tool_calls: calls, ..Message::new(role, "") });
            }
            if content.trim().is_empty() && role != Role::System {
                return Err(format!("field `{place}.value` is empty"));
            }
            Ok(Message::new(role, content))
        })
        .collect()
}

/// A call `{name, arguments}` or a list of them; other text stays what it is.
fn tool_calls(text: &str) -> Option<Vec<ToolCall>> {
    let value: Value = serde_json::from_str(text).ok()?;
    let list = match value {
        Value::Array(list) if !list.is_empty() => list,
        value @ Value::Object(_) => vec![value],
        _ => return None,
    };
    list.into_iter()
        .map(|call| {
            let name = call.get("name")?.as_str()?.to_string();
            let arguments = match call.get("arguments")? {
                Value::String(text) => text.clone(),
                value => value.to_string(),
            };
            Some(ToolCall { name, arguments, id: None })
        })
        .collect()
}

/// The text of `system_prompt` or `system`, where it is not blank.
///
/// # Errors
/// A reason for a reject, naming the field.
pub fn system(row: &Row<'_>) -> Result<Option<String>, String> {
    for name in ["system_prompt", "system"] {
        match row.json::<Value>(name)? {
            None | Some(Value::Null) => {}
            Some(Value::String(text)) if text.trim().is_empty() => {}
            Some(Value::String(text)) => return Ok(Some(text)),
            Some(other) => {
                return Err(format!("field `{name}` is {}, not a string", json_kind(&other)));
            }
        }
    }
    Ok(None)
}

/// Tool definitions of `tools` as JSON text of a list: the list, or a string that holds it.
///
/// # Errors
/// A reason for a reject, naming the field.
pub fn tools(row: &Row<'_>) -> Result<Option<String>, String> {
    let (text, value) = match row.json::<Value>("tools")? {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) if text.trim().is_empty() => return Ok(None),
        Some(Value::String(text)) => {
            let value = serde_json::from_str(&text)
                .map_err(|e| format!("field `tools` is a string that is not JSON: {e}"))?;
            (text, value)
        }
        Some(value) => (value.to_string(), value),
    };
    match value {
        Value::Array(list) if list.is_empty() => Ok(None),
        Value::Array(_) => Ok(Some(text)),
        other => Err(format!("field `tools` is {}, not a list of tools", json_kind(&other))),
    }
}

/// Earlier `[question, answer]` pairs of `column`; none when it is absent, null or empty.
///
/// # Errors
/// A reason for a reject, naming the field.
pub fn pairs(row: &Row<'_>, column: &str) -> Result<Vec<(String, String)>, String> {
    let list = match row.json::<Value>(column)? {
        None => return Ok(Vec::new()),
        Some(Value::String(text)) if text.trim().is_empty() => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
        Some(other) => {
            return Err(format!("field `{column}` is {}, not a list of pairs", json_kind(&other)));
        }
    };
    let mut pairs = Vec::with_capacity(list.len());
    for (index, pair) in list.into_iter().enumerate() {
        let Value::Array(pair) = pair else {
            return Err(format!(
                "field `{column}[{index}]` is {}, not a pair of question and answer",
                json_kind(&pair)
            ));
        };
        match <[Value; 2]>::try_from(pair) {
            Ok([Value::String(q), Value::String(a)])
                if !q.trim().is_empty() && !a.trim().is_empty() =>
            {
                pairs.push((q, a));
            }
            Ok([Value::String(_), Value::String(_)]) => {
                return Err(format!("field `{column}[{index}]` has an empty side"));
            }
            Ok(_) => return Err(format!("field `{column}[{index}]` is not two strings")),
            Err(pair) => {
                return Err(format!("field `{column}[{index}]` has {} items, not 2", pair.len()));
            }
        }
    }
    Ok(pairs)
}
