//! Tools on offer, calls and answers, in the layouts that models were trained on. The wording of
//! an offer is the format itself.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};
use trainer_plugin::{Message, ToolCall};

/// How tools are written.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ToolFormat {
    Default,
    Qwen,
    Glm4,
    Llama3,
    Mistral,
}

impl ToolFormat {
    /// What is added to the system prompt when `tools` (JSON of a list) are on offer.
    pub fn offer(self, tools: &str, date: &str) -> Result<String, String> {
        let list: Vec<Value> = serde_json::from_str(tools)
            .map_err(|e| format!("the conversation's tools are not a JSON list: {e}"))?;
        let tools: Vec<&Value> =
            list.iter().map(|tool| tool.get("function").unwrap_or(tool)).collect();
        Ok(match self {
            ToolFormat::Default => actions(&tools)?,
            ToolFormat::Qwen => {
                let lines: String =
                    tools.iter().map(|tool| format!("\n{}", spaced(&wrapped(tool)))).collect();
                format!(
                    "# Tools\n\nYou may call one or more functions to assist with the user \
                     query.\n\nYou are provided with function signatures within <tools></tools> \
                     XML tags:\n<tools>{lines}\n</tools>\n\nFor each function call, return a json \
                     object with function name and arguments within <tool_call></tool_call> XML \
                     tags:\n<tool_call>\n{{\"name\": <function-name>, \"arguments\": \
                     <args-json-object>}}\n</tool_call>"
                )
            }
            ToolFormat::Glm4 => {
                let mut text = String::from(
                    "你是一个名为 ChatGLM 的人工智能助手。你是基于智谱AI训练的语言模型 GLM-4 \
                     模型开发的，你的任务是针对用户的问题和要求提供适当的答复和支持。# 可用工具",
                );
                for tool in &tools {
                    text.push_str(&format!(
                        "\n\n## {}\n\n{}\n在调用上述函数时，请使用 Json 格式表示调用的参数。",
                        name(tool)?,
                        indented(tool)
                    ));
                }
                text
            }
            ToolFormat::Llama3 => {
                let list: Vec<String> = tools.iter().map(|tool| indented(&wrapped(tool))).collect();
                format!(
                    "Cutting Knowledge Date: December 2023\nToday Date: {date}\n\nYou have access \
                     to the following functions. To call a function, please respond with JSON for \
                     a function call. Respond in the format {{\"name\": function name, \
                     \"parameters\": dictionary of argument name and its value}}. Do not use \
                     variables.\n\n{}\n\n",
                    list.join("\n\n")
                )
            }
            ToolFormat::Mistral => {
                let list = Value::Array(tools.iter().map(|tool| wrapped(tool)).collect());
                format!("[AVAILABLE_TOOLS] {}[/AVAILABLE_TOOLS]", spaced(&list))
            }
        })
    }

    /// What the assistant says: its text, then its calls.
    pub fn with_calls(self, message: &Message) -> Result<String, String> {
        let calls = message.tool_calls.as_slice();
        let calls = match (self, calls) {
            (_, []) => String::new(),
            (ToolFormat::Default, calls) => calls
                .iter()
                .map(|call| format!("Action: {}\nAction Input: {}\n", call.name, call.arguments))
                .collect(),
            (ToolFormat::Qwen, calls) => {
                let blocks: Vec<String> = calls
                    .iter()
                    .map(|call| format!("<tool_call>\n{}\n</tool_call>", object(call, "arguments")))
                    .collect();
                blocks.join("\n")
            }
            (ToolFormat::Glm4, [call]) => format!("{}\n{}", call.name, call.arguments),
            (ToolFormat::Llama3, [call]) => object(call, "parameters"),
            (ToolFormat::Glm4 | ToolFormat::Llama3, _) => {
                return Err("several tool calls in one turn have no place in this tool format; \
                    use the format default, qwen or mistral"
                    .into());
            }
            (ToolFormat::Mistral, calls) => {
                let list: Vec<String> =
                    calls.iter().map(|call| object(call, "arguments")).collect();
                format!("[{}]", list.join(", "))
            }
        };
        let between = if message.content.is_empty() || calls.is_empty() { "" } else { "\n" };
        Ok(format!("{}{between}{calls}", message.content))
    }

