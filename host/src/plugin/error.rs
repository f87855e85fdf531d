//! What can go wrong with a plugin, and the words for it.

use std::ops::Range;
use std::sync::Arc;

use crate::fs::FsError;
use crate::limits::PLUGIN_STACK_BYTES_MAX;

/// Longest text of a plugin shown in a message, characters.
const SHOWN_CHARS: usize = 200;

/// `text` from outside, fit for a terminal: control characters escaped, cut to 200 characters.
pub(super) fn shown(text: &str) -> String {
    shown_chars(text, SHOWN_CHARS)
}

/// As [`shown`], cut to `limit` characters.
pub(super) fn shown_chars(text: &str, limit: usize) -> String {
    let mut out = String::new();
    for (count, c) in text.chars().enumerate() {
        if count == limit {
            out.push('…');
            break;
        }
        // Direction overrides can make a message say something else than it does.
        let disguise = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
        if c.is_control() || disguise {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// Why a call was stopped.
#[derive(Clone, Debug, PartialEq)]
pub enum Stop {
    /// The call spent its fuel.
    Fuel {
        /// Fuel it had.
        limit: u64,
    },
    /// The wall-clock backstop fired.
    Deadline {
        /// Milliseconds it had.
        limit_ms: u128,
    },
    /// The instance asked for more memory than it may own.
    Memory {
        /// Bytes it may own.
        limit: usize,
        /// Bytes it asked for.
        wanted: usize,
    },
    /// The instance asked for larger tables than it may own.
    Table {
        /// Elements it may own.
        limit: usize,
    },
    /// Recursion too deep.
    Stack,
    /// The result was larger than it may be.
    Output {
        /// Bytes it may be.
        limit: usize,
    },
    /// The log was flooded.
    LogFlood {
        /// Lines logged by then.
        lines: u64,
    },
    /// Any other trap, in wasmtime's words.
    Trap(String),
}

impl std::fmt::Display for Stop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Stop::Fuel { limit } => write!(f, "out of fuel after {limit} units"),
            Stop::Deadline { limit_ms } => write!(f, "still running after {limit_ms} ms"),
            Stop::Memory { limit, wanted } => {
                write!(f, "asked for {wanted} bytes of memory, more than the {limit} it may own")
            }
            Stop::Table { limit } => write!(f, "asked for tables of more than {limit} elements"),
            Stop::Stack => {
                write!(f, "stack overflow (limit {PLUGIN_STACK_BYTES_MAX} bytes)")
            }
            Stop::Output { limit } => write!(f, "returned more than {limit} bytes"),
            Stop::LogFlood { lines } => write!(f, "flooded the log ({lines} lines in one call)"),
            Stop::Trap(what) => f.write_str(what),
        }
    }
}

/// Which plugin, in messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who {
    /// Name from its description (before that: its file).
    pub name: String,
    /// Version from its description; empty before that.
    pub version: String,
}

impl std::fmt::Display for Who {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "plugin `{}`", self.name)?;
        if self.version.is_empty() { Ok(()) } else { write!(f, " {}", self.version) }
    }
}

fn rows_text(rows: &Range<usize>) -> String {
    match rows.len() {
        0 => String::new(),
        1 => format!(" (row {} of its input)", rows.start),
        _ => format!(" (rows {} to {} of its input)", rows.start, rows.end - 1),
    }
}

fn said_text(said: &Option<String>) -> String {
    said.as_ref().map(|text| format!("; it said: {text}")).unwrap_or_default()
}

