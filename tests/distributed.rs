//! Several ranks over Gloo: the same losses as one process, whatever is trained and whatever is
//! sharded.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::{Path, PathBuf};

use support::ranks::{difference, launch, ranks_ok, ready, sft, token_rows, with};
use support::{adapter, arg, golden, json, losses, root, stage, text, trainer_fails, trainer_ok};

/// Micro-batches of so many ranks that make updates of 8 rows.
fn micro_batch(ranks: usize) -> String {
    (8 / ranks).to_string()
}

fn weights(dir: &Path) -> Vec<u8> {
    let names = ["adapter_model.safetensors", "model.safetensors"];
    let path = names.iter().map(|n| dir.join(n)).find(|p| p.is_file()).expect("weights");
    std::fs::read(path).unwrap()
}

#[test]
fn two_and_four_ranks_learn_as_one_process_does() {
    if !ready() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let data = token_rows(tmp.path(), 61);
    for (name, peft) in [("lora", "True"), ("full", "False")] {
        let run = |ranks: usize| -> PathBuf {
            let out = tmp.path().join(format!("{name}-{ranks}"));
            // An epoch's last update has fewer micro-batches than four ranks share out.
            let own = [
                "--per_device_train_batch_size",
                &micro_batch(ranks),
                "--use_peft",
                peft,
                "--validation_split_percentage",
                "20",
                "--eval_steps",
                "4",
                "--num_train_epochs",
                "2",
            ];
            let screen = ranks_ok(ranks, &sft(&data, &out, &own));
            let starts = screen.matches("trainer sft").count();
            assert_eq!(starts, 1, "only rank 0 prints:\n{screen}");
            assert!(ranks == 1 || screen.contains(&format!("{ranks} processes")), "{screen}");
            out
        };
        let one = run(1);
        for ranks in [2, 4] {
            let several = run(ranks);
            let off = difference(&one, &several);
            assert!(off < 1e-6, "{name}: the losses of {ranks} ranks are {off:e} off");
            let eval = |dir: &Path| json(dir.join("eval_results.json"))["eval_loss"].as_f64();
            let (a, b) = (eval(&one).unwrap(), eval(&several).unwrap());
            assert!((a - b).abs() < 1e-6 * a, "{name}: {a} {b}");
            let state = |dir: &Path| json(dir.join("trainer_state.json"));
            for key in ["global_step", "num_input_tokens_seen", "epoch"] {
                assert_eq!(state(&one)[key], state(&several)[key], "{name}: {key}");
            }
        }
    }
}

#[test]
fn strict_runs_agree_to_the_bit_on_any_number_of_ranks() {
    if !ready() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let data = token_rows(tmp.path(), 40);
    let run = |name: &str, ranks: usize, more: &[&str]| -> PathBuf {
        let out = tmp.path().join(name);
        let own = [
            "--reproducible",
            "strict",
            "--validation_split_percentage",
            "20",
            "--eval_steps",
            "3",
            "--max_steps",
            "5",
        ];
        ranks_ok(ranks, &sft(&data, &out, &[&own, more].concat()));
        out
    };
    let one = run("one", 1, &["--per_device_train_batch_size", "12"]);
    for (name, ranks, batch, accumulation) in [
        ("accumulated", 1, "3", "4"),
        ("two", 2, "6", "1"),
        ("three", 3, "2", "2"),
        ("four", 4, "3", "1"),
    ] {
        let more =
            ["--per_device_train_batch_size", batch, "--gradient_accumulation_steps", accumulation];
        let several = run(name, ranks, &more);
        assert_eq!(losses(&one), losses(&several), "{name}");
        assert!(adapter(&one) == adapter(&several), "{name}: the adapter differs");
        let eval = |dir: &Path| json(dir.join("eval_results.json"))["eval_loss"].clone();
        assert_eq!(eval(&one), eval(&several), "{name}");
    }
    // The optimiser's state in shards changes nothing.
    let sharded = run("sharded", 2, &["--per_device_train_batch_size", "6", "--zero_stage", "1"]);
    assert!(adapter(&one) == adapter(&sharded));
    let refused =
        sft(&data, &tmp.path().join("x"), &["--reproducible", "strict", "--zero_stage", "2"]);
    trainer_fails(refused, 2, &["--reproducible strict", "--zero_stage 1"]);
}

