//! `golden/in.jsonl` through each shipped plugin gives `golden/out.jsonl`. With UPDATE_GOLDEN=1
//! the second file is written instead of compared: read the difference before committing it.

use serde_json::{Value, json};
use trainer::data::Conversation;
use trainer::plugin::{Plugin, RenderOptions, Rendering, Verdict};

use crate::golden_answers::{conversation_of, render_one, rendering};
use crate::{root, rows, shipped};

fn lines(plugin: &str, file: &str) -> Vec<String> {
    let path = root().join(format!("plugins/{plugin}/golden/{file}"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.lines().map(str::to_string).collect()
}

fn check_golden(plugin: &str, got: &[Value]) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let text: String = got.iter().map(|v| format!("{v}\n")).collect();
        std::fs::write(root().join(format!("plugins/{plugin}/golden/out.jsonl")), text).unwrap();
        return;
    }
    let wanted = lines(plugin, "out.jsonl");
    assert_eq!(got.len(), wanted.len(), "{plugin}: number of rows");
    for (row, (got, wanted)) in got.iter().zip(&wanted).enumerate() {
        let wanted: Value = serde_json::from_str(wanted).unwrap();
        assert_eq!(*got, wanted, "{plugin}: row {}", row + 1);
    }
}

fn formatter(plugin: &str) {
    let input = lines(plugin, "in.jsonl");
    let texts: Vec<&str> = input.iter().map(String::as_str).collect();
    let outcomes = shipped(plugin, "{}").format(&[rows::batch(&texts)]).unwrap();
    check_golden(plugin, &outcomes.iter().map(rows::outcome).collect::<Vec<_>>());
}

fn template(name: &str) {
    let plugin = shipped(name, "{}");
    let got: Vec<Value> =
        lines(name, "in.jsonl").iter().map(|case| rendering(&render_one(&plugin, case))).collect();
    check_golden(name, &got);
}

#[test]
fn sharegpt_rows_are_as_recorded() {
    formatter("sharegpt");
}

#[test]
fn alpaca_rows_are_as_recorded() {
    formatter("alpaca");
}

#[test]
fn text_rows_are_as_recorded() {
    formatter("text");
}

#[test]
fn preference_rows_are_as_recorded() {
    formatter("preference");
}

fn reward(name: &str) {
    let input = lines(name, "in.jsonl");
    let texts: Vec<&str> = input.iter().map(String::as_str).collect();
    let scores = shipped(name, "{}").score(&[rows::batch(&texts)]).unwrap();
    let shown = |score: &trainer::plugin::Score| {
        let parts: serde_json::Map<String, Value> =
            score.parts.iter().map(|p| (p.name.clone(), json!(p.value))).collect();
        json!({ "value": score.value, "parts": parts })
    };
    check_golden(name, &scores.iter().map(shown).collect::<Vec<_>>());
}

#[test]
fn prompt_rows_are_as_recorded() {
    formatter("prompt");
}

#[test]
fn rewards_are_as_recorded() {
    for name in ["accuracy", "format", "length", "repetition"] {
        reward(name);
    }
}

