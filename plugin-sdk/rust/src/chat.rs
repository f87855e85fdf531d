//! Making conversations, outcomes and segments.

use crate::{
    Conversation, Example, Message, Outcome, Part, RenderOptions, Role, Score, Segment, Verdict,
};

impl Message {
    /// A plain turn.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self {
            role,
            content: content.into(),
            tool_calls: Vec::new(),
            tool_call_id: None,
            name: None,
            weight: None,
        }
    }

    /// The turn's weight in the loss: its own, else 1 for the assistant and 0 for others.
    pub fn loss_weight(&self) -> f32 {
        self.weight.unwrap_or(if self.role == Role::Assistant { 1.0 } else { 0.0 })
    }
}

impl Conversation {
    /// Turns without tools on offer.
    pub fn new(messages: Vec<Message>) -> Self {
        Self { messages, tools: None }
    }
}

impl Outcome {
    /// The row's examples.
    pub fn keep(examples: Vec<Example>) -> Self {
        Self { verdict: Verdict::Keep(examples), notes: Vec::new() }
    }

    /// The row is this conversation.
    pub fn conversation(conversation: Conversation) -> Self {
        Self::keep(vec![Example::Conversation(conversation)])
    }

    /// The row is this text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::keep(vec![Example::Text(text.into())])
    }

    /// Sound, but not wanted. Reasons are counted: use few, fixed words.
    pub fn skip(reason: impl Into<String>) -> Self {
        Self { verdict: Verdict::Skip(reason.into()), notes: Vec::new() }
    }

    /// Broken; name the field.
    pub fn reject(reason: impl Into<String>) -> Self {
        Self { verdict: Verdict::Reject(reason.into()), notes: Vec::new() }
    }

    /// Adds repairs made on the way; they are counted by their text.
    pub fn with_notes<N: Into<String>>(mut self, notes: impl IntoIterator<Item = N>) -> Self {
        self.notes.extend(notes.into_iter().map(Into::into));
        self
    }
}

impl Segment {
    /// Text around turns, not trained.
    pub fn frame(text: impl Into<String>) -> Self {
        Self { text: text.into(), role: None, weight: 0.0 }
    }

    /// Text of a turn.
    pub fn turn(role: Role, text: impl Into<String>, weight: f32) -> Self {
        Self { text: text.into(), role: Some(role), weight }
    }
}

impl RenderOptions {
    /// The tokenizer's last token, or `fallback` where it has none.
    pub fn eos_or<'a>(&'a self, fallback: &'a str) -> &'a str {
        if self.eos.is_empty() { fallback } else { &self.eos }
    }
}

impl Score {
    /// A score without parts.
    pub fn new(value: f64) -> Self {
        Self { value: Some(value), parts: Vec::new() }
    }

    /// No opinion on the row.
    pub fn none() -> Self {
        Self { value: None, parts: Vec::new() }
    }

    /// Adds a named share for the log.
    pub fn with_part(mut self, name: impl Into<String>, value: f64) -> Self {
        self.parts.push(Part { name: name.into(), value });
        self
    }
}
