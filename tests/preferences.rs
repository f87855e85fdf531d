//! ORPO, SimPO and KTO end to end: against TRL, and what is no row for them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::Path;

use support::{
    arg, follows, golden, json, log_rows, losses, shared, stage, trainer_fails, trainer_ok,
    with_checkpoint,
};

/// Arguments of the recorded runs, in the goldens' settings.
fn run(command: &str, data: &Path, out: &Path, more: &[&str]) -> Vec<String> {
    let common = [
        "--plugin",
        "preference",
        "--shuffle",
        "False",
        "--learning_rate",
        "5e-3",
        "--lr_scheduler_type",
        "linear",
        "--weight_decay",
        "0",
        "--eval_strategy",
        "no",
    ];
    stage(command, data, out, &[&common, more].concat())
}

#[test]
fn ten_updates_follow_trl() {
    if shared("stories260K/hf").is_none() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let expected = json(golden("preference_curves/expected.json"));
    let initial = arg(golden("dpo_curve/initial"));
    let pairs = golden("dpo_curve/pairs.jsonl");
    let rows = golden("preference_curves/rows.jsonl");
    for (name, command, data, more) in [
        ("orpo", "orpo", &pairs, vec!["--per_device_train_batch_size", "2"]),
        ("simpo", "simpo", &pairs, vec!["--per_device_train_batch_size", "2"]),
        ("kto", "kto", &rows, vec!["--per_device_train_batch_size", "4"]),
        (
            "apo_zero_unpaired",
            "kto",
            &rows,
            vec!["--per_device_train_batch_size", "4", "--loss_type", "apo_zero_unpaired"],
        ),
    ] {
        let out = tmp.path().join(name);
        let mut all = vec!["--peft_path", initial.as_str(), "--max_steps", "10"];
        all.extend(more);
        trainer_ok(run(command, data, &out, &all));
        let rows = log_rows(&out);
        for (key, wanted) in expected[name].as_object().unwrap() {
            // SimPO has no likelihood in its loss, and TRL logs it all the same.
            if name == "simpo" && key == "nll_loss" {
                continue;
            }
            let near = match key.as_str() {
                "loss" => (1e-3, 2e-4),
                "grad_norm" => (1e-2, 2e-3),
                _ => (1e-3, 1e-3),
            };
            follows(name, &rows, key, wanted, near);
        }
    }
}

#[test]
fn resumed_runs_end_the_same() {
    if shared("stories260K/hf").is_none() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    for (command, data) in [
        ("orpo", "dpo_curve/pairs.jsonl"),
        ("simpo", "dpo_curve/pairs.jsonl"),
        ("kto", "preference_curves/rows.jsonl"),
    ] {
        let (whole, again) =
            (tmp.path().join(command), tmp.path().join(format!("{command}-again")));
        let more = ["--max_steps", "8", "--save_steps", "4", "--shuffle=True"];
        let args = |out: &Path, more: &[&str]| -> Vec<String> {
            let mut args = run(command, &golden(data), out, more);
            // The order is shuffled here: resuming must find its place in it.
            let at = args.iter().position(|a| a == "--shuffle").unwrap();
            args.drain(at..at + 2);
            args
        };
        trainer_ok(args(&whole, &more));
        with_checkpoint(&whole, 4, &again);
        let mut resumed = more.to_vec();
        resumed.extend(["--resume_from_checkpoint", "True"]);
        trainer_ok(args(&again, &resumed));
        let adapter = |dir: &Path| std::fs::read(dir.join("adapter_model.safetensors")).unwrap();
        assert!(adapter(&whole) == adapter(&again), "{command}: the resumed adapter differs");
        assert_eq!(losses(&whole)[4..], losses(&again)[4..], "{command}");
    }
}

#[test]
fn single_answers_and_pairs_are_told_apart() {
    if shared("stories260K/hf").is_none() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let out = tmp.path().join("out");
    let rows = golden("preference_curves/rows.jsonl");
    trainer_fails(
        run("orpo", &rows, &out, &["--max_steps", "1"]),
        3,
        &["row 1 of ", "rows.jsonl is a single answer and no pair", "trainer kto"],
    );
    // Pairs are taken apart.
    let screen = trainer_ok(run(
        "kto",
        &golden("dpo_curve/pairs.jsonl"),
        &tmp.path().join("apart"),
        &["--max_steps", "2"],
    ));
    assert!(screen.contains("20 good answers, 20 bad ones"), "{screen}");
    trainer_fails(
        run("kto", &rows, &out, &["--desirable_weight", "-1", "--loss_type", "dpo"]),
        2,
        &["`desirable_weight` is `-1`", "one of kto, apo_zero_unpaired"],
    );
}
