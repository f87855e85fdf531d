//! Where a plugin's bytes come from: a file, else the components inside the binary.

use std::borrow::Cow;
use std::path::Path;

use super::error::{PluginError, shown};
use crate::fs;

/// Name and component of every plugin that was built before this library.
static SHIPPED: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/shipped_plugins.rs"));

/// Names of the plugins inside the binary, sorted.
pub fn shipped_names() -> impl Iterator<Item = &'static str> {
    SHIPPED.iter().map(|(name, _)| *name)
}

/// The bytes of `name_or_path`: a file of that path wins over a shipped plugin of that name, with
/// or without `.wasm`.
pub(super) fn read(name_or_path: &str, file_bytes: u64) -> Result<Cow<'static, [u8]>, PluginError> {
    let path = Path::new(name_or_path);
    if path.is_file() {
        return Ok(fs::read_limited(path, file_bytes)?.into());
    }
    let name = name_or_path.strip_suffix(".wasm").unwrap_or(name_or_path);
    if let Some((_, bytes)) = SHIPPED.iter().find(|(shipped, _)| *shipped == name) {
        return Ok((*bytes).into());
    }
    let stem = path.file_stem().map(|s| s.to_string_lossy()).unwrap_or_default();
    let nearest = shipped_names()
        .map(|shipped| (strsim::damerau_levenshtein(shipped, &stem), shipped))
        .filter(|(distance, _)| *distance <= 3)
        .min()
        .map(|(_, shipped)| shipped.to_string());
    let names: Vec<String> = shipped_names().map(|n| format!("`{n}`")).collect();
    Err(PluginError::NotFound {
        name: shown(name_or_path),
        shipped: if names.is_empty() { "none in this build".into() } else { names.join(", ") },
        nearest,
    })
}
