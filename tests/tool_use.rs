//! Conversations with tools: what is trained of them, in fine-tuning and in preferences.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use serde_json::{Value, json};
use support::{arg, golden, losses, shared, stage, trainer_ok};

const TOOLS: &str =
    r#"[{"name": "weather", "description": "of a city", "parameters": {"type": "object"}}]"#;
const CALL: &str = r#"{"name": "weather", "arguments": {"city": "Bonn"}}"#;

fn turn(from: &str, value: &str) -> Value {
    json!({"from": from, "value": value})
}

fn write(path: &std::path::Path, rows: &[Value]) {
    let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
    std::fs::write(path, lines).unwrap();
}

#[test]
fn calls_and_answers_are_trained_and_what_a_tool_said_is_not() {
    let Some(model) = shared("stories260K/hf") else { return };
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("tools.jsonl");
    let conversation = [
        turn("human", "How cold is it?"),
        turn("function_call", CALL),
        turn("observation", r#"{"degrees": -3}"#),
        turn("gpt", "Three below zero."),
    ];
    write(&data, &vec![json!({"conversations": conversation, "tools": TOOLS}); 8]);
    let (model, tokenizer) = (arg(&model), arg(golden("dpo_curve/tokenizer")));
    for template in ["chatml", "vicuna"] {
        let text = trainer_ok([
            "preview",
            "--model_name_or_path",
            &model,
            "--tokenizer_name_or_path",
            &tokenizer,
            "--train_file_dir",
            &arg(&data),
            "--plugin",
            "sharegpt",
            "--plugin",
            template,
            "--model_max_length",
            "1024",
            "--num_rows",
            "1",
            "--json",
            "True",
        ]);
        let row: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        let characters: Vec<char> = row["text"].as_str().unwrap().chars().collect();
        let part = |trained: bool| -> String {
            let segments = row["segments"].as_array().unwrap();
            let of = |s: &&Value| s["train"].as_bool() == Some(trained);
            let range = |s: &Value, key: &str| s[key].as_u64().unwrap() as usize;
            let text = |s: &Value| characters[range(s, "start")..range(s, "end")].iter().collect();
            segments.iter().filter(of).map(text).collect::<Vec<String>>().join("|")
        };
        let (trained, masked) = (part(true), part(false));
        for wanted in ["weather", "Bonn", "Three below zero."] {
            assert!(trained.contains(wanted), "{template}: no `{wanted}` in {trained}");
        }
        for wanted in ["of a city", "How cold is it?", "degrees"] {
            assert!(masked.contains(wanted), "{template}: no `{wanted}` in {masked}");
            assert!(!trained.contains(wanted), "{template}: `{wanted}` in {trained}");
        }
    }
    let out = dir.path().join("sft");
    let plugins = ["--plugin", "sharegpt", "--plugin", "chatml", "--model_max_length", "1024"];
    let more = [&plugins[..], &["--max_steps", "10", "--learning_rate", "1e-2"]].concat();
    trainer_ok(stage("sft", &data, &out, &more));
    let found = losses(&out);
    assert!(found[9].1 < found[0].1 - 0.3, "{found:?}");
}

#[test]
fn pairs_of_a_right_and_a_wrong_call_are_told_apart() {
    if shared("stories260K/hf").is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("pairs.jsonl");
    let pair = |city: &str| {
        let question = turn("human", &format!("How cold is it in {city}?"));
        let call =
            |city: &str| json!({"from": "function_call", "value": CALL.replace("Bonn", city)});
        json!({"conversations": [question], "tools": TOOLS, "chosen": call(city), "rejected": call("Rome")})
    };
    let cities = ["Bonn", "Oslo", "Kiel", "Bern", "Graz", "Lyon", "Bari", "Gent"];
    write(&data, &cities.map(pair));
    let out = dir.path().join("dpo");
    let more = [
        "--plugin",
        "preference",
        "--plugin",
        "chatml",
        "--num_train_epochs",
        "8",
        "--learning_rate",
        "1e-2",
    ];
    trainer_ok(stage("dpo", &data, &out, &more));
    let state = support::json(out.join("trainer_state.json"));
    let rows: Vec<f64> = state["log_history"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|row| row["rewards/accuracies"].as_f64())
        .collect();
    assert_eq!(rows.last(), Some(&1.0), "{rows:?}");
}
