//! `trainer data …` end to end: what is counted, dropped, divided and mixed, in every format.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Value, json};
use support::{arg, golden, json, trainer, trainer_fails, trainer_ok};

fn data<'a>(verb: &str, input: &[&Path], more: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut args = vec!["data".to_string(), verb.to_string()];
    for path in input {
        args.extend(["--input".into(), arg(path)]);
    }
    args.extend(more.into_iter().map(str::to_string));
    args
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

fn write(path: &Path, rows: impl IntoIterator<Item = Value>) {
    let text: String = rows.into_iter().map(|row| format!("{row}\n")).collect();
    std::fs::write(path, text).unwrap();
}

/// The same rows as Parquet.
fn columns(of: &Path) -> std::path::PathBuf {
    let to = of.with_extension("parquet");
    let args = ["convert", "--input", &arg(of), "--output", &arg(&to)].map(str::to_string);
    trainer_ok(args);
    to
}

#[test]
fn stats_count_what_is_there() {
    let tmp = tempfile::tempdir().unwrap();
    let file = tmp.path().join("a.jsonl");
    let row = |i: usize| {
        json!({
            "id": i,
            "text": "é".repeat(i),
            "kind": if i.is_multiple_of(3) { "a" } else { "b" },
            "turns": [{"from": "human", "value": "xy"}, {"from": "gpt", "value": "z"}],
            "note": if i.is_multiple_of(2) { Value::Null } else { json!(1.5) },
        })
    };
    write(&file, (1..=10).map(row).chain([row(10), row(3)]));
    std::fs::write(&file, [&std::fs::read(&file).unwrap()[..], b"{bad\n"].concat()).unwrap();
    let text = trainer_ok(data("stats", &[&file], []));
    let parts =
        ["13 rows of 1 file: 12 used", "1 × not a JSON object", "b × 8, a × 4", "2 rows equal"];
    for part in parts {
        assert!(text.contains(part), "no `{part}` in {text}");
    }
    let tokenizer = arg(golden("dpo_curve/tokenizer"));
    let more = ["--json", "True", "--tokenizer", &tokenizer];
    let got: Value = serde_json::from_str(&trainer_ok(data("stats", &[&file], more))).unwrap();
    let column = |name: &str| {
        let all = got["columns"].as_array().unwrap();
        all.iter().find(|c| c["name"] == name).unwrap().clone()
    };
    assert_eq!((&got["totals"]["rows"], &got["totals"]["used"]), (&json!(13), &json!(12)));
    assert_eq!(
        (&got["duplicates"]["exact"], &got["duplicates"]["near"]),
        (&json!(2), &Value::Null)
    );
    let text = column("text");
    assert_eq!((&text["chars"]["min"], &text["chars"]["max"]), (&json!(1), &json!(10)));
    assert_eq!((&text["chars"]["sum"], &text["distinct"]), (&json!(68), &json!(10)));
    // Tokens as the tokenizer itself counts them: two bytes each where it knows no é.
    assert!(text["tokens"]["sum"].as_u64().unwrap() >= 68, "{text}");
    assert_eq!(
        (&column("id")["type"], &column("id")["range"]),
        (&json!("integer"), &json!([1.0, 10.0]))
    );
    assert_eq!(
        (&column("note")["missing"], &column("note")["type"]),
        (&json!(6), &json!("number"))
    );
    assert_eq!(column("kind")["values"], json!([["b", 8], ["a", 4]]));
    let turns = column("turns");
    assert_eq!(turns["type"], "list of {from: string, value: string}");
    assert_eq!((&turns["items"]["p50"], &turns["chars"]["p50"]), (&json!(2), &json!(11)));
    assert_eq!(got["rejects"][0]["row"], 13);
    // Of columns the file's own types are shown; the counts are the same.
    let parquet = columns_of_good(&file);
    let again: Value = serde_json::from_str(&trainer_ok(data("stats", &[&parquet], more))).unwrap();
    assert_eq!(again["columns"][0]["type"], "Int64");
    assert_eq!(again["columns"][1]["chars"], text["chars"]);
    assert_eq!(again["chars"], got["chars"]);
    assert_eq!(again["duplicates"], got["duplicates"]);
}

fn columns_of_good(file: &Path) -> std::path::PathBuf {
    let to = file.with_extension("parquet");
    let args = ["convert", "--input", &arg(file), "--output", &arg(&to), "--max_reject_rate", "1"];
    trainer_ok(args.map(str::to_string));
    to
}

