//! What examples look like in a converted file, and their columns.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanBuilder, Float32Builder, Float64Builder, ListBuilder, RecordBatch,
    StringBuilder, StructBuilder,
};
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use arrow::error::ArrowError;
use serde_json::{Value, json};

use crate::data::{Conversation, Example, Message};

/// The columns of a converted file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `messages` as in OpenAI's chat format, and `tools`.
    Messages,
    /// `conversations` of `from` and `value`, and `tools`.
    ShareGpt,
    /// `text`.
    Text,
    /// `prompt`, `chosen`, `rejected` as messages, and `margin`; or `completion` and `label`.
    Preference,
    /// `prompt` as messages, `answer`, and further columns as JSON.
    Prompt,
    /// `input_ids` and `labels`.
    Tokens,
}

impl Shape {
    /// The shape that holds an example as it is.
    pub fn of(example: &Example) -> Self {
        match example {
            Example::Conversation(_) => Shape::Messages,
            Example::Text(_) => Shape::Text,
            Example::Preference { .. } => Shape::Preference,
            Example::Prompt { .. } => Shape::Prompt,
            Example::Tokens { .. } => Shape::Tokens,
        }
    }

    /// Its name, as a setting.
    pub fn name(self) -> &'static str {
        match self {
            Shape::Messages => "messages",
            Shape::ShareGpt => "sharegpt",
            Shape::Text => "text",
            Shape::Preference => "preference",
            Shape::Prompt => "prompt",
            Shape::Tokens => "tokens",
        }
    }

    /// The shape of a setting's name.
    pub fn find(name: &str) -> Option<Self> {
        use Shape::{Messages, Preference, Prompt, ShareGpt, Text, Tokens};
        let all = [Messages, ShareGpt, Text, Preference, Prompt, Tokens];
        all.into_iter().find(|s| s.name() == name)
    }

    /// Why an example can't be written in this shape; `None` where it can.
    pub(super) fn unfit(self, example: &Example) -> Option<String> {
        let kind = match (self, example) {
            (Shape::Messages, Example::Conversation(_)) => return None,
            (Shape::ShareGpt, Example::Conversation(c)) => {
                let lost = |m: &Message| {
                    let spoken = !m.content.is_empty() && !m.tool_calls.is_empty();
                    match m.weight {
                        Some(_) => Some("with a weight of its own"),
                        None => spoken.then_some("that both says something and calls a tool"),
                    }
                };
                let what = c.messages.iter().find_map(lost)?;
                return Some(format!(
                    "has a turn {what}, which this schema can't hold; use --output_schema messages"
                ));
            }
            (Shape::Text, Example::Text(_))
            | (Shape::Preference, Example::Preference { .. })
            | (Shape::Prompt, Example::Prompt { .. })
            | (Shape::Tokens, Example::Tokens { .. }) => return None,
            (_, Example::Conversation(_)) => "a conversation",
            (_, Example::Text(_)) => "a text",
            (_, Example::Preference { .. }) => "a preference",
            (_, Example::Prompt { .. }) => "a prompt",
            (_, Example::Tokens { .. }) => "tokens",
        };
        let name = self.name();
        Some(format!("became {kind}, which the output schema `{name}` can't hold"))
    }
}

impl Shape {
    /// What of an example the shape leaves out, to be noted: things that say how turns belong
    /// together, and are no part of what is said.
    pub(super) fn left_out(self, example: &Example) -> Option<&'static str> {
        let Example::Conversation(c) = example else { return None };
        let named = |m: &Message| {
            let calls = m.tool_calls.iter().any(|call| call.id.is_some());
            calls || m.tool_call_id.is_some() || m.name.is_some()
        };
        let lost = self == Shape::ShareGpt && c.messages.iter().any(named);
        lost.then_some("identifiers of tool calls left out, for which sharegpt has no place")
    }
}

