//! Sandboxed WebAssembly components: formatters, templates and rewards.
//!
//! Owns the wasmtime engine, the limits of a call, the three worlds of `trainer:plugin`, the pool
//! of instances, and the checks of everything a plugin returns. Knows no tokenizer, no tensor and
//! no output folder.
//!
//! ```text
//! name or path ─source─▶ bytes ─component, cache─▶ machine code, imports and world checked
//!   ─Plugin::load─▶ options checked, configured ─▶ Plugin {reads}
//! RecordBatch ─columns─▶ rows of the kinds in `reads` ─▶ format | score ─check─▶ outcomes
//! Conversation ─▶ render ─check─▶ segments
//! ```
//!
//! The only import a component may have is `trainer:plugin/host` (a log). A call has a budget of
//! fuel that is a pure function of its input, so whether it fits is the same on every machine; a
//! clock only backs it up. A trap throws the instance away and is a [`PluginError::Stopped`] that
//! names plugin, function, limit and the row, found by handing over fewer and fewer of the call's
//! rows; or the row is rejected, as [`OnFault`] has it.

mod bindings;
mod cache;
mod check;
mod columns;
mod component;
mod engine;
mod error;
mod fault;
mod formatter;
mod limits;
mod options;
mod pool;
mod reward;
mod schema;
mod source;
mod template;
pub mod trial;

pub use cache::{cache_dir, set_cache_dir};
pub use component::World;
pub use error::{PluginError, Stop, Who};
pub use fault::OnFault;
pub use formatter::{RowOutcome, Verdict};
pub use limits::PluginLimits;
pub use pool::{LogLevel, LogLine, Plugin, Usage};
pub use reward::{Part, Score};
pub use schema::OptionRow;
pub use source::shipped_names;
pub use template::{RenderOptions, RenderedSegment, Rendering};

pub use self::columns::{JSON_METADATA_KEY, Kind, Need, Reads};
pub use self::component::Inspection;
