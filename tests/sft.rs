//! Supervised fine-tuning end to end: the real binary on real models and data.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::{Path, PathBuf};

use support::{arg, json, losses, root, shared, trainer, trainer_fails, trainer_ok};

fn model() -> Option<PathBuf> {
    shared("stories260K/hf")
}

/// Rows of ids and labels, the first third masked.
fn token_rows(dir: &Path, rows: usize) -> PathBuf {
    std::fs::create_dir_all(dir).unwrap();
    let mut text = String::new();
    for r in 0..rows {
        let length = 12 + (r * 7) % 29;
        let ids: Vec<usize> = (0..length).map(|i| 3 + (r * 31 + i * i * 5) % 500).collect();
        let labels: Vec<i64> = ids
            .iter()
            .enumerate()
            .map(|(i, &id)| if i < length / 3 { -100 } else { id as i64 })
            .collect();
        text.push_str(&format!("{{\"input_ids\": {ids:?}, \"labels\": {labels:?}}}\n"));
    }
    let path = dir.join("rows.jsonl");
    std::fs::write(&path, text).unwrap();
    path
}

/// Arguments of a short run on rows of ids.
fn short(model: &Path, data: &Path, out: &Path, more: &[&str]) -> Vec<String> {
    let mut args: Vec<String> = [
        "sft",
        "--model_name_or_path",
        &arg(model),
        "--train_file_dir",
        &arg(data),
        "--output_dir",
        &arg(out),
        "--learning_rate",
        "1e-2",
        "--logging_steps",
        "1",
        "--eval_strategy",
        "no",
        "--save_strategy",
        "no",
        "--report_to",
        "none",
    ]
    .map(str::to_string)
    .to_vec();
    args.extend(more.iter().map(|s| s.to_string()));
    dedup(args)
}

fn adapter_bytes(dir: &Path) -> Vec<u8> {
    std::fs::read(dir.join("adapter_model.safetensors")).unwrap()
}

#[test]
fn conversations_through_the_plugin_give_an_adapter_that_merges_and_speaks() {
    let Some(model) = model() else { return };
    let tmp = tempfile::tempdir().unwrap();
    let out = tmp.path().join("out");
    let data = root().join("datasets/sft");
    let screen = trainer_ok([
        "--plugin",
        "sharegpt.wasm",
        "--plugin",
        "vicuna",
        "--model_name_or_path",
        &arg(&model),
        "--train_file_dir",
        &arg(&data),
        "--validation_file_dir",
        &arg(&data),
        "--max_eval_samples",
        "10",
        "--output_dir",
        &arg(&out),
        "--max_steps",
        "12",
        "--learning_rate",
        "5e-3",
        "--eval_steps",
        "6",
        "--save_steps",
        "6",
        "--logging_steps",
        "3",
        "--packing",
        "True",
        "--per_device_train_batch_size",
        "2",
        "--model_max_length",
        "256",
    ]);
    assert!(screen.contains("parameters") && screen.contains("tokens an epoch"), "{screen}");
    for file in [
        "adapter_config.json",
        "adapter_model.safetensors",
        "README.md",
        "trainer_state.json",
        "train_results.json",
        "train_results.txt",
        "eval_results.json",
        "eval_results.txt",
        "all_results.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "trainer_manifest.json",
        "trainer_log.jsonl",
        "checkpoint-6/resume.json",
        "checkpoint-12/adapter_model.safetensors",
        "checkpoint-12/optimizer.safetensors",
        "checkpoint-12/trainer_state.json",
    ] {
        assert!(out.join(file).is_file(), "no {file}");
    }
    let logs = std::fs::read_dir(out.join("logs/run")).unwrap().count();
    assert_eq!(logs, 1);
    let seen = losses(&out);
    assert!(seen.last().unwrap().1 < seen[0].1 * 0.9, "{seen:?}");
    let state = json(out.join("trainer_state.json"));
    assert_eq!(state["global_step"], 12);
    assert!(state["log_history"].as_array().unwrap().iter().any(|r| r["eval_loss"].is_f64()));
    let manifest = json(out.join("trainer_manifest.json"));
    assert_eq!(manifest["plugins"].as_array().unwrap().len(), 2);
    assert_eq!(manifest["train"][0]["sha256"].as_str().unwrap().len(), 64);

    let merged = tmp.path().join("merged");
    trainer_ok([
        "merge",
        "--base_model",
        &arg(&model),
        "--peft_model_path",
        &arg(&out),
        "--output_dir",
        &arg(&merged),
    ]);
    let ask = |model: &Path, adapter: Option<&Path>| {
        let mut args: Vec<String> = [
            "generate",
            "--model",
            &arg(model),
            "--raw",
            "True",
            "--prompt",
            "Once upon a time",
            "--max_new_tokens",
            "40",
        ]
        .map(str::to_string)
        .to_vec();
        if let Some(adapter) = adapter {
            args.extend(["--adapter".to_string(), arg(adapter)]);
        }
        trainer_ok(args)
    };
    let with_adapter = ask(&model, Some(&out));
    assert_eq!(with_adapter, ask(&merged, None));
    assert_ne!(with_adapter, ask(&model, None));
}

