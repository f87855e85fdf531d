//! ChatML: `<|im_start|>role\n…<|im_end|>\n`, with tools in the Hermes layout that Qwen models
//! speak (`<tools>`, `<tool_call>`, `<tool_response>`).

mod tools;

use serde::Deserialize;
use trainer_plugin::{About, Conversation, RenderOptions, Role, Segment, Template};

const SCHEMA: &str = r#"{
  "type": "object",
  "additionalProperties": false,
  "properties": {
    "system": {"type": "string", "default": "You are a helpful assistant.",
      "description": "system prompt of conversations that have none; empty: no system turn"}
  }
}"#;

const END: &str = "<|im_end|>";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChatMl {
    #[serde(default = "default_system")]
    system: String,
}

fn default_system() -> String {
    "You are a helpful assistant.".into()
}

impl Template for ChatMl {
    type Options = ChatMl;
    const ABOUT: About =
        About::new("chatml", env!("CARGO_PKG_VERSION"), "ChatML with tools (Qwen, Yi and others).")
            .options(SCHEMA);

    fn new(options: ChatMl, _seed: u64) -> Result<Self, String> {
        Ok(options)
    }

    fn render_one(
        &self,
        conversation: &Conversation,
        options: &RenderOptions,
    ) -> Result<Vec<Segment>, String> {
        let mut out = Vec::new();
        if !options.bos.is_empty() {
            out.push(Segment::frame(&options.bos));
        }
        let mut messages = conversation.messages.as_slice();
        let mut system = self.system.as_str();
        if let [first, rest @ ..] = messages
            && first.role == Role::System
        {
            system = &first.content;
            messages = rest;
        }
        let tools = conversation.tools.as_deref().map(tools::offer).transpose()?;
        let system = format!("{system}{}", tools.unwrap_or_default());
        if !system.is_empty() {
            out.push(Segment::frame("<|im_start|>system\n"));
            out.push(Segment::turn(Role::System, system, 0.0));
            out.push(Segment::frame(format!("{END}\n")));
        }
        let mut position = 0;
        while let Some(message) = messages.get(position) {
            let last = position + 1 == messages.len();
            let name = match message.role {
                Role::System => "system",
                Role::User => "user",
                Role::Assistant => "assistant",
                // Answers of tools that follow each other share one turn of the user's.
                Role::Tool => {
                    let answers = messages[position..]
                        .iter()
                        .take_while(|m| m.role == Role::Tool)
                        .collect::<Vec<_>>();
                    position += answers.len();
                    let text = answers.iter().map(|m| tools::answer(m)).collect::<Vec<_>>();
                    out.push(Segment::frame("<|im_start|>user\n"));
                    out.push(Segment::turn(Role::Tool, text.join("\n"), 0.0));
                    out.push(Segment::frame(format!("{END}\n")));
                    continue;
                }
            };
            let weight = message.loss_weight();
            let text = tools::with_calls(message);
            out.push(Segment::frame(format!("<|im_start|>{name}\n")));
            if last && options.continue_final_message && message.role == Role::Assistant {
                out.push(Segment::turn(message.role, text, weight));
                return Ok(out);
            }
            // The end marker belongs to the turn: a trained turn learns to stop.
            out.push(Segment::turn(message.role, format!("{text}{END}"), weight));
            out.push(Segment::frame("\n"));
            position += 1;
        }
        if options.add_generation_prompt {
            out.push(Segment::frame("<|im_start|>assistant\n"));
        }
        Ok(out)
    }

    fn stop_strings(&self, _options: &RenderOptions) -> Vec<String> {
        vec![END.into()]
    }
}

trainer_plugin::export_template!(ChatMl);