/// Speaker and text of a turn as ShareGPT names them; calls of tools are JSON text.
pub(super) fn turn(message: &Message) -> (&str, String) {
    if !message.tool_calls.is_empty() {
        let calls: Vec<Value> = message
            .tool_calls
            .iter()
            .map(|call| {
                let arguments = serde_json::from_str(&call.arguments)
                    .unwrap_or_else(|_| Value::String(call.arguments.clone()));
                json!({"name": call.name, "arguments": arguments})
            })
            .collect();
        let text = match calls.as_slice() {
            [one] => one.to_string(),
            all => json!(all).to_string(),
        };
        return ("function_call", text);
    }
    let from = match message.role.as_str() {
        "user" => "human",
        "assistant" => "gpt",
        "tool" => "observation",
        other => other,
    };
    (from, message.content.clone())
}

fn text(name: &str) -> Field {
    Field::new(name, DataType::Utf8, true)
}

fn list(of: Fields) -> DataType {
    DataType::List(Arc::new(Field::new("element", DataType::Struct(of), true)))
}

/// A call of a tool.
fn call_fields() -> Fields {
    let function = Fields::from(vec![text("name"), text("arguments")]);
    vec![text("id"), text("type"), Field::new("function", DataType::Struct(function), true)].into()
}

fn message_fields() -> Fields {
    vec![
        text("role"),
        text("content"),
        Field::new("tool_calls", list(call_fields()), true),
        text("tool_call_id"),
        text("name"),
        Field::new("weight", DataType::Float32, true),
    ]
    .into()
}

fn turn_fields() -> Fields {
    vec![text("from"), text("value")].into()
}

fn integers(name: &str) -> Field {
    let element = Arc::new(Field::new("element", DataType::Int32, true));
    Field::new(name, DataType::List(element), true)
}

impl Shape {
    /// The columns.
    pub fn schema(self) -> SchemaRef {
        let messages = |name: &str| Field::new(name, list(message_fields()), true);
        Arc::new(Schema::new(match self {
            Shape::Messages => vec![messages("messages"), text("tools")],
            Shape::ShareGpt => {
                vec![Field::new("conversations", list(turn_fields()), true), text("tools")]
            }
            Shape::Text => vec![text("text")],
            Shape::Preference => vec![
                messages("prompt"),
                messages("chosen"),
                messages("rejected"),
                messages("completion"),
                Field::new("label", DataType::Boolean, true),
                Field::new("margin", DataType::Float64, true),
                text("tools"),
            ],
            Shape::Prompt => {
                vec![messages("prompt"), text("tools"), text("answer"), text("columns")]
            }
            Shape::Tokens => vec![integers("input_ids"), integers("labels")],
        }))
    }
}

type MessagesBuilder = ListBuilder<StructBuilder>;

fn messages_builder() -> MessagesBuilder {
    let function = StructBuilder::from_fields(vec![text("name"), text("arguments")], 0);
    let call = StructBuilder::new(
        call_fields(),
        vec![Box::new(StringBuilder::new()), Box::new(StringBuilder::new()), Box::new(function)],
    );
    let element = Field::new("element", DataType::Struct(call_fields()), true);
    let message = StructBuilder::new(
        message_fields(),
        vec![
            Box::new(StringBuilder::new()),
            Box::new(StringBuilder::new()),
            Box::new(ListBuilder::new(call).with_field(element)),
            Box::new(StringBuilder::new()),
            Box::new(StringBuilder::new()),
            Box::new(Float32Builder::new()),
        ],
    );
    let element = Field::new("element", DataType::Struct(message_fields()), true);
    ListBuilder::new(message).with_field(element)
}

/// The builder of a field that this module made with that type.
fn part<T: arrow::array::ArrayBuilder>(
    of: &mut StructBuilder,
    index: usize,
) -> Result<&mut T, String> {
    of.field_builder(index).ok_or_else(|| format!("no builder for field {index}"))
}