#[test]
fn an_interrupted_run_resumes_to_the_same_bits() {
    let Some(model) = model() else { return };
    let tmp = tempfile::tempdir().unwrap();
    let data = token_rows(&tmp.path().join("data"), 23);
    let common = [
        "--num_train_epochs",
        "2",
        "--per_device_train_batch_size",
        "2",
        "--gradient_accumulation_steps",
        "2",
        "--lora_dropout",
        "0.1",
        "--logging_steps",
        "2",
        "--warmup_steps",
        "2",
    ];
    let whole = tmp.path().join("whole");
    trainer_ok(short(&model, &data, &whole, &common));
    // A checkpoint after every update; then the run goes on from each of them.
    let every = tmp.path().join("every");
    let mut more = common.to_vec();
    more.extend(["--save_strategy", "steps", "--save_steps", "1", "--save_total_limit", "100"]);
    let args = short(&model, &data, &every, &more);
    trainer_ok(args);
    assert_eq!(adapter_bytes(&whole), adapter_bytes(&every));
    let steps = json(every.join("trainer_state.json"))["global_step"].as_u64().unwrap();
    assert_eq!(steps, 12);
    for step in [1, 2, 5, 6, 7, 11] {
        let again = tmp.path().join(format!("again-{step}"));
        let from = arg(every.join(format!("checkpoint-{step}")));
        let mut more = common.to_vec();
        more.extend(["--resume_from_checkpoint", &from]);
        trainer_ok(short(&model, &data, &again, &more));
        assert_eq!(adapter_bytes(&whole), adapter_bytes(&again), "from step {step}");
        assert_eq!(losses(&whole), losses(&again), "from step {step}");
    }
}

/// The last of repeated settings wins: earlier ones are dropped.
fn dedup(args: Vec<String>) -> Vec<String> {
    let mut out: Vec<String> = vec![args[0].clone()];
    let pairs: Vec<&[String]> = args[1..].chunks(2).collect();
    for (i, pair) in pairs.iter().enumerate() {
        if pair[0] == "--plugin" || !pairs[i + 1..].iter().any(|later| later[0] == pair[0]) {
            out.extend(pair.iter().cloned());
        }
    }
    out
}

#[test]
fn a_checkpoint_is_refused_when_damaged_or_of_another_run() {
    let Some(model) = model() else { return };
    let tmp = tempfile::tempdir().unwrap();
    let data = token_rows(&tmp.path().join("data"), 8);
    let out = tmp.path().join("out");
    let saving = ["--max_steps", "2", "--save_strategy", "steps", "--save_steps", "1"];
    trainer_ok(short(&model, &data, &out, &saving));
    // Resumed in the same folder, the log has each row once.
    let first = arg(out.join("checkpoint-1"));
    let mut again = short(&model, &data, &out, &saving);
    again.extend(["--resume_from_checkpoint".into(), first]);
    trainer_ok(again);
    let log = std::fs::read_to_string(out.join("trainer_log.jsonl")).unwrap();
    let steps: Vec<u64> = log
        .lines()
        .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap())
        .filter(|row| row.get("loss").is_some())
        .map(|row| row["current_steps"].as_u64().unwrap())
        .collect();
    assert_eq!(steps, [1, 2]);
    let resume = ["--max_steps", "2", "--resume_from_checkpoint", "True"];
    let mut other = short(&model, &data, &out, &resume);
    other.extend(["--seed".into(), "7".into()]);
    trainer_fails(&other, 2, &["seed = 42 (now 7)", "same settings"]);
    let newest = out.join("checkpoint-2");
    let file = newest.join("optimizer.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let again = short(&model, &data, &out, &resume);
    trainer_fails(&again, 6, &["optimizer.safetensors", "sha256", "another one"]);
}

