//! Stages chained by a file: merged between, resumed where it stopped, all faults at once.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::Path;

use support::{arg, json, root, shared, trainer_fails, trainer_ok};

/// A pipeline of three stages on the shared model.
fn write(path: &Path, out: &Path, rate: &str) {
    let golden = |name: &str| arg(root().join("tests/golden").join(name));
    let (model, out) = (arg(shared("stories260K/hf").unwrap()), arg(out));
    let (tokenizer, pairs) = (golden("dpo_curve/tokenizer"), golden("dpo_curve/pairs.jsonl"));
    let sft = arg(root().join("datasets/sft"));
    let text = format!(
        "output_dir: {out}
model_name_or_path: {model}
stages:
  - stage: sft
    plugin: sharegpt
    tokenizer_name_or_path: {tokenizer}
    train_file_dir: {sft}
    max_train_samples: 40
    max_steps: 6
    learning_rate: {rate}
    eval_strategy: 'no'
    report_to: none
  - stage: rm
    name: judge
    plugin: preference
    train_file_dir: {pairs}
    max_steps: 8
    learning_rate: 5e-3
    validation_split_percentage: 20
    report_to: none
  - stage: rloo
    plugin: [prompt, repetition]
    reward_model_name_or_path: '@judge'
    reward_weights: '0.5,1'
    train_file_dir: {pairs}
    max_steps: 6
    save_steps: 3
    per_device_train_batch_size: 8
    max_completion_length: 12
    learning_rate: 1e-3
    report_to: none
"
    );
    std::fs::write(path, text).unwrap();
}

#[test]
fn stages_follow_each_other_and_go_on_where_they_stopped() {
    let Some(model) = shared("stories260K/hf") else { return };
    let tmp = tempfile::tempdir().unwrap();
    let (file, out) = (tmp.path().join("all.yaml"), tmp.path().join("out"));
    write(&file, &out, "1e-3");
    let screen = trainer_ok(["run", &arg(&file)]);
    assert!(screen.contains("3/3 rloo") && screen.contains("all stages are done"), "{screen}");
    let report = json(out.join("report.json"));
    let stage = |i: usize, key: &str| report["stages"][i][key].as_str().unwrap().to_string();
    assert_eq!(stage(0, "model"), arg(&model));
    // The reward model is beside the line of language models, not in it.
    assert_eq!((stage(1, "model"), stage(2, "model")), (stage(0, "result"), stage(0, "result")));
    assert!(report["stages"][1]["metrics"]["eval_accuracy"].is_f64());
    assert!(std::fs::read_to_string(out.join("report.md")).unwrap().contains("eval_margin"));
    let architecture =
        |dir: &str| json(out.join(dir).join("merged/config.json"))["architectures"][0].clone();
    assert_eq!(architecture("judge"), "LlamaForSequenceClassification");
    assert_eq!(architecture("rloo"), "LlamaForCausalLM");
    let manifest = json(out.join("rloo/trainer_manifest.json"));
    assert_eq!(manifest["stage"], "rloo");

    // Nothing is done twice.
    let again = trainer_ok(["run", &arg(&file)]);
    assert_eq!(again.matches("finished before").count(), 3, "{again}");

    // As if the last stage had been interrupted after its third update.
    let merged = |dir: &Path| std::fs::read(dir.join("rloo/merged/model.safetensors")).unwrap();
    let before = merged(&out);
    for name in ["stage_done.json", "trainer_manifest.json", "checkpoint-6"] {
        let path = out.join("rloo").join(name);
        if path.is_dir() {
            std::fs::remove_dir_all(path).unwrap();
        } else {
            std::fs::remove_file(path).unwrap();
        }
    }
    let resumed = trainer_ok(["run", &arg(&file)]);
    assert_eq!(resumed.matches("finished before").count(), 2, "{resumed}");
    assert!(resumed.contains("resumed from") && resumed.contains("checkpoint-3"), "{resumed}");
    assert!(before == merged(&out), "the resumed stage ends differently");

    // Another first stage is another pipeline.
    write(&file, &out, "2e-3");
    trainer_fails(["run", &arg(&file)], 2, &["out/sft was begun with other settings"]);
}

#[test]
fn all_faults_of_all_stages_are_reported_before_anything_runs() {
    let tmp = tempfile::tempdir().unwrap();
    let file = tmp.path().join("bad.yaml");
    let text = "output_dir: out
model: x
stages:
  - stage: sft
    learning_rte: 1
    train_file_dir: d
  - stage: fly
  - stage: ppo
    train_file_dir: d
    reward_model_name_or_path: '@rm'
    output_dir: elsewhere
";
    std::fs::write(&file, text).unwrap();
    trainer_fails(
        ["run", &arg(&file)],
        2,
        &[
            "unknown key `model`",
            "did you mean `learning_rate`?",
            "stage 2: `stage` is \"fly\"",
            "names `@rm`, no stage before it",
            "`output_dir` is the pipeline's to say",
            "`--model_name_or_path` is missing",
        ],
    );
    trainer_fails(["run"], 2, &["takes one pipeline file"]);
}
