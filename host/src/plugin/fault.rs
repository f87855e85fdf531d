//! When a plugin is at fault: which rows, and what becomes of them.

use std::ops::Range;

use super::error::{PluginError, Stop};
use super::pool::Plugin;
use crate::limits as ceilings;

/// What becomes of rows on which a formatter or a template is stopped, fails, or returns something
/// wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFault {
    /// The call is an error that names the first such row.
    #[default]
    Fail,
    /// Such rows are rejected with the reason; no other row is touched. A plugin that is at fault
    /// on more than 32 rows of one call is an error all the same.
    Reject,
}

impl Plugin {
    /// One call over `num_rows` rows, `once` of all of them; where the plugin is at fault, of fewer
    /// and fewer of them, until the rows at fault stand alone. `rejected` makes the item of such a
    /// row.
    pub(super) fn over_rows<T>(
        &self,
        num_rows: usize,
        once: impl Fn(Range<usize>) -> Result<Vec<T>, PluginError>,
        rejected: impl Fn(String) -> T,
    ) -> Result<Vec<T>, PluginError> {
        let error = match once(0..num_rows) {
            Ok(items) => return Ok(items),
            Err(error) => error,
        };
        if !is_of_rows(&error) {
            return Err(error);
        }
        match self.fault_policy() {
            OnFault::Fail => Err(first_at_fault(num_rows, error, once)),
            OnFault::Reject => split(num_rows, error, once, rejected),
        }
    }
}

/// The error of the first row that is stopped by itself, else `error`.
fn first_at_fault<T>(
    num_rows: usize,
    error: PluginError,
    once: impl Fn(Range<usize>) -> Result<Vec<T>, PluginError>,
) -> PluginError {
    if num_rows < 2 || !matches!(error, PluginError::Stopped { .. }) {
        return error;
    }
    let stopped = |e: &PluginError| matches!(e, PluginError::Stopped { .. });
    (0..num_rows).find_map(|i| once(i..i + 1).err().filter(stopped)).unwrap_or(error)
}

/// The items of all rows, those at fault rejected.
fn split<T>(
    num_rows: usize,
    error: PluginError,
    once: impl Fn(Range<usize>) -> Result<Vec<T>, PluginError>,
    rejected: impl Fn(String) -> T,
) -> Result<Vec<T>, PluginError> {
    let mut items = Vec::with_capacity(num_rows);
    let mut at_fault = 0;
    // Ranges still to do, the next one last, with the error that made them.
    let mut todo = vec![(0..num_rows, Some(error))];
    while let Some((rows, known)) = todo.pop() {
        let error = match known.map_or_else(|| once(rows.clone()), Err) {
            Ok(more) => {
                items.extend(more);
                continue;
            }
            Err(error) => error,
        };
        if !is_of_rows(&error) {
            return Err(error);
        }
        if rows.len() > 1 {
            let middle = rows.start + rows.len() / 2;
            todo.push((middle..rows.end, None));
            todo.push((rows.start..middle, None));
            continue;
        }
        at_fault += 1;
        if at_fault > ceilings::PLUGIN_FAULTY_ROWS_PER_CALL_MAX {
            return Err(error);
        }
        items.push(rejected(reason(&error)));
    }
    Ok(items)
}

/// True for what single rows can be to blame for and can be tried again: not for the clock, since
/// every further try could take as long.
fn is_of_rows(error: &PluginError) -> bool {
    match error {
        PluginError::Stopped { stop, .. } => !matches!(stop, Stop::Deadline { .. }),
        PluginError::Failed { function, .. } | PluginError::Returned { function, .. } => {
            matches!(*function, "format" | "render" | "score")
        }
        _ => false,
    }
}

/// Why a row is rejected, without numbers that differ from row to row: reasons are counted.
fn reason(error: &PluginError) -> String {
    match error {
        PluginError::Stopped { stop, .. } => {
            let why = match stop {
                Stop::Fuel { .. } => "out of fuel",
                Stop::Deadline { .. } => "out of time",
                Stop::Memory { .. } => "too much memory",
                Stop::Table { .. } => "too large tables",
                Stop::Stack => "stack overflow",
                Stop::Output { .. } => "too large a result",
                Stop::LogFlood { .. } => "log flooded",
                Stop::Trap(words) => words,
            };
            format!("the plugin was stopped: {why}")
        }
        PluginError::Failed { message, .. } => format!("the plugin failed: {message}"),
        PluginError::Returned { what, .. } => {
            format!("the plugin returned something wrong: {what}")
        }
        other => other.to_string(),
    }
}
