//! The prompt templates that models were published with, by name. `frames` has the texts, `tools`
//! the ways to write tools.

mod frames;
mod tools;

use serde::Deserialize;
use trainer_plugin::{About, Conversation, Message, RenderOptions, Role, Segment, Template};

use frames::{End, FRAMES, Frame, System};
use tools::ToolFormat;

const SCHEMA: &str = r#"{
  "type": "object",
  "additionalProperties": false,
  "required": ["name"],
  "properties": {
    "name": {"type": "string", "enum": ["alpaca", "aquila", "baichuan", "baichuan2", "base", "belle", "chatglm", "chatglm2", "chatglm3", "chatml", "cohere", "deepseek", "deepseek3", "deepseekcoder", "intern", "intern2", "linly", "llama2", "llama2-zh", "llama3", "mistral", "orion", "phoenix", "qwen", "qwen3", "qwen3_5", "qwen3_5_nothink", "qwen3_nothink", "starchat", "vicuna", "xverse", "yi", "ziya"],
      "description": "which template"},
    "system": {"type": "string",
      "description": "system prompt of conversations that have none; empty: none (default: the template's own)"},
    "tools": {"type": "string", "enum": ["default", "qwen", "glm4", "llama3", "mistral"],
      "description": "how tools are written (default: as the template's models do)"},
    "date": {"type": "string", "default": "26 Jul 2024",
      "description": "the date that the tool format llama3 states"}
  }
}"#;

/// What stands before an answer without thought.
const NO_THOUGHT: &str = "<think>\n\n</think>\n\n";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    name: String,
    system: Option<String>,
    tools: Option<ToolFormat>,
    #[serde(default = "date")]
    date: String,
}

fn date() -> String {
    "26 Jul 2024".into()
}

struct Classic {
    frame: &'static Frame,
    system: String,
    tools: ToolFormat,
    date: String,
}

impl Template for Classic {
    type Options = Options;
    const ABOUT: About = About::new(
        "classic",
        env!("CARGO_PKG_VERSION"),
        "The templates that models were published with, by name.",
    )
    .options(SCHEMA);

    fn new(options: Options, _seed: u64) -> Result<Self, String> {
        let frame = frames::find(&options.name).ok_or_else(|| {
            let names: Vec<&str> = FRAMES.iter().map(|frame| frame.name).collect();
            format!("`name` is not one of {}", names.join(", "))
        })?;
        Ok(Self {
            frame,
            system: options.system.unwrap_or_else(|| frame.prompt.into()),
            tools: options.tools.unwrap_or(frame.tools),
            date: options.date,
        })
    }

    fn render_one(
        &self,
        conversation: &Conversation,
        options: &RenderOptions,
    ) -> Result<Vec<Segment>, String> {
        let mut out = Writer::default();
        out.frame(&options.bos);
        let (system, turns) = self.system(conversation)?;
        self.write_system(&system, options, &mut out);
        let asked_last = turns.iter().rposition(|m| matches!(m.role, Role::User | Role::Tool));
        // What the user's side has said since the last answer; answers so far.
        let (mut asked, mut answers) = (false, 0);
        for (position, message) in turns.iter().enumerate() {
            match message.role {
                Role::System => {
                    return Err(
                        self.misplaced("a system turn after the first turn", "put it first")
                    );
                }
                Role::User | Role::Tool => {
                    if asked {
                        out.frame("\n");
                    } else {
                        self.open_turn(answers, &system, &mut out);
                    }
                    let text = match message.role {
                        Role::Tool => self.tools.answer(&message.content),
                        _ => message.content.clone(),
                    };
                    out.turn(message, text);
                    asked = true;
                }
                Role::Assistant if !asked => {
                    return Err(self.misplaced(
                        "an assistant turn without a user turn before it",
                        "join it to the turn before or drop it",
                    ));
                }
                Role::Assistant => {
                    out.frame(self.frame.user.1);
                    if self.frame.no_thought && asked_last < Some(position) {
                        out.frame(NO_THOUGHT);
                    }
                    let text = self.tools.with_calls(message)?;
                    if position + 1 == turns.len() && options.continue_final_message {
                        out.turn(message, text);
                        return Ok(out.segments);
                    }
                    // The end belongs to the turn: a trained turn learns to stop.
                    out.turn(message, format!("{text}{}", self.end(options)));
                    (asked, answers) = (false, answers + 1);
                }
            }
        }
        if options.add_generation_prompt {
            if !asked {
                self.open_turn(answers, &system, &mut out);
            }
            out.frame(self.frame.user.1);
            out.frame(if self.frame.no_thought { NO_THOUGHT } else { "" });
        }
        if out.segments.is_empty() {
            return Err("there is no text in this conversation".into());
        }
        Ok(out.segments)
    }