#[test]
fn packing_and_accumulation_do_not_change_the_losses() {
    let Some(model) = model() else { return };
    let tmp = tempfile::tempdir().unwrap();
    let data = token_rows(&tmp.path().join("data"), 16);
    let run = |name: &str, more: &[&str]| -> Vec<f64> {
        let out = tmp.path().join(name);
        let mut all = vec!["--shuffle", "False", "--max_steps", "4", "--lora_dropout", "0"];
        all.extend(more);
        trainer_ok(short(&model, &data, &out, &all));
        losses(&out).into_iter().map(|(_, loss)| loss).collect()
    };
    let big = run("big", &["--per_device_train_batch_size", "4"]);
    let small =
        run("small", &["--per_device_train_batch_size", "1", "--gradient_accumulation_steps", "4"]);
    let checkpointed =
        run("less", &["--per_device_train_batch_size", "4", "--gradient_checkpointing", "True"]);
    for (name, other) in [("accumulated", &small), ("checkpointed", &checkpointed)] {
        for (a, b) in big.iter().zip(other) {
            assert!((a - b).abs() / a < 1e-6, "{name}: {a} {b}");
        }
    }
    assert_eq!(big, checkpointed, "recomputing changes no bit");
    assert!(big[3] < big[0]);
    // One packed sequence of all rows is one update over the same rows unpacked.
    let packed = run(
        "packed",
        &["--packing", "True", "--model_max_length", "1000", "--per_device_train_batch_size", "1"],
    );
    let unpacked =
        run("unpacked", &["--model_max_length", "1000", "--per_device_train_batch_size", "16"]);
    for (a, b) in packed.iter().zip(&unpacked) {
        assert!((a - b).abs() / a < 1e-6, "packed: {a} {b}");
    }
}

#[test]
fn bfloat16_weights_and_full_fine_tuning_learn() {
    let Some(model) = model() else { return };
    let tmp = tempfile::tempdir().unwrap();
    let data = token_rows(&tmp.path().join("data"), 16);
    let half = tmp.path().join("half");
    trainer_ok(short(&model, &data, &half, &["--torch_dtype", "bfloat16", "--max_steps", "6"]));
    let whole = tmp.path().join("whole");
    trainer_ok(short(&model, &data, &whole, &["--max_steps", "6"]));
    for ((_, a), (_, b)) in losses(&half).iter().zip(losses(&whole)) {
        assert!((a - b).abs() / b < 0.05, "{a} {b}");
    }
    let full = tmp.path().join("full");
    let args = ["--use_peft", "False", "--max_steps", "6", "--learning_rate", "1e-3"];
    trainer_ok(short(&model, &data, &full, &args));
    let seen = losses(&full);
    assert!(seen[5].1 < seen[0].1, "{seen:?}");
    assert!(full.join("model.safetensors").is_file() && full.join("config.json").is_file());
    // Asked for in bfloat16, what is trained stays in float32, and the user is told.
    let same = tmp.path().join("same");
    let mut more = args.to_vec();
    more.extend(["--torch_dtype", "bfloat16"]);
    let screen = trainer_ok(short(&model, &data, &same, &more));
    assert!(screen.contains("stay in float32"), "{screen}");
    assert_eq!(losses(&same), seen);
    // The full model is a base again.
    trainer_ok(short(&full, &data, &tmp.path().join("next"), &["--max_steps", "1"]));
}

