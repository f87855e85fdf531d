//! Preference optimisation end to end: against TRL, resumed, with every kind of reference.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::Path;

use support::{
    adapter, arg, follows, golden, json, log_rows, losses, root, shared, stage, trainer_fails,
    trainer_ok, with_checkpoint,
};

/// Arguments of the recorded runs.
fn dpo(out: &Path, more: &[&str]) -> Vec<String> {
    let common = [
        "--plugin",
        "preference",
        "--shuffle",
        "False",
        "--per_device_train_batch_size",
        "2",
        "--learning_rate",
        "5e-3",
        "--lr_scheduler_type",
        "linear",
        "--weight_decay",
        "0",
    ];
    stage("dpo", &golden("dpo_curve/pairs.jsonl"), out, &[&common, more].concat())
}

const TEN: [&str; 6] = ["--max_steps", "10", "--eval_strategy", "no", "--save_steps", "100"];

#[test]
fn ten_updates_follow_trl_for_every_loss() {
    if shared("stories260K/hf").is_none() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let expected = json(golden("dpo_curve/expected.json"));
    let initial = arg(golden("dpo_curve/initial"));
    for (loss, smoothing) in [("sigmoid", "0"), ("hinge", "0"), ("ipo", "0"), ("robust", "0.1")] {
        let out = tmp.path().join(loss);
        let mut more =
            vec!["--loss_type", loss, "--label_smoothing", smoothing, "--peft_path", &initial];
        more.extend(TEN);
        trainer_ok(dpo(&out, &more));
        let rows = log_rows(&out);
        for (key, near) in [
            ("loss", (1e-3, 2e-4)),
            ("grad_norm", (5e-3, 1e-3)),
            ("rewards/margins", (1e-3, 1e-4)),
            ("rewards/accuracies", (0.0, 1e-9)),
            ("logps/chosen", (1e-3, 1e-3)),
            ("logps/rejected", (1e-3, 1e-3)),
            ("logits/chosen", (1e-3, 1e-3)),
            ("logits/rejected", (1e-3, 1e-3)),
        ] {
            follows(loss, &rows, key, &expected[loss][key], near);
        }
    }
}

#[test]
fn every_kind_of_reference_gives_the_same_losses() {
    let Some(model) = shared("stories260K/hf") else { return };
    let tmp = tempfile::tempdir().unwrap();
    let base = arg(&model);
    let initial = arg(golden("dpo_curve/initial"));
    let run = |name: &str, more: &[&str]| {
        let out = tmp.path().join(name);
        let mut all = vec!["--peft_path", &initial];
        all.extend(TEN);
        all.extend(more);
        trainer_ok(dpo(&out, &all));
        losses(&out)
    };
    let adapter = run("adapter", &[]);
    assert!((adapter[0].1 - std::f64::consts::LN_2).abs() < 1e-6, "{adapter:?}");
    assert!(adapter[9].1 < 0.2, "{adapter:?}");
    let model_of_its_own = run("model", &["--ref_model_name_or_path", &base]);
    let beforehand = run("beforehand", &["--precompute_ref_log_probs", "True"]);
    for i in 0..10 {
        assert!((adapter[i].1 - model_of_its_own[i].1).abs() < 1e-6, "model, update {i}");
        assert!((adapter[i].1 - beforehand[i].1).abs() < 1e-6, "beforehand, update {i}");
    }
    // A fresh adapter changes nothing yet: its base is the reference.
    let out = tmp.path().join("fresh");
    trainer_ok(dpo(&out, &TEN));
    assert_eq!(losses(&out)[0].1, std::f64::consts::LN_2);
    // Without an adapter the reference is a copy of the base.
    let out = tmp.path().join("full");
    let mut full = vec!["--use_peft", "False", "--learning_rate", "1e-3"];
    full.extend(TEN);
    let args: Vec<String> = dpo(&out, &[]).into_iter().collect();
    let at = args.iter().position(|a| a == "--learning_rate").unwrap();
    let mut args: Vec<String> = args[..at].iter().chain(&args[at + 2..]).cloned().collect();
    args.extend(full.iter().map(|s| s.to_string()));
    trainer_ok(args);
    let curve = losses(&out);
    assert!((curve[0].1 - std::f64::consts::LN_2).abs() < 1e-6 && curve[9].1 < 0.4, "{curve:?}");
}

#[test]
fn held_out_pairs_are_told_apart_and_a_resumed_run_ends_the_same() {
    if shared("stories260K/hf").is_none() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let whole = tmp.path().join("whole");
    let more = [
        "--max_steps",
        "12",
        "--validation_split_percentage",
        "20",
        "--eval_steps",
        "6",
        "--save_steps",
        "6",
        "--lora_dropout",
        "0.1",
    ];
    let screen = trainer_ok(dpo(&whole, &more));
    assert!(screen.starts_with("trainer dpo"), "{screen}");
    assert!(screen.contains("20 rows of 1 file: 20 used"), "{screen}");
    let results = json(whole.join("eval_results.json"));
    assert_eq!(results["eval_samples"], 4);
    assert_eq!(results["eval_rewards/accuracies"], 1.0);
    assert!(results["eval_rewards/margins"].as_f64().unwrap() > 0.5, "{results}");
    assert!(results.get("perplexity").is_none());
    let manifest = json(whole.join("trainer_manifest.json"));
    assert_eq!(manifest["stage"], "dpo");
    assert_eq!(manifest["plugins"][0]["name"], "preference");

    let again = tmp.path().join("again");
    with_checkpoint(&whole, 6, &again);
    let mut resumed = more.to_vec();
    resumed.extend(["--resume_from_checkpoint", "True"]);
    trainer_ok(dpo(&again, &resumed));
    assert!(adapter(&whole) == adapter(&again), "the resumed adapter differs");
    // The window's metrics are in the checkpoint: the second half's log is the same.
    let half = |dir: &Path| -> Vec<(u64, f64)> {
        losses(dir).into_iter().filter(|(step, _)| *step > 6).collect()
    };
    assert_eq!(half(&whole), half(&again));
    // Another loss is another run.
    let mut other = resumed.clone();
    other.extend(["--beta", "0.5"]);
    trainer_fails(dpo(&again, &other), 2, &["preferences", "0.5"]);
}

#[test]
fn what_is_no_pair_is_named() {
    if shared("stories260K/hf").is_none() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let out = tmp.path().join("out");
    trainer_fails(
        dpo(&out, &["--loss_type", "hinge", "--label_smoothing", "0.1", "--beta", "0"]),
        2,
        &["`--label_smoothing` belongs to", "`beta` is `0`"],
    );
    let data = root().join("datasets/sft");
    let args: Vec<String> = dpo(&out, &[])
        .into_iter()
        .map(|a| match a.as_str() {
            "preference" => "sharegpt".into(),
            a if a.ends_with("pairs.jsonl") => arg(&data),
            a => a.to_string(),
        })
        .collect();
    trainer_fails(args, 3, &["conversations.jsonl", "is no pair of answers", "preference"]);
    let long = ["--max_source_length", "4", "--max_target_length", "4"];
    trainer_fails(
        dpo(&out, &long),
        3,
        &["longer than max_source_length + max_target_length", "20"],
    );
}
