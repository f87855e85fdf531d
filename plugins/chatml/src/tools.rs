//! Tools in the Hermes layout. The wording of the offer is the format itself: models were trained
//! on exactly these words.

use serde::Deserialize;
use serde_json::value::RawValue;
use trainer_plugin::Message;

/// What follows the system prompt when tools are on offer.
pub fn offer(tools: &str) -> Result<String, String> {
    let list: Vec<&RawValue> = serde_json::from_str(tools)
        .map_err(|e| format!("the conversation's tools are not a JSON list: {e}"))?;
    let mut text = String::from(
        "\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\n\
         You are provided with function signatures within <tools></tools> XML tags:\n<tools>",
    );
    for tool in list {
        text.push('\n');
        text.push_str(&wrapped(tool));
    }
    text.push_str(
        "\n</tools>\n\nFor each function call, return a json object with function name and \
         arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n\
         {\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call>",
    );
    Ok(text)
}

/// A tool as `{"type": "function", "function": …}`; one that says so already stays as it is.
fn wrapped(tool: &RawValue) -> String {
    #[derive(Deserialize)]
    struct Tool<'a> {
        #[serde(borrow)]
        function: Option<&'a RawValue>,
    }
    match serde_json::from_str::<Tool<'_>>(tool.get()) {
        Ok(Tool { function: Some(_) }) => tool.get().to_string(),
        _ => format!("{{\"type\": \"function\", \"function\": {}}}", tool.get()),
    }
}

/// The turn's text followed by its tool calls.
pub fn with_calls(message: &Message) -> String {
    let mut text = message.content.clone();
    for call in &message.tool_calls {
        if !text.is_empty() {
            text.push('\n');
        }
        let name = serde_json::Value::from(call.name.as_str());
        // Arguments that are no JSON are a string.
        let arguments = match serde_json::from_str::<&RawValue>(&call.arguments) {
            Ok(_) => call.arguments.clone(),
            Err(_) => serde_json::Value::from(call.arguments.as_str()).to_string(),
        };
        text.push_str(&format!(
            "<tool_call>\n{{\"name\": {name}, \"arguments\": {arguments}}}\n</tool_call>"
        ));
    }
    text
}

/// A tool's answer.
pub fn answer(message: &Message) -> String {
    format!("<tool_response>\n{}\n</tool_response>", message.content)
}