    fn stop_strings(&self, options: &RenderOptions) -> Vec<String> {
        let mut stops = vec![self.end(options).to_string()];
        stops.extend(self.frame.stop.map(String::from));
        stops
    }
}

impl Classic {
    /// What ends an answer.
    fn end<'a>(&self, options: &'a RenderOptions) -> &'a str {
        match self.frame.end {
            End::Marker(text) => text,
            End::Eos => options.eos_or("</s>"),
        }
    }

    /// The system prompt with the tools on offer, and the other turns.
    fn system<'a>(
        &self,
        conversation: &'a Conversation,
    ) -> Result<(String, &'a [Message]), String> {
        let (mut system, turns) = match conversation.messages.as_slice() {
            [first, rest @ ..] if first.role == Role::System => (first.content.clone(), rest),
            turns => (self.system.clone(), turns),
        };
        if let Some(tools) = &conversation.tools {
            let offer = self.tools.offer(tools, &self.date)?;
            if !system.is_empty() {
                system.push_str(if system.ends_with('\n') { "\n" } else { "\n\n" });
            }
            system.push_str(&offer);
        }
        Ok((system, turns))
    }

    /// The system prompt where its place is before the first turn.
    fn write_system(&self, system: &str, options: &RenderOptions, out: &mut Writer) {
        match self.frame.system {
            System::Framed(before, after) if !system.is_empty() => {
                out.frame(before);
                out.system(system);
                out.frame(after);
            }
            System::Always(before, after) => {
                out.frame(before);
                out.system(system);
                out.frame(after);
            }
            System::Bare if !system.is_empty() => {
                out.system(system);
                out.frame(if self.frame.end_after_system { self.end(options) } else { "" });
                out.frame(self.frame.between);
            }
            System::Bare | System::Framed(..) | System::InFirstTurn(..) => {}
        }
    }

    /// What opens a turn of the user's: after `answers` answers, the first with the system prompt
    /// where its place is there.
    fn open_turn(&self, answers: usize, system: &str, out: &mut Writer) {
        if answers > 0 {
            out.frame(self.frame.between);
        }
        out.frame(self.frame.user.0);
        if let System::InFirstTurn(before, after) = self.frame.system
            && answers == 0
            && !system.is_empty()
        {
            out.frame(before);
            out.system(system);
            out.frame(after);
        }
    }

    fn misplaced(&self, what: &str, remedy: &str) -> String {
        format!("{what} has no place in the template `{}`; {remedy}", self.frame.name)
    }
}

/// Collects segments; empty ones are left out.
#[derive(Default)]
struct Writer {
    segments: Vec<Segment>,
}

impl Writer {
    fn frame(&mut self, text: &str) {
        if !text.is_empty() {
            self.segments.push(Segment::frame(text));
        }
    }

    fn system(&mut self, text: &str) {
        if !text.is_empty() {
            self.segments.push(Segment::turn(Role::System, text, 0.0));
        }
    }

    fn turn(&mut self, message: &Message, text: String) {
        if !text.is_empty() {
            self.segments.push(Segment::turn(message.role, text, message.loss_weight()));
        }
    }
}

trainer_plugin::export_template!(Classic);
