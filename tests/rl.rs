//! Reinforcement learning end to end: sampling, rewards, resume in the middle of a generation's
//! updates, judging by a reward model.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::Path;

use serde_json::Value;
use support::{
    adapter, arg, golden, json, log_rows, losses, shared, stage, trainer_fails, trainer_ok,
    with_checkpoint,
};

/// A run on the shared model whose reward is short answers.
fn rl(command: &str, out: &Path, more: &[&str]) -> Vec<String> {
    let common = [
        "--plugin",
        "prompt",
        "--plugin",
        "length",
        "--plugin_options",
        r#"length={"max": 25}"#,
        "--per_device_train_batch_size",
        "8",
        "--gradient_accumulation_steps",
        "2",
        "--max_completion_length",
        "24",
        "--lora_alpha",
        "16",
    ];
    stage(command, &golden("dpo_curve/pairs.jsonl"), out, &[&common, more].concat())
}

#[test]
fn a_run_resumed_between_two_updates_of_a_generation_ends_the_same() {
    if shared("stories260K/hf").is_none() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    for (command, more) in [
        ("grpo", vec!["--num_generations", "4", "--beta", "0.05"]),
        ("rloo", vec!["--num_generations", "4", "--normalize_advantages", "True"]),
        ("ppo", vec!["--adap_kl_ctrl", "True", "--target", "0.1", "--horizon", "50"]),
    ] {
        let (whole, again) =
            (tmp.path().join(command), tmp.path().join(format!("{command}-again")));
        let mut all = more.clone();
        all.extend([
            "--num_iterations",
            "2",
            "--max_steps",
            "6",
            "--save_steps",
            "3",
            "--learning_rate",
            "1e-3",
            "--eval_strategy",
            "no",
        ]);
        trainer_ok(rl(command, &whole, &all));
        with_checkpoint(&whole, 3, &again);
        let mut resumed = all.clone();
        resumed.extend(["--resume_from_checkpoint", "True"]);
        trainer_ok(rl(command, &again, &resumed));
        assert!(adapter(&whole) == adapter(&again), "{command}: the resumed adapter differs");
        assert_eq!(losses(&whole)[3..], losses(&again)[3..], "{command}");
        // Other settings are another run.
        let mut other = resumed.clone();
        other.extend(["--temperature", "0.5"]);
        trainer_fails(rl(command, &again, &other), 2, &["reinforcement", "temperature"]);

        // Before the first update policy, sampler and reference are one, to the bit.
        let rows = log_rows(&whole);
        assert_eq!(rows.len(), 6);
        match command {
            "ppo" => {
                assert_eq!(rows[0]["val/ratio"], 1.0);
                assert_eq!(rows[0]["val/ratio_var"], 0.0);
                assert_eq!(rows[0]["policy/approxkl_avg"], 0.0);
                assert_eq!(rows[0]["objective/kl"], 0.0);
                assert_ne!(rows[1]["val/ratio"], 1.0);
                assert!(rows[0]["loss/value_avg"].as_f64().unwrap() > 0.0);
                // The coefficient began at 0.05 and the divergence was below the target.
                assert!(rows[4]["objective/kl_coef"].as_f64().unwrap() < 0.05);
                assert!(whole.join("value_head.safetensors").is_file());
            }
            _ => {
                assert_eq!(rows[0]["clip_ratio/region_mean"], 0.0);
                let kl = rows[0]["kl"].as_f64().unwrap();
                assert_eq!(kl, 0.0, "{command}");
                assert!(rows[0]["reward"].as_f64().unwrap() < 0.0);
                assert!(rows[0]["rewards/length/mean"].is_f64());
            }
        }
        assert!(rows[0]["completions/mean_length"].as_f64().unwrap() <= 25.0);
    }
}