#[test]
fn shards_learn_as_whole_ones_do() {
    if !ready() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let data = token_rows(tmp.path(), 50);
    for (name, peft) in [("lora", "True"), ("full", "False")] {
        let run = |ranks: usize, zero: &str| -> PathBuf {
            let out = tmp.path().join(format!("{name}-{ranks}-{zero}"));
            let own = [
                "--per_device_train_batch_size",
                "2",
                "--gradient_accumulation_steps",
                "2",
                "--use_peft",
                peft,
                "--zero_stage",
                zero,
                "--max_grad_norm",
                "0.5",
                "--eval_strategy",
                "no",
                "--num_train_epochs",
                "2",
            ];
            ranks_ok(ranks, &sft(&data, &out, &own));
            out
        };
        let whole = run(2, "0");
        let first = run(2, "1");
        assert_eq!(losses(&whole), losses(&first), "{name}");
        assert!(weights(&whole) == weights(&first), "{name}: stage 1 changes the weights");
        for (ranks, of) in [(2, &whole), (3, &run(3, "0"))] {
            let off = difference(of, &run(ranks, "2"));
            assert!(off < 1e-6, "{name}, {ranks} ranks: stage 2 is {off:e} off");
        }
    }
}

#[test]
fn a_checkpoint_goes_on_with_another_number_of_ranks() {
    if !ready() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let data = token_rows(tmp.path(), 40);
    let run = |dir: &Path, ranks: usize, more: &[&str]| {
        let own = [
            "--reproducible",
            "strict",
            "--per_device_train_batch_size",
            &micro_batch(ranks),
            "--eval_strategy",
            "no",
            "--save_steps",
            "2",
            "--max_steps",
            "8",
        ];
        ranks_ok(ranks, &sft(&data, dir, &[&own, more].concat()));
    };
    let whole = tmp.path().join("whole");
    run(&whole, 1, &[]);
    let begun = tmp.path().join("begun");
    run(&begun, 4, &["--zero_stage", "1"]);
    for (name, step, ranks, zero) in
        [("fewer", 2, 2, "1"), ("alone", 4, 1, "0"), ("whole-again", 6, 4, "0")]
    {
        let again = tmp.path().join(name);
        support::with_checkpoint(&begun, step, &again);
        run(&again, ranks, &["--zero_stage", zero, "--resume_from_checkpoint", "True"]);
        assert!(adapter(&whole) == adapter(&again), "{name}: the adapter differs");
        assert_eq!(losses(&whole), losses(&again), "{name}");
    }
    // Updates of another size are another run.
    let other = sft(
        &data,
        &begun,
        &["--max_steps", "8", "--reproducible", "strict", "--resume_from_checkpoint", "True"],
    );
    let other = with(&other, &["--per_device_train_batch_size", "3"]);
    trainer_fails(other, 2, &["rows_per_update = 8 (now 3)"]);
}

