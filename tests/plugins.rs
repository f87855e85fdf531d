//! Plugins, end to end: the shipped ones against their golden rows, and hostile ones against the
//! limits. Needs the components that `scripts/plugins.sh` builds.
#![allow(clippy::unwrap_used)]

#[path = "plugins/any_input.rs"]
mod any_input;
#[path = "plugins/golden.rs"]
mod golden;
#[path = "plugins/guest.rs"]
mod guest;
#[path = "plugins/hostile.rs"]
mod hostile;
#[path = "plugins/load.rs"]
mod load;
#[path = "plugins/rows.rs"]
mod rows;

use std::path::{Path, PathBuf};

use trainer::plugin::{Plugin, PluginLimits};

/// The repository's root.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// The component of a shipped plugin.
fn dist(name: &str) -> String {
    let path = root().join(format!("plugins/dist/{name}.wasm"));
    assert!(path.is_file(), "{} is missing: run scripts/plugins.sh first", path.display());
    path.display().to_string()
}

/// A shipped plugin with these options.
fn shipped(name: &str, options: &str) -> Plugin {
    Plugin::load(&dist(name), options, 42, PluginLimits::default())
        .unwrap_or_else(|e| panic!("{name}: {e}"))
}