#[test]
fn rewards_grow_and_completions_are_kept() {
    if shared("stories260K/hf").is_none() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    for (command, more) in [
        ("grpo", vec!["--num_generations", "8", "--beta", "0"]),
        ("rloo", vec!["--num_generations", "8", "--beta", "0"]),
        ("ppo", vec!["--num_ppo_epochs", "2", "--beta", "0.001"]),
    ] {
        let out = tmp.path().join(command);
        let mut all = more.clone();
        all.extend([
            "--max_steps",
            "40",
            "--learning_rate",
            "5e-3",
            "--validation_split_percentage",
            "20",
            "--eval_steps",
            "20",
            "--metric_for_best_model",
            "reward",
            "--load_best_model_at_end",
            "True",
            "--save_steps",
            "100",
        ]);
        let screen = trainer_ok(rl(command, &out, &all));
        assert!(screen.contains("rewards: length"), "{screen}");
        let rows = log_rows(&out);
        let mean = |rows: &[Value]| {
            let of = |r: &Value| r["rewards/length/mean"].as_f64();
            let values: Vec<f64> = rows.iter().filter_map(of).collect();
            values.iter().sum::<f64>() / values.len() as f64
        };
        let (first, last) = (mean(&rows[..4]), mean(&rows[36..]));
        assert!(last > first + 0.1, "{command}: {first} {last}");
        let results = json(out.join("eval_results.json"));
        assert!(results["eval_reward"].is_f64() && results.get("eval_loss").is_none());

        let path = out.join("completions/completions_00001.parquet");
        let file = std::fs::File::open(&path).unwrap();
        let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file);
        let batches: Vec<_> = reader.unwrap().build().unwrap().map(Result::unwrap).collect();
        assert_eq!(batches.iter().map(|b| b.num_rows()).sum::<usize>(), 16);
        let names: Vec<String> =
            batches[0].schema().fields().iter().map(|f| f.name().clone()).collect();
        assert_eq!(names, ["step", "prompt", "completion", "length", "advantage"]);
    }
}

#[test]
fn impossible_rewards_and_batches_are_refused() {
    if shared("stories260K/hf").is_none() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let out = tmp.path().join("out");
    trainer_fails(
        rl("grpo", &out, &["--num_generations", "5", "--lora_dropout", "0.1"]),
        2,
        &["16 completions", "no multiple of the 5", "`--lora_dropout`"],
    );
    trainer_fails(
        rl("grpo", &out, &["--reward_weights", "1,2"]),
        2,
        &["holds 2 numbers for 1 rewards (length)"],
    );
    let args: Vec<String> = rl("grpo", &out, &[])
        .into_iter()
        .map(|a| if a == "length" { "accuracy".into() } else { a })
        .filter(|a| !a.starts_with("length="))
        .collect();
    let at = args.iter().position(|a| a == "--plugin_options").unwrap();
    let mut without = args.clone();
    without.remove(at);
    // No row has a reference: no reward has an opinion, nothing is trained, and the run says so.
    without.extend(["--max_steps", "1", "--eval_strategy", "no"].map(String::from));
    trainer_ok(without);
    assert_eq!(losses(&out)[0].1, 0.0);
    trainer_fails(rl("sft", &out, &[]), 2, &["max_completion_length"]);
}

