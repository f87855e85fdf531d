//! `train_results`, `eval_results` (`.json` and `.txt`) and `all_results.json`.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use crate::error::Result;
use crate::fs;
use crate::model::save::write_json;

/// Metrics by name, sorted.
pub type Metrics = BTreeMap<String, Value>;

/// Writes `NAME_results.json` (indent 4, sorted) and `NAME_results.txt` (`key = value` lines), and
/// adds the metrics to `all_results.json`.
///
/// # Errors
/// A full disk and the like.
pub fn write(dir: &Path, name: &str, metrics: &Metrics) -> Result<()> {
    write_json(&dir.join(format!("{name}_results.json")), &json!(metrics), 4)?;
    let lines: String = metrics.iter().map(|(k, v)| format!("{k} = {v}\n")).collect();
    fs::write_atomic(&dir.join(format!("{name}_results.txt")), lines.as_bytes())?;
    let path = dir.join("all_results.json");
    let mut all: Metrics = std::fs::read(&path)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default();
    all.extend(metrics.clone());
    Ok(write_json(&path, &json!(all), 4)?)
}
