//! What a conversion keeps between its shards, so that it goes on where it was stopped; and what
//! it leaves when it is done.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::infer::Table;
use super::sink::Written;
use crate::config::ConfigError;
use crate::data::Ledger;
use crate::error::Result;
use crate::fs;
use crate::model::save::write_json;

/// State after some finished shards.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    /// Hash of everything that decides the output.
    pub identity: String,
    /// The finished shards.
    pub shards: Vec<Written>,
    /// The block that the next shard begins in.
    pub block: u64,
    /// Rows of that block that are in shards already.
    pub rows: usize,
    /// The account of all blocks before it, and, where `rows` are taken, of it.
    pub ledger: Ledger,
    /// Bytes of the file of rejects that account for these blocks.
    pub rejects_bytes: u64,
    /// Types of JSON columns, which took a pass of its own.
    pub table: Option<Table>,
}

/// `NAME.suffix` beside the output.
fn beside(output: &Path, suffix: &str) -> PathBuf {
    let name = output.file_name().unwrap_or_default().to_string_lossy();
    output.with_file_name(format!("{name}.{suffix}"))
}

/// Where the state lies.
pub fn state_path(output: &Path) -> PathBuf {
    beside(output, "progress.json")
}

/// Where the account of a finished conversion lies.
pub fn manifest_path(output: &Path) -> PathBuf {
    beside(output, "manifest.json")
}

/// Removes the state of a finished job, and what attempts that were killed left of theirs.
///
/// # Errors
/// A file that can't be removed.
pub fn remove(output: &Path) -> Result<()> {
    let state = state_path(output);
    let name = state.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let folder = state.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let own = entry.file_name().to_string_lossy().into_owned();
        let rest = own.strip_prefix(&name);
        if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(".tmp-")) {
            let path = entry.path();
            std::fs::remove_file(&path).map_err(fs::io_error("remove", &path))?;
        }
    }
    Ok(())
}

impl State {
    /// The state of an earlier attempt at the same conversion, if there is one.
    ///
    /// # Errors
    /// A state of another conversion, or a damaged one.
    pub fn load(output: &Path, identity: &str) -> Result<Option<Self>> {
        let path = state_path(output);
        if !path.is_file() {
            return Ok(None);
        }
        let remedy = || {
            format!(
                "start it with the same command, or remove {} and the shards beside it",
                path.display()
            )
        };
        let bytes = fs::read_limited(&path, 1 << 32)?;
        let state: State = serde_json::from_slice(&bytes).map_err(|e| {
            ConfigError::one(format!("{} is damaged ({e}); {}", path.display(), remedy()))
        })?;
        if state.identity != identity {
            return Err(ConfigError::one(format!(
                "an unfinished conversion of other inputs or settings has this --output; {}",
                remedy()
            ))
            .into());
        }
        for shard in &state.shards {
            let found = std::fs::metadata(&shard.file).map(|m| m.len()).ok();
            if found != Some(shard.bytes) {
                return Err(ConfigError::one(format!(
                    "{} was finished before and is gone or changed; {}",
                    shard.file,
                    remedy()
                ))
                .into());
            }
        }
        Ok(Some(state))
    }

    /// Writes the state.
    ///
    /// # Errors
    /// A full disk and the like.
    pub fn save(&self, output: &Path) -> Result<()> {
        Ok(write_json(&state_path(output), &json!(self), 0)?)
    }
}