fn add_text(of: &mut StructBuilder, index: usize, value: Option<&str>) -> Result<(), String> {
    part::<StringBuilder>(of, index)?.append_option(value);
    Ok(())
}

fn add_messages(builder: &mut MessagesBuilder, messages: Option<&[Message]>) -> Result<(), String> {
    let Some(messages) = messages else {
        builder.append(false);
        return Ok(());
    };
    for message in messages {
        let of = builder.values();
        add_text(of, 0, Some(&message.role))?;
        add_text(of, 1, Some(&message.content))?;
        let calls = part::<ListBuilder<StructBuilder>>(of, 2)?;
        for call in &message.tool_calls {
            let of = calls.values();
            add_text(of, 0, call.id.as_deref())?;
            add_text(of, 1, Some("function"))?;
            let function = part::<StructBuilder>(of, 2)?;
            add_text(function, 0, Some(&call.name))?;
            add_text(function, 1, Some(&call.arguments))?;
            function.append(true);
            of.append(true);
        }
        calls.append(!message.tool_calls.is_empty());
        add_text(of, 3, message.tool_call_id.as_deref())?;
        add_text(of, 4, message.name.as_deref())?;
        part::<Float32Builder>(of, 5)?.append_option(message.weight);
        of.append(true);
    }
    builder.append(true);
    Ok(())
}

/// Collects examples of one shape as columns.
pub struct Columns {
    shape: Shape,
    messages: Vec<MessagesBuilder>,
    turns: ListBuilder<StructBuilder>,
    texts: Vec<StringBuilder>,
    label: BooleanBuilder,
    margin: Float64Builder,
    integers: Vec<ListBuilder<arrow::array::Int32Builder>>,
    /// Examples so far.
    pub rows: usize,
}

impl Columns {
    /// Nothing yet.
    pub fn new(shape: Shape) -> Self {
        let turns = StructBuilder::from_fields(turn_fields(), 0);
        let element = Field::new("element", DataType::Struct(turn_fields()), true);
        let integer = || {
            let element = Field::new("element", DataType::Int32, true);
            ListBuilder::new(arrow::array::Int32Builder::new()).with_field(element)
        };
        Self {
            shape,
            messages: (0..4).map(|_| messages_builder()).collect(),
            turns: ListBuilder::new(turns).with_field(element),
            texts: (0..3).map(|_| StringBuilder::new()).collect(),
            label: BooleanBuilder::new(),
            margin: Float64Builder::new(),
            integers: vec![integer(), integer()],
            rows: 0,
        }
    }

    /// Adds an example, or says why it can't be.
    pub fn push(&mut self, example: &Example) -> Result<(), String> {
        if let Some(why) = self.shape.unfit(example) {
            return Err(why);
        }
        let answers = |messages: &Vec<Message>| (!messages.is_empty()).then(|| messages.clone());
        match example {
            Example::Text(text) => self.texts[0].append_value(text),
            Example::Tokens { input_ids, labels } => {
                let ids = input_ids.iter().map(|&id| i32::try_from(id).ok()).collect::<Vec<_>>();
                if ids.iter().any(Option::is_none) {
                    return Err("holds a token id beyond 2147483647".into());
                }
                self.integers[0].append_value(ids);
                self.integers[1].append_value(labels.iter().map(|&l| Some(l)));
            }
            Example::Conversation(c) if self.shape == Shape::ShareGpt => {
                for message in &c.messages {
                    let (from, value) = turn(message);
                    let of = self.turns.values();
                    add_text(of, 0, Some(from))?;
                    add_text(of, 1, Some(&value))?;
                    of.append(true);
                }
                self.turns.append(true);
                self.texts[0].append_option(c.tools.as_deref());
            }
            Example::Conversation(Conversation { messages, tools }) => {
                add_messages(&mut self.messages[0], Some(messages))?;
                self.texts[0].append_option(tools.as_deref());
            }
            Example::Preference { prompt, chosen, rejected, margin } => {
                let single = chosen.is_empty() || rejected.is_empty();
                add_messages(&mut self.messages[0], Some(&prompt.messages))?;
                let pair = [answers(chosen), answers(rejected)];
                for (builder, answer) in self.messages[1..3].iter_mut().zip(&pair) {
                    add_messages(builder, answer.as_deref().filter(|_| !single))?;
                }
                let [good, bad] = &pair;
                let completion = good.as_deref().or(bad.as_deref()).filter(|_| single);
                add_messages(&mut self.messages[3], completion)?;
                self.label.append_option(single.then_some(good.is_some()));
                self.margin.append_option(*margin);
                self.texts[0].append_option(prompt.tools.as_deref());
            }
            Example::Prompt { prompt, reference, columns } => {
                add_messages(&mut self.messages[0], Some(&prompt.messages))?;
                self.texts[0].append_option(prompt.tools.as_deref());
                self.texts[1].append_option(reference.as_deref());
                self.texts[2].append_option(columns.as_deref());
            }
        }
        self.rows += 1;
        Ok(())
    }

