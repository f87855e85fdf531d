//! What the end-to-end tests share: the binary, the data, and small readers of its results.
#![allow(dead_code)]

pub mod ranks;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The repository's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("host/ has a parent").to_path_buf()
}

/// A file or folder of the shared test data, or `None` (with a printed reason) where it is absent.
pub fn shared(name: &str) -> Option<PathBuf> {
    let base = std::env::var_os("TRAINER_TEST_DATA")
        .map_or_else(|| root().join("../shared/data"), PathBuf::from);
    let path = base.join(name);
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: {} is absent; set TRAINER_TEST_DATA", path.display());
    None
}

/// Runs `trainer` with these arguments and no terminal.
pub fn trainer<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Output {
    Command::new(env!("CARGO_BIN_EXE_trainer"))
        .args(args)
        .env("NO_COLOR", "1")
        .env("TRAINER_CACHE_DIR", env!("CARGO_TARGET_TMPDIR"))
        .stdin(std::process::Stdio::null())
        .output()
        .expect("the binary starts")
}

/// As [`trainer`], which must succeed; its standard output.
pub fn trainer_ok<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> String {
    let output = trainer(args);
    assert!(
        output.status.success(),
        "exit {:?}\n--- stdout\n{}\n--- stderr\n{}",
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// As [`trainer`], which must fail with `code` and mention every one of `fragments`.
pub fn trainer_fails<S: AsRef<std::ffi::OsStr>>(
    args: impl IntoIterator<Item = S>,
    code: i32,
    fragments: &[&str],
) -> String {
    let output = trainer(args);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "stderr: {stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    for fragment in fragments {
        assert!(stderr.contains(fragment), "no `{fragment}` in: {stderr}");
    }
    stderr
}

/// Bytes as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A JSON file.
pub fn json(path: impl AsRef<Path>) -> serde_json::Value {
    let path = path.as_ref();
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// `(step, loss)` of every training row of a `trainer_state.json`.
pub fn losses(output_dir: &Path) -> Vec<(u64, f64)> {
    let state = json(output_dir.join("trainer_state.json"));
    let rows = state["log_history"].as_array().expect("log_history").clone();
    rows.iter().filter_map(|row| Some((row["step"].as_u64()?, row["loss"].as_f64()?))).collect()
}

/// A path as an argument.
pub fn arg(path: impl AsRef<Path>) -> String {
    path.as_ref().display().to_string()
}

/// Step of the newest finished checkpoint of a run.
pub fn newest_checkpoint(output_dir: &Path) -> Option<u64> {
    let names = std::fs::read_dir(output_dir).into_iter().flatten().flatten();
    names.filter_map(|e| e.file_name().to_str()?.strip_prefix("checkpoint-")?.parse().ok()).max()
}

/// A golden file or folder.
pub fn golden(name: &str) -> PathBuf {
    root().join("tests/golden").join(name)
}

/// A stage's arguments: the shared model under the goldens' tokenizer, every update logged, no
/// event files.
pub fn stage(command: &str, data: &Path, out: &Path, more: &[&str]) -> Vec<String> {
    let model = arg(shared("stories260K/hf").expect("shared data"));
    let (out, data) = (arg(out), arg(data));
    let tokenizer = arg(golden("dpo_curve/tokenizer"));
    let common = [
        command,
        "--model_name_or_path",
        &model,
        "--tokenizer_name_or_path",
        &tokenizer,
        "--train_file_dir",
        &data,
        "--output_dir",
        &out,
        "--logging_steps",
        "1",
        "--report_to",
        "none",
    ];
    common.iter().chain(more).map(|s| s.to_string()).collect()
}

/// The training rows of a `trainer_state.json`.
pub fn log_rows(output_dir: &Path) -> Vec<serde_json::Value> {
    let state = json(output_dir.join("trainer_state.json"));
    let rows = state["log_history"].as_array().expect("log_history").clone();
    rows.into_iter().filter(|row| row["loss"].is_f64()).collect()
}

/// Checks a metric of every update against another trainer's, where that has one.
pub fn follows(
    name: &str,
    rows: &[serde_json::Value],
    key: &str,
    wanted: &serde_json::Value,
    (relative, absolute): (f64, f64),
) {
    let wanted = wanted.as_array().expect("a list");
    assert_eq!(rows.len(), wanted.len(), "{name}: {key}");
    for (i, (row, want)) in rows.iter().zip(wanted).enumerate() {
        let Some(want) = want.as_f64() else {
            assert!(row.get(key).is_none(), "{name}, update {}: {key}", i + 1);
            continue;
        };
        let got = row[key].as_f64().unwrap_or_else(|| panic!("{name}: no {key}"));
        let near = (got - want).abs() <= relative * want.abs() + absolute;
        assert!(near, "{name}, update {}: {key} {got} {want}", i + 1);
    }
}

/// The bytes of an adapter's weights.
pub fn adapter(dir: &Path) -> Vec<u8> {
    std::fs::read(dir.join("adapter_model.safetensors")).expect("an adapter")
}

/// A folder that holds a copy of one checkpoint of a run and nothing else.
pub fn with_checkpoint(run: &Path, step: u64, into: &Path) {
    std::fs::create_dir(into).expect("a new folder");
    let copied = Command::new("cp")
        .args(["-r", &arg(run.join(format!("checkpoint-{step}"))), &arg(into)])
        .status()
        .expect("cp starts");
    assert!(copied.success());
}

/// The numbers of `golden/families.py`: splitmix64 of name and index, in [-0.5, 0.5).
pub fn uniform(name: &str, count: usize) -> Vec<f32> {
    let state = name
        .bytes()
        .fold(0xCBF2_9CE4_8422_2325u64, |s, b| (s ^ u64::from(b)).wrapping_mul(0x100_0000_01B3));
    (1..=count as u64)
        .map(|i| {
            let x = state.wrapping_add(i.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            ((x ^ (x >> 31)) >> 40) as f32 / (1u32 << 24) as f32 - 0.5
        })
        .collect()
}

/// Its `fill`: matrices at 0.6, vectors at 0.4, and around `offset` those whose name ends in `weight`.
pub fn filled(name: &str, shape: &[usize], offset: f32) -> candle_core::Tensor {
    let vector = shape.len() == 1;
    let scale = if vector { 0.4f32 } else { 0.6 };
    let offset = if vector && name.ends_with("weight") { offset } else { 0.0 };
    let values: Vec<f32> =
        uniform(name, shape.iter().product()).iter().map(|u| u * scale + offset).collect();
    candle_core::Tensor::from_vec(values, shape, &candle_core::Device::Cpu).expect("a shape")
}

/// Where models of tests are computed: the CPU, or what `TRAINER_TEST_DEVICE` names (`cuda`).
#[allow(dead_code)]
pub fn device() -> candle_core::Device {
    let wanted = std::env::var("TRAINER_TEST_DEVICE").unwrap_or_else(|_| "cpu".into());
    let choice = wanted.parse().expect("TRAINER_TEST_DEVICE is auto, cpu, cuda or cuda:N");
    trainer::device::open(choice).expect("the device that TRAINER_TEST_DEVICE names")
}
