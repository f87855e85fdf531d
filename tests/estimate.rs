//! Memory said beforehand against memory taken.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use serde_json::Value;
use support::{arg, shared, trainer, trainer_fails, trainer_ok};

/// The peak that the last screen names, in megabytes.
fn peak(screen: &str) -> f64 {
    let line = screen.lines().find(|l| l.ends_with(" MB at the peak")).expect(screen);
    let digits: String = line.chars().filter(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}

#[test]
fn what_is_said_is_what_is_taken() {
    let Some(model) = shared("stories260K/hf") else { return };
    let dir = tempfile::tempdir().unwrap();
    let rows = dir.path().join("rows.jsonl");
    let text =
        "Once upon a time there was a little girl who liked to play in the garden. ".repeat(60);
    let lines: String =
        (0..24).map(|_| format!("{}\n", serde_json::json!({ "text": text }))).collect();
    std::fs::write(&rows, lines).unwrap();
    let (model, rows, out) = (arg(&model), arg(&rows), arg(dir.path().join("out")));
    let shape = [
        "--model_name_or_path",
        &model,
        "--model_max_length",
        "512",
        "--per_device_train_batch_size",
        "16",
    ];
    let estimate = |more: &[&str]| -> Value {
        let first = ["estimate", "sft", "--json", "True"];
        let text = trainer_ok(first.iter().chain(&shape).chain(more));
        serde_json::from_str(&text).unwrap()
    };
    let said = estimate(&[]);
    assert_eq!(said["tokens"], 8192);
    let first = ["sft", "--train_file_dir", &rows, "--plugin", "text", "--output_dir", &out];
    let rest = ["--max_steps", "1", "--eval_strategy", "no", "--report_to", "none"];
    let screen = trainer_ok(first.iter().chain(&shape).chain(&rest));
    let number = |value: &Value, key: &str| value[key].as_f64().unwrap() / 1e6;
    let (total, taken) = (number(&said, "total"), peak(&screen));
    assert!((total / taken - 1.0).abs() < 0.2, "{total} MB said, {taken} MB taken");
    // What saves memory is said to.
    let less = estimate(&["--gradient_checkpointing", "True", "--load_in_8bit", "True"]);
    assert!(number(&less, "activations") < number(&said, "activations") / 2.0, "{less}");
    assert!(number(&less, "weights") < number(&said, "weights"), "{less}");
}

#[test]
fn a_run_that_can_not_fit_says_so_before_it_loads() {
    let Some(model) = shared("stories260K/hf") else { return };
    let dir = tempfile::tempdir().unwrap();
    // A configuration of 30 billion values over files that don't hold them.
    let huge = dir.path().join("huge");
    std::fs::create_dir_all(&huge).unwrap();
    for name in ["model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(model.join(name), huge.join(name)).unwrap();
    }
    let mut config = support::json(model.join("config.json"));
    for (key, value) in
        [("hidden_size", 8192), ("intermediate_size", 28_672), ("num_hidden_layers", 80)]
    {
        config[key] = value.into();
    }
    std::fs::write(huge.join("config.json"), config.to_string()).unwrap();
    let (huge, out) = (arg(&huge), arg(dir.path().join("out")));
    let screen = trainer_ok(["estimate", "sft", "--model_name_or_path", &huge]);
    let rows = arg(support::golden("sft_curve/rows.jsonl"));
    let run =
        ["sft", "--model_name_or_path", &huge, "--train_file_dir", &rows, "--output_dir", &out];
    if screen.contains("it does not fit") {
        trainer_fails(run, 2, &["this run needs about", "--load_in_4bit True"]);
    } else {
        eprintln!("skipped: this machine has room for it");
        assert!(!trainer(run).status.success());
    }
}
