//! The command line itself: help, mistakes, plugins, the quick start, and the commands around a run.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use support::{arg, json, shared, trainer, trainer_fails, trainer_ok};

#[test]
fn help_and_version_are_there_for_every_command() {
    let all = trainer_ok(["--help"]);
    for command in ["sft", "preview", "merge", "generate", "chat", "import", "plugin", "quickstart"]
    {
        assert!(all.contains(command), "{command}");
        let own = trainer_ok([command, "--help"]);
        assert!(own.contains(&format!("trainer {command}")), "{own}");
    }
    assert!(trainer_ok(["--version"]).starts_with("trainer 0."));
    let sft = trainer_ok(["sft", "--help"]);
    for flag in ["--lora_rank", "--packing", "--resume_from_checkpoint", "Example:"] {
        assert!(sft.contains(flag), "{flag}");
    }
}

#[test]
fn mistakes_are_answered_with_what_to_do() {
    trainer_fails(["quickstrat"], 2, &["did you mean `quickstart`?"]);
    trainer_fails(["merge"], 2, &["`--peft_model_path` is missing", "`--output_dir` is missing"]);
    trainer_fails(["sft", "stray"], 2, &["`stray` is not a flag", "`--output_dir` is missing"]);
    trainer_fails(
        ["sft", "--lora_rnk", "4", "--seed", "x", "--packing", "maybe"],
        2,
        &[
            "did you mean `lora_rank`?",
            "`seed` is `x`",
            "True or False",
            "`--train_file_dir` is missing",
        ],
    );
    trainer_fails(["generate", "--model", "/nowhere", "--prompt", "x"], 3, &["/nowhere"]);
    trainer_fails(
        ["import", "/nowhere.gguf", "--output_dir", "/nowhere/out"],
        3,
        &["/nowhere.gguf", "check the path"],
    );
    trainer_fails(["plugin", "inspect", "/nowhere.wasm"], 4, &["nowhere"]);
}

#[test]
fn a_configuration_file_means_the_same_as_flags_and_flags_win() {
    let Some(model) = shared("stories260K/hf") else { return };
    let tmp = tempfile::tempdir().unwrap();
    let data = support::root().join("datasets/sft");
    let file = tmp.path().join("run.yaml");
    let text = format!(
        "model_name_or_path: {}\ntrain_file_dir: {}\nplugin: [sharegpt, vicuna]\nmax-steps: 1\n\
         eval_strategy: 'no'\nsave_strategy: 'no'\nlora_r: 2\ncutoff_len: 200\noutput_dir: {}\n",
        arg(&model),
        arg(&data),
        arg(tmp.path().join("ignored"))
    );
    std::fs::write(&file, &text).unwrap();
    let out = tmp.path().join("out");
    trainer_ok(["--config", &arg(&file), "--output-dir", &arg(&out), "--lora_rank=3"]);
    let adapter = json(out.join("adapter_config.json"));
    assert_eq!(adapter["r"], 3);
    let config = json(out.join("trainer_config.json"));
    assert_eq!(config["model_max_length"], 200);
    // The rows that did not fit are in the manifest.
    let rows = json(out.join("trainer_manifest.json"))["rows"].to_string();
    assert!(rows.contains("truncated"), "{rows}");
    std::fs::write(&file, format!("{text}lora_ranks: 4\n")).unwrap();
    trainer_fails(
        ["--config", &arg(&file), "--output_dir", &arg(&out)],
        2,
        &["run.yaml", "lora_ranks", "did you mean"],
    );
    // The folder holds a finished run now.
    std::fs::write(&file, text).unwrap();
    trainer_fails(["--config", &arg(&file), "--output_dir", &arg(&out)], 2, &["finished run"]);
}

#[test]
fn plugins_are_inspected_by_name() {
    let text = trainer_ok(["plugin", "inspect", "sharegpt", "--json"]);
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["world"], "formatter");
    assert!(value["columns"].as_array().unwrap().iter().any(|c| c["name"] == "conversations"));
    assert!(
        value["imports"]
            .as_array()
            .unwrap()
            .iter()
            .all(|i| i.as_str().unwrap().starts_with("trainer:plugin/"))
    );
}

#[test]
fn the_quick_start_ends_with_a_model_that_answers() {
    let tmp = tempfile::tempdir().unwrap();
    let root = tmp.path().join("q");
    let text = trainer_ok([
        "quickstart",
        "--output_dir",
        &arg(&root),
        "--pretrain_epochs",
        "0.5",
        "--sft_epochs",
        "2",
    ]);
    for part in ["1/4", "2/4", "3/4", "4/4", "before", "after", "trainer chat --model"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    for file in
        ["base/model.safetensors", "adapter/adapter_model.safetensors", "merged/config.json"]
    {
        assert!(root.join(file).is_file(), "{file}");
    }
    let answers = root.join("answers.jsonl");
    let prompts = root.join("prompts.txt");
    std::fs::write(&prompts, "What is the capital of France?\n\nHello!\n").unwrap();
    let ask = |seed: &str, out: &std::path::Path| {
        trainer_ok([
            "generate",
            "--model",
            &arg(root.join("merged")),
            "--data_file",
            &arg(&prompts),
            "--output_file",
            &arg(out),
            "--temperature",
            "0.9",
            "--top_p",
            "0.9",
            "--top_k",
            "40",
            "--seed",
            seed,
            "--max_new_tokens",
            "16",
        ]);
        std::fs::read_to_string(out).unwrap()
    };
    let first = ask("1", &answers);
    assert_eq!(first.lines().count(), 2);
    assert_eq!(first, ask("1", &answers), "same seed, same answers");
    assert_ne!(first, ask("2", &answers));
    let mut chat = std::process::Command::new(env!("CARGO_BIN_EXE_trainer"))
        .args(["chat", "--model", &arg(root.join("merged")), "--max_new_tokens", "8"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    use std::io::Write;
    chat.stdin.take().unwrap().write_all(b"Hello!\n/reset\n/exit\n").unwrap();
    let output = chat.wait_with_output().unwrap();
    assert!(output.status.success());
    assert!(support::text(&output.stdout).contains("a new conversation"));
    let again = trainer(["quickstart", "--output_dir", &arg(&root)]);
    assert_eq!(again.status.code(), Some(2));
}
