//! `trainer plugin check` and what it finds: sound plugins pass, others are caught for what they do.

use std::path::PathBuf;

use trainer::plugin::trial::{self, Report, Request, Status};
use trainer::plugin::{Plugin, PluginError, PluginLimits, shipped_names};

use crate::guest::{self, Guest};
use crate::hostile::{SKIP, list, scores, skips};
use crate::{dist, root};

fn check(plugin: &str, golden: Option<PathBuf>) -> Result<Report, PluginError> {
    trial::check(&Request {
        plugin,
        options: "",
        seed: 42,
        golden: golden.as_deref(),
        limits: PluginLimits::default(),
    })
}

fn check_guest(guest: &Guest) -> Report {
    let (_dir, path) = guest::file(&guest.bytes());
    check(&path, None).unwrap()
}

/// Names of the checks that failed.
fn failed(report: &Report) -> Vec<&'static str> {
    let failed = report.checks.iter().filter(|c| c.status == Status::Failed);
    failed.map(|c| c.name).collect()
}

#[test]
fn every_shipped_plugin_passes() {
    for name in shipped_names() {
        let golden = root().join(format!("plugins/{name}/golden"));
        let report = check(&dist(name), Some(golden)).unwrap();
        assert!(report.verdict().is_ok(), "{name}: {:#?}", report.checks);
        let skipped = report.checks.iter().filter(|c| c.status == Status::Skipped);
        // Only what a plugin without options can't be asked.
        assert!(skipped.into_iter().all(|c| c.name == "schema"), "{name}: {:#?}", report.checks);
    }
}

#[test]
fn a_guest_written_by_hand_passes() {
    let report = check_guest(&Guest::formatter(&skips()).items(SKIP));
    assert_eq!(failed(&report), [""; 0], "{:#?}", report.checks);
}

/// A reward whose value is how many rows it has seen.
fn counting(mask: &str) -> Guest {
    let counted = scores().replace(
        "(i64.store offset=8 (local.get $at) (i64.load (i32.const 512)))",
        &format!(
            "(global.set $seen (i32.add (global.get $seen) (i32.const 1)))
             (f64.store offset=8 (local.get $at)
               (f64.convert_i32_u (i32.and (global.get $seen) (i32.const {mask}))))"
        ),
    );
    Guest::reward(&counted).items("(global $seen (mut i32) (i32.const 0))")
}

#[test]
fn a_plugin_that_keeps_state_between_rows_is_caught() {
    let report = check_guest(&counting("0x7fffffff"));
    assert_eq!(failed(&report), ["again", "shuffled", "fresh"], "{:#?}", report.checks);
    let faults = &report.checks.iter().find(|c| c.name == "again").unwrap().faults;
    assert!(
        faults[0].contains("a second time, row 0") && faults[0].contains("201.0"),
        "{faults:?}"
    );
    assert!(faults.last().unwrap().contains("more"), "{faults:?}");
    // One that changes only once, on the hundredth row.
    let report = check_guest(&counting("64"));
    assert!(failed(&report).contains(&"fresh") || failed(&report).contains(&"again"));
    let error = report.verdict().unwrap_err().to_string();
    assert!(error.contains("`evil` 1.0.0 did not pass"), "{error}");
}

#[test]
fn a_plugin_that_looks_at_the_size_of_its_calls_is_caught() {
    let sized = scores().replace(
        "(i64.store offset=8 (local.get $at) (i64.load (i32.const 512)))",
        "(f64.store offset=8 (local.get $at) (f64.convert_i32_u (local.get $rows)))",
    );
    let report = check_guest(&Guest::reward(&sized));
    assert_eq!(failed(&report), ["batches", "shuffled", "fresh"], "{:#?}", report.checks);
}

