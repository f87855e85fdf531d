//! Every golden case of every shipped plugin: `plugins/NAME/golden` itself and each folder in it that
//! has an `out.jsonl`, with the options of its `options.json`. With UPDATE_GOLDEN=1 the answers are
//! written instead of compared: read the difference before committing it.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use trainer::plugin::{Plugin, PluginLimits};

use crate::golden_answers::answers;
use crate::{dist, root, rows};

/// The folders of a plugin's cases.
fn cases(golden: &Path) -> Vec<PathBuf> {
    let mut folders = vec![golden.to_path_buf()];
    let inner = std::fs::read_dir(golden).unwrap().map(|entry| entry.unwrap().path());
    folders.extend(inner.filter(|path| path.is_dir()));
    folders.retain(|folder| folder.join("in.jsonl").is_file());
    folders.sort();
    folders
}

#[test]
fn every_case_of_every_plugin_is_as_recorded() {
    let mut plugins: Vec<PathBuf> = std::fs::read_dir(root().join("plugins"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("Cargo.toml").is_file())
        .collect();
    plugins.sort();
    assert!(plugins.len() >= 16, "{plugins:?}");
    for folder in plugins {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let cases = cases(&folder.join("golden"));
        assert!(!cases.is_empty(), "{name} has no golden rows");
        for case in cases {
            let options = std::fs::read_to_string(case.join("options.json"));
            let options = options.unwrap_or_else(|_| "{}".into());
            let plugin = Plugin::load(&dist(&name), options.trim(), 42, PluginLimits::default())
                .unwrap_or_else(|e| panic!("{}: {e}", case.display()));
            let input = std::fs::read_to_string(case.join("in.jsonl")).unwrap();
            let lines: Vec<&str> = input.lines().collect();
            let got = answers(&plugin, &lines);
            if std::env::var_os("UPDATE_GOLDEN").is_some() {
                let text: String = got.iter().map(|v| format!("{v}\n")).collect();
                std::fs::write(case.join("out.jsonl"), text).unwrap();
                continue;
            }
            let wanted = std::fs::read_to_string(case.join("out.jsonl")).unwrap();
            let wanted: Vec<Value> =
                wanted.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            assert_eq!(got.len(), wanted.len(), "{}: number of rows", case.display());
            for (row, (got, wanted)) in got.iter().zip(&wanted).enumerate() {
                assert_eq!(got, wanted, "{}: row {}", case.display(), row + 1);
            }
        }
    }
}

#[test]
fn options_that_can_not_be_used_are_named() {
    let fault = |name: &str, options: &str| {
        Plugin::load(&dist(name), options, 0, PluginLimits::default()).unwrap_err().to_string()
    };
    assert!(fault("regex", r#"{"pattern": "("}"#).contains("`pattern` is no regular expression"));
    let nothing = r#"{"pattern": "a", "capture_is_reference": true}"#;
    assert!(fault("regex", nothing).contains("captures nothing"));
    for (schema, wanted) in [
        (r#"{"typ": "object"}"#, "`schema.typ` is not understood"),
        (r#"{"type": "text"}"#, "`schema.type` has a value that can't be used"),
        (r##"{"$ref": "#/$defs/a"}"##, "is not in the schema"),
        (r#"{"properties": {"a": 5}}"#, "`schema.properties.a` is no schema"),
        (r#"{"pattern": "["}"#, "no regular expression"),
        (r#"{"minLength": -1}"#, "`schema.minLength` is no count"),
    ] {
        let fault = fault("json-schema", &format!(r#"{{"schema": {schema}}}"#));
        assert!(fault.contains(wanted), "{schema}: {fault}");
    }
    assert!(fault("classic", r#"{"name": "llama4"}"#).contains("name"));
}

/// A schema that refers to itself without an end fits nothing, and takes no time to say so.
#[test]
fn a_schema_without_an_end_fits_nothing() {
    let options = r##"{"schema": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}}"##;
    let plugin = Plugin::load(&dist("json-schema"), options, 0, PluginLimits::default()).unwrap();
    let row = json!({"completion": "1"}).to_string();
    assert_eq!(plugin.score(&[rows::batch(&[&row])]).unwrap()[0].value, Some(0.0));
}
