//! Finding, checking and describing plugins.

use trainer::plugin::{Plugin, PluginError, PluginLimits, World, shipped_names};

use crate::{dist, guest, rows, shipped};

fn load(name: &str, options: &str) -> Result<Plugin, PluginError> {
    Plugin::load(name, options, 0, PluginLimits::default())
}

fn message(result: Result<Plugin, PluginError>) -> String {
    result.expect_err("an error").to_string()
}

#[test]
fn the_binary_holds_the_shipped_plugins() {
    dist("sharegpt");
    let names: Vec<&str> = shipped_names().collect();
    let shipped = [
        "accuracy",
        "alpaca",
        "chatml",
        "classic",
        "format",
        "json-schema",
        "length",
        "messages",
        "preference",
        "prompt",
        "qa",
        "regex",
        "repetition",
        "sharegpt",
        "text",
        "vicuna",
    ];
    assert_eq!(names, shipped);
    for name in names {
        let options = match name {
            "classic" => r#"{"name": "vicuna"}"#,
            "json-schema" => r#"{"schema": {}}"#,
            "regex" => r#"{"pattern": "a"}"#,
            _ => "",
        };
        let by_name = load(name, options).unwrap();
        let by_file_name = load(&format!("{name}.wasm"), options).unwrap();
        let by_path = load(&dist(name), options).unwrap();
        assert_eq!(by_name.name(), name);
        assert_eq!(by_name.sha256(), by_path.sha256());
        assert_eq!(by_name.sha256(), by_file_name.sha256());
    }
}

#[test]
fn a_file_wins_over_a_shipped_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sharegpt.wasm");
    std::fs::copy(dist("text"), &path).unwrap();
    assert_eq!(load(&path.display().to_string(), "").unwrap().name(), "text");
}

#[test]
fn an_unknown_name_gets_the_nearest_one() {
    let text = message(load("shareGPT", ""));
    assert!(text.contains("no plugin `shareGPT`"), "{text}");
    assert!(text.contains("did you mean `sharegpt`?"), "{text}");
    assert!(message(load("no/such/file.wasm", "")).contains("`chatml`"));
}

#[test]
fn inspection_tells_world_imports_columns_and_options() {
    let seen = Plugin::inspect(&dist("sharegpt"), PluginLimits::default()).unwrap();
    assert_eq!(seen.world, World::Formatter);
    assert_eq!(seen.contract, "0.1.0");
    assert!(!seen.core_module);
    assert!(seen.imports.iter().any(|i| i == "trainer:plugin/host@0.1.0"), "{:?}", seen.imports);
    assert!(seen.imports.iter().all(|i| i.starts_with("trainer:plugin/")), "{:?}", seen.imports);
    assert_eq!(seen.exports, ["trainer:plugin/formatting@0.1.0"]);
    let columns: Vec<&str> = seen.reads.columns.iter().map(|n| n.name.as_str()).collect();
    assert_eq!(columns, ["conversations", "system_prompt", "system", "tools"]);
    assert!(!seen.reads.columns[0].optional && seen.reads.columns[1].optional);
    assert!(seen.options_schema.contains("unknown_role"));
    assert!(seen.deterministic);
    assert_eq!(seen.sha256.len(), 64);
}

