//! Plugins, end to end: the shipped ones against their golden rows, and hostile ones against the
//! limits. Needs the components that `scripts/plugins.sh` builds.
#![allow(clippy::unwrap_used)]

#[path = "plugins/any_input.rs"]
mod any_input;
#[path = "plugins/cases.rs"]
mod cases;
#[path = "plugins/commands.rs"]
mod commands;
#[path = "plugins/damage.rs"]
mod damage;
#[path = "plugins/golden.rs"]
mod golden;
#[path = "plugins/golden_answers.rs"]
mod golden_answers;
#[path = "plugins/guest.rs"]
mod guest;
#[path = "plugins/hostile.rs"]
mod hostile;
#[path = "plugins/load.rs"]
mod load;
#[path = "plugins/rows.rs"]
mod rows;
#[path = "plugins/trials.rs"]
mod trials;
#[path = "plugins/zoo.rs"]
mod zoo;

use std::path::{Path, PathBuf};

use trainer::plugin::{Plugin, PluginLimits};

/// The repository's root.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// Keeps compiled plugins apart from the user's.
fn own_cache() {
    trainer::plugin::set_cache_dir(Some(Path::new(env!("CARGO_TARGET_TMPDIR")).join("plugins")));
}

/// The component of a shipped plugin.
fn dist(name: &str) -> String {
    own_cache();
    let path = root().join(format!("plugins/dist/{name}.wasm"));
    assert!(path.is_file(), "{} is missing: run scripts/plugins.sh first", path.display());
    path.display().to_string()
}

/// A shipped plugin with these options.
fn shipped(name: &str, options: &str) -> Plugin {
    Plugin::load(&dist(name), options, 42, PluginLimits::default())
        .unwrap_or_else(|e| panic!("{name}: {e}"))
}
