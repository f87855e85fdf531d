//! `trainer plugin` and what plugins' faults look like on the command line, by the real binary.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::guest::{self, Guest};
use crate::hostile::{SKIP, scores, skips};
use crate::{dist, root};

fn trainer(args: &[&str], cache: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_trainer"))
        .args(args)
        .env("NO_COLOR", "1")
        .env("TRAINER_CACHE_DIR", cache)
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap()
}

/// Exit code, standard output and standard error.
fn run(args: &[&str]) -> (i32, String, String) {
    let output = trainer(args, Path::new(env!("CARGO_TARGET_TMPDIR")));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

#[test]
fn check_takes_a_name_a_file_or_a_folder() {
    let folder = root().join("plugins/accuracy").display().to_string();
    for plugin in ["accuracy", &dist("accuracy"), &folder] {
        let (code, out, err) = run(&["plugin", "check", plugin, "--json"]);
        assert_eq!(code, 0, "{plugin}: {out}{err}");
        let report = json(&out);
        assert_eq!(report["passed"], true);
        let golden = &report["checks"][2];
        assert_eq!(golden["check"], "golden");
        // A name alone has no folder beside it.
        let status = if plugin == "accuracy" { "skipped" } else { "ok" };
        assert_eq!(golden["status"], status, "{plugin}: {golden}");
    }
    let (code, out, _) = run(&["plugin", "check", &folder]);
    assert_eq!(code, 0);
    assert!(out.starts_with("accuracy ") && out.contains("  ok       hostile"), "{out}");
}

#[test]
fn a_plugin_that_does_not_pass_ends_with_4() {
    let counting = scores().replace(
        "(i64.load (i32.const 512))",
        "(i64.reinterpret_f64 (f64.convert_i32_u (local.get $rows)))",
    );
    let (_dir, path) = guest::file(&Guest::reward(&counting).bytes());
    let (code, out, err) = run(&["plugin", "check", &path]);
    assert_eq!(code, 4, "{out}{err}");
    assert!(out.contains("  failed   batches") && out.contains("instead of"), "{out}");
    assert!(err.contains("plugin `evil` 1.0.0 did not pass 3 of"), "{err}");
    let (code, out, _) = run(&["plugin", "check", &path, "--json"]);
    assert_eq!((code, &json(&out)["passed"]), (4, &Value::Bool(false)));
}

#[test]
fn bench_and_inspect_tell_programs_and_people() {
    let (code, out, err) = run(&["plugin", "bench", "length", "--rows", "2000", "--json"]);
    assert_eq!(code, 0, "{err}");
    let figures = json(&out);
    for key in ["rows_per_second", "megabytes_per_second", "nanoseconds_per_row", "fuel_per_row"] {
        assert!(figures[key].as_f64().unwrap() > 0.0, "{key}: {figures}");
    }
    let crossing = figures["crossing_share"].as_f64().unwrap();
    assert!((0.0..=1.0).contains(&crossing), "{crossing}");
    let file = root().join("plugins/alpaca/golden/in.jsonl").display().to_string();
    let (code, out, err) = run(&["plugin", "bench", "alpaca", "--input", &file]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("rows/s") && out.contains("crossing"), "{out}");
    for template in ["chatml", "vicuna"] {
        assert_eq!(run(&["plugin", "bench", template, "--rows", "100"]).0, 0);
    }

    let (code, out, _) = run(&["plugin", "inspect", "sharegpt"]);
    assert_eq!(code, 0);
    for part in ["formatter (contract 0.1.0)", "trainer:plugin/host@0.1.0", "conversations (json)"]
    {
        assert!(out.contains(part), "no {part} in {out}");
    }
    assert!(out.contains(r#"unknown_role ("drop" | "reject"; default "drop")"#), "{out}");
    assert_eq!(run(&["plugin", "inspect"]).0, 2);
    assert_eq!(run(&["plugin", "polish", "x"]).0, 2);
    assert_eq!(run(&["plugin", "check", "x", "--bogus"]).0, 2);
    assert_eq!(run(&["plugin", "check", "no-such-plugin"]).0, 4);
}

#[test]
fn the_cache_is_the_users_own_and_can_be_left_out() {
    use std::os::unix::fs::PermissionsExt;

    let dir = tempfile::tempdir().unwrap();
    let inspect = |cache: &Path| {
        let output = trainer(&["plugin", "inspect", "text", "--json"], cache);
        json(&String::from_utf8(output.stdout).unwrap())["start_cached"].as_bool().unwrap()
    };
    let cache = dir.path().join("cache");
    assert!(!inspect(&cache) && inspect(&cache));
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&cache.join("plugins")), 0o700);
    let entry = std::fs::read_dir(cache.join("plugins")).unwrap().next().unwrap().unwrap().path();
    assert_eq!(mode(&entry), 0o600);
    // A damaged entry is as good as none.
    std::fs::write(&entry, b"\x7fELF").unwrap();
    assert!(!inspect(&cache) && inspect(&cache));
    // A place where nothing can be written costs nothing but time.
    let file = dir.path().join("file");
    std::fs::write(&file, b"").unwrap();
    assert!(!inspect(&file) && !inspect(&file));
    let output = Command::new(env!("CARGO_BIN_EXE_trainer"))
        .args(["plugin", "inspect", "text", "--json"])
        .env("TRAINER_CACHE_DIR", &cache)
        .env("TRAINER_PLUGIN_CACHE", "off")
        .output()
        .unwrap();
    assert_eq!(json(&String::from_utf8(output.stdout).unwrap())["start_cached"], false);
}

#[test]
fn rows_on_which_a_plugin_traps_are_rejected_and_listed() {
    // Traps on texts of more than 3 bytes in the column `evil`.
    let body = format!(
        "(local $i i32) (local $at i32)
         (local.set $at (i32.load offset=12 (local.get $columns)))
         (loop $look
           (if (i32.lt_u (local.get $i) (local.get $rows)) (then
             (if (i32.gt_u (i32.load offset=4 (local.get $at)) (i32.const 3)) (then unreachable))
             (local.set $at (i32.add (local.get $at) (i32.const 8)))
             (local.set $i (i32.add (local.get $i) (i32.const 1)))
             (br $look))))
         (local.set $i (i32.const 0))
         {}",
        skips().replace("(local $i i32)", "")
    );
    let reads = r#"
      (data (i32.const 128) "\00\00\00\00\00\02\00\00\01\00\00\00\00")
      (data (i32.const 512) "\10\00\00\00\04\00\00\00\00\00")"#;
    let (dir, path) = guest::file(&Guest::formatter(&body).items(SKIP).items(reads).bytes());
    let at = |name: &str| dir.path().join(name).display().to_string();
    let row = |text: &str| format!("{{\"evil\":\"{text}\"}}\n");
    let mut lines = vec![row("abc"); 700];
    lines[612] = row("abcd");
    std::fs::write(at("in.jsonl"), lines.concat()).unwrap();
    let convert =
        ["convert", "--plugin", &path, "--input", &at("in.jsonl"), "--output_schema", "text"];
    let out = ["--output", &at("out.jsonl"), "--rejects", &at("rejects.jsonl")];
    let (code, _, err) = run(&[&convert[..], &out[..]].concat());
    assert_eq!(code, 0, "{err}");
    let rejects = std::fs::read_to_string(at("rejects.jsonl")).unwrap();
    assert_eq!(rejects.lines().count(), 1, "{rejects}");
    let reject = json(rejects.lines().next().unwrap());
    assert_eq!(reject["row"], 613, "{reject}");
    assert!(reject["reason"].as_str().unwrap().starts_with("the plugin was stopped"), "{reject}");
}
