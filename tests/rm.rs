//! Reward modelling end to end: against TRL and PEFT, merged, resumed.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::Path;

use support::{
    arg, follows, golden, json, log_rows, shared, stage, trainer_fails, trainer_ok, with_checkpoint,
};

fn rm(data: &Path, out: &Path, more: &[&str]) -> Vec<String> {
    let common = [
        "--plugin",
        "preference",
        "--shuffle",
        "False",
        "--per_device_train_batch_size",
        "2",
        "--learning_rate",
        "5e-3",
        "--weight_decay",
        "0",
        "--lora_dropout",
        "0",
        "--lora_alpha",
        "16",
    ];
    stage("rm", data, out, &[&common, more].concat())
}

#[test]
fn ten_updates_follow_trl() {
    if shared("stories260K/hf").is_none() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let expected = json(golden("rm_curve/expected.json"));
    let initial = arg(golden("rm_curve/initial"));
    for (name, data, more) in [
        ("plain", "dpo_curve/pairs.jsonl", vec![]),
        ("centred", "dpo_curve/pairs.jsonl", vec!["--center_rewards_coefficient", "0.01"]),
        ("margin", "rm_curve/margins.jsonl", vec![]),
    ] {
        let out = tmp.path().join(name);
        let mut all =
            vec!["--peft_path", initial.as_str(), "--max_steps", "10", "--eval_strategy", "no"];
        all.extend(more);
        trainer_ok(rm(&golden(data), &out, &all));
        let rows = log_rows(&out);
        for (key, near) in [
            ("loss", (1e-3, 2e-4)),
            ("grad_norm", (1e-2, 2e-3)),
            ("accuracy", (0.0, 1e-9)),
            ("margin", (1e-3, 1e-3)),
            ("min_reward", (1e-3, 1e-3)),
            ("mean_reward", (1e-3, 1e-3)),
            ("max_reward", (1e-3, 1e-3)),
        ] {
            follows(name, &rows, key, &expected[name][key], near);
        }
    }
}

#[test]
fn the_adapter_is_what_peft_writes_and_merges_into_a_reward_model() {
    let Some(model) = shared("stories260K/hf") else { return };
    let tmp = tempfile::tempdir().unwrap();
    let out = tmp.path().join("out");
    let more = ["--max_steps", "12", "--validation_split_percentage", "20", "--eval_steps", "6"];
    let screen = trainer_ok(rm(&golden("dpo_curve/pairs.jsonl"), &out, &more));
    assert!(screen.starts_with("trainer rm") && screen.contains("trainer score"), "{screen}");
    let results = json(out.join("eval_results.json"));
    assert_eq!(results["eval_accuracy"], 1.0);
    assert!(results["eval_margin"].as_f64().unwrap() > 1.0, "{results}");
    assert!(results["eval_mse"].as_f64().unwrap() > 1.0, "{results}");
    assert!(results.get("perplexity").is_none());

    // The same tensors and the same decisive settings as PEFT's own adapter.
    let names = |dir: &Path| -> Vec<(String, Vec<usize>)> {
        let bytes = std::fs::read(dir.join("adapter_model.safetensors")).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let mut all: Vec<_> =
            file.tensors().into_iter().map(|(n, t)| (n, t.shape().to_vec())).collect();
        all.sort();
        all
    };
    let theirs = golden("rm_curve/final");
    assert_eq!(names(&out), names(&theirs));
    let (own, foreign) =
        (json(out.join("adapter_config.json")), json(theirs.join("adapter_config.json")));
    for key in ["task_type", "peft_type", "r", "lora_alpha", "bias"] {
        assert_eq!(own[key], foreign[key], "{key}");
    }
    assert_eq!(own["modules_to_save"], serde_json::json!(["classifier", "score"]));

    // Merged: a model for sequence classification with one label, without the head for words.
    let merged = tmp.path().join("merged");
    let (base, adapter, to) = (arg(&model), arg(&out), arg(&merged));
    trainer_ok([
        "merge",
        "--base_model",
        &base,
        "--peft_model_path",
        &adapter,
        "--output_dir",
        &to,
    ]);
    let config = json(merged.join("config.json"));
    assert_eq!(config["architectures"][0], "LlamaForSequenceClassification");
    assert_eq!(config["id2label"], serde_json::json!({"0": "LABEL_0"}));
    assert!(config["pad_token_id"].is_u64());
    let bytes = std::fs::read(merged.join("model.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert!(file.tensor("score.weight").is_ok() && file.tensor("lm_head.weight").is_err());

    // It has no words, and says so; it trains further as a reward model.
    trainer_fails(
        ["generate", "--model", &to, "--prompt", "x"],
        3,
        &["reward model", "give a language model"],
    );
    trainer_fails(
        ["generate", "--model", &base, "--adapter", &adapter, "--prompt", "x"],
        3,
        &["it is of a reward model"],
    );
    let further = tmp.path().join("further");
    let args: Vec<String> = rm(
        &golden("dpo_curve/pairs.jsonl"),
        &further,
        &[
            "--max_steps",
            "1",
            "--use_peft",
            "False",
            "--learning_rate=1e-5",
            "--eval_strategy",
            "no",
        ],
    )
    .into_iter()
    .map(|a| if a == base { to.clone() } else { a })
    .collect();
    let at = args.iter().position(|a| a == "--learning_rate").unwrap();
    let args: Vec<&String> = args[..at].iter().chain(&args[at + 2..]).collect();
    trainer_ok(args);
    let state = json(further.join("trainer_state.json"));
    assert!(state["log_history"][0]["margin"].as_f64().unwrap() > 1.0, "it forgot: {state}");
    assert!(further.join("model.safetensors").is_file());
}

#[test]
fn a_resumed_run_ends_the_same() {
    if shared("stories260K/hf").is_none() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    for (name, mode) in [("lora", "--use_peft=True"), ("full", "--use_peft=False")] {
        let (whole, again) = (tmp.path().join(name), tmp.path().join(format!("{name}-again")));
        let more = ["--max_steps", "8", "--save_steps", "4", "--eval_strategy", "no", mode];
        let pairs = golden("dpo_curve/pairs.jsonl");
        trainer_ok(rm(&pairs, &whole, &more));
        with_checkpoint(&whole, 4, &again);
        let mut resumed = more.to_vec();
        resumed.extend(["--resume_from_checkpoint", "True"]);
        trainer_ok(rm(&pairs, &again, &resumed));
        let file = if name == "lora" { "adapter_model.safetensors" } else { "model.safetensors" };
        let weights = |dir: &Path| std::fs::read(dir.join(file)).unwrap();
        assert!(weights(&whole) == weights(&again), "{name}: the resumed weights differ");
    }
}