/// A plugin that can't be loaded, was stopped, or returned something wrong.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// Neither a file nor a shipped plugin.
    #[error("no plugin `{name}`: there is no such file, and the shipped plugins are {shipped}{}; give a path or one of these names", nearest.as_ref().map(|n| format!(" (did you mean `{n}`?)")).unwrap_or_default())]
    NotFound {
        /// What was asked for.
        name: String,
        /// Names of the shipped ones.
        shipped: String,
        /// The shipped name closest to it.
        nearest: Option<String>,
    },
    /// The file can't be read.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// The file is no component that could be a plugin.
    #[error("{file} is not a plugin: {why}; build it again, or check that the file is whole")]
    NotAPlugin {
        /// The file or name.
        file: String,
        /// What is wrong with it.
        why: String,
    },
    /// The component wants more than the host offers.
    #[error(
        "plugin {file} asks for `{import}`, which no plugin gets (only `trainer:plugin/host` is offered); build it without WASI, as the SDK's README describes"
    )]
    ForbiddenImport {
        /// The file or name.
        file: String,
        /// The first import that is refused.
        import: String,
    },
    /// The component is a plugin of another contract version.
    #[error(
        "plugin {file} speaks version {got} of the plugin contract, this trainer speaks {expected}; build it against this trainer's SDK"
    )]
    ContractVersion {
        /// The file or name.
        file: String,
        /// The version it exports.
        got: String,
        /// The versions understood.
        expected: &'static str,
    },
    /// A plugin of another world than needed.
    #[error("{who} is a {got}, not a {expected}; give a {expected} here")]
    WrongWorld {
        /// The plugin.
        who: Arc<Who>,
        /// Its world.
        got: &'static str,
        /// The world needed.
        expected: &'static str,
    },
    /// Options that the plugin does not take.
    #[error("options of {who}: {}; `trainer plugin inspect` lists what it takes", faults.join("; "))]
    Options {
        /// The plugin.
        who: Arc<Who>,
        /// Every fault found.
        faults: Vec<String>,
    },
    /// The plugin needs a column that the source does not have.
    #[error(
        "{who} needs the column `{column}`, which the source does not have (it has {present}); choose a plugin for this format, or name the column in the plugin's options"
    )]
    MissingColumn {
        /// The plugin.
        who: Arc<Who>,
        /// The column.
        column: String,
        /// The columns there are.
        present: String,
    },
    /// A column of a type that can't be handed over as the plugin wants it.
    #[error(
        "{who} needs the column `{column}` as {expected}, but it is {got}; convert the column, or choose a plugin for this format"
    )]
    ColumnType {
        /// The plugin.
        who: Arc<Who>,
        /// The column.
        column: String,
        /// The kind it wants.
        expected: &'static str,
        /// The Arrow type it has.
        got: String,
    },
    /// The plugin was stopped: a limit or a trap.
    #[error(
        "{who} was stopped in `{function}`{}: {stop}{}; mend the plugin, look at these rows, or raise its limits",
        rows_text(rows),
        said_text(said)
    )]
    Stopped {
        /// The plugin.
        who: Arc<Who>,
        /// The function of the contract.
        function: &'static str,
        /// Rows of the input that the call was about.
        rows: Range<usize>,
        /// Why.
        stop: Stop,
        /// The last thing the call logged at error level: a panic's message.
        said: Option<String>,
    },
    /// The plugin answered with an error.
    #[error("{who} failed in `{function}`{}: {message}", rows_text(rows))]
    Failed {
        /// The plugin.
        who: Arc<Who>,
        /// The function of the contract.
        function: &'static str,
        /// Rows of the input that the call was about.
        rows: Range<usize>,
        /// Its words.
        message: String,
    },
    /// The plugin returned something that the contract forbids.
    #[error(
        "{who} returned something wrong from `{function}`{}: {what}; this is a fault of the plugin",
        rows_text(rows)
    )]
    Returned {
        /// The plugin.
        who: Arc<Who>,
        /// The function of the contract.
        function: &'static str,
        /// Rows of the input that the fault is about.
        rows: Range<usize>,
        /// The fault.
        what: String,
    },
    /// An error about rows, with the place of the first of them in the source.
    #[error("{place}: {error}")]
    Placed {
        /// File and row.
        place: String,
        /// The error, its rows counted over what was handed to the plugin.
        error: Box<PluginError>,
    },
    /// A plugin that did not pass `trainer plugin check`.
    #[error("{who} did not pass {failed} of {total} checks; the table above says which and why")]
    Unsound {
        /// The plugin.
        who: Arc<Who>,
        /// Checks failed.
        failed: usize,
        /// Checks made.
        total: usize,
    },
    /// Golden rows that can't be used.
    #[error("golden rows in {}: {why}; mend the file, or name another folder", path.display())]
    Golden {
        /// The file or folder.
        path: std::path::PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Several plugins that can't be loaded.
    #[error("{} plugins can't be used:\n{}", .0.len(), .0.iter().map(|e| format!("  {e}")).collect::<Vec<_>>().join("\n"))]
    Several(Vec<PluginError>),
    /// The engine itself could not be set up.
    #[error(
        "the WebAssembly engine can't start: {0}; this is a fault of trainer or of the machine's memory limits"
    )]
    Engine(String),
}

impl PluginError {
    /// Rows of the call's input that the error is about, when it is about rows.
    pub fn rows(&self) -> Option<Range<usize>> {
        match self {
            PluginError::Stopped { rows, .. }
            | PluginError::Failed { rows, .. }
            | PluginError::Returned { rows, .. } => (!rows.is_empty()).then(|| rows.clone()),
            PluginError::Placed { error, .. } => error.rows(),
            _ => None,
        }
    }

    /// The same error, its rows counted from `by` rows before its own first one.
    #[must_use]
    pub(super) fn later(mut self, by: usize) -> Self {
        if let PluginError::Stopped { rows, .. }
        | PluginError::Failed { rows, .. }
        | PluginError::Returned { rows, .. } = &mut self
        {
            *rows = rows.start + by..rows.end + by;
        }
        self
    }

    /// Says where in the source the first row of the error is, if it is about rows.
    #[must_use]
    pub fn placed(self, place: impl FnOnce(usize) -> String) -> Self {
        match self.rows() {
            Some(rows) => PluginError::Placed { place: place(rows.start), error: Box::new(self) },
            None => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_plugins_can_not_steer_a_terminal() {
        assert_eq!(shown("a\x1b[31mb\nc"), "a\\u{1b}[31mb\\nc");
        assert_eq!(shown("x\u{202e}y"), "x\\u{202e}y");
        assert_eq!(shown(&"é".repeat(500)).chars().count(), SHOWN_CHARS + 1);
    }
}
