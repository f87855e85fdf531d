//! Distillation end to end: on and off policy, resume, a teacher that can't be compared.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::Path;

use serde_json::Value;
use support::{
    adapter, arg, golden, json, log_rows, losses, shared, trainer_fails, trainer_ok,
    with_checkpoint,
};

fn run(command: &str, more: &[(&str, &str)]) -> Vec<String> {
    let base = arg(shared("stories260K/hf").unwrap());
    let mut args = vec![command.to_string()];
    for (name, value) in [
        ("model_name_or_path", base.as_str()),
        ("per_device_train_batch_size", "8"),
        ("logging_steps", "1"),
        ("report_to", "none"),
    ]
    .iter()
    .chain(more)
    {
        args.extend([format!("--{name}"), value.to_string()]);
    }
    args
}

/// The shared model, trained as a whole until it says other things.
fn teacher(dir: &Path) -> String {
    let rows = arg(golden("sft_curve/rows.jsonl"));
    let out = arg(dir);
    trainer_ok(run(
        "sft",
        &[
            ("train_file_dir", &rows),
            ("output_dir", &out),
            ("use_peft", "False"),
            ("learning_rate", "1e-3"),
            ("max_steps", "30"),
            ("eval_strategy", "no"),
        ],
    ));
    out
}

fn mean(rows: &[Value], name: &str) -> f64 {
    let values: Vec<f64> = rows.iter().filter_map(|r| r[name].as_f64()).collect();
    values.iter().sum::<f64>() / values.len() as f64
}

#[test]
fn a_student_comes_to_say_what_its_teacher_says() {
    if shared("stories260K/hf").is_none() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let teacher = teacher(&tmp.path().join("teacher"));
    let data = arg(golden("sft_curve/rows.jsonl"));
    for (name, more) in [
        ("own", vec![("beta", "1"), ("lmbda", "1")]),
        ("teachers", vec![("lmbda", "0"), ("seq_kd", "True"), ("beta", "0.5")]),
        ("datas", vec![("lmbda", "0"), ("beta", "0"), ("distill_temperature", "2")]),
        ("whole", vec![("use_peft", "False"), ("lmbda", "0.5"), ("beta", "0.1")]),
    ] {
        let out = tmp.path().join(name);
        let out_arg = arg(&out);
        let mut all = vec![
            ("teacher_model_name_or_path", teacher.as_str()),
            ("train_file_dir", &data),
            ("output_dir", &out_arg),
            ("max_completion_length", "24"),
            ("learning_rate", "2e-3"),
            ("max_steps", "30"),
            ("eval_strategy", "steps"),
            ("eval_steps", "30"),
            ("validation_split_percentage", "20"),
        ];
        all.extend(more);
        trainer_ok(run("distill", &all));
        let rows = log_rows(&out);
        let (first, last) = (&rows[..5], &rows[25..]);
        assert!(mean(last, "loss") < 0.75 * mean(first, "loss"), "{name}: {rows:?}");
        assert!(mean(last, "teacher_agreement") > mean(first, "teacher_agreement"), "{name}");
        let own = mean(&rows, "on_policy");
        match name {
            "own" => assert_eq!(own, 1.0),
            "whole" => assert!(own > 0.2 && own < 0.8),
            _ => assert_eq!(own, 0.0),
        }
        // A teacher's answers are at most as long as asked for; the data's have no length here.
        let length = mean(&rows, "completions/mean_length");
        assert!(if name == "datas" { length.is_nan() } else { length <= 25.0 }, "{name}");
        let results = json(out.join("all_results.json"));
        assert!(results["eval_loss"].as_f64().unwrap() > 0.0);
        assert!(results["eval_teacher_agreement"].as_f64().unwrap() > 0.5);
    }
}

#[test]
fn a_resumed_run_ends_the_same() {
    if shared("stories260K/hf").is_none() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let teacher = teacher(&tmp.path().join("teacher"));
    let data = arg(golden("sft_curve/rows.jsonl"));
    let (whole, again) = (tmp.path().join("whole"), tmp.path().join("again"));
    let distill = |out: &Path, more: &[(&str, &str)]| {
        let out = arg(out);
        let mut all = vec![
            ("teacher_model_name_or_path", teacher.as_str()),
            ("train_file_dir", &data),
            ("output_dir", &out),
            ("max_completion_length", "16"),
            ("lmbda", "0.6"),
            ("max_steps", "8"),
            ("save_steps", "4"),
            ("eval_strategy", "no"),
        ];
        all.extend(more);
        run("distill", &all)
    };
    trainer_ok(distill(&whole, &[]));
    with_checkpoint(&whole, 4, &again);
    trainer_ok(distill(&again, &[("resume_from_checkpoint", "True")]));
    assert!(adapter(&whole) == adapter(&again), "the resumed adapter differs");
    assert_eq!(losses(&whole)[4..], losses(&again)[4..]);
    let other = [("resume_from_checkpoint", "True"), ("beta", "0.2")];
    trainer_fails(distill(&again, &other), 2, &["distillation"]);
}

#[test]
fn a_teacher_of_other_tokens_is_refused() {
    let Some(base) = shared("stories260K/hf") else { return };
    let tmp = tempfile::tempdir().unwrap();
    let out = arg(tmp.path().join("out"));
    let data = tmp.path().join("data.jsonl");
    let turns = r#"{"conversations": [{"from": "human", "value": "Tell me a story."}, {"from": "gpt", "value": "Once upon a time."}]}"#;
    std::fs::write(&data, format!("{turns}\n").repeat(8)).unwrap();
    let base = arg(base);
    let data = arg(&data);
    // The same model under a tokenizer with one token more.
    let other = tmp.path().join("other");
    std::fs::create_dir(&other).unwrap();
    for entry in std::fs::read_dir(&base).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            std::fs::copy(&path, other.join(path.file_name().unwrap())).unwrap();
        }
    }
    let tokenizer = std::fs::read_to_string(other.join("tokenizer.json")).unwrap();
    let mut tokenizer: Value = serde_json::from_str(&tokenizer).unwrap();
    tokenizer["added_tokens"].as_array_mut().unwrap().push(serde_json::json!({
        "id": 512, "content": "<extra>", "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true,
    }));
    std::fs::write(other.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let other = arg(&other);
    let all = |teacher: &'static str| {
        let mut all = vec![("train_file_dir", data.as_str()), ("output_dir", out.as_str())];
        all.extend([("plugin", "sharegpt"), ("plugin", "chatml")]);
        match teacher {
            "other" => all.push(("teacher_model_name_or_path", other.as_str())),
            "base" => all.push(("teacher_model_name_or_path", base.as_str())),
            _ => {}
        }
        all
    };
    trainer_fails(run("distill", &all("other")), 2, &["another tokenizer", "<extra>"]);
    trainer_fails(run("distill", &all("none")), 2, &["--teacher_model_name_or_path", "missing"]);
    // Prompts without answers do where none is needed.
    let prompts = tmp.path().join("prompts.jsonl");
    std::fs::write(&prompts, "{\"prompt\": \"Tell me a story.\", \"answer\": \"x\"}\n".repeat(8))
        .unwrap();
    let prompts = arg(&prompts);
    let mut all = all("base");
    all[0].1 = &prompts;
    all[2].1 = "prompt";
    all.extend([("max_completion_length", "8"), ("max_steps", "1")]);
    trainer_fails(run("distill", &all), 3, &["has no answer", "--lmbda 1"]);
    all.push(("lmbda", "1"));
    trainer_ok(run("distill", &all));
}
