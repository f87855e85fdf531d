//! Tools as `Action` lines. The wording of the offer is the format itself: models were trained on
//! exactly these words.

use serde_json::Value;
use trainer_plugin::Message;

/// What follows the system prompt when tools are on offer.
pub fn offer(tools: &str) -> Result<String, String> {
    let list: Vec<Value> = serde_json::from_str(tools)
        .map_err(|e| format!("the conversation's tools are not a JSON list: {e}"))?;
    let mut text = String::from("You have access to the following tools:\n");
    let mut names = Vec::new();
    for tool in &list {
        let tool = tool.get("function").unwrap_or(tool);
        let name = tool
            .get("name")
            .and_then(Value::as_str)
            .ok_or("one of the conversation's tools has no `name`")?;
        names.push(name);
        let description = tool.get("description").and_then(Value::as_str).unwrap_or_default();
        text.push_str(&format!(
            "> Tool Name: {name}\nTool Description: {description}\nTool Args:\n"
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
    let mut line = format!(
        "  - {name} ({}{}): {}",
        string("type"),
        if required { ", required" } else { "" },
        string("description")
    );
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

/// The turn's text followed by its tool calls.
pub fn with_calls(message: &Message) -> String {
    let mut text = message.content.clone();
    for call in &message.tool_calls {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&format!("Action: {}\nAction Input: {}\n", call.name, call.arguments));
    }
    text
}
