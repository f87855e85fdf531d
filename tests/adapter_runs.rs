//! Adapters of every kind end to end: trained, resumed, merged, exported, by the real binary.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::{Path, PathBuf};

use trainer::model::reader::read_all;
use trainer::text::TextTokenizer;

use support::{adapter, arg, json, losses, shared, trainer_fails, trainer_ok};

fn model() -> Option<PathBuf> {
    shared("stories260K/hf")
}

/// Rows of ids; `more` is among them in every row.
fn rows(dir: &Path, more: &[usize]) -> PathBuf {
    std::fs::create_dir_all(dir).unwrap();
    let row = |r: usize| {
        let ids = (0..12 + (r * 7) % 17).map(|i| 3 + (r * 31 + i * i * 5) % 500);
        let ids: Vec<usize> = ids.chain(more.iter().copied()).chain([7, 8]).collect();
        format!("{{\"input_ids\": {ids:?}, \"labels\": {ids:?}}}\n")
    };
    let path = dir.join("rows.jsonl");
    std::fs::write(&path, (0..11).map(row).collect::<String>()).unwrap();
    path
}

fn sft(data: &Path, out: &Path, more: &[&str]) -> Vec<String> {
    let model = arg(model().unwrap());
    let (data, out) = (arg(data), arg(out));
    let common = [
        "sft",
        "--model_name_or_path",
        &model,
        "--train_file_dir",
        &data,
        "--output_dir",
        &out,
        "--learning_rate",
        "1e-2",
        "--logging_steps",
        "1",
        "--eval_strategy",
        "no",
        "--report_to",
        "none",
        "--num_train_epochs",
        "1",
        "--per_device_train_batch_size",
        "2",
        "--save_strategy",
        "steps",
        "--save_steps",
        "2",
        "--save_total_limit",
        "9",
    ];
    common.iter().chain(more).map(|s| s.to_string()).collect()
}

const KINDS: [(&str, &[&str]); 5] = [
    ("dora", &["--use_dora", "True", "--use_rslora", "True"]),
    (
        "modules",
        &["--modules_to_save", "embed_tokens,lm_head,norm", "--layers_to_transform", "1,3-4"],
    ),
    ("noise", &["--neftune_noise_alpha", "5", "--loraplus_lr_ratio", "8"]),
    ("patterns", &["--rank_pattern", "q_proj=4,v_proj=2", "--alpha_pattern", "{\"v_proj\": 3}"]),
    ("pissa", &["--init_lora_weights", "pissa", "--lora_rank", "4", "--lora_dropout", "0"]),
];

#[test]
fn every_kind_resumes_to_the_same_bits_and_merges() {
    let Some(model) = model() else { return };
    let tmp = tempfile::tempdir().unwrap();
    let data = rows(&tmp.path().join("data"), &[]);
    for (name, more) in KINDS {
        let whole = tmp.path().join(name);
        trainer_ok(sft(&data, &whole, more));
        let again = tmp.path().join(format!("{name}-again"));
        let from = arg(whole.join("checkpoint-2"));
        let mut args = sft(&data, &again, more);
        args.extend(["--resume_from_checkpoint".into(), from.clone()]);
        trainer_ok(args);
        assert!(adapter(&whole) == adapter(&again), "{name}: other bits");
        assert_eq!(losses(&whole), losses(&again), "{name}");
        // Another seed is another run; so is another adapter.
        let other = tmp.path().join(format!("{name}-other"));
        let mut args = sft(&data, &other, &["--lora_rank", "5"]);
        args.extend(["--resume_from_checkpoint".into(), from]);
        trainer_fails(args, 2, &["belongs to a run with", "lora_rank"]);
        let merged = tmp.path().join(format!("{name}-merged"));
        let base = arg(&model);
        trainer_ok([
            "merge",
            "--base_model",
            &base,
            "--peft_model_path",
            &arg(&whole),
            "--output_dir",
            &arg(&merged),
        ]);
        let prompt = ["--prompt", "Once upon a time", "--max_new_tokens", "16", "--raw", "True"];
        let generate = |of: &[&str]| trainer_ok([&["generate"], of, &prompt].concat());
        let by_adapter = generate(&["--model", &base, "--adapter", &arg(&whole)]);
        assert_eq!(by_adapter, generate(&["--model", &arg(&merged)]), "{name}");
        let card = std::fs::read_to_string(whole.join("README.md")).unwrap();
        let setting = more[0].trim_start_matches("--").replace("init_lora_weights", "pissa");
        assert!(card.contains(&format!("| {setting} |")), "{card}");
    }
    // The noise changes the loss; its absence is the plain run.
    let plain = tmp.path().join("plain");
    trainer_ok(sft(&data, &plain, &["--neftune_noise_alpha", "0"]));
    assert_ne!(losses(&plain)[0], losses(&tmp.path().join("noise"))[0]);
    let config = json(tmp.path().join("pissa/adapter_config.json"));
    assert_eq!((config["r"].as_u64(), &config["init_lora_weights"]), (Some(8), &true.into()));
    // Two adapters, weighted.
    let both = tmp.path().join("both");
    let (one, two) = (arg(&plain), arg(tmp.path().join("patterns")));
    let weights = ["--adapter_weights", "0.7,0.3"];
    let of = ["merge", "--peft_model_path", &one, &two, "--output_dir", &arg(&both)];
    trainer_ok([of.as_slice(), &weights].concat());
    let merged = tmp.path().join("both-merged");
    let onto = ["--base_model", &arg(&model)];
    let of = ["merge", "--peft_model_path", &one, &two, "--output_dir", &arg(&merged)];
    trainer_ok([of.as_slice(), &weights, &onto].concat());
    let prompt = ["--prompt", "Once upon a time", "--max_new_tokens", "16", "--raw", "True"];
    let generate = |of: &[&str]| trainer_ok([&["generate"], of, &prompt].concat());
    let by_adapter = generate(&["--model", &arg(&model), "--adapter", &arg(&both)]);
    assert_eq!(by_adapter, generate(&["--model", &arg(&merged)]));
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    let Some(_) = model() else { return };
    let tmp = tempfile::tempdir().unwrap();
    let data = rows(&tmp.path().join("data"), &[]);
    let out = tmp.path().join("out");
    let fails = |more: &[&str], fragments: &[&str]| {
        trainer_fails(sft(&data, &out, more), 2, fragments);
    };
    fails(&["--use_peft", "False", "--use_dora"], &["`--use_dora` is about adapters"]);
    fails(&["--peft_path", "x", "--use_rslora"], &["decided by the adapter"]);
    fails(&["--use_dora", "True", "--init_lora_weights", "pissa"], &["exclude each other"]);
    fails(&["--rank_pattern", "q_proj"], &["expected NAME=NUMBER"]);
    fails(&["--rank_pattern", "q_proj=1.5"], &["expected a whole number"]);
    fails(&["--layers_to_transform", "4-2"], &["expected a block's number"]);
    fails(&["--load_in_8bit", "True", "--init_lora_weights", "pissa"], &["keep as it is"]);
    let known = ["--modules_to_save", "lm_heads"];
    trainer_fails(sft(&data, &out, &known), 3, &["matches no module", "lm_head"]);
}

