//! `trainer convert` end to end: formats there and back, threads, shards, interruptions, machines.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use support::{arg, json, root, shared, trainer, trainer_fails, trainer_ok};

fn convert(input: &Path, output: &Path, more: &[&str]) -> Vec<String> {
    let mut args = vec!["convert".to_string(), "--input".into(), arg(input)];
    args.extend(["--output".into(), arg(output)]);
    args.extend(more.iter().map(|s| s.to_string()));
    args
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

fn manifest(output: &Path) -> Value {
    json(format!("{}.manifest.json", output.display()))
}

/// Conversations of `rows` rows, some with many turns, some not English.
fn conversations(path: &Path, rows: usize) {
    let mut text = String::new();
    for i in 0..rows {
        let mut turns = Vec::new();
        for k in 0..1 + i % 4 {
            turns.push(json!({"from": "human", "value": format!("Question {i}.{k} – 木\n\"?\"")}));
            turns.push(json!({"from": "gpt", "value": "word ".repeat(20 + (i * 7919 + k) % 80)}));
        }
        text.push_str(&json!({"id": i, "conversations": turns}).to_string());
        text.push('\n');
    }
    std::fs::write(path, text).unwrap();
}

#[test]
fn rows_survive_every_format() {
    let tmp = tempfile::tempdir().unwrap();
    let at = |name: &str| tmp.path().join(name);
    let source = at("source.jsonl");
    let rows = [
        r#"{"id":1,"score":0.5,"name":"a \"b\" – 木\n","tags":["x",null],"meta":{"n":1,"deep":[{"k":true}]},"mixed":1}"#,
        r#"{"id":-9007199254740993,"score":2,"name":null,"tags":[],"meta":null,"mixed":"one","late":"y"}"#,
        r#"{"id":3,"score":1e-7,"name":"","tags":["z"],"meta":{"n":2,"deep":[]},"mixed":{"a":1},"big":18446744073709551616}"#,
    ];
    std::fs::write(&source, rows.join("\n")).unwrap();
    let want: Vec<Value> = lines(&source);
    // Through columns and back: an absent field is a null, and neither is written.
    let strip = |rows: Vec<Value>| -> Vec<Value> {
        fn clean(value: Value) -> Value {
            match value {
                Value::Object(fields) => Value::Object(
                    fields
                        .into_iter()
                        .filter(|(_, v)| !v.is_null())
                        .map(|(k, v)| (k, clean(v)))
                        .collect(),
                ),
                Value::Array(values) => values.into_iter().map(clean).collect(),
                Value::Number(n) => json!(n.as_f64().unwrap()),
                other => other,
            }
        }
        rows.into_iter().map(clean).collect()
    };
    let mut from = source.clone();
    for name in
        ["a.parquet", "b.arrow", "c.parquet", "d.jsonl.zst", "e.arrow", "f.jsonl.gz", "g.jsonl"]
    {
        let to = at(name);
        let out = trainer_ok(convert(&from, &to, &[]));
        assert!(out.contains("3 used, 0 skipped, 0 rejected"), "{out}");
        from = to;
    }
    assert_eq!(strip(lines(&from)), strip(want));
    // Large integers keep their digits as long as rows stay text or their type holds them.
    let text = std::fs::read_to_string(&from).unwrap();
    assert!(text.contains("-9007199254740993"), "{text}");
    let same = at("same.jsonl");
    trainer_ok(convert(&source, &same, &[]));
    assert_eq!(std::fs::read_to_string(&same).unwrap().trim_end(), rows.join("\n"));
    // A table in text holds texts.
    std::fs::write(at("t.csv"), "a,b\n1,\"x, y\"\n007,\n").unwrap();
    trainer_ok(convert(&at("t.csv"), &at("t.parquet"), &[]));
    trainer_ok(convert(&at("t.parquet"), &at("t.jsonl"), &[]));
    assert_eq!(lines(&at("t.jsonl"))[0], json!({"a": "1", "b": "x, y"}));
    assert_eq!(lines(&at("t.jsonl"))[1]["a"], "007");
}

#[test]
fn examples_take_the_shape_asked_for_and_are_rows_again() {
    let tmp = tempfile::tempdir().unwrap();
    let at = |name: &str| tmp.path().join(name);
    let source = root().join("datasets/sft");
    let formatter = ["--plugin", "sharegpt"];
    let messages = at("messages.jsonl");
    trainer_ok(convert(&source, &messages, &formatter));
    // Again as columns, and those once more through the same formatter.
    let columns = at("messages.parquet");
    trainer_ok(convert(&source, &columns, &formatter));
    let again = at("again.jsonl");
    let column = ["--plugin", "sharegpt", "--plugin_options", r#"sharegpt={"column": "messages"}"#];
    trainer_ok(convert(&columns, &again, &column));
    assert_eq!(std::fs::read(&messages).unwrap(), std::fs::read(&again).unwrap());
    let back = at("back.jsonl");
    let mut sharegpt = column.to_vec();
    sharegpt.extend(["--output_schema", "sharegpt"]);
    trainer_ok(convert(&columns, &back, &sharegpt));
    let original = lines(&source.join("conversations.jsonl"));
    for (got, want) in lines(&back).iter().zip(&original) {
        assert_eq!(got["conversations"], want["conversations"]);
    }
    // Calls of tools keep their arguments.
    let tools = at("tools.jsonl");
    let row = r#"{"conversations":[{"from":"human","value":"Weather?"},{"from":"function_call","value":"{\"name\": \"weather\", \"arguments\": {\"city\": \"Bonn\"}}"},{"from":"observation","value":"{\"t\": 3}"},{"from":"gpt","value":"Cold."}],"tools":"[{\"name\": \"weather\"}]"}"#;
    std::fs::write(&tools, row).unwrap();
    trainer_ok(convert(&tools, &at("tools.parquet"), &formatter));
    trainer_ok(convert(&at("tools.parquet"), &at("tools2.jsonl"), &column));
    let got = &lines(&at("tools2.jsonl"))[0];
    assert_eq!(got["messages"][1]["tool_calls"][0]["function"]["name"], "weather");
    assert!(got["tools"].as_str().unwrap().contains("weather"));
    // Preferences as pairs; another schema is refused row by row, and the job stopped.
    let pairs = root().join("datasets/preference");
    trainer_ok(convert(&pairs, &at("pairs.parquet"), &["--plugin", "preference"]));
    trainer_ok(convert(&at("pairs.parquet"), &at("pairs.jsonl"), &["--plugin", "preference"]));
    let direct = at("direct.jsonl");
    trainer_ok(convert(&pairs, &direct, &["--plugin", "preference"]));
    assert_eq!(lines(&at("pairs.jsonl")), lines(&direct));
    let wrong = ["--plugin", "preference", "--output_schema", "messages"];
    trainer_fails(convert(&pairs, &at("no.jsonl"), &wrong), 3, &["a preference", "`messages`"]);
    assert!(!at("no.jsonl").exists());
    let none = ["--output_schema", "messages"];
    trainer_fails(convert(&pairs, &at("no.jsonl"), &none), 2, &["add --plugin"]);
}

#[test]
fn threads_and_interruptions_change_no_byte() {
    let tmp = tempfile::tempdir().unwrap();
    let at = |name: &str| tmp.path().join(name);
    let source = at("source.jsonl");
    conversations(&source, 30_000);
    let shards = |dir: &Path| -> Vec<(String, Vec<u8>)> {
        let mut found: Vec<(String, Vec<u8>)> = std::fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap().path())
            .filter(|p| p.is_file() && p.extension().is_some_and(|e| e != "json"))
            .map(|p| (p.file_name().unwrap().to_string_lossy().into(), std::fs::read(&p).unwrap()))
            .collect();
        found.sort();
        found
    };
    for (name, limit) in
        [("out.parquet", ["--shard_rows", "2500"]), ("out.jsonl.zst", ["--shard_bytes", "3MB"])]
    {
        let mut all = vec!["--plugin", "sharegpt", "--row_group_rows", "1000"];
        all.extend(limit);
        let whole = at(&format!("whole-{name}"));
        std::fs::create_dir(&whole).unwrap();
        let mut one = all.clone();
        one.extend(["--num_threads", "1"]);
        trainer_ok(convert(&source, &whole.join(name), &one));
        let many = at(&format!("many-{name}"));
        let mut three = all.clone();
        three.extend(["--num_threads", "3"]);
        trainer_ok(convert(&source, &many.join(name), &three));
        assert!(shards(&whole).len() > 5);
        assert!(shards(&whole) == shards(&many), "{name}: threads change the result");
        // Killed again and again, at whatever point, and started again.
        let killed = at(&format!("killed-{name}"));
        let command = convert(&source, &killed.join(name), &three);
        let mut finished = false;
        for attempt in 0..60u64 {
            let mut child = Command::new(env!("CARGO_BIN_EXE_trainer"))
                .args(&command)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            // Soon at first, and long in the end, so that a slow machine gets there too.
            std::thread::sleep(Duration::from_millis(150 + 15 * attempt * attempt));
            if child.try_wait().unwrap().is_some_and(|status| status.success()) {
                finished = true;
                break;
            }
            child.kill().unwrap();
            child.wait().unwrap();
            let left = if killed.is_dir() { shards(&killed) } else { Vec::new() };
            for (name, _) in left.iter().filter(|(name, _)| !name.contains("progress.json")) {
                assert!(name.starts_with("out-") || name.starts_with(".out-"), "{name}");
            }
        }
        assert!(finished, "{name}: it never ended");
        assert!(shards(&whole) == shards(&killed), "{name}: interruptions change the result");
        let (a, b) = (manifest(&whole.join(name)), manifest(&killed.join(name)));
        assert_eq!(a["rows"], b["rows"]);
        assert_eq!(a["totals"]["used"], 30_000);
        let rows = a["outputs"].as_array().unwrap().iter().map(|o| o["rows"].as_u64().unwrap());
        assert_eq!(rows.sum::<u64>(), 30_000);
        // A finished conversion is not replaced unasked.
        trainer_fails(&command, 2, &["is there already", "--overwrite"]);
    }
}

#[test]
fn machines_share_the_rows_without_talking() {
    let tmp = tempfile::tempdir().unwrap();
    let at = |name: &str| tmp.path().join(name);
    let source = at("in");
    std::fs::create_dir(&source).unwrap();
    conversations(&source.join("a.jsonl"), 700);
    conversations(&source.join("b.jsonl"), 300);
    trainer_ok(convert(
        &source.join("a.jsonl"),
        &source.join("c.parquet"),
        &["--row_group_rows", "100"],
    ));
    std::fs::remove_file(source.join("c.parquet.manifest.json")).unwrap();
    let whole = at("whole.jsonl");
    trainer_ok(convert(&source, &whole, &["--plugin", "sharegpt"]));
    let mut got = Vec::new();
    for index in 0..3 {
        let out = at("parts/out.jsonl");
        let index = index.to_string();
        // Slurm names the machine where no flag does.
        let output = Command::new(env!("CARGO_BIN_EXE_trainer"))
            .args(convert(&source, &out, &["--plugin", "sharegpt", "--num_shards", "3"]))
            .env("SLURM_PROCID", &index)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", support::text(&output.stderr));
        let own = at(&format!("parts/out.{index}-of-3.jsonl"));
        let rows = lines(&own);
        assert!(!rows.is_empty());
        got.extend(rows.iter().map(Value::to_string));
    }
    let mut want: Vec<String> = lines(&whole).iter().map(Value::to_string).collect();
    want.sort();
    got.sort();
    assert_eq!(got, want);
    let lost = ["--num_shards", "3"];
    trainer_fails(convert(&source, &at("x.jsonl"), &lost), 2, &["--shard_index"]);
    let beyond = ["--num_shards", "3", "--shard_index", "3"];
    trainer_fails(convert(&source, &at("x.jsonl"), &beyond), 2, &["0 to 2"]);
}

#[test]
fn a_broken_job_stops_early_and_an_output_is_no_input() {
    let tmp = tempfile::tempdir().unwrap();
    let at = |name: &str| tmp.path().join(name);
    let file = at("in.jsonl");
    let good = r#"{"text": "hello"}"#;
    let rows: Vec<&str> = (0..2000).map(|i| if i % 20 == 0 { "{" } else { good }).collect();
    std::fs::write(&file, rows.join("\n")).unwrap();
    let said =
        trainer_fails(convert(&file, &at("out.jsonl"), &[]), 3, &["more than 1 %", "row 1 of"]);
    assert!(said.contains("--max_reject_rate"), "{said}");
    assert!(!at("out.jsonl").exists());
    // What was rejected until then can be looked at.
    let rejects = arg(at("rejects.jsonl"));
    let listing = ["--rejects", rejects.as_str()];
    trainer_fails(convert(&file, &at("out.jsonl"), &listing), 3, &[".rejects.jsonl.part"]);
    assert!(!lines(&at(".rejects.jsonl.part")).is_empty() && !at("rejects.jsonl").exists());
    trainer_ok(convert(&file, &at("out.jsonl"), &["--max_reject_rate", "0.05"]));
    assert_eq!(lines(&at("out.jsonl")).len(), 1900);
    // A folder that holds its own earlier result.
    let code =
        trainer(convert(tmp.path(), &at("out.jsonl"), &["--overwrite", "True"])).status.code();
    assert_eq!(code, Some(2));
    trainer_fails(convert(&file, &at("out.xls"), &[]), 2, &["tells no format", ".parquet"]);
}

#[test]
fn files_of_other_programs_come_in_without_loss() {
    let Some(folder) = shared("parquet-testing") else { return };
    let tmp = tempfile::tempdir().unwrap();
    let mut done = 0;
    let mut folders: Vec<PathBuf> = vec![folder];
    while let Some(dir) = folders.pop() {
        for entry in std::fs::read_dir(dir).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            if path.extension().is_none_or(|e| e != "parquet") {
                continue;
            }
            let once = tmp.path().join(format!("{done}.parquet"));
            let output = trainer(convert(&path, &once, &[]));
            let said = support::text(&output.stderr);
            assert!(!said.contains("panicked") && output.status.code() != Some(1), "{said}");
            if !output.status.success() {
                assert!(
                    !once.exists() && said.starts_with("error: "),
                    "{}: {said}",
                    path.display()
                );
                continue;
            }
            // As JSON before and after the way through our writer.
            let (before, after) = (tmp.path().join("b.jsonl"), tmp.path().join("a.jsonl"));
            let text = ["--overwrite", "True", "--max_reject_rate", "1"];
            if trainer(convert(&path, &before, &text)).status.success() {
                trainer_ok(convert(&once, &after, &text));
                let same = std::fs::read(&before).unwrap() == std::fs::read(&after).unwrap();
                assert!(same, "{}", path.display());
                done += 1;
            }
        }
    }
    assert!(done >= 8, "only {done} files were compared");
}
