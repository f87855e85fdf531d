//! Nothing a guest returns is believed: types of the contract → the trainer's own, checked.
//! Every error is the words that complete "returned something wrong".

use super::bindings::{chat, formatting};
use super::error::shown;
use crate::data::example::{Conversation, Example, Message, ToolCall};
use crate::limits as ceilings;

/// The label of a position without loss.
const IGNORE_INDEX: i32 = -100;

pub(super) fn role_name(role: chat::Role) -> &'static str {
    match role {
        chat::Role::System => "system",
        chat::Role::User => "user",
        chat::Role::Assistant => "assistant",
        chat::Role::Tool => "tool",
    }
}

pub(super) fn role_of(name: &str) -> Option<chat::Role> {
    Some(match name {
        "system" => chat::Role::System,
        "user" => chat::Role::User,
        "assistant" => chat::Role::Assistant,
        "tool" => chat::Role::Tool,
        _ => return None,
    })
}

/// A loss weight: finite, not negative.
pub(super) fn weight(weight: f32) -> Result<f32, String> {
    if weight.is_finite() && weight >= 0.0 {
        Ok(weight)
    } else {
        Err(format!("the weight {weight}, which is not a finite number from 0 up"))
    }
}

fn message(message: chat::Message) -> Result<Message, String> {
    let role = role_name(message.role);
    if !message.tool_calls.is_empty() && message.role != chat::Role::Assistant {
        return Err(format!("tool calls in a {role} turn"));
    }
    let tool_calls = message
        .tool_calls
        .into_iter()
        .map(|call| {
            if call.name.is_empty() {
                return Err("a tool call without a name".to_string());
            }
            Ok(ToolCall { name: call.name, arguments: call.arguments, id: call.id })
        })
        .collect::<Result<_, _>>()?;
    Ok(Message {
        role: role.into(),
        content: message.content,
        tool_calls,
        tool_call_id: message.tool_call_id,
        name: message.name,
        weight: message.weight.map(weight).transpose()?,
    })
}

fn messages(list: Vec<chat::Message>) -> Result<Vec<Message>, String> {
    list.into_iter().map(message).collect()
}

fn conversation(conversation: chat::Conversation) -> Result<Conversation, String> {
    if conversation.messages.is_empty() {
        return Err("a conversation without turns".into());
    }
    if let Some(tools) = &conversation.tools {
        let list = serde_json::from_str::<Vec<&serde_json::value::RawValue>>(tools);
        list.map_err(|e| format!("tools that are not a JSON list: {e}"))?;
    }
    Ok(Conversation { messages: messages(conversation.messages)?, tools: conversation.tools })
}

/// One example of a row.
pub(super) fn example(example: formatting::Example) -> Result<Example, String> {
    Ok(match example {
        formatting::Example::Text(text) if text.is_empty() => return Err("an empty text".into()),
        formatting::Example::Text(text) => Example::Text(text),
        formatting::Example::Conversation(c) => Example::Conversation(conversation(c)?),
        formatting::Example::Preference(p) => {
            if p.chosen.is_empty() && p.rejected.is_empty() {
                return Err("a preference with two empty sides".into());
            }
            if let Some(margin) = p.margin.filter(|m| !m.is_finite()) {
                return Err(format!("the margin {margin}, which is not finite"));
            }
            Example::Preference {
                prompt: conversation(p.prompt)?,
                chosen: messages(p.chosen)?,
                rejected: messages(p.rejected)?,
                margin: p.margin,
            }
        }
        formatting::Example::Prompt(p) => {
            if let Some(columns) = &p.columns {
                let object = serde_json::from_str::<serde_json::Value>(columns);
                if !object.is_ok_and(|v| v.is_object()) {
                    return Err("prompt columns that are not a JSON object".into());
                }
            }
            Example::Prompt {
                prompt: conversation(p.conversation)?,
                reference: p.reference,
                columns: p.columns,
            }
        }
        formatting::Example::Tokens(t) => {
            if t.input_ids.is_empty() {
                return Err("an empty token sequence".into());
            }
            if t.input_ids.len() != t.labels.len() {
                return Err(format!(
                    "{} input ids with {} labels",
                    t.input_ids.len(),
                    t.labels.len()
                ));
            }
            if let Some(label) = t.labels.iter().find(|&&l| l < 0 && l != IGNORE_INDEX) {
                return Err(format!("the label {label}"));
            }
            Example::Tokens { input_ids: t.input_ids, labels: t.labels }
        }
    })
}

/// A reason or a note: few words, safe to show.
pub(super) fn words(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        Err("a reason or note without words".into())
    } else {
        Ok(shown(text))
    }
}

/// Notes of a row.
pub(super) fn notes(notes: Vec<String>) -> Result<Vec<String>, String> {
    if notes.len() > ceilings::PLUGIN_NOTES_PER_ROW_MAX {
        return Err(format!("{} notes on one row", notes.len()));
    }
    notes.iter().map(|note| words(note)).collect()
}

/// The way back: a conversation for a template.
pub(super) fn to_guest(conversation: &Conversation) -> Result<chat::Conversation, String> {
    let message = |m: &Message| -> Result<chat::Message, String> {
        Ok(chat::Message {
            role: role_of(&m.role).ok_or_else(|| {
                format!("role `{}` is not system, user, assistant or tool", shown(&m.role))
            })?,
            content: m.content.clone(),
            tool_calls: m
                .tool_calls
                .iter()
                .map(|c| chat::ToolCall {
                    name: c.name.clone(),
                    arguments: c.arguments.clone(),
                    id: c.id.clone(),
                })
                .collect(),
            tool_call_id: m.tool_call_id.clone(),
            name: m.name.clone(),
            weight: m.weight,
        })
    };
    Ok(chat::Conversation {
        messages: conversation.messages.iter().map(message).collect::<Result<_, _>>()?,
        tools: conversation.tools.clone(),
    })
}
