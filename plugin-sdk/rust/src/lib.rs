//! Plugins of trainer in Rust: dataset formatters, prompt templates and rewards.
//!
//! A plugin is a crate of type `cdylib` that implements one of [`Formatter`], [`Template`] and
//! [`Reward`] for a type and exports it. The contract itself, with the meaning of every field, is
//! `plugin-sdk/wit/trainer.wit`; the types here are generated from it.
//!
//! A formatter that turns `{"question": …, "answer": …}` into a conversation:
//!
//! ```
//! use trainer_plugin::{About, Conversation, Formatter, Message, Need, Outcome, Reads, Role, Row};
//!
//! #[derive(serde::Deserialize)]
//! #[serde(deny_unknown_fields)]
//! struct Options {
//!     #[serde(default)]
//!     system: Option<String>,
//! }
//!
//! struct Qa {
//!     system: Option<String>,
//! }
//!
//! impl Formatter for Qa {
//!     type Options = Options;
//!     const ABOUT: About = About::new("qa", "0.1.0", "Questions and answers.").options(
//!         r#"{"type":"object","properties":{"system":{"type":"string"}}}"#,
//!     );
//!
//!     fn new(options: Options, _seed: u64) -> Result<Self, String> {
//!         Ok(Qa { system: options.system })
//!     }
//!
//!     fn reads(&self) -> Reads {
//!         Reads::columns([Need::text("question"), Need::text("answer")])
//!     }
//!
//!     fn format_row(&self, row: &Row<'_>) -> Outcome {
//!         let (Some(question), Some(answer)) = (row.text("question"), row.text("answer")) else {
//!             return Outcome::reject("field `question` or `answer` is missing");
//!         };
//!         if answer.trim().is_empty() {
//!             return Outcome::skip("empty answer");
//!         }
//!         let mut messages = Vec::new();
//!         if let Some(system) = &self.system {
//!             messages.push(Message::new(Role::System, system));
//!         }
//!         messages.push(Message::new(Role::User, question));
//!         messages.push(Message::new(Role::Assistant, answer));
//!         Outcome::conversation(Conversation { messages, tools: None })
//!     }
//! }
//!
//! trainer_plugin::export_formatter!(Qa);
//! ```

mod about;
#[doc(hidden)]
pub mod bindings;
mod chat;
pub mod fields;
mod formatter;
#[doc(hidden)]
pub mod glue;
mod logging;
mod reward;
mod rows;
mod template;

pub use about::About;
pub use bindings::formatter::exports::trainer::plugin::formatting::{
    Example, Outcome, Preference, Prompt, Tokens, Verdict,
};
pub use bindings::formatter::trainer::plugin::chat::{Conversation, Message, Role, ToolCall};
pub use bindings::formatter::trainer::plugin::host::Level;
pub use bindings::formatter::trainer::plugin::types::{
    Batch, Column, Error, Kind, Need, Reads, Values,
};
pub use bindings::reward::exports::trainer::plugin::rewards::{Part, RowScore as Score};
pub use bindings::template::exports::trainer::plugin::templating::{RenderOptions, Segment};
pub use formatter::Formatter;
pub use logging::log;
pub use reward::Reward;
pub use rows::{Row, Rows, json_kind};
pub use template::Template;