/// Commands of every stage that two ranks run in micro-batches of 4, and one process by
/// accumulation.
fn stages(dir: &Path) -> Vec<(&'static str, Vec<String>)> {
    let pairs = golden("dpo_curve/pairs.jsonl");
    let rows = golden("preference_curves/rows.jsonl");
    let mut all = Vec::new();
    let text = dir.join("texts.txt");
    let whole = std::fs::read_to_string(root().join("datasets/pretrain/encyclopedia.txt")).unwrap();
    let lines: Vec<&str> = whole.lines().filter(|l| !l.trim().is_empty()).take(60).collect();
    std::fs::write(&text, lines.join("\n")).unwrap();
    let out = dir.join("unused");
    all.push(("pt", stage("pt", &text, &out, &["--block_size", "48"])));
    for name in ["rm", "dpo", "orpo", "simpo"] {
        all.push((name, stage(name, &pairs, &out, &["--plugin", "preference"])));
    }
    all.push(("kto", stage("kto", &rows, &out, &["--plugin", "preference"])));
    for (name, more) in [
        ("grpo", ["--num_generations", "4"]),
        ("rloo", ["--num_generations", "4"]),
        ("ppo", ["--num_ppo_epochs", "2"]),
    ] {
        let common = [
            "--plugin",
            "prompt",
            "--plugin",
            "length",
            "--plugin_options",
            r#"length={"max": 25}"#,
            "--max_completion_length",
            "12",
        ];
        all.push((name, stage(name, &pairs, &out, &[&common[..], &more].concat())));
    }
    // A teacher that says other things than its student.
    let teacher = dir.join("teacher");
    let data = arg(golden("sft_curve/rows.jsonl"));
    let own = ["--use_peft", "False", "--max_steps", "8", "--eval_strategy", "no"];
    trainer_ok(sft(&data, &teacher, &own));
    let mut distill = sft(&data, &out, &["--teacher_model_name_or_path", &arg(&teacher)]);
    distill[0] = "distill".into();
    all.push(("distill", with(&distill, &["--max_completion_length", "12"])));
    all
}

#[test]
fn every_stage_trains_on_two_ranks_as_on_one() {
    if !ready() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    for (name, command) in stages(tmp.path()) {
        let run = |ranks: usize, accumulation: &str| -> PathBuf {
            let out = tmp.path().join(format!("{name}-{ranks}"));
            let own = [
                "--output_dir",
                &arg(&out),
                "--per_device_train_batch_size",
                "4",
                "--gradient_accumulation_steps",
                accumulation,
                "--learning_rate",
                "1e-3",
                "--max_steps",
                "4",
                "--validation_split_percentage",
                "10",
                "--eval_steps",
                "2",
                "--num_threads",
                "1",
            ];
            // What the prepared command says of these is replaced.
            let mut all = command.clone();
            for name in ["--output_dir", "--learning_rate", "--num_threads"] {
                if let Some(at) = all.iter().position(|a| a == name) {
                    all.drain(at..at + 2);
                }
            }
            ranks_ok(ranks, &with(&all, &own));
            out
        };
        let (one, two) = (run(1, "2"), run(2, "1"));
        let rows = |dir: &Path| support::log_rows(dir);
        let (ours, theirs) = (rows(&two), rows(&one));
        assert_eq!(ours.len(), 4, "{name}");
        for (a, b) in ours.iter().zip(&theirs) {
            let names = |row: &serde_json::Value| -> Vec<String> {
                row.as_object().unwrap().keys().cloned().collect()
            };
            assert_eq!(names(a), names(b), "{name}");
            for key in names(a) {
                let (x, y) = (a[&key].as_f64().unwrap(), b[&key].as_f64().unwrap());
                let near = (x - y).abs() <= 1e-5 * y.abs() + 1e-6;
                assert!(near, "{name}: {key} is {x} on two ranks and {y} on one");
            }
        }
        let eval = |dir: &Path| json(dir.join("eval_results.json"));
        let (a, b) = (eval(&two), eval(&one));
        for (key, value) in b.as_object().unwrap() {
            let timed = key.contains("runtime") || key.contains("per_second");
            if let (Some(x), Some(y), false) = (a[key].as_f64(), value.as_f64(), timed) {
                assert!((x - y).abs() <= 1e-5 * y.abs() + 1e-6, "{name}: {key}: {x} {y}");
            }
        }
    }
}