#[test]
fn answers_are_rolled_out_and_scored_as_transformers_scores_them() {
    let Some(model) = shared("stories260K/hf") else { return };
    let tmp = tempfile::tempdir().unwrap();
    // The reward model: PEFT's adapter with its base named where it lies here, merged and as it is.
    let adapter = tmp.path().join("adapter");
    std::fs::create_dir(&adapter).unwrap();
    for (from, name) in [
        ("rm_curve/final", "adapter_model.safetensors"),
        ("dpo_curve/tokenizer", "tokenizer.json"),
        ("dpo_curve/tokenizer", "tokenizer_config.json"),
        ("dpo_curve/tokenizer", "chat_template.jinja"),
    ] {
        std::fs::copy(golden(from).join(name), adapter.join(name)).unwrap();
    }
    let mut config = json(golden("rm_curve/final/adapter_config.json"));
    config["base_model_name_or_path"] = arg(&model).into();
    std::fs::write(adapter.join("adapter_config.json"), config.to_string()).unwrap();
    let merged = tmp.path().join("merged");
    let (base, own, to) = (arg(&model), arg(&adapter), arg(&merged));
    trainer_ok(["merge", "--base_model", &base, "--peft_model_path", &own, "--output_dir", &to]);

    let answers = tmp.path().join("answers.jsonl");
    let pairs = std::fs::read_to_string(golden("dpo_curve/pairs.jsonl")).unwrap();
    let mut lines = String::new();
    for line in pairs.lines() {
        let pair: Value = serde_json::from_str(line).unwrap();
        for side in ["chosen", "rejected"] {
            let answer = &pair[side][0]["content"];
            let row = serde_json::json!({"prompt": pair["prompt"], "completion": answer});
            lines.push_str(&format!("{row}\n"));
        }
    }
    std::fs::write(&answers, lines).unwrap();
    let expected = json(golden("rm_curve/rewards.json"));
    for (name, folder) in [("adapter", &own), ("merged", &to)] {
        let scores = tmp.path().join(name).with_extension("jsonl");
        let (data, out) = (arg(&answers), arg(&scores));
        let args = [
            "score",
            "--reward_model",
            folder,
            "--data_file",
            &data,
            "--output_file",
            &out,
            "--plugin",
            "repetition",
        ];
        let screen = trainer_ok(args);
        assert!(screen.contains("40 of 40 answers judged"), "{screen}");
        let text = std::fs::read_to_string(&scores).unwrap();
        for (i, line) in text.lines().enumerate() {
            let row: Value = serde_json::from_str(line).unwrap();
            let (got, want) = (&row["scores"][name], &expected[i / 2][i % 2]);
            let (got, want) = (got.as_f64().unwrap(), want.as_f64().unwrap());
            assert!((got - want).abs() < 1e-4, "{name}, answer {i}: {got} {want}");
            let total = row["reward"].as_f64().unwrap();
            assert!((total - got - row["scores"]["repetition"].as_f64().unwrap()).abs() < 1e-9);
        }
    }

    // Rolled out answers are scored as they stand; several at a time are the same as one by one.
    let speaker = tmp.path().join("speaker");
    std::fs::create_dir(&speaker).unwrap();
    for (from, name) in [
        (model.clone(), "config.json"),
        (model.clone(), "model.safetensors"),
        (golden("dpo_curve/tokenizer"), "tokenizer.json"),
        (golden("dpo_curve/tokenizer"), "tokenizer_config.json"),
        (golden("dpo_curve/tokenizer"), "chat_template.jinja"),
    ] {
        std::fs::copy(from.join(name), speaker.join(name)).unwrap();
    }
    let (speaker, prompts) = (arg(&speaker), arg(golden("dpo_curve/pairs.jsonl")));
    let roll = |slots: &str, name: &str| {
        let out = arg(tmp.path().join(name));
        trainer_ok([
            "rollout",
            "--model",
            &speaker,
            "--data_file",
            &prompts,
            "--output_file",
            &out,
            "--num_generations",
            "2",
            "--temperature",
            "0.8",
            "--max_completion_length",
            "16",
            "--generation_batch_size",
            slots,
        ]);
        (std::fs::read_to_string(&out).unwrap(), out)
    };
    let ((many, out), (few, _)) = (roll("64", "many.jsonl"), roll("3", "few.jsonl"));
    assert_eq!(many.lines().count(), 40);
    assert_eq!(many, few);
    let screen = trainer_ok(["score", "--plugin", "length", "--data_file", &out]);
    assert!(screen.contains("length: mean 0.0000"), "{screen}");
    trainer_fails(
        ["score", "--plugin", "length", "--data_file", &prompts],
        2,
        &["has no `completion`", "trainer rollout"],
    );
}