#[test]
fn wrong_options_are_refused_before_any_row() {
    let text = message(load(&dist("text"), r#"{"colum":"x"}"#));
    assert!(text.contains("plugin `text`"), "{text}");
    assert!(text.contains("`colum` is unknown, did you mean `column`?"), "{text}");
    assert!(message(load(&dist("text"), r#"{"column":7}"#)).contains("a number, not string"));
    assert!(message(load(&dist("text"), "{")).contains("not JSON"));
    let text = message(load(&dist("sharegpt"), r#"{"unknown_role":"ignore"}"#));
    assert!(text.contains("not one of \"drop\", \"reject\""), "{text}");
}

#[test]
fn faults_of_several_plugins_come_together() {
    let wanted = [
        ("text", r#"{"colum": "a", "more": 1}"#),
        ("length", ""),
        ("vicuna", r#"{"end_of_turm": "b"}"#),
        ("no-such-plugin", ""),
    ];
    let limits = PluginLimits::default();
    let text = Plugin::load_all(&wanted, 0, &limits).unwrap_err().to_string();
    for part in [
        "3 plugins can't be used",
        "did you mean `column`?",
        "`more` is unknown",
        "did you mean `end_of_turn`?",
        "no plugin `no-such-plugin`",
    ] {
        assert!(text.contains(part), "no {part} in {text}");
    }
    let one = Plugin::load_all(&wanted[..2], 0, &limits).unwrap_err();
    assert!(matches!(one, PluginError::Options { .. }), "{one}");
    let sound = [("text", r#"{"column": "a"}"#), ("length", "")];
    assert_eq!(Plugin::load_all(&sound, 0, &limits).unwrap().len(), 2);
}

#[test]
fn a_missing_column_is_named_with_those_there_are() {
    let rows = rows::batch(&[r#"{"prompt":"x","answer":"y"}"#]);
    let text = shipped("sharegpt", "{}").format(&[rows]).unwrap_err().to_string();
    assert!(text.contains("needs the column `conversations`"), "{text}");
    assert!(text.contains("`prompt`, `answer`"), "{text}");
}

#[test]
fn a_plugin_of_another_world_is_refused() {
    let text = shipped("chatml", "{}").format(&[]).unwrap_err().to_string();
    assert!(text.contains("plugin `chatml`") && text.contains("is a template, not a formatter"));
}

#[test]
fn foreign_imports_are_refused_by_name() {
    let component =
        wat::parse_str(r#"(component (import "wasi:cli/environment@0.2.0" (instance)))"#).unwrap();
    let (_dir, path) = guest::file(&component);
    let text = message(load(&path, ""));
    assert!(text.contains("asks for `wasi:cli/environment@0.2.0`"), "{text}");

    let module = guest::Guest::formatter("unreachable").import(
        r#"(import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))"#,
    );
    let (_dir, path) = guest::file(&module.bytes());
    let text = message(load(&path, ""));
    assert!(text.contains("`wasi_snapshot_preview1.fd_write`"), "{text}");
}

#[test]
fn other_contracts_and_other_files_are_refused() {
    let refused = |bytes: &[u8]| {
        let (_dir, path) = guest::file(bytes);
        message(load(&path, ""))
    };
    let nothing = wat::parse_str("(component)").unwrap();
    assert!(refused(&nothing).contains("exports no world"), "{}", refused(&nothing));
    let later = wat::parse_str(
        r#"(component (instance $i) (export "trainer:plugin/formatting@0.9.0" (instance $i)))"#,
    )
    .unwrap();
    let text = refused(&later);
    assert!(text.contains("version 0.9.0") && text.contains("speaks 0.1"), "{text}");
    let hollow = wat::parse_str(
        r#"(component (instance $i) (export "trainer:plugin/formatting@0.1.0" (instance $i)))"#,
    )
    .unwrap();
    assert!(refused(&hollow).contains("does not fit the contract"), "{}", refused(&hollow));
    let plain = wat::parse_str("(module)").unwrap();
    assert!(refused(&plain).contains("not a plugin"), "{}", refused(&plain));
    assert!(refused(b"").contains("does not begin like WebAssembly"));
    assert!(refused(b"import torch\n").contains("does not begin like WebAssembly"));
}

#[test]
fn a_file_over_its_limit_is_not_even_read() {
    let limits = PluginLimits { file_bytes: 1_000, ..PluginLimits::default() };
    let text = Plugin::load(&dist("text"), "", 0, limits).err().unwrap().to_string();
    assert!(text.contains("more than the 1000 allowed"), "{text}");
}

#[test]
fn damaged_files_are_errors_never_panics() {
    let whole = std::fs::read(dist("text")).unwrap();
    for part in 0..32 {
        let cut = whole.len() * part / 32;
        let (_dir, path) = guest::file(&whole[..cut]);
        let text = message(load(&path, ""));
        assert!(text.contains("is not a plugin"), "cut at {cut}: {text}");
    }
    // A flipped bit may leave a sound component; what it must not do is bring the host down.
    let rows = rows::batch(&[r#"{"text":"a"}"#]);
    for flip in 0..32usize {
        let mut bytes = whole.clone();
        let at = flip.wrapping_mul(2_654_435_761) % bytes.len();
        bytes[at] ^= 1 << (flip % 8);
        let (_dir, path) = guest::file(&bytes);
        if let Ok(plugin) = load(&path, "") {
            let _ = plugin.format(std::slice::from_ref(&rows));
        }
    }
}
