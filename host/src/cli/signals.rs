//! Ctrl-C and SIGTERM: the first asks the run to stop cleanly, the second ends the process.

use std::sync::atomic::{AtomicU32, Ordering};

static RECEIVED: AtomicU32 = AtomicU32::new(0);

/// From now on the first signal is remembered, and the second ends the process with 130.
pub fn install() {
    // Fails only when a handler is there already; then that one is ours.
    let _ = ctrlc::set_handler(|| {
        if RECEIVED.fetch_add(1, Ordering::SeqCst) >= 1 {
            std::process::exit(130);
        }
    });
}

/// From now on signals are only counted.
pub fn install_counting() {
    let _ = ctrlc::set_handler(|| {
        RECEIVED.fetch_add(1, Ordering::SeqCst);
    });
}

/// How many came.
pub fn count() -> u32 {
    RECEIVED.load(Ordering::SeqCst)
}

/// Whether a signal came.
pub fn interrupted() -> bool {
    RECEIVED.load(Ordering::SeqCst) > 0
}