#[test]
fn a_deepspeed_configuration_runs_on_two_ranks() {
    if !ready() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let data = token_rows(tmp.path(), 40);
    let path = |name: &str, text: &str| {
        let path = tmp.path().join(name);
        std::fs::write(&path, text).unwrap();
        arg(path)
    };
    let file = path(
        "ds.json",
        r#"{"fp16": {"enabled": true, "initial_scale_power": 8, "loss_scale_window": 2},
            "optimizer": {"type": "AdamW", "params": {"lr": "auto", "weight_decay": "auto"}},
            "scheduler": {"type": "WarmupDecayLR", "params": {"warmup_min_lr": "auto",
                "warmup_max_lr": "auto", "warmup_num_steps": "auto", "total_num_steps": "auto"}},
            "zero_optimization": {"stage": 2, "reduce_bucket_size": "auto", "overlap_comm": true,
                "offload_optimizer": {"device": "cpu", "pin_memory": true}},
            "train_batch_size": 8, "train_micro_batch_size_per_gpu": "auto",
            "gradient_accumulation_steps": "auto", "gradient_clipping": "auto"}"#,
    );
    let run = |name: &str, ranks: usize, more: &[&str]| -> (PathBuf, String) {
        let out = tmp.path().join(name);
        let own = ["--eval_strategy", "no", "--max_steps", "8", "--warmup_steps", "3"];
        let screen = ranks_ok(ranks, &sft(&data, &out, &[&own, more].concat()));
        (out, screen)
    };
    let batch = ["--per_device_train_batch_size", "4", "--deepspeed", &file];
    let (two, screen) = run("two", 2, &batch);
    assert!(screen.contains("overlap_comm") && screen.contains("float32"), "{screen}");
    let rows = support::log_rows(&two);
    // Warm-up of DeepSpeed's: two updates at the start, then by a logarithm.
    let rate = |i: usize| rows[i]["learning_rate"].as_f64().unwrap();
    assert_eq!((rate(0), rate(1)), (0.0, 0.0));
    assert!((rate(2) - 5e-3 * 2f64.ln() / 3f64.ln()).abs() < 1e-12);
    // The scale doubled after each two updates without overflow.
    assert_eq!(rows[0]["loss_scale"], 256.0);
    assert!(rows[7]["loss_scale"].as_f64().unwrap() >= 1024.0);
    // The scaled loss changes no update: only the sums' order is another.
    let unscaled =
        std::fs::read_to_string(&file).unwrap().replace("\"enabled\": true", "\"enabled\": false");
    let unscaled = path("unscaled.json", &unscaled);
    let (plain, _) =
        run("plain", 1, &["--per_device_train_batch_size", "8", "--deepspeed", &unscaled]);
    let off = difference(&plain, &two);
    assert!(off < 1e-6, "{off:e}");
    // Three ranks of 4 make no updates of 8.
    let wrong = sft(&data, &tmp.path().join("wrong"), &batch);
    let output = launch(3, &[], &wrong).output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("`train_batch_size`") && stderr.contains("4 · 1 · 3 = 12"), "{stderr}");
}

/// Peak memory of rank 0, bytes, as the last screen says.
fn peak(screen: &str) -> f64 {
    let line = screen.lines().rfind(|l| l.contains("MB at the peak") && !l.contains("about"));
    let digits: String =
        line.expect("a last screen").chars().filter(char::is_ascii_digit).collect();
    // Behind the rank's number in the prefix.
    digits.trim_start_matches('0').parse::<f64>().unwrap() * 1e6
}