    /// The examples as a record batch.
    ///
    /// # Errors
    /// None that a conversion can cause.
    pub fn finish(mut self) -> Result<RecordBatch, ArrowError> {
        let mut text = |i: usize| Arc::new(self.texts[i].finish()) as ArrayRef;
        let mut messages = |i: usize| Arc::new(self.messages[i].finish()) as ArrayRef;
        let columns: Vec<ArrayRef> = match self.shape {
            Shape::Messages => vec![messages(0), text(0)],
            Shape::ShareGpt => vec![Arc::new(self.turns.finish()), text(0)],
            Shape::Text => vec![text(0)],
            Shape::Preference => vec![
                messages(0),
                messages(1),
                messages(2),
                messages(3),
                Arc::new(self.label.finish()),
                Arc::new(self.margin.finish()),
                text(0),
            ],
            Shape::Prompt => vec![messages(0), text(0), text(1), text(2)],
            Shape::Tokens => {
                self.integers.iter_mut().map(|b| Arc::new(b.finish()) as ArrayRef).collect()
            }
        };
        RecordBatch::try_new(self.shape.schema(), columns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::ToolCall;

    #[test]
    fn what_a_shape_cannot_hold_is_said() {
        let conversation = |message: Message| {
            Example::Conversation(Conversation { messages: vec![message], tools: None })
        };
        let plain = conversation(Message::new("user", "hello"));
        assert_eq!(Shape::of(&plain), Shape::Messages);
        for shape in [Shape::Messages, Shape::ShareGpt] {
            assert_eq!((shape.unfit(&plain), shape.left_out(&plain)), (None, None));
        }
        let call = |id: Option<&str>| ToolCall {
            name: "f".into(),
            arguments: "{}".into(),
            id: id.map(str::to_string),
        };
        let calling = |content: &str, id| {
            let tool_calls = vec![call(id)];
            conversation(Message { tool_calls, ..Message::new("assistant", content) })
        };
        assert_eq!(Shape::ShareGpt.unfit(&calling("", None)), None);
        assert!(Shape::ShareGpt.left_out(&calling("", Some("1"))).is_some());
        assert!(Shape::ShareGpt.unfit(&calling("so", None)).is_some_and(|w| w.contains("calls")));
        assert_eq!(Shape::Messages.unfit(&calling("so", Some("1"))), None);
        let weighted = conversation(Message { weight: Some(0.5), ..Message::new("user", "x") });
        assert!(Shape::ShareGpt.unfit(&weighted).is_some_and(|w| w.contains("weight")));
        assert!(Shape::Text.unfit(&plain).is_some_and(|w| w.contains("a conversation")));
        for shape in ["messages", "sharegpt", "text", "preference", "prompt", "tokens"] {
            assert_eq!(Shape::find(shape).map(Shape::name), Some(shape));
        }
    }
}
