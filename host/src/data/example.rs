//! The canonical examples: what a formatter makes of a row, whatever the row looked like.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Where an example came from: file and 1-based row (a line for text formats).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Provenance {
    /// The file, as the user named it.
    pub file: Arc<str>,
    /// 1-based row of that file; in line formats, the line.
    pub row: u64,
}

impl std::fmt::Display for Provenance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.file, self.row)
    }
}

/// One call of a tool by the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolCall {
    /// The tool's name.
    pub name: String,
    /// The arguments, as JSON text.
    pub arguments: String,
    /// Identifier that the tool's answer refers to, if the source has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant` or `tool`.
    pub role: String,
    /// The text; may be empty when there are tool calls.
    pub content: String,
    /// Tools the model calls in this turn.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// In a `tool` turn, the call it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// In a `tool` turn, the tool's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Weight of the turn in the loss; `None`: 1 for assistant turns, 0 for others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<f32>,
}

impl Message {
    /// A plain turn.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), ..Self::default() }
    }
}

/// Turns, and the tools that were on offer.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct Conversation {
    /// The turns in order.
    pub messages: Vec<Message>,
    /// JSON text of the list of tool definitions, when there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<String>,
}

/// What one row became.
#[derive(Clone, Debug, PartialEq)]
pub enum Example {
    /// Plain text, all of it trained.
    Text(String),
    /// A conversation whose assistant turns are trained.
    Conversation(Conversation),
    /// One prompt with a better and a worse continuation.
    Preference {
        /// The turns before the answer.
        prompt: Conversation,
        /// The preferred continuation.
        chosen: Vec<Message>,
        /// The other one.
        rejected: Vec<Message>,
        /// How much better, if the source says.
        margin: Option<f64>,
    },
    /// A prompt to answer, with what a reward needs to judge the answer.
    Prompt {
        /// The turns before the answer.
        prompt: Conversation,
        /// The reference answer, if any.
        reference: Option<String>,
        /// Further columns for the reward, as JSON text of an object.
        columns: Option<String>,
    },
    /// Token ids made elsewhere; `labels` hold -100 where no loss is taken.
    Tokens {
        /// Token ids.
        input_ids: Vec<u32>,
        /// Targets, unshifted: `labels[i]` belongs to `input_ids[i]`.
        labels: Vec<i32>,
    },
}