#[test]
fn bad_input_gets_an_error_that_names_the_place_and_the_remedy() {
    let Some(model) = model() else { return };
    let tmp = tempfile::tempdir().unwrap();
    let data = tmp.path().join("data");
    std::fs::create_dir_all(&data).unwrap();
    let file = data.join("a.jsonl");
    let good =
        r#"{"conversations":[{"from":"human","value":"hi"},{"from":"gpt","value":"hello"}]}"#;
    let out = tmp.path().join("out");
    let run = |text: &str, more: &[&str]| -> Vec<String> {
        std::fs::write(&file, text).unwrap();
        let mut args = short(&model, &data, &out, &["--plugin", "sharegpt", "--plugin", "vicuna"]);
        args.extend(more.iter().map(|s| s.to_string()));
        args
    };
    let broken = format!("{good}\n{{\"conversations\": [\n{good}\n");
    trainer_fails(run(&broken, &[]), 3, &["a.jsonl", "2"]);
    let missing = format!("{good}\n{{\"messages\": []}}\n");
    trainer_fails(run(&missing, &[]), 3, &["a.jsonl", "conversations"]);
    trainer_fails(run("", &[]), 3, &["a.jsonl"]);
    let skipped = trainer(run(&broken, &["--on_bad_row", "skip", "--max_steps", "1"]));
    assert!(skipped.status.success(), "{}", support::text(&skipped.stderr));
    assert!(support::text(&skipped.stdout).contains("rejected"));

    let fresh = tmp.path().join("fresh");
    let with = |name: &str, value: &str| -> Vec<String> {
        std::fs::write(&file, good).unwrap();
        let base = ["--plugin", "sharegpt", "--plugin", "vicuna", name, value];
        let mut args = short(&model, &data, &fresh, &base[..4]);
        if let Some(at) = args.iter().position(|a| a == name) {
            args[at + 1] = value.to_string();
        } else {
            args.extend([name.to_string(), value.to_string()]);
        }
        args
    };
    trainer_fails(with("--model_name_or_path", "/nowhere"), 3, &["/nowhere", "config.json"]);
    trainer_fails(with("--train_file_dir", "/nowhere"), 3, &["/nowhere", "check the path"]);
    trainer_fails(with("--target_modules", "q_prj"), 3, &["q_prj", "q_proj"]);
    trainer_fails(with("--learning_rat", "1"), 2, &["did you mean `learning_rate`?"]);
    let second = short(&model, &data, &fresh, &["--plugin", "chatml", "--plugin", "vicuna"]);
    trainer_fails(second, 2, &["second template"]);
    let none = short(&model, &data, &fresh, &[]);
    trainer_fails(none, 2, &["no formatter plugin", "sharegpt"]);
    let damaged = tmp.path().join("damaged");
    std::fs::create_dir_all(&damaged).unwrap();
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(model.join(name), damaged.join(name)).unwrap();
    }
    let weights = std::fs::read(model.join("model.safetensors")).unwrap();
    std::fs::write(damaged.join("model.safetensors"), &weights[..weights.len() / 2]).unwrap();
    trainer_fails(with("--model_name_or_path", &arg(&damaged)), 3, &["model.safetensors", "again"]);
    assert!(!fresh.join("adapter_model.safetensors").exists());
}

#[test]
fn a_signal_saves_a_checkpoint_and_prints_how_to_go_on() {
    let Some(model) = model() else { return };
    let tmp = tempfile::tempdir().unwrap();
    let data = token_rows(&tmp.path().join("data"), 40);
    let out = tmp.path().join("out");
    let args = short(&model, &data, &out, &["--max_steps", "100000"]);
    let child = std::process::Command::new(env!("CARGO_BIN_EXE_trainer"))
        .args(&args)
        .stdout(std::process::Stdio::piped())
        .stdin(std::process::Stdio::null())
        .spawn()
        .unwrap();
    // The first log row is the sign that updates are being made.
    let log = out.join("trainer_log.jsonl");
    while std::fs::metadata(&log).map_or(true, |m| m.len() == 0) {
        std::thread::yield_now();
    }
    let pid = child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let screen = support::text(&output.stdout);
    assert!(screen.contains("--resume_from_checkpoint True"), "{screen}");
    let checkpoints = std::fs::read_dir(&out)
        .unwrap()
        .filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().starts_with("checkpoint-"))
        .count();
    assert_eq!(checkpoints, 1);
}

