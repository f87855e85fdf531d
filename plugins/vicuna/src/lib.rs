//! Vicuna: `SYSTEM</s>USER: Q ASSISTANT:A</s>USER: Q ASSISTANT:A</s>`, tools as `Action` and
//! `Observation` lines.

mod tools;

use serde::Deserialize;
use trainer_plugin::{About, Conversation, RenderOptions, Role, Segment, Template};

const SCHEMA: &str = r#"{
  "type": "object",
  "additionalProperties": false,
  "properties": {
    "system": {"type": "string",
      "description": "system prompt of conversations that have none; empty: none (default: the Vicuna prompt)"},
    "system_separator": {"type": "string",
      "description": "what follows the system prompt (default: the end-of-turn text)"},
    "answer_prefix": {"type": "string", "default": "",
      "description": "what stands between `ASSISTANT:` and the answer"},
    "end_of_turn": {"type": "string", "minLength": 1,
      "description": "what ends an answer (default: the tokenizer's end token, or </s> where it has none)"}
  }
}"#;

const DEFAULT_SYSTEM: &str = "A chat between a curious user and an artificial intelligence \
    assistant. The assistant gives helpful, detailed, and polite answers to the user's questions.";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vicuna {
    #[serde(default = "default_system")]
    system: String,
    system_separator: Option<String>,
    #[serde(default)]
    answer_prefix: String,
    end_of_turn: Option<String>,
}

fn default_system() -> String {
    DEFAULT_SYSTEM.into()
}

impl Vicuna {
    fn end<'a>(&'a self, options: &'a RenderOptions) -> &'a str {
        self.end_of_turn.as_deref().unwrap_or_else(|| options.eos_or("</s>"))
    }
}

impl Template for Vicuna {
    type Options = Vicuna;
    const ABOUT: About =
        About::new("vicuna", env!("CARGO_PKG_VERSION"), "USER: … ASSISTANT: … with </s> between.")
            .options(SCHEMA);

    fn new(options: Vicuna, _seed: u64) -> Result<Self, String> {
        if options.end_of_turn.as_deref() == Some("") {
            return Err("`end_of_turn` is empty; a model could never learn to stop".into());
        }
        Ok(options)
    }

    fn render_one(
        &self,
        conversation: &Conversation,
        options: &RenderOptions,
    ) -> Result<Vec<Segment>, String> {
        let end = self.end(options);
        let mut out = Vec::new();
        if !options.bos.is_empty() {
            out.push(Segment::frame(&options.bos));
        }
        let mut messages = conversation.messages.as_slice();
        let mut system = self.system.clone();
        if let [first, rest @ ..] = messages
            && first.role == Role::System
        {
            system = first.content.clone();
            messages = rest;
        }
        if let Some(tools) = &conversation.tools {
            if !system.is_empty() {
                system.push_str("\n\n");
            }
            system.push_str(&tools::offer(tools)?);
        }
        if !system.is_empty() {
            out.push(Segment::turn(Role::System, system, 0.0));
            out.push(Segment::frame(self.system_separator.as_deref().unwrap_or(end)));
        }
        // What the user's side has said since the last answer.
        let mut asked = false;
        for (position, message) in messages.iter().enumerate() {
            let last = position + 1 == messages.len();
            match message.role {
                Role::System => {
                    return Err("a system turn after the first turn has no place in the vicuna \
                        template; put it first"
                        .into());
                }
                Role::User | Role::Tool => {
                    let frame = if asked { "\n" } else { "USER: " };
                    out.push(Segment::frame(frame));
                    let text = match message.role {
                        Role::Tool => format!("Observation: {}", message.content),
                        _ => message.content.clone(),
                    };
                    out.push(Segment::turn(message.role, text, message.loss_weight()));
                    asked = true;
                }
                Role::Assistant if !asked => {
                    return Err("an assistant turn without a user turn before it has no place in \
                        the vicuna template; join it to the turn before or drop it"
                        .into());
                }
                Role::Assistant => {
                    asked = false;
                    out.push(Segment::frame(" ASSISTANT:"));
                    // The prefix is the model's to say: a prompt ends with the colon.
                    let text = format!("{}{}", self.answer_prefix, tools::with_calls(message));
                    let weight = message.loss_weight();
                    if last && options.continue_final_message {
                        out.push(Segment::turn(message.role, text, weight));
                        return Ok(out);
                    }
                    out.push(Segment::turn(message.role, format!("{text}{end}"), weight));
                }
            }
        }
        if options.add_generation_prompt {
            out.push(Segment::frame(if asked { " ASSISTANT:" } else { "ASSISTANT:" }));
        }
        Ok(out)
    }

    fn stop_strings(&self, options: &RenderOptions) -> Vec<String> {
        vec![self.end(options).to_string()]
    }
}

trainer_plugin::export_template!(Vicuna);
