//! The run's log, and panics that would otherwise leave no word.

use std::sync::Once;

use crate::Level;
use crate::bindings::formatter::trainer::plugin::host;

/// Writes a line to the run's log. The host limits how many lines of one call it keeps.
pub fn log(level: Level, message: &str) {
    host::log(level, message);
}

/// Sends the message of a panic to the host's log before the instance traps.
pub(crate) fn report_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        std::panic::set_hook(Box::new(|panic| host::log(Level::Error, &panic.to_string())));
    });
}
