//! Configuration files: YAML, TOML or JSON with the flags' names as keys.

use std::path::Path;

use serde_json::{Map, Value};

use super::ConfigError;
use super::values::Given;
use crate::{fs, limits};

/// The entries of a configuration file, one per value (a list gives several).
///
/// # Errors
/// When it can't be read or parsed; with the line where the parser knows it.
pub fn read(path: &Path) -> Result<Vec<(String, Given)>, ConfigError> {
    entries(parse(path)?, &path.display().to_string())
}

/// The object that a configuration file holds.
///
/// # Errors
/// As [`read`].
pub fn parse(path: &Path) -> Result<Map<String, Value>, ConfigError> {
    let name = path.display().to_string();
    let fault = |text: String| ConfigError::one(format!("{name}: {text}"));
    let bytes = fs::read_limited(path, limits::RUN_CONFIG_BYTES_MAX)
        .map_err(|e| ConfigError::one(e.to_string()))?;
    let text = String::from_utf8(bytes).map_err(|_| fault("it is not UTF-8".into()))?;
    let text = text.strip_prefix('\u{FEFF}').unwrap_or(&text);
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("");
    let value: Value = match extension {
        "json" => serde_json::from_str(text).map_err(|e| fault(e.to_string()))?,
        "toml" => toml::from_str(text).map_err(|e| fault(e.to_string().trim().to_string()))?,
        "yaml" | "yml" => {
            // YAML's own value refuses a key that comes twice.
            let value: serde_yaml_ng::Value =
                serde_yaml_ng::from_str(text).map_err(|e| fault(e.to_string()))?;
            serde_json::to_value(value).map_err(|e| fault(e.to_string()))?
        }
        _ => return Err(fault("its name must end in .yaml, .toml or .json".into())),
    };
    match value {
        Value::Object(map) => Ok(map),
        _ => Err(fault("it must hold `name: value` lines".into())),
    }
}

/// The entries of an object of settings; `name` says where it stands.
///
/// # Errors
/// Values that are no settings, all at once.
pub fn entries(map: Map<String, Value>, name: &str) -> Result<Vec<(String, Given)>, ConfigError> {
    let mut entries = Vec::new();
    let mut faults = Vec::new();
    for (key, value) in map {
        let origin = format!("{name}: {}", crate::error::excerpt(&key));
        let mut push = |text: String| {
            let name = key.replace('-', "_");
            entries.push((name, Given { text, origin: origin.clone() }));
        };
        match value {
            // `plugin_options: {sharegpt: {…}}`
            Value::Object(options) if key.replace('-', "_") == "plugin_options" => {
                options.into_iter().for_each(|(plugin, o)| push(format!("{plugin}={o}")));
            }
            // `rank_pattern: {q_proj: 16}`
            Value::Object(pattern)
                if ["rank_pattern", "alpha_pattern"].contains(&key.replace('-', "_").as_str()) =>
            {
                push(Value::Object(pattern).to_string());
            }
            Value::Array(items) => {
                for item in items {
                    match scalar(item) {
                        Some(text) => push(text),
                        None => faults.push(format!("{origin}: a list may hold plain values only")),
                    }
                }
            }
            other => match scalar(other) {
                Some(text) => push(text),
                None => faults.push(format!("{origin}: expected a plain value or a list")),
            },
        }
    }
    if faults.is_empty() { Ok(entries) } else { Err(ConfigError::Faults(faults)) }
}

fn scalar(value: Value) -> Option<String> {
    match value {
        Value::Null => Some(String::new()),
        Value::Bool(true) => Some("True".into()),
        Value::Bool(false) => Some("False".into()),
        Value::Number(n) => Some(n.to_string()),
        Value::String(text) => Some(text),
        Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read_text(name: &str, text: &str) -> Result<Vec<(String, String)>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        let entries = read(&path).map_err(|e| e.to_string())?;
        Ok(entries.into_iter().map(|(k, g)| (k, g.text)).collect())
    }

    #[test]
    fn the_three_formats_say_the_same() {
        let yaml = "learning-rate: 1e-4\nplugin: [sharegpt, chatml]\npacking: true\n";
        let toml =
            "learning_rate = \"1e-4\"\nplugin = [\"sharegpt\", \"chatml\"]\npacking = true\n";
        let json =
            r#"{"learning_rate": "1e-4", "plugin": ["sharegpt", "chatml"], "packing": true}"#;
        let want: std::collections::BTreeSet<(String, String)> = [
            ("learning_rate", "1e-4"),
            ("plugin", "sharegpt"),
            ("plugin", "chatml"),
            ("packing", "True"),
        ]
        .map(|(k, v)| (k.to_string(), v.to_string()))
        .into();
        for (name, text) in [("a.yaml", yaml), ("a.toml", toml), ("a.json", json)] {
            let got: std::collections::BTreeSet<_> =
                read_text(name, text).unwrap().into_iter().collect();
            let rates = ["1e-4".to_string(), "0.0001".to_string()];
            assert!(got.iter().any(|(k, v)| k == "learning_rate" && rates.contains(v)), "{name}");
            assert!(want.iter().filter(|(k, _)| k != "learning_rate").all(|e| got.contains(e)));
        }
    }

    #[test]
    fn faults_name_the_file() {
        for (name, text) in [
            ("a.yaml", "a: [1\n"),
            ("a.yaml", "seed: 1\nseed: 2\n"),
            ("a.json", "[]"),
            ("a.txt", "a: 1"),
            ("a.toml", "a = "),
            ("a.yaml", "a: {b: 1}"),
        ] {
            let error = read_text(name, text).unwrap_err();
            assert!(error.contains(name), "{error}");
        }
    }
}