    /// What a tool answered.
    pub fn answer(self, text: &str) -> String {
        match self {
            ToolFormat::Qwen => format!("<tool_response>\n{text}\n</tool_response>"),
            ToolFormat::Glm4 => format!("<|observation|>\n{text}"),
            ToolFormat::Mistral => {
                format!("[TOOL_RESULTS] {{\"content\": {}}}[/TOOL_RESULTS]", as_json(text))
            }
            ToolFormat::Default | ToolFormat::Llama3 => format!("Observation: {text}"),
        }
    }
}

/// `{"name": …, KEY: arguments}`.
fn object(call: &ToolCall, key: &str) -> String {
    let name = Value::from(call.name.as_str());
    format!("{{\"name\": {name}, \"{key}\": {}}}", as_json(&call.arguments))
}

/// JSON stays the text it is; other text is a string.
fn as_json(text: &str) -> String {
    match serde_json::from_str::<&serde_json::value::RawValue>(text) {
        Ok(_) => text.trim().to_string(),
        Err(_) => Value::from(text).to_string(),
    }
}

fn name(tool: &Value) -> Result<&str, String> {
    let name = tool.get("name").and_then(Value::as_str);
    name.ok_or_else(|| "one of the conversation's tools has no `name`".into())
}

fn wrapped(tool: &Value) -> Value {
    serde_json::json!({ "type": "function", "function": tool })
}

/// The offer of the format `default`.
fn actions(tools: &[&Value]) -> Result<String, String> {
    let mut text = String::from("You have access to the following tools:\n");
    let mut names = Vec::new();
    for tool in tools {
        names.push(name(tool)?);
        let description = tool.get("description").and_then(Value::as_str).unwrap_or_default();
        text.push_str(&format!(
            "> Tool Name: {}\nTool Description: {description}\nTool Args:\n",
            name(tool)?
        ));
        let parameters = tool.get("parameters");
        let required = parameters.and_then(|p| p.get("required")).and_then(Value::as_array);
        let properties = parameters.and_then(|p| p.get("properties")).and_then(Value::as_object);
        for (name, about) in properties.into_iter().flatten() {
            let is_required =
                required.is_some_and(|r| r.iter().any(|v| v.as_str() == Some(name.as_str())));
            text.push_str(&argument(name, about, is_required));
        }
        text.push('\n');
    }
    text.push_str(&format!(
        "Use the following format if using a tool:\n```\nAction: tool name (one of [{}])\n\
         Action Input: the input to the tool, in a JSON format representing the kwargs \
         (e.g. ```{{\"input\": \"hello world\", \"num_beams\": 5}}```)\n```\n",
        names.join(", ")
    ));
    Ok(text)
}

fn argument(name: &str, about: &Value, required: bool) -> String {
    let string = |key: &str| about.get(key).and_then(Value::as_str).unwrap_or_default();
    let required = if required { ", required" } else { "" };
    let mut line = format!("  - {name} ({}{required}): {}", string("type"), string("description"));
    if let Some(Value::Array(values)) = about.get("enum") {
        let values: Vec<String> = values
            .iter()
            .map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_string))
            .collect();
        line.push_str(&format!(", should be one of [{}]", values.join(", ")));
    }
    if let Some(item) = about.get("items") {
        let kind = item.get("type").and_then(Value::as_str).unwrap_or_default();
        line.push_str(&format!(", where each item should be {kind}"));
    }
    line.push('\n');
    line
}

/// JSON with a space after commas and colons, as the models saw it.
fn spaced(value: &Value) -> String {
    struct Spaced;
    impl Formatter for Spaced {
        fn begin_array_value<W: ?Sized + std::io::Write>(
            &mut self,
            out: &mut W,
            first: bool,
        ) -> std::io::Result<()> {
            if first { Ok(()) } else { out.write_all(b", ") }
        }
        fn begin_object_key<W: ?Sized + std::io::Write>(
            &mut self,
            out: &mut W,
            first: bool,
        ) -> std::io::Result<()> {
            if first { Ok(()) } else { out.write_all(b", ") }
        }
        fn begin_object_value<W: ?Sized + std::io::Write>(
            &mut self,
            out: &mut W,
        ) -> std::io::Result<()> {
            out.write_all(b": ")
        }
    }
    written(value, Spaced)
}

fn indented(value: &Value) -> String {
    written(value, PrettyFormatter::with_indent(b"    "))
}

fn written(value: &Value, formatter: impl Formatter) -> String {
    let mut bytes = Vec::new();
    // Writing a value into memory has no way to fail.
    let _ = value.serialize(&mut Serializer::with_formatter(&mut bytes, formatter));
    String::from_utf8(bytes).unwrap_or_default()
}
