//! Pre-training end to end: from a base, and from scratch with an own tokenizer.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::{Path, PathBuf};

use support::{arg, json, losses, root, shared, trainer_fails, trainer_ok};

fn texts(dir: &Path) -> PathBuf {
    std::fs::create_dir_all(dir).unwrap();
    let whole = std::fs::read_to_string(root().join("datasets/pretrain/encyclopedia.txt")).unwrap();
    let lines: Vec<&str> = whole.lines().filter(|l| !l.trim().is_empty()).take(150).collect();
    std::fs::write(dir.join("a.txt"), lines[..80].join("\n")).unwrap();
    let rows: String =
        lines[80..].iter().map(|l| format!("{}\n", serde_json::json!({"text": l}))).collect();
    std::fs::write(dir.join("b.jsonl"), rows).unwrap();
    dir.to_path_buf()
}

fn pt(out: &Path, data: &Path, more: &[&str]) -> Vec<String> {
    let (out, data) = (arg(out), arg(data));
    let common = [
        "pt",
        "--train_file_dir",
        &data,
        "--output_dir",
        &out,
        "--logging_steps",
        "1",
        "--report_to",
        "none",
        "--block_size",
        "64",
    ];
    common.iter().chain(more).map(|s| s.to_string()).collect()
}

#[test]
fn a_base_learns_from_text_and_jsonl_and_no_token_is_lost() {
    let Some(model) = shared("stories260K/hf") else { return };
    let tmp = tempfile::tempdir().unwrap();
    let data = texts(&tmp.path().join("data"));
    let model = arg(&model);
    let mut tokens = Vec::new();
    for packing in ["concat", "documents", "none"] {
        let out = tmp.path().join(packing);
        let screen = trainer_ok(pt(
            &out,
            &data,
            &[
                "--model_name_or_path",
                &model,
                "--max_steps",
                "12",
                "--learning_rate",
                "1e-2",
                "--validation_split_percentage",
                "10",
                "--eval_steps",
                "6",
                "--packing",
                packing,
            ],
        ));
        assert!(screen.starts_with("trainer pt"), "{screen}");
        let line = screen.lines().find(|l| l.contains("tokens an epoch")).unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        let at = words.iter().position(|w| *w == "tokens").unwrap();
        tokens.push(words[at - 1].to_string());
        let results = json(out.join("eval_results.json"));
        let (loss, perplexity) = (&results["eval_loss"], &results["perplexity"]);
        let wanted = loss.as_f64().unwrap().exp();
        assert!((perplexity.as_f64().unwrap() - wanted).abs() < 1e-9 * wanted);
        let accuracy = results["eval_mean_token_accuracy"].as_f64().unwrap();
        assert!(accuracy > 0.0 && accuracy < 1.0);
        let curve = losses(&out);
        assert!(curve.last().unwrap().1 < curve[0].1 - 0.2, "{packing}: {curve:?}");
        assert!(out.join("adapter_model.safetensors").is_file());
        let manifest = json(out.join("trainer_manifest.json"));
        assert_eq!(manifest["stage"], "pt");
        assert_eq!(manifest["plugins"][0]["name"], "text");
    }
    assert_eq!(tokens[0], tokens[1]);
    assert_eq!(tokens[0], tokens[2]);
}