#[test]
fn head_shows_rows_of_any_format() {
    let tmp = tempfile::tempdir().unwrap();
    let file = tmp.path().join("a.jsonl");
    write(&file, (0..9).map(|i| json!({"n": i, "m": [{"c": format!("line {i}\nmore")}]})));
    let parquet = columns(&file);
    for of in [&file, &parquet] {
        let got = trainer_ok(data("head", &[of], ["--rows", "2", "--skip", "3", "--json"]));
        let rows: Vec<Value> = got.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0], json!({"n": 3, "m": [{"c": "line 3\nmore"}]}));
        let got = trainer_ok(data("head", &[of], ["--columns", "m.0.c,n", "--rows", "1"]));
        assert!(got.contains("m.0.c  line 0⏎more") && got.contains(":1"), "{got}");
    }
    trainer_fails(
        data("head", &[tmp.path(), &tmp.path().join("x")], []),
        3,
        &["no file or folder"],
    );
}

#[test]
fn validate_lists_all_that_is_wrong() {
    let tmp = tempfile::tempdir().unwrap();
    let at = |name: &str| tmp.path().join(name);
    let turns = json!([{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]);
    write(&at("a.jsonl"), [json!({"conversations": turns}), json!({"conversations": 5})]);
    trainer_ok(data("validate", &[&at("a.jsonl")], []));
    let formatter = ["--plugin", "sharegpt"];
    trainer_fails(data("validate", &[&at("a.jsonl")], formatter), 3, &["1 rows are rejected"]);
    // Files that can't be read don't hide the others.
    std::fs::write(at("b.jsonl"), b"").unwrap();
    std::fs::write(at("c.json"), b"[{\"conversations\": [").unwrap();
    std::fs::write(at("d.jsonl"), b"PK\x03\x04aaaa").unwrap();
    write(&at("e.jsonl"), [json!({"conversations": turns})]);
    let rejects = at("out/rejects.jsonl");
    std::fs::create_dir(at("out")).unwrap();
    let rejects_arg = arg(&rejects);
    let more = ["--plugin", "sharegpt", "--json", "True", "--rejects", &rejects_arg];
    let output = trainer(data("validate", &[tmp.path()], more));
    assert_eq!(output.status.code(), Some(3));
    let got: Value = serde_json::from_slice(&output.stdout).unwrap();
    let broken: Vec<&str> =
        got["broken"].as_array().unwrap().iter().map(|b| b["problem"].as_str().unwrap()).collect();
    assert_eq!(broken.len(), 3, "{broken:?}");
    for (part, file) in [("zip", "d.jsonl"), ("no rows", "b.jsonl"), ("cut off", "c.json")] {
        assert!(broken.iter().any(|b| b.contains(part) && b.contains(file)), "{broken:?}");
    }
    assert_eq!(got["totals"]["used"], 2);
    assert_eq!(lines(&rejects).len(), 1);
}

#[test]
fn duplicates_are_dropped_and_the_first_is_kept() {
    let tmp = tempfile::tempdir().unwrap();
    let at = |name: &str| tmp.path().join(name);
    let words = |i: usize, changed: usize| {
        let each = (0..60).map(|k| match k == 30 && changed > 0 {
            true => format!("changed{changed}"),
            false => {
                let at = (i * 1009 + k) as u64;
                format!("w{}", (at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) % 9973)
            }
        });
        each.collect::<Vec<_>>().join(" ")
    };
    let mut rows: Vec<Value> = (0..200).map(|i| json!({"id": i, "text": words(i, 0)})).collect();
    // Equal rows in another order of fields, equal texts under another id, near texts.
    rows.push(json!({"text": words(5, 0), "id": 5}));
    rows.push(json!({"id": 300, "text": words(6, 0)}));
    rows.push(json!({"id": 301, "text": words(7, 1).to_uppercase()}));
    rows.push(json!({"id": 302, "text": words(7, 2)}));
    write(&at("a.jsonl"), rows.clone());
    // By whole rows only one is equal.
    let out = at("exact.jsonl");
    let args = |out: &Path, more: &[&str]| {
        let mut all = vec!["--output".to_string(), arg(out)];
        all.extend(more.iter().map(|s| s.to_string()));
        data("dedup", &[&at("a.jsonl")], all.iter().map(String::as_str))
    };
    let said = trainer_ok(args(&out, &[]));
    assert!(said.contains("dropped 1 of 204 rows"), "{said}");
    let dropped = lines(&at("exact.jsonl.dropped.jsonl"));
    assert_eq!((&dropped[0]["row"], &dropped[0]["of"]["row"]), (&json!(201), &json!(6)));
    assert_eq!(dropped[0]["exact"], true);
    assert_eq!(lines(&out), rows[..200].iter().chain(&rows[201..]).cloned().collect::<Vec<_>>());
    let account = json(format!("{}.manifest.json", out.display()));
    assert_eq!(
        (&account["totals"]["used"], &account["totals"]["skipped"]),
        (&json!(203), &json!(1))
    );
    assert_eq!(account["take"]["exact_duplicates"], 1);
    // By their texts, near ones too; the same whatever the threads, formats and a restart.
    let near = ["--method", "minhash", "--columns", "text", "--ngram", "3", "--threshold", "0.7"];
    let out = at("near.jsonl");
    let said = trainer_ok(args(&out, &[&near[..], &["--num_threads", "1"]].concat()));
    assert!(said.contains("dropped 4 of 204 rows: 2 equal to an earlier one, 2 near"), "{said}");
    assert_eq!(lines(&out), rows[..200]);
    let of: Vec<(u64, u64)> = lines(&at("near.jsonl.dropped.jsonl"))
        .iter()
        .map(|d| (d["row"].as_u64().unwrap(), d["of"]["row"].as_u64().unwrap()))
        .collect();
    assert_eq!(of, [(201, 6), (202, 7), (203, 8), (204, 8)]);
    let again = at("again.jsonl");
    trainer_ok(args(&again, &[&near[..], &["--num_threads", "3"]].concat()));
    assert_eq!(std::fs::read(&out).unwrap(), std::fs::read(&again).unwrap());
    let parquet = columns(&at("a.jsonl"));
    let more = ["--output".to_string(), arg(at("near.parquet"))];
    let more: Vec<&str> = more.iter().map(String::as_str).chain(near).collect();
    let said = trainer_ok(data("dedup", &[&parquet], more));
    assert!(said.contains("dropped 4 of 204 rows"), "{said}");
    let stats = trainer_ok(data(
        "stats",
        &[&at("near.parquet")],
        ["--duplicates", "minhash", "--columns", "text", "--ngram", "3", "--threshold", "0.7"],
    ));
    assert!(stats.contains("duplicates: 0 rows equal to an earlier one, 0 near"), "{stats}");
}

#[test]
fn parts_share_no_row_no_group_and_keep_their_strata() {
    let tmp = tempfile::tempdir().unwrap();
    let at = |name: &str| tmp.path().join(name);
    let row = |i: usize| {
        json!({
            "id": i,
            "m": [{"c": format!("prompt {}", i / 3)}],
            "kind": if i.is_multiple_of(10) { "rare" } else { "common" },
            "when": i as f64 / 2.0,
        })
    };
    let rows: Vec<Value> = (0..3000).map(row).collect();
    write(&at("a.jsonl"), rows.clone());
    let source = columns(&at("a.jsonl"));
    let run = |out: &str, more: &[&str]| {
        let out = arg(at(out));
        let mut all = vec!["--output", &out, "--validation_size", "0.1", "--test_size", "150"];
        all.extend(more);
        trainer_ok(data("split", &[&source], all))
    };
    let parts = |out: &str| -> BTreeMap<&'static str, Vec<Value>> {
        let of = |part| lines(&at(&out.replace("{part}", part)));
        ["train", "validation", "test"].map(|part| (part, of(part))).into()
    };
    let said = run("g/{part}.jsonl", &["--group_by", "m.0.c"]);
    assert!(said.contains("train: "), "{said}");
    let got = parts("g/{part}.jsonl");
    let mut all: Vec<u64> = got.values().flatten().map(|r| r["id"].as_u64().unwrap()).collect();
    assert!((297..=303).contains(&got["validation"].len()), "{}", got["validation"].len());
    assert!((147..=153).contains(&got["test"].len()), "{}", got["test"].len());
    all.sort_unstable();
    assert_eq!(all, (0..3000).collect::<Vec<_>>());
    let groups = |part: &str| -> BTreeSet<String> {
        got[part].iter().map(|r| r["m"][0]["c"].to_string()).collect()
    };
    assert!(groups("train").is_disjoint(&groups("validation")));
    assert!(groups("train").is_disjoint(&groups("test")));
    assert!(groups("validation").is_disjoint(&groups("test")));
    for rows in got.values() {
        assert!(rows.is_sorted_by_key(|r| r["id"].as_u64()), "order is kept");
    }
    // Strata.
    run("s/{part}.jsonl", &["--stratify_by", "kind"]);
    let got = parts("s/{part}.jsonl");
    for (part, want) in [("validation", 30), ("test", 15)] {
        let rare = got[part].iter().filter(|r| r["kind"] == "rare").count();
        assert!((want - 1..=want + 1).contains(&rare), "{part}: {rare}");
    }
    // The seed decides; a second run replaces nothing and finishes what is missing.
    run("t/{part}.jsonl", &["--stratify_by", "kind"]);
    assert_eq!(
        std::fs::read(at("s/test.jsonl")).unwrap(),
        std::fs::read(at("t/test.jsonl")).unwrap()
    );
    run("u/{part}.jsonl", &["--stratify_by", "kind", "--seed", "7"]);
    assert_ne!(
        std::fs::read(at("s/test.jsonl")).unwrap(),
        std::fs::read(at("u/test.jsonl")).unwrap()
    );
    std::fs::remove_file(at("t/validation.jsonl")).unwrap();
    std::fs::remove_file(at("t/validation.jsonl.manifest.json")).unwrap();
    let said = run("t/{part}.jsonl", &["--stratify_by", "kind"]);
    assert!(said.contains("was finished before"), "{said}");
    assert_eq!(
        std::fs::read(at("s/validation.jsonl")).unwrap(),
        std::fs::read(at("t/validation.jsonl")).unwrap()
    );
    // Columns keep their types.
    run("p/{part}.parquet", &[]);
    let stats = ["--json", "True", "--duplicates", "none"];
    let stats = trainer_ok(data("stats", &[&at("p/test.parquet")], stats));
    let stats: Value = serde_json::from_str(&stats).unwrap();
    assert_eq!(
        (&stats["totals"]["used"], &stats["columns"][3]["type"]),
        (&json!(150), &json!("Float64"))
    );
    let account = json(at("p/test.parquet.manifest.json"));
    assert_eq!(
        (&account["totals"]["skipped"], &account["take"]["split"]),
        (&json!(2850), &json!("test"))
    );
    // What can't be is said.
    let out = arg(at("x.jsonl"));
    let fails = |more: &[&str], words: &str| {
        let all = [&["--output", out.as_str()][..], more].concat();
        trainer_fails(data("split", &[&source], all), 2, &[words]);
    };
    fails(&[], "--validation_size");
    fails(&["--test_size", "3000"], "hold out fewer");
    fails(&["--test_size", "0.1", "--group_by", "prompt"], "no row has a value at `prompt`");
    fails(&["--test_size", "0.1", "--group_by", "a", "--stratify_by", "b"], "exclude each other");
}