#[test]
fn a_ranks_memory_follows_the_formula() {
    if !ready() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let text = tmp.path().join("texts.txt");
    let whole = std::fs::read_to_string(root().join("datasets/pretrain/encyclopedia.txt")).unwrap();
    std::fs::write(&text, whole.lines().take(20).collect::<Vec<_>>().join("\n")).unwrap();
    let tokenizer = arg(golden("dpo_curve/tokenizer"));
    let run = |stage: &str| -> f64 {
        let config = tmp.path().join(format!("{stage}.json"));
        // Small buckets, so that the formula's terms are what is seen.
        let zero = format!(
            r#"{{"zero_optimization": {{"stage": {stage}, "reduce_bucket_size": 1e5,
                "allgather_bucket_size": 1e5}}}}"#
        );
        std::fs::write(&config, zero).unwrap();
        let command = [
            "pt",
            "--tokenizer_name_or_path",
            &tokenizer,
            "--train_file_dir",
            &arg(&text),
            "--output_dir",
            &arg(tmp.path().join(stage)),
            "--deepspeed",
            &arg(&config),
            "--hidden_size",
            "512",
            "--intermediate_size",
            "2048",
            "--num_hidden_layers",
            "8",
            "--num_attention_heads",
            "8",
            "--block_size",
            "16",
            "--per_device_train_batch_size",
            "1",
            "--max_steps",
            "3",
            "--eval_strategy",
            "no",
            "--save_strategy",
            "no",
            "--report_to",
            "none",
            "--num_threads",
            "1",
            "--overwrite_output_dir",
            "True",
        ];
        peak(&ranks_ok(2, &command.map(str::to_string)))
    };
    // Bytes of all values in float32; those outside of blocks are few.
    let bytes = 4.0 * 8.0 * (4.0 * 512.0 * 512.0 + 3.0 * 512.0 * 2048.0);
    let (whole, first, second) = (run("0"), run("1"), run("2"));
    eprintln!("peak of rank 0: {whole} bytes, stage 1 {first}, stage 2 {second}; values {bytes}");
    // Stage 1 keeps half of both moments: one of their four copies' halves less each.
    let near = |saved: f64, want: f64| (saved - want).abs() < 0.3 * want;
    assert!(near(whole - first, bytes), "stage 1 saves {} of {bytes}", whole - first);
    // Stage 2 keeps half of the gradients, and one block's whole.
    let want = bytes / 2.0 - bytes / 8.0;
    assert!(near(first - second, want), "stage 2 saves {} of {want}", first - second);
}

#[test]
fn what_can_not_be_shared_is_refused() {
    let no_ranks = ["launch", "--nproc_per_node", "2"];
    trainer_fails(no_ranks, 2, &["there is no command"]);
    let wrong =
        ["launch", "--nnodes", "2", "--node_rank", "2", "--master_port", "99999", "--", "sft"];
    trainer_fails(wrong, 2, &["--node_rank", "--master_addr", "--master_port"]);
    let help = trainer_ok(["launch", "--help"]);
    for flag in ["--nproc_per_node", "--nnodes", "--node_rank", "--master_addr", "--max_restarts"] {
        assert!(help.contains(flag), "{help}");
    }
    let alone = std::process::Command::new(env!("CARGO_BIN_EXE_trainer"))
        .args(["merge", "--base_model", "a"])
        .envs([("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0")])
        .envs([("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "1")])
        .output()
        .unwrap();
    let stderr = text(&alone.stderr);
    assert_eq!(alone.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("works in one process, but torchrun started 2"), "{stderr}");
}

#[test]
fn variables_that_make_no_sense_are_refused_before_anything_is_done() {
    if !ready() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let data = token_rows(tmp.path(), 10);
    let out = tmp.path().join("out");
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_trainer"))
        .args(sft(&data, &out, &[]))
        .envs([("RANK", "7"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0")])
        .output()
        .unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("rank 7 of 2"), "{stderr}");
    assert!(!out.exists());
}

#[test]
fn ranks_with_other_data_are_told_what_differs() {
    if !ready() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let data = token_rows(tmp.path(), 20);
    std::fs::create_dir(tmp.path().join("other")).unwrap();
    let other = token_rows(&tmp.path().join("other"), 19);
    // As two machines would be started by hand, each with its own files.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let start = |rank: usize, data: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_trainer"));
        command
            .args(sft(
                data,
                &tmp.path().join("out"),
                &["--seed", if rank == 0 { "1" } else { "2" }],
            ))
            .envs([("RANK", rank.to_string()), ("LOCAL_RANK", rank.to_string())])
            .envs([("WORLD_SIZE", "2"), ("MASTER_ADDR", "127.0.0.1")])
            .env("MASTER_PORT", port.to_string())
            .stderr(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped());
        command.spawn().unwrap()
    };
    let (a, b) = (start(0, &data), start(1, &other));
    for child in [a, b] {
        let output = child.wait_with_output().unwrap();
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains("rank 1 differs from rank 0 in seed, train_data"), "{stderr}");
    }
}