#[test]
fn rewards_follow_their_options() {
    let score = |name: &str, options: &str, row: Value| {
        let text = row.to_string();
        shipped(name, options).score(&[rows::batch(&[&text])]).unwrap()[0].value
    };
    let answer = json!({"completion": "3 or 4", "reference": "3 or 4"});
    assert_eq!(score("accuracy", r#"{"extract": "whole"}"#, answer.clone()), Some(1.0));
    assert_eq!(score("accuracy", r#"{"extract": "tag", "wrong": -1}"#, answer), Some(-1.0));
    let near = json!({"completion": "3.15", "reference": "3.14"});
    assert_eq!(score("accuracy", r#"{"tolerance": 0.01, "right": 2}"#, near), Some(2.0));
    let half = json!({"completion": "<think>a</think> b"});
    assert_eq!(score("format", r#"{"partial": true}"#, half), Some(0.5));
    let ended = json!({"completion": "so be it. END"});
    assert_eq!(score("format", r#"{"tags": [], "ends_with": "END"}"#, ended), Some(1.0));
    let words = json!({"completion": "one two three"});
    let few = r#"{"unit": "words", "min": 6, "max": 9}"#;
    assert_eq!(score("length", few, words.clone()), Some(-0.5));
    assert_eq!(score("repetition", r#"{"n": 1, "weight": 2}"#, words), Some(0.0));
    let fault = |name: &str, options: &str| {
        let limits = trainer::plugin::PluginLimits::default();
        Plugin::load(name, options, 0, limits).unwrap_err().to_string()
    };
    assert!(fault("length", r#"{"min": 9, "max": 1}"#).contains("`min` 9 is above `max` 1"));
    assert!(fault("format", r#"{"tags": ["<a>"]}"#).contains("`tags`"));
}

#[test]
fn chatml_renderings_are_as_recorded() {
    template("chatml");
}

#[test]
fn vicuna_renderings_are_as_recorded() {
    template("vicuna");
}

#[test]
fn outcomes_do_not_depend_on_batches_or_repetition() {
    for name in ["sharegpt", "alpaca", "text", "preference", "prompt"] {
        let input = lines(name, "in.jsonl");
        let many: Vec<&str> = input.iter().cycle().take(1_500).map(String::as_str).collect();
        let plugin = shipped(name, "{}");
        let whole = plugin.format(&[rows::batch(&many)]).unwrap();
        assert_eq!(whole.len(), many.len());
        assert_eq!(whole, plugin.format(&[rows::batch(&many)]).unwrap(), "{name}: a second time");
        let all = rows::batch(&many);
        let cut: Vec<_> = (0..all.num_rows())
            .step_by(97)
            .map(|at| all.slice(at, 97.min(all.num_rows() - at)))
            .collect();
        assert_eq!(whole, plugin.format(&cut).unwrap(), "{name}: in batches of 97");
        assert_eq!(whole, shipped(name, "{}").format(&cut).unwrap(), "{name}: fresh");
    }
}

#[test]
fn renderings_do_not_depend_on_batches() {
    for name in ["chatml", "vicuna"] {
        let input = lines(name, "in.jsonl");
        let many: Vec<Conversation> =
            input.iter().cycle().take(1_200).map(|case| conversation_of(case)).collect();
        let plugin = shipped(name, "{}");
        let options = RenderOptions::default();
        let whole = plugin.render(&many, &options).unwrap();
        let single: Vec<Rendering> = many[..input.len()]
            .iter()
            .map(|c| plugin.render(std::slice::from_ref(c), &options).unwrap().remove(0))
            .collect();
        for (i, rendering) in whole.iter().enumerate() {
            assert_eq!(*rendering, single[i % single.len()], "{name}: conversation {i}");
        }
    }
}

#[test]
fn trained_text_is_the_answer_and_what_ends_it() {
    let case = r#"{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}]}"#;
    let trained = |name: &str, options: &str| -> String {
        let segments = render_one(&shipped(name, options), case).unwrap();
        segments.iter().filter(|s| s.weight > 0.0).map(|s| s.text.as_str()).collect()
    };
    assert_eq!(trained("chatml", "{}"), "a<|im_end|>");
    assert_eq!(trained("vicuna", "{}"), "a</s>");
    assert_eq!(trained("vicuna", r#"{"end_of_turn":"<eot>","answer_prefix":" "}"#), " a<eot>");
}

#[test]
fn templates_name_their_stop_strings() {
    let with_eos = RenderOptions { eos: "<|end|>".into(), ..RenderOptions::default() };
    let none = RenderOptions::default();
    assert_eq!(shipped("chatml", "{}").stop_strings(&with_eos).unwrap(), ["<|im_end|>"]);
    assert_eq!(shipped("vicuna", "{}").stop_strings(&none).unwrap(), ["</s>"]);
    assert_eq!(shipped("vicuna", "{}").stop_strings(&with_eos).unwrap(), ["<|end|>"]);
}

#[test]
fn options_change_what_is_read_and_done() {
    let text = shipped("text", r#"{"column":"body"}"#);
    assert_eq!(text.reads().columns[0].name, "body");
    let outcomes = text.format(&[rows::batch(&[r#"{"body":"x","text":5}"#])]).unwrap();
    assert!(matches!(&outcomes[0].verdict, Verdict::Keep(_)));

    let strict = shipped("sharegpt", r#"{"column":"messages","unknown_role":"reject"}"#);
    let row = r#"{"messages":[{"role":"user","content":"a"},{"role":"critic","content":"b"}]}"#;
    let outcomes = strict.format(&[rows::batch(&[row])]).unwrap();
    let wanted = "field `messages[1].role` is `critic`, not a known role";
    assert_eq!(outcomes[0].verdict, Verdict::Reject(wanted.into()));

    let blank_line = shipped("alpaca", r#"{"separator":"\n\n"}"#);
    let row = r#"{"instruction":"i","input":"j","output":"o"}"#;
    let outcome = rows::outcome(&blank_line.format(&[rows::batch(&[row])]).unwrap()[0]);
    assert_eq!(outcome["keep"][0]["conversation"]["messages"][0]["content"], "i\n\nj");
}

#[test]
fn values_nested_too_deep_reject_the_row() {
    let deep = format!(r#"{{"conversations":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    let plugin = shipped("sharegpt", "{}");
    let column = deep["{\"conversations\":".len()..deep.len() - 1].to_string();
    let batch = {
        // Made by hand: the test's own reader is not asked to parse it.
        let template = rows::batch(&[r#"{"conversations":[]}"#]);
        let texts = arrow::array::StringArray::from(vec![column]);
        arrow::array::RecordBatch::try_new(template.schema(), vec![std::sync::Arc::new(texts)])
            .unwrap()
    };
    let outcomes = plugin.format(&[batch]).unwrap();
    assert!(
        matches!(&outcomes[0].verdict, Verdict::Reject(why) if why.contains("recursion limit")),
        "{:?}",
        outcomes[0]
    );
}

#[test]
fn the_longest_line_fits_the_limits() {
    let long = "word ".repeat((trainer::limits::JSONL_LINE_BYTES_MAX - 200) / 5);
    let row = json!({ "conversations": [
        {"from": "human", "value": "q"}, {"from": "gpt", "value": long}] })
    .to_string();
    let outcomes = shipped("sharegpt", "{}").format(&[rows::batch(&[&row, &row])]).unwrap();
    assert!(outcomes.iter().all(|o| matches!(o.verdict, Verdict::Keep(_))));
}

#[test]
fn every_row_of_the_sample_data_is_used_without_repairs() {
    sample_rows_are_used("datasets/sft", "sharegpt");
    sample_rows_are_used("datasets/preference", "preference");
    sample_rows_are_used("datasets/arithmetic/sft", "sharegpt");
    sample_rows_are_used("datasets/arithmetic/questions", "prompt");
    sample_rows_are_used("datasets/arithmetic/held_out", "prompt");
}

fn sample_rows_are_used(folder: &str, plugin: &str) {
    let folder = root().join(folder);
    let mut files: Vec<_> =
        std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "jsonl"));
    files.sort();
    assert!(!files.is_empty(), "no samples in {}", folder.display());
    let plugin = shipped(plugin, "{}");
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for (row, outcome) in plugin.format(&[rows::batch(&lines)]).unwrap().iter().enumerate() {
            let place = format!("{}:{}", path.display(), row + 1);
            assert!(matches!(outcome.verdict, Verdict::Keep(_)), "{place}: {outcome:?}");
            assert!(outcome.notes.is_empty(), "{place}: {outcome:?}");
        }
    }
}
