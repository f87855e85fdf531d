//! Examples as JSON lines, in the shapes that other programs read.

use serde::Serialize;
use serde_json::{Map, Value};

use super::shape::{Shape, turn};
use crate::data::{Example, Message};

#[derive(Serialize)]
struct Function<'a> {
    name: &'a str,
    arguments: &'a str,
}

#[derive(Serialize)]
struct Call<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    r#type: &'static str,
    function: Function<'a>,
}

/// A turn in OpenAI's chat format.
#[derive(Serialize)]
struct Turn<'a> {
    role: &'a str,
    content: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<Call<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_call_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    weight: Option<f32>,
}

#[derive(Serialize)]
struct FromValue<'a> {
    from: &'a str,
    value: String,
}

type Turns<'a> = Option<Vec<Turn<'a>>>;

/// All columns of all shapes, of which a row has some.
#[derive(Default, Serialize)]
struct Row<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    input_ids: Option<&'a [u32]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<&'a [i32]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    messages: Turns<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    conversations: Option<Vec<FromValue<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt: Turns<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chosen: Turns<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rejected: Turns<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completion: Turns<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    margin: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tools: Option<&'a str>,
    #[serde(flatten)]
    columns: Map<String, Value>,
}

fn turns(messages: &[Message]) -> Vec<Turn<'_>> {
    let each = messages.iter().map(|m| Turn {
        role: &m.role,
        content: &m.content,
        tool_calls: m
            .tool_calls
            .iter()
            .map(|call| Call {
                id: call.id.as_deref(),
                r#type: "function",
                function: Function { name: &call.name, arguments: &call.arguments },
            })
            .collect(),
        tool_call_id: m.tool_call_id.as_deref(),
        name: m.name.as_deref(),
        weight: m.weight,
    });
    each.collect()
}

impl<'a> Row<'a> {
    fn of(example: &'a Example, shape: Shape) -> Self {
        let none = Self::default();
        match example {
            Example::Text(text) => Self { text: Some(text), ..none },
            Example::Tokens { input_ids, labels } => {
                Self { input_ids: Some(input_ids), labels: Some(labels), ..none }
            }
            Example::Conversation(c) => {
                let tools = c.tools.as_deref();
                if shape != Shape::ShareGpt {
                    return Self { messages: Some(turns(&c.messages)), tools, ..none };
                }
                let each = c.messages.iter().map(|message| {
                    let (from, value) = turn(message);
                    FromValue { from, value }
                });
                Self { conversations: Some(each.collect()), tools, ..none }
            }
            Example::Preference { prompt, chosen, rejected, margin } => {
                let row = Self {
                    prompt: Some(turns(&prompt.messages)),
                    tools: prompt.tools.as_deref(),
                    margin: *margin,
                    ..none
                };
                if !chosen.is_empty() && !rejected.is_empty() {
                    let (chosen, rejected) = (Some(turns(chosen)), Some(turns(rejected)));
                    return Self { chosen, rejected, ..row };
                }
                let good = !chosen.is_empty();
                let completion = Some(turns(if good { chosen } else { rejected }));
                Self { completion, label: Some(good), ..row }
            }
            Example::Prompt { prompt, reference, columns } => {
                // The plugin host checked that these are a JSON object.
                let columns = columns.as_deref().unwrap_or("{}");
                let mut columns: Map<String, Value> =
                    serde_json::from_str(columns).unwrap_or_default();
                columns.retain(|name, _| !["prompt", "tools", "answer"].contains(&name.as_str()));
                Self {
                    prompt: Some(turns(&prompt.messages)),
                    tools: prompt.tools.as_deref(),
                    answer: reference.as_deref(),
                    columns,
                    ..none
                }
            }
        }
    }
}

/// Collects examples of one shape as JSON lines.
pub struct JsonLines {
    shape: Shape,
    /// The text so far.
    pub text: Vec<u8>,
    /// Where each row ends.
    pub ends: Vec<usize>,
}

impl JsonLines {
    /// Nothing yet, with room for `bytes` of text.
    pub fn new(shape: Shape, bytes: usize) -> Self {
        Self { shape, text: Vec::with_capacity(bytes), ends: Vec::new() }
    }

    /// Adds an example, or says why it can't be.
    pub fn push(&mut self, example: &Example) -> Result<(), String> {
        if let Some(why) = self.shape.unfit(example) {
            return Err(why);
        }
        let row = Row::of(example, self.shape);
        serde_json::to_writer(&mut self.text, &row).map_err(|e| e.to_string())?;
        self.text.push(b'\n');
        self.ends.push(self.text.len());
        Ok(())
    }
}