#[test]
fn mixes_follow_weights_and_strategies() {
    let tmp = tempfile::tempdir().unwrap();
    let at = |name: &str| tmp.path().join(name);
    write(&at("a.jsonl"), (0..4000).map(|i| json!({"s": "a", "n": i})));
    write(&at("b.jsonl"), (0..1000).map(|i| json!({"s": "b", "n": i, "extra": [i]})));
    let b = columns(&at("b.jsonl"));
    let sources = [at("a.jsonl"), b];
    let sources: Vec<&Path> = sources.iter().map(|p| p.as_path()).collect();
    let run = |out: &str, more: &[&str]| -> Vec<Value> {
        let path = at(out);
        let out = arg(&path);
        trainer_ok(data("mix", &sources, [&["--output", out.as_str()][..], more].concat()));
        lines(&path)
    };
    let count = |rows: &[Value], s: &str| rows.iter().filter(|r| r["s"] == s).count();
    let in_order = |rows: &[Value], s: &str| -> bool {
        let own = rows.iter().filter(|r| r["s"] == s).map(|r| r["n"].as_u64().unwrap());
        own.enumerate().all(|(i, n)| n == i as u64 % if s == "a" { 4000 } else { 1000 })
    };
    let first = run("first.jsonl", &["--weights", "0.5,0.5"]);
    assert_eq!(count(&first, "b"), 1000);
    assert!((900..1100).contains(&count(&first, "a")), "{}", count(&first, "a"));
    assert_eq!(first.last().unwrap()["s"], "b");
    assert!(in_order(&first, "a") && in_order(&first, "b"));
    // The account knows of the rows that were not drawn.
    let account = json(at("first.jsonl.manifest.json"));
    assert_eq!(account["totals"]["rows"], 5000);
    assert_eq!(account["totals"]["used"], first.len());
    let again = run("again.jsonl", &["--weights", "0.5,0.5", "--num_threads", "1"]);
    assert_eq!(first, again);
    assert_ne!(first, run("seed.jsonl", &["--weights", "0.5,0.5", "--seed", "1"]));
    let over = run("over.jsonl", &["--weights", "0.5,0.5", "--strategy", "all_exhausted"]);
    assert_eq!(count(&over, "a"), 4000);
    assert!(count(&over, "b") > 3000 && in_order(&over, "b"));
    let once = run("once.jsonl", &["--weights", "1,9", "--strategy", "interleave_once"]);
    assert_eq!((count(&once, "a"), count(&once, "b")), (4000, 1000));
    assert!(count(&once[..1000], "b") > 850, "{}", count(&once[..1000], "b"));
    let some = run("some.jsonl", &["--num_rows", "100", "--strategy", "concat"]);
    assert_eq!((count(&some, "a"), some.len()), (100, 100));
    // In columns and shards, whatever interrupts.
    let sharded = |dir: &str| {
        let out = arg(at(dir).join("m.parquet"));
        let more = ["--output", out.as_str(), "--weights", "3,1", "--shard_rows", "700"];
        data("mix", &sources, more)
    };
    trainer_ok(sharded("one"));
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_trainer"))
        .args(sharded("two"))
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(std::time::Duration::from_millis(60));
    let _ = child.kill();
    child.wait().unwrap();
    if !at("two/m.parquet.manifest.json").is_file() {
        trainer_ok(sharded("two"));
    }
    for entry in std::fs::read_dir(at("one")).unwrap().flatten() {
        let name = entry.file_name();
        if name.to_string_lossy().ends_with(".parquet") {
            let other = at("two").join(&name);
            assert_eq!(std::fs::read(entry.path()).unwrap(), std::fs::read(other).unwrap());
        }
    }
    let back = at("back.jsonl");
    let shards = at("one").join("*.parquet");
    trainer_ok(["convert", "--input", &arg(shards), "--output", &arg(&back)].map(str::to_string));
    let rows = lines(&back);
    assert!(in_order(&rows, "a") && in_order(&rows, "b"));
    let out = arg(at("x.jsonl"));
    let wrong = ["--output", out.as_str(), "--weights", "1"];
    trainer_fails(data("mix", &sources, wrong), 2, &["1 weights for 2 sources"]);
    trainer_fails(["data", "mic"].map(str::to_string), 2, &["did you mean `mix`"]);
}

