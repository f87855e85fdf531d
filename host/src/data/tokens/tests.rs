#![allow(clippy::unwrap_used)]

use super::*;
use crate::data::source::{ReadOptions, SourceReader, discover_file};

fn read(text: &str) -> (Vec<(u64, Example)>, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.jsonl");
    std::fs::write(&path, text).unwrap();
    let file = discover_file(&path).unwrap();
    let (mut examples, mut rejects) = (Vec::new(), Vec::new());
    for batch in SourceReader::new([file], ReadOptions::new(projection())) {
        let batch = batch.unwrap();
        let rows = super::examples(&batch).unwrap();
        examples.extend(rows.examples.into_iter().map(|(at, example)| (at.row, example)));
        rejects.extend(batch.rejects.iter().chain(&rows.rejects).map(ToString::to_string));
    }
    (examples, rejects)
}

#[test]
fn ids_and_labels_are_taken_as_they_are() {
    let (examples, rejects) =
        read("{\"input_ids\": [5, 4294967295, 0], \"labels\": [-100, 7, 0], \"other\": 1}\n");
    assert!(rejects.is_empty(), "{rejects:?}");
    let want = Example::Tokens { input_ids: vec![5, u32::MAX, 0], labels: vec![-100, 7, 0] };
    assert_eq!(examples, [(1, want)]);
}

#[test]
fn rows_that_can_not_be_trained_are_rejected_with_the_position() {
    for (row, why) in [
        (r#"{"input_ids": [1, 2], "labels": [1]}"#, "2 `input_ids` but 1 `labels`"),
        (r#"{"input_ids": [], "labels": []}"#, "an empty list"),
        (r#"{"input_ids": [1, -1], "labels": [1, 1]}"#, "-1 at position 1 of `input_ids`"),
        (r#"{"input_ids": [4294967296], "labels": [1]}"#, "4294967296 at position 0"),
        (r#"{"input_ids": [1], "labels": [-1]}"#, "expected -100 (no loss)"),
        (r#"{"input_ids": [1.5], "labels": [1]}"#, "no list of integers in `input_ids`"),
        (r#"{"input_ids": "1", "labels": [1]}"#, "no list of integers"),
        (r#"{"input_ids": null, "labels": [1]}"#, "null in `input_ids`"),
        (r#"{"input_ids": [1], "label": [1]}"#, "has no field `labels`"),
    ] {
        let good = r#"{"input_ids": [1], "labels": [1]}"#;
        let (examples, rejects) = read(&format!("{good}\n{row}\n"));
        assert_eq!(examples.len(), 1, "{row}");
        assert!(rejects[0].starts_with("row 2 of ") && rejects[0].contains(why), "{rejects:?}");
    }
}
