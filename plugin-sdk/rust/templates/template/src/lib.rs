//! A template: `User: …` and `Assistant: …`, a line each.

use serde::Deserialize;
use trainer_plugin::{About, Conversation, RenderOptions, Role, Segment, Template};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {}

struct Plugin;

impl Template for Plugin {
    type Options = Options;
    const ABOUT: About =
        About::new("my-plugin", env!("CARGO_PKG_VERSION"), "User and Assistant, a line each.");

    fn new(_options: Options, _seed: u64) -> Result<Self, String> {
        Ok(Self)
    }

    fn render_one(
        &self,
        conversation: &Conversation,
        options: &RenderOptions,
    ) -> Result<Vec<Segment>, String> {
        if conversation.messages.is_empty() {
            return Err("the conversation has no turns".into());
        }
        let mut out = Vec::new();
        if !options.bos.is_empty() {
            out.push(Segment::frame(&options.bos));
        }
        for (index, message) in conversation.messages.iter().enumerate() {
            let weight = message.loss_weight();
            match message.role {
                Role::Tool => return Err("this template has no turns of tools".into()),
                Role::Assistant => {
                    // What ends the answer is trained with it, or the model never learns to stop.
                    let open =
                        options.continue_final_message && index + 1 == conversation.messages.len();
                    let end = if open { "" } else { options.eos_or("</s>") };
                    out.push(Segment::frame("Assistant:"));
                    let text = format!(" {}{end}", message.content);
                    out.push(Segment::turn(message.role, text, weight));
                    if open {
                        return Ok(out);
                    }
                }
                Role::User | Role::System => {
                    let name = if message.role == Role::User { "User: " } else { "System: " };
                    out.push(Segment::frame(name));
                    out.push(Segment::turn(message.role, &message.content, weight));
                }
            }
            out.push(Segment::frame("\n"));
        }
        if options.add_generation_prompt {
            out.push(Segment::frame("Assistant:"));
        }
        Ok(out)
    }

    fn stop_strings(&self, options: &RenderOptions) -> Vec<String> {
        vec![options.eos_or("</s>").into()]
    }
}

trainer_plugin::export_template!(Plugin);
