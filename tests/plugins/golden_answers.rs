//! What a plugin answers to golden rows, in the form of golden files.

use serde_json::{Value, json};
use trainer::data::Conversation;
use trainer::plugin::{Plugin, RenderOptions, Rendering, World};

use crate::rows;

/// A rendering as one line of a golden file.
pub fn rendering(rendering: &Rendering) -> Value {
    match rendering {
        Ok(segments) => json!({
            "segments": segments
                .iter()
                .map(|s| json!([s.role, s.weight, s.text]))
                .collect::<Vec<_>>()
        }),
        Err(reason) => json!({ "reject": reason }),
    }
}

/// How a case is to be rendered.
fn options_of(case: &Value) -> RenderOptions {
    let o = &case["options"];
    let text = |key: &str| o[key].as_str().unwrap_or_default().to_string();
    RenderOptions {
        add_generation_prompt: o["add_generation_prompt"].as_bool().unwrap_or(false),
        continue_final_message: o["continue_final_message"].as_bool().unwrap_or(false),
        bos: text("bos"),
        eos: text("eos"),
    }
}

/// The conversation of a case.
pub fn conversation_of(case: &str) -> Conversation {
    serde_json::from_str(case).unwrap()
}

/// The rendering of a case.
pub fn render_one(plugin: &Plugin, case: &str) -> Rendering {
    let options = options_of(&serde_json::from_str(case).unwrap());
    plugin.render(&[conversation_of(case)], &options).unwrap().remove(0)
}

/// The answers of a plugin to the lines of an `in.jsonl`.
pub fn answers(plugin: &Plugin, lines: &[&str]) -> Vec<Value> {
    match plugin.world() {
        World::Formatter => {
            plugin.format(&[rows::batch(lines)]).unwrap().iter().map(rows::outcome).collect()
        }
        World::Template => lines.iter().map(|case| rendering(&render_one(plugin, case))).collect(),
        World::Reward => plugin
            .score(&[rows::batch(lines)])
            .unwrap()
            .iter()
            .map(|score| {
                let parts: serde_json::Map<String, Value> =
                    score.parts.iter().map(|p| (p.name.clone(), json!(p.value))).collect();
                json!({ "value": score.value, "parts": parts })
            })
            .collect(),
    }
}