#[test]
fn preview_shows_what_is_trained() {
    let Some(model) = model() else { return };
    let data = root().join("datasets/sft");
    let base = [
        "preview",
        "--plugin",
        "sharegpt",
        "--plugin",
        "chatml",
        "--model_name_or_path",
        &arg(&model),
        "--train_file_dir",
        &arg(&data),
        "--num_rows",
        "2",
        "--json",
    ];
    let text = trainer_ok(base);
    let rows: Vec<serde_json::Value> =
        text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(rows.len(), 2);
    let row = &rows[0];
    let (ids, labels) = (row["input_ids"].as_array().unwrap(), row["labels"].as_array().unwrap());
    assert_eq!(ids.len(), labels.len());
    assert!(labels.iter().any(|l| *l == -100) && labels.iter().any(|l| *l != -100));
    let characters: Vec<char> = row["text"].as_str().unwrap().chars().collect();
    let trained: String = row["segments"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|s| s["train"] == true)
        .flat_map(|s| {
            let at = |key: &str| s[key].as_u64().unwrap() as usize;
            characters[at("start")..at("end")].to_vec()
        })
        .collect();
    assert!(trained.contains("arachnid") && !trained.contains("Tell me"), "{trained}");
    let mut short = base.to_vec();
    short.extend(["--model_max_length", "8"]);
    trainer_fails(short, 2, &["no trained token", "model_max_length"]);
}

#[test]
fn twenty_updates_follow_transformers_and_peft() {
    let Some(model) = model() else { return };
    let golden = root().join("tests/golden/sft_curve");
    let tmp = tempfile::tempdir().unwrap();
    let out = tmp.path().join("out");
    trainer_ok([
        "sft",
        "--model_name_or_path",
        &arg(&model),
        "--train_file_dir",
        &arg(golden.join("rows.jsonl")),
        "--peft_path",
        &arg(golden.join("initial")),
        "--output_dir",
        &arg(&out),
        "--shuffle",
        "False",
        "--max_steps",
        "20",
        "--per_device_train_batch_size",
        "2",
        "--gradient_accumulation_steps",
        "2",
        "--learning_rate",
        "1e-3",
        "--warmup_steps",
        "2",
        "--weight_decay",
        "0.01",
        "--lora_dropout",
        "0",
        "--logging_steps",
        "1",
        "--eval_strategy",
        "no",
        "--save_strategy",
        "no",
    ]);
    let expected = json(golden.join("expected.json"));
    let state = json(out.join("trainer_state.json"));
    let rows: Vec<&serde_json::Value> =
        state["log_history"].as_array().unwrap().iter().filter(|r| r["loss"].is_f64()).collect();
    assert_eq!(rows.len(), 20);
    for (i, row) in rows.iter().enumerate() {
        for (key, tolerance) in [("loss", 1e-4), ("grad_norm", 1e-3)] {
            let (got, want) = (row[key].as_f64().unwrap(), expected[key][i].as_f64().unwrap());
            assert!((got - want).abs() / want < tolerance, "update {i}: {key} {got} {want}");
        }
        let (got, want) = (
            row["learning_rate"].as_f64().unwrap(),
            expected["learning_rate"][i].as_f64().unwrap(),
        );
        assert!((got - want).abs() < 1e-12, "update {i}: learning_rate {got} {want}");
    }
    use trainer::model::reader::read_all;
    let ours = read_all(&out.join("adapter_model.safetensors")).unwrap();
    let theirs = read_all(&golden.join("final/adapter_model.safetensors")).unwrap();
    assert!(ours.keys().eq(theirs.keys()));
    for (name, want) in &theirs {
        let difference = (want - &ours[name]).unwrap().abs().unwrap().max_all().unwrap();
        assert!(difference.to_scalar::<f32>().unwrap() < 1e-4, "{name}");
    }
}

#[test]
fn a_full_disk_ends_the_run_with_nothing_half_written() {
    let Some(model) = model() else { return };
    let tmp = tempfile::tempdir().unwrap();
    let data = token_rows(&tmp.path().join("data"), 8);
    let disk = tmp.path().join("disk");
    std::fs::create_dir_all(&disk).unwrap();
    let mount = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=400k", "tmpfs", &arg(&disk)])
        .output();
    if !mount.is_ok_and(|m| m.status.success()) {
        eprintln!("skipped: a small file system can't be mounted here");
        return;
    }
    let out = disk.join("out");
    let args = ["--max_steps", "3", "--save_strategy", "steps", "--save_steps", "1"];
    let output = trainer(short(&model, &data, &out, &args));
    let left: Vec<String> = std::fs::read_dir(&out)
        .unwrap()
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    std::process::Command::new("umount").arg(&disk).status().unwrap();
    let stderr = support::text(&output.stderr);
    assert_eq!(output.status.code(), Some(6), "{stderr}");
    assert!(stderr.contains("free some space"), "{stderr}");
    assert!(!left.iter().any(|name| name.contains("tmp")), "{left:?}");
}

