//! Data sets as people publish them; skipped with a note where the shared data are absent.

use std::path::PathBuf;

use super::*;
use crate::data::ledger::Ledger;

fn shared(name: &str) -> Option<PathBuf> {
    let root = std::env::var_os("TRAINER_TEST_DATA").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"),
        PathBuf::from,
    );
    let path = root.join(name);
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: {} is not there (TRAINER_TEST_DATA names another place)", path.display());
    None
}

#[test]
fn gsm8k_and_stories_have_all_their_rows() {
    let Some(path) = shared("gsm8k/train_first1000.jsonl") else { return };
    let options = needs(&[("question", ColumnKind::Utf8), ("answer", ColumnKind::Utf8)]);
    let got = read_path(&path, options).unwrap();
    assert_eq!((got.rows.len(), got.rejects.len()), (1000, 0));
    assert!(got.rows.iter().all(|(_, row)| row[1].as_deref().unwrap().contains("####")));
    let Some(path) = shared("stories260K/sampled_stories.jsonl") else { return };
    let got = read_path(&path, needs(&[("text", ColumnKind::Utf8)])).unwrap();
    assert_eq!((got.rows.len(), got.rejects.len()), (200, 0));
}

#[test]
fn an_array_of_conversations_is_read_element_by_element() {
    let Some(path) = shared("fastchat/data/dummy_conversation.json") else { return };
    let got = read_path(&path, needs(&[("conversations", ColumnKind::Json)])).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let want: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    assert_eq!(got.rows.len(), want.len());
    for ((n, row), want) in got.rows.iter().zip(&want) {
        let value: serde_json::Value = serde_json::from_str(row[0].as_deref().unwrap()).unwrap();
        assert_eq!(value, want["conversations"], "row {n}");
    }
}

#[test]
fn conversation_trees_keep_their_text() {
    let Some(path) = shared("open-assistant/model/model_eval/manual/data/en_100_tree.jsonl") else {
        return;
    };
    let got = read_path(&path, needs(&[("prompt", ColumnKind::Json)])).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((got.rows.len(), got.rejects.len()), (lines.len(), 0));
    for ((_, row), line) in got.rows.iter().zip(lines) {
        assert!(line.contains(row[0].as_deref().unwrap()));
    }
}

#[test]
fn every_line_of_plain_text_is_accounted_for() {
    let Some(path) = shared("tinyshakespeare/data/tinyshakespeare/input.txt") else { return };
    let mut ledger = Ledger::default();
    let file = discover_file(&path).unwrap();
    for batch in SourceReader::new([file], all()) {
        let batch = batch.unwrap();
        ledger.read(&batch);
        (0..batch.rows.len()).for_each(|i| ledger.used(&batch.provenance(i), 1));
    }
    ledger.check().unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(ledger.totals().rows, text.lines().count() as u64);
    let blank = text.lines().filter(|l| l.trim().is_empty()).count() as u64;
    assert_eq!(ledger.totals().skipped, blank);
}

#[test]
fn parquet_files_of_other_writers_are_read() {
    let Some(folder) = shared("parquet-testing/data") else { return };
    let found = discover_folder(&folder).unwrap();
    assert_eq!(found.files.len(), 8);
    for file in &found.files {
        let rows: usize = SourceReader::new([file.clone()], all())
            .map(|b| b.unwrap_or_else(|e| panic!("{e}")).batch.num_rows())
            .sum();
        assert!(rows > 0, "{}", file.name);
        let whole = Projection::Columns { needs: vec![], whole_row: true };
        for batch in SourceReader::new([file.clone()], ReadOptions::new(whole)) {
            let batch = batch.unwrap();
            assert!(batch.rejects.is_empty(), "{} {:?}", file.name, batch.rejects);
            let texts = batch.batch.column(0).as_string::<i32>();
            for text in texts.iter().flatten() {
                let _: serde_json::Value = serde_json::from_str(text).unwrap();
            }
        }
    }
    let plain = folder.join("alltypes_plain.parquet");
    let options = needs(&[
        ("id", ColumnKind::Int64),
        ("bool_col", ColumnKind::Boolean),
        ("double_col", ColumnKind::Float64),
        ("string_col", ColumnKind::Utf8),
    ]);
    let got = read_path(&plain, options).unwrap();
    assert_eq!(got.rows.len(), 8);
    assert_eq!(got.rows[0].1, some(&["4", "true", "0.0", "0"]));
    assert_eq!(got.rows[1].1, some(&["5", "false", "10.1", "1"]));
    let lists = folder.join("list_columns.parquet");
    let got = read_path(&lists, needs(&[("int64_list", ColumnKind::Json)])).unwrap();
    assert_eq!(got.rows[0].1, some(&["[1,2,3]"]));
}
