//! `trainer_manifest.json`: what a run was made of, so that it can be made again. Never the
//! environment.

use std::path::Path;

use serde::Serialize;
use serde_json::{Value, json};

use crate::error::Result;
use crate::model::save::write_json;

/// A file by its contents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HashedFile {
    /// As the user named it.
    pub path: String,
    /// Size, bytes.
    pub bytes: u64,
    /// sha256, hexadecimal.
    pub sha256: String,
}

/// A plugin by its contents and options.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UsedPlugin {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// `formatter` or `template`.
    pub kind: String,
    /// sha256 of its bytes.
    pub sha256: String,
    /// Its options, JSON text.
    pub options: String,
}

/// What a run was made of.
#[derive(Clone, Debug, Serialize)]
pub struct Manifest {
    /// Version of this program.
    pub version: &'static str,
    /// `sft` …
    pub stage: &'static str,
    /// The command's arguments.
    pub command: Vec<String>,
    /// Files of the base model.
    pub model: Vec<HashedFile>,
    /// The tokenizer's file.
    pub tokenizer: Vec<HashedFile>,
    /// Training files.
    pub train: Vec<HashedFile>,
    /// Validation files.
    pub validation: Vec<HashedFile>,
    /// Plugins.
    pub plugins: Vec<UsedPlugin>,
    /// Where every row went.
    pub rows: Value,
    /// Every setting.
    pub config: Value,
}

impl Manifest {
    /// Hash of the whole, for the model card.
    pub fn sha256(&self) -> String {
        crate::fs::sha256_hex(json!(self).to_string().as_bytes())
    }

    /// Writes the manifest into `dir`.
    ///
    /// # Errors
    /// A full disk and the like.
    pub fn write(&self, dir: &Path) -> Result<()> {
        Ok(write_json(&dir.join("trainer_manifest.json"), &json!(self), 2)?)
    }
}

/// Hashes files.
///
/// # Errors
/// When one can't be read.
pub fn hash_files<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Result<Vec<HashedFile>> {
    let mut files = Vec::new();
    for path in paths {
        let bytes = std::fs::metadata(path).map_err(crate::fs::io_error("read", path))?.len();
        let sha256 = crate::fs::sha256_file(path)?;
        files.push(HashedFile { path: path.display().to_string(), bytes, sha256 });
    }
    Ok(files)
}