#[test]
fn the_best_checkpoint_is_kept_and_training_stops_early() {
    let Some(model) = model() else { return };
    let tmp = tempfile::tempdir().unwrap();
    let data = token_rows(&tmp.path().join("data"), 12);
    let held_out = tmp.path().join("held-out");
    // Held-out rows have nothing in common with the training rows: evaluation gets worse.
    std::fs::create_dir_all(&held_out).unwrap();
    let row = |r: usize| {
        let ids: Vec<usize> = (0..20).map(|i| 3 + (r * 97 + i * 61) % 500).collect();
        format!("{{\"input_ids\": {ids:?}, \"labels\": {ids:?}}}\n")
    };
    std::fs::write(held_out.join("rows.jsonl"), (0..4).map(row).collect::<String>()).unwrap();
    let out = tmp.path().join("out");
    trainer_ok(short(
        &model,
        &data,
        &out,
        &[
            "--validation_file_dir",
            &arg(&held_out),
            "--eval_strategy",
            "steps",
            "--eval_steps",
            "2",
            "--save_strategy",
            "steps",
            "--save_steps",
            "2",
            "--save_total_limit",
            "2",
            "--load_best_model_at_end",
            "True",
            "--early_stopping_patience",
            "3",
            "--max_steps",
            "60",
            "--learning_rate",
            "3e-2",
        ],
    ));
    let state = json(out.join("trainer_state.json"));
    let evals: Vec<(u64, f64)> = state["log_history"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|r| Some((r["step"].as_u64()?, r["eval_loss"].as_f64()?)))
        .collect();
    let best = evals.iter().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
    assert_eq!(state["best_global_step"].as_u64(), Some(best.0));
    assert_eq!(state["global_step"].as_u64(), Some(best.0 + 6), "{evals:?}");
    let kept = out.join(format!("checkpoint-{}", best.0));
    assert_eq!(adapter_bytes(&out), adapter_bytes(&kept));
    let results = json(out.join("eval_results.json"));
    assert!((results["eval_loss"].as_f64().unwrap() - best.1).abs() < 1e-9);
    assert_eq!(
        state["stateful_callbacks"]["EarlyStoppingCallback"]["attributes"]["early_stopping_patience_counter"],
        3
    );
}

/// A limit on the size of files stands for a full disk: a write in the middle of a checkpoint fails.
#[test]
fn a_write_that_fails_names_the_file_and_leaves_nothing_half_written() {
    let Some(model) = support::shared("stories260K/hf") else { return };
    let tmp = tempfile::tempdir().unwrap();
    let (rows, out) = (tmp.path().join("rows.jsonl"), tmp.path().join("out"));
    std::fs::write(
        &rows,
        "{\"conversations\":[{\"from\":\"human\",\"value\":\"Hi\"},{\"from\":\"gpt\",\"value\":\"Hello\"}]}\n",
    )
    .unwrap();
    // In blocks of at most a kilobyte. Without the trap the signal would end the process.
    let limited = "trap '' XFSZ; ulimit -f 100; exec \"$0\" \"$@\"";
    let output = std::process::Command::new("sh")
        .args(["-c", limited, env!("CARGO_BIN_EXE_trainer"), "sft", "--plugin", "sharegpt"])
        .args(["--plugin", "vicuna", "--max_steps", "2", "--save_steps", "1", "--save_strategy"])
        .args([
            "steps",
            "--eval_strategy",
            "no",
            "--report_to",
            "none",
            "--model_max_length",
            "256",
        ])
        .arg("--model_name_or_path")
        .arg(&model)
        .arg("--train_file_dir")
        .arg(&rows)
        .arg("--output_dir")
        .arg(&out)
        .env("TRAINER_CACHE_DIR", env!("CARGO_TARGET_TMPDIR"))
        .output()
        .unwrap();
    let stderr = support::text(&output.stderr);
    assert_eq!(output.status.code(), Some(6), "{stderr}");
    assert!(
        stderr.contains("can't write") && stderr.contains("adapter_model.safetensors"),
        "{stderr}"
    );
    for entry in std::fs::read_dir(&out).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(!name.starts_with("checkpoint") && !name.contains("safetensors"), "{name}");
    }
}
