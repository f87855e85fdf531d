//! `trainer plugin build`: a project becomes a component, with the tools of its language.

mod languages;
mod manifest;
mod module;
mod tool;

use std::path::{Path, PathBuf};

use crate::cli::screen;
use crate::config::ConfigError;
use crate::error::Result;
use crate::fs;
use crate::limits::PLUGIN_FILE_BYTES_MAX;
use crate::plugin::{Plugin, PluginLimits};
use manifest::Manifest;

/// How the command is called.
pub const USAGE: &str = "trainer plugin build [FOLDER]";

/// What `--help` says of it.
pub const ABOUT: &str = "Turns the project in FOLDER (else this one) into FOLDER/NAME.wasm with its \
    language's compiler, and says what to install where that is missing.";

/// What can go wrong before there is a component.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The manifest can't be used.
    #[error("{file}: {why}")]
    Manifest {
        /// Its path.
        file: String,
        /// What is wrong and what to do.
        why: String,
    },
    /// A tool of the language is not there.
    #[error("{tool} is not installed; {remedy}")]
    Missing {
        /// The tool.
        tool: &'static str,
        /// How to get it.
        remedy: String,
    },
    /// A tool did not do its work.
    #[error("`{command}` {how}; its messages are above")]
    Failed {
        /// What was called.
        command: String,
        /// How it ended.
        how: String,
    },
    /// What the tools made is no plugin of the contract.
    #[error("what {language} made can't become a component: {why}")]
    Module {
        /// The language.
        language: &'static str,
        /// Why.
        why: String,
    },
}

impl From<BuildError> for crate::error::Error {
    fn from(e: BuildError) -> Self {
        ConfigError::one(e.to_string()).into()
    }
}

/// Runs the command.
pub fn run(args: &[String]) -> Result<()> {
    let folder = match args {
        [] => ".",
        [folder] if !folder.starts_with('-') => folder,
        _ => return Err(ConfigError::one(format!("usage: {USAGE}")).into()),
    };
    let manifest = Manifest::read(Path::new(folder))?;
    let started = std::time::Instant::now();
    let file = build(Path::new(folder), &manifest)?;
    let made = Plugin::inspect(&file.display().to_string(), PluginLimits::default())?;
    screen::line(&format!(
        "built {}: {} {} {}, {} bytes, {:.1} s\nnext:\n  trainer plugin check {}",
        file.display(),
        made.world,
        screen::printable(&made.name),
        screen::printable(&made.version),
        screen::grouped(made.bytes as u64),
        started.elapsed().as_secs_f64(),
        file.display(),
    ));
    Ok(())
}

/// Builds the project in `folder`; answers the component's path.
fn build(folder: &Path, manifest: &Manifest) -> Result<PathBuf> {
    // Tools run inside the folder: they get it whole.
    let folder = folder.canonicalize().map_err(fs::io_error("open", folder))?;
    let work = folder.join("build");
    std::fs::create_dir_all(&work).map_err(fs::io_error("create", &work))?;
    let artifact = languages::compile(&folder, manifest)?;
    let bytes = fs::read_limited(&artifact, PLUGIN_FILE_BYTES_MAX)?;
    let bytes = module::component(bytes, manifest)?;
    // Looked at under another name first: a plugin that is none never gets the final one.
    let tried = work.join(format!("{}.component.wasm", manifest.name));
    fs::write_atomic(&tried, &bytes)?;
    let made = Plugin::inspect(&tried.display().to_string(), PluginLimits::default())?;
    if made.world != manifest.world || made.name != manifest.name {
        return Err(BuildError::Manifest {
            file: folder.join(manifest::FILE).display().to_string(),
            why: format!(
                "it says {} `{}`, but the source describes itself as {} `{}`; make them the same",
                manifest.world,
                manifest.name,
                made.world,
                screen::printable(&made.name)
            ),
        }
        .into());
    }
    let file = folder.join(format!("{}.wasm", manifest.name));
    fs::write_atomic(&file, &bytes)?;
    Ok(file)
}