#[test]
fn added_tokens_are_trained_saved_and_merged() {
    let Some(model) = model() else { return };
    let tmp = tempfile::tempdir().unwrap();
    let data = rows(&tmp.path().join("data"), &[512, 513]);
    let base = arg(&model);
    let add = ["--add_tokens", "<city>", "--add_special_tokens", "<|turn|>"];
    let whole = ["--modules_to_save", "embed_tokens,lm_head"];
    for (name, more) in [("rows", &[][..]), ("whole", &whole)] {
        let out = tmp.path().join(name);
        let more = [&add[..], more].concat();
        trainer_ok(sft(&data, &out, &more));
        let again = tmp.path().join(format!("{name}-again"));
        let mut args = sft(&data, &again, &more);
        args.extend(["--resume_from_checkpoint".into(), arg(out.join("checkpoint-2"))]);
        trainer_ok(args);
        assert!(adapter(&out) == adapter(&again), "{name}: other bits");
        let tokenizer = TextTokenizer::load(&out, [None; 3]).unwrap();
        assert_eq!(tokenizer.encode("a<city><|turn|>", false).unwrap().ids[1..], [512, 513]);
        let config = json(out.join("adapter_config.json"));
        let tensors = read_all(&out.join("adapter_model.safetensors")).unwrap();
        let rows = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta";
        if name == "rows" {
            assert_eq!(config["trainable_token_indices"], serde_json::json!([512, 513]));
            assert_eq!(tensors[rows].dims(), [2, 64]);
        } else {
            assert!(config.get("trainable_token_indices").is_none() && !tensors.contains_key(rows));
            assert_eq!(tensors["base_model.model.lm_head.weight"].dims(), [514, 64]);
        }
        let merged = tmp.path().join(format!("{name}-merged"));
        let of = ["merge", "--base_model", &base, "--peft_model_path", &arg(&out)];
        trainer_ok([&of[..], &["--output_dir", &arg(&merged)]].concat());
        let config = json(merged.join("config.json"));
        assert_eq!(config["vocab_size"], 514);
        assert_eq!(config["tie_word_embeddings"], name == "rows");
        let prompt = ["--prompt", "Once upon <city>", "--max_new_tokens", "12", "--raw", "True"];
        let generate = |of: &[&str]| trainer_ok([&["generate"], of, &prompt].concat());
        let by_adapter = generate(&["--model", &base, "--adapter", &arg(&out)]);
        assert_eq!(by_adapter, generate(&["--model", &arg(&merged)]), "{name}");
        // Trained further, the adapter brings its tokens along.
        let further = tmp.path().join(format!("{name}-further"));
        trainer_ok(sft(&data, &further, &["--peft_path", &arg(&out)]));
        let tokenizer = TextTokenizer::load(&further, [None; 3]).unwrap();
        assert_eq!(tokenizer.id("<city>"), Some(512));
    }
    // Every weight: the folder has the rows.
    let full = tmp.path().join("full");
    trainer_ok(sft(&data, &full, &[&add[..], &["--use_peft", "False"]].concat()));
    assert_eq!(json(full.join("config.json"))["vocab_size"], 514);
    let half = ["--add_tokens", "<city>", "--modules_to_save", "embed_tokens"];
    let alone = rows(&tmp.path().join("alone"), &[512]);
    trainer_fails(sft(&alone, &tmp.path().join("half"), &half), 2, &["both or neither"]);
    trainer_fails(sft(&alone, &tmp.path().join("none"), &[]), 3, &["512"]);
}