#[test]
fn tokenized_rows_are_kept_and_never_stale() {
    if support::shared("stories260K/hf").is_none() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let at = |name: &str| tmp.path().join(name);
    let rows = |what: &str| {
        let turns = |i: usize| json!([{"from": "human", "value": format!("{what} {i}?")}, {"from": "gpt", "value": "yes"}]);
        write(&at("a.jsonl"), (0..12).map(|i| json!({"conversations": turns(i)})));
    };
    rows("first");
    let run = |out: &str, more: &[&str]| -> String {
        let own = ["--plugin", "sharegpt", "--plugin", "chatml", "--max_steps", "2"];
        let kept = ["--preprocessing_cache", "on"];
        let all = [&own[..], &kept[..], more].concat();
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_trainer"))
            .args(support::stage("sft", &at("a.jsonl"), &at(out), &all))
            .env("XDG_CACHE_HOME", at("cache"))
            .env("NO_COLOR", "1")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", support::text(&output.stderr));
        support::text(&output.stdout)
    };
    let (made, used) = ("kept for later runs", "of an earlier run are used");
    assert!(run("one", &[]).contains(made));
    assert!(run("two", &[]).contains(used));
    assert_eq!(support::adapter(&at("one")), support::adapter(&at("two")));
    let account = |out: &str| json(at(out).join("trainer_manifest.json"))["rows"].clone();
    assert_eq!(account("one"), account("two"));
    // Other settings, options and rows are other entries, and so is a damaged one.
    assert!(run("three", &["--model_max_length", "256"]).contains(made));
    let options = ["--plugin_options", r#"sharegpt={"unknown_role": "reject"}"#];
    assert!(run("four", &options).contains(made));
    rows("other");
    assert!(run("five", &[]).contains(made));
    rows("first");
    assert!(run("six", &[]).contains(used));
    for entry in std::fs::read_dir(at("cache/trainer/preprocessed")).unwrap().flatten() {
        let mut bytes = std::fs::read(entry.path()).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(entry.path(), bytes).unwrap();
    }
    assert!(run("seven", &[]).contains(made));
    assert_eq!(support::adapter(&at("one")), support::adapter(&at("seven")));
}