#[test]
fn a_plugin_that_traps_on_long_texts_is_caught_with_the_text() {
    // Reads one column `evil` as utf8, and traps on texts of more than 100,000 bytes.
    let body = format!(
        "(local $i i32) (local $at i32)
         (local.set $at (i32.load offset=12 (local.get $columns)))
         (loop $look
           (if (i32.lt_u (local.get $i) (local.get $rows)) (then
             (if (i32.gt_u (i32.load offset=4 (local.get $at)) (i32.const 100000)) (then unreachable))
             (local.set $at (i32.add (local.get $at) (i32.const 8)))
             (local.set $i (i32.add (local.get $i) (i32.const 1)))
             (br $look))))
         (local.set $i (i32.const 0))
         {}",
        skips().replace("(local $i i32)", "")
    );
    let reads = r#"
      (data (i32.const 88) "\00\02\00\00\01\00\00\00")
      (data (i32.const 128) "\00\00\00\00\00\02\00\00\01\00\00\00\00")
      (data (i32.const 512) "\10\00\00\00\04\00\00\00\00\00")"#;
    let report = check_guest(&Guest::formatter(&body).items(SKIP).items(reads));
    assert_eq!(failed(&report), ["hostile"], "{:#?}", report.checks);
    let faults = &report.checks.iter().find(|c| c.name == "hostile").unwrap().faults;
    assert!(faults.iter().any(|f| f.starts_with("a long word in `evil`")), "{faults:?}");
}

#[test]
fn a_plugin_near_its_limits_is_caught() {
    let guest = Guest::formatter(&skips()).items(SKIP).memory("(memory (export \"memory\") 3000)");
    assert_eq!(failed(&check_guest(&guest)), ["limits"]);
}

#[test]
fn a_plugin_that_fails_on_sound_rows_is_caught() {
    let report = check_guest(&Guest::formatter(&list("i32.const 1024", "i32.const 0")));
    assert_eq!(failed(&report), ["again"], "{:#?}", report.checks);
}

#[test]
fn golden_rows_that_differ_are_shown() {
    let dir = tempfile::tempdir().unwrap();
    let golden = dir.path().join("golden");
    std::fs::create_dir_all(golden.join("body")).unwrap();
    let write = |name: &str, text: &str| std::fs::write(golden.join(name), text).unwrap();
    write("in.jsonl", "{\"text\":\"a\"}\n{\"text\":\"\"}\n");
    write("out.jsonl", "{\"keep\":[{\"text\":\"a\"}]}\n{\"keep\":[]}\n");
    write("body/in.jsonl", "{\"body\":\"b\"}\n");
    write("body/out.jsonl", "{\"keep\":[{\"text\":\"b\"}]}\n");
    write("body/options.json", "{\"column\":\"body\"}");
    let report = check(&dist("text"), Some(golden.clone())).unwrap();
    assert_eq!(failed(&report), ["golden"]);
    let golden_check = report.checks.iter().find(|c| c.name == "golden").unwrap();
    assert_eq!(golden_check.faults.len(), 1, "{:?}", golden_check.faults);
    assert!(golden_check.faults[0].contains("golden, row 2"), "{:?}", golden_check.faults);
    assert!(golden_check.detail.starts_with("3 rows"), "{}", golden_check.detail);
    std::fs::write(golden.join("out.jsonl"), "not json").unwrap();
    let error = check(&dist("text"), Some(golden)).unwrap_err().to_string();
    assert!(error.contains("out.jsonl") && error.contains("line 1"), "{error}");
}

#[test]
fn the_second_start_comes_from_the_cache() {
    let guest = counting("0x12345");
    let (_dir, path) = guest::file(&guest.bytes());
    let load = || Plugin::load(&path, "", 0, PluginLimits::default()).unwrap();
    load();
    let second = load();
    assert!(second.inspection().cached);
    let batch = crate::rows::batch(&[r#"{"a":1}"#; 5]);
    let values: Vec<f64> =
        second.score(&[batch]).unwrap().iter().map(|s| s.value.unwrap()).collect();
    assert_eq!(values, [1.0, 0.0, 1.0, 4.0, 5.0], "1 to 5, masked");
}