#[test]
fn a_model_from_scratch_learns_speaks_and_resumes_to_the_same_bits() {
    let tmp = tempfile::tempdir().unwrap();
    let data = texts(&tmp.path().join("data"));
    let tokenizer = tmp.path().join("tokenizer");
    let made = trainer_ok([
        "tokenizer",
        "train",
        "--train_file_dir",
        &arg(&data),
        "--vocab_size",
        "400",
        "--output_dir",
        &arg(&tokenizer),
    ]);
    assert!(made.contains("400 tokens") && made.contains("150"), "{made}");
    let tokenizer = arg(&tokenizer);
    let scratch = [
        "--tokenizer_name_or_path",
        &tokenizer,
        "--hidden_size",
        "64",
        "--num_hidden_layers",
        "2",
        "--num_attention_heads",
        "4",
        "--num_key_value_heads",
        "2",
        "--max_steps",
        "16",
        "--learning_rate",
        "5e-3",
        "--eval_strategy",
        "no",
        "--save_steps",
        "8",
    ];
    let out = tmp.path().join("whole");
    let screen = trainer_ok(pt(&out, &data, &scratch));
    assert!(screen.contains("llama from scratch"), "{screen}");
    let curve = losses(&out);
    // Random weights predict about uniformly over the 400 tokens.
    assert!((curve[0].1 - 400f64.ln()).abs() < 0.3, "{curve:?}");
    assert!(curve.last().unwrap().1 < curve[0].1 - 1.0, "{curve:?}");
    let config = json(out.join("config.json"));
    assert_eq!(config["vocab_size"], 400);
    assert_eq!(config["intermediate_size"], 192);
    assert_eq!(config["max_position_embeddings"], 64);
    let said = trainer_ok([
        "generate",
        "--model",
        &arg(&out),
        "--prompt",
        "The",
        "--raw",
        "True",
        "--max_new_tokens",
        "8",
    ]);
    assert!(!said.trim().is_empty());

    // The first half, then the rest from its checkpoint, gives the same file.
    let again = tmp.path().join("again");
    std::fs::create_dir(&again).unwrap();
    let copy = std::process::Command::new("cp")
        .args(["-r", &arg(out.join("checkpoint-8")), &arg(&again)])
        .status()
        .unwrap();
    assert!(copy.success());
    let mut resumed = scratch.to_vec();
    resumed.extend(["--resume_from_checkpoint", "True"]);
    trainer_ok(pt(&again, &data, &resumed));
    let bytes = |dir: &Path| std::fs::read(dir.join("model.safetensors")).unwrap();
    assert!(bytes(&out) == bytes(&again), "the resumed model differs");

    // A configuration of another model gives the sizes as well.
    let other = tmp.path().join("other");
    let config_name = arg(out.join("config.json"));
    trainer_ok(pt(
        &other,
        &data,
        &[
            "--config_name",
            &config_name,
            "--tokenizer_name_or_path",
            &tokenizer,
            "--max_steps",
            "1",
            "--eval_strategy",
            "no",
            "--num_hidden_layers",
            "1",
        ],
    ));
    assert_eq!(json(other.join("config.json"))["num_hidden_layers"], 1);
    assert_eq!(json(other.join("config.json"))["hidden_size"], 64);

    // A configuration made for another tokenizer gets this one's special tokens.
    let mut foreign = json(out.join("config.json"));
    foreign["eos_token_id"] = 77.into();
    foreign["bos_token_id"] = 78.into();
    let file = tmp.path().join("foreign.json");
    std::fs::write(&file, foreign.to_string()).unwrap();
    let other = tmp.path().join("foreign");
    let file = arg(&file);
    let more = ["--config_name", &file, "--tokenizer_name_or_path", &tokenizer, "--max_steps", "1"];
    trainer_ok(pt(&other, &data, &more));
    let config = json(other.join("config.json"));
    assert_eq!(
        (&config["eos_token_id"], &config["bos_token_id"]),
        (&0.into(), &serde_json::Value::Null)
    );
}

#[test]
fn a_tokenizers_texts_are_accounted_for() {
    let tmp = tempfile::tempdir().unwrap();
    let data = tmp.path().join("rows.jsonl");
    let mut rows = String::new();
    (0..40).for_each(|i| rows.push_str(&format!("{{\"text\": \"row number {i} of many\"}}\n")));
    rows.push_str("{\"text\": 5}\n{\"text\": \"\"}\n");
    std::fs::write(&data, rows).unwrap();
    let out = tmp.path().join("tokenizer");
    let train = |plugin: &str, data: &Path, more: &[&str]| -> Vec<String> {
        let (data, out) = (arg(data), arg(&out));
        let args = ["tokenizer", "train", "--train_file_dir", &data, "--output_dir", &out];
        let plugin = ["--plugin", plugin, "--vocab_size", "300"];
        args.iter().chain(&plugin).chain(more).map(|s| s.to_string()).collect()
    };
    let screen = trainer_ok(train("text", &data, &[]));
    assert!(screen.contains("42 rows of 1 file: 40 used"), "{screen}");
    assert!(screen.contains("1 rejected") || screen.contains("2 rejected"), "{screen}");
    // Pairs hold no text of their own: said, not passed over.
    let pairs = root().join("datasets/preference");
    trainer_fails(train("preference", &pairs, &[]), 2, &["hold no text"]);
}

#[test]
fn contradictions_of_a_model_from_scratch_are_reported_together() {
    let tmp = tempfile::tempdir().unwrap();
    let data = texts(&tmp.path().join("data"));
    let out = tmp.path().join("out");
    trainer_fails(
        pt(
            &out,
            &data,
            &["--model_name_or_path", "base", "--hidden_size", "64", "--use_peft", "True"],
        ),
        2,
        &["leave one of them out", "`--tokenizer_name_or_path` is missing", "trained as a whole"],
    );
    let Some(model) = shared("stories260K/hf") else { return };
    let model = arg(&model);
    trainer_fails(
        pt(&out, &data, &["--tokenizer_name_or_path", &model, "--hidden_size", "64"]),
        2,
        &["`--num_hidden_layers` is missing", "`--num_attention_heads` is missing"],
    );
    trainer_fails(
        pt(&out, &data, &["--model_name_or_path", &model, "--packing", "maybe"]),
        2,
        &["`packing` is `maybe`", "documents"],
    );
    trainer_fails(
        ["tokenizer", "train", "--vocab_size", "10"],
        2,
        &["from 300 on", "`--train_file_dir` is missing", "`--output_dir` is missing"],
    );
}
