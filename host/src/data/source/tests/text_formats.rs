//! JSON, tables in text and plain text that are as they should be.

use std::io::Write;

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::data::json_value;

#[test]
fn json_values_keep_their_text_and_strings_are_decoded() {
    let text = "\u{feff}{\"s\": \"a\\u00e9\\n\", \"n\": 12345678901234567890123, \"o\": {\"x\" : [1.50, 1e3]}, \"skip\": [}\r\n";
    let text = text.replace("[}", "[]}");
    let options =
        needs(&[("o", ColumnKind::Json), ("s", ColumnKind::Utf8), ("n", ColumnKind::Json)]);
    let got = read("a.jsonl", &text, options).unwrap();
    let want = some(&["{\"x\" : [1.50, 1e3]}", "aé\n", "12345678901234567890123"]);
    assert_eq!(got.rows, [(1, want)]);
}

#[test]
fn typed_values_and_nulls_arrive_as_their_type() {
    let text = "{\"i\":-9223372036854775808,\"f\":1e3,\"b\":true,\"y\":\"\\u0041\"}\n{\"i\":null,\"f\":2,\"b\":false,\"y\":\"\"}\n";
    let options = needs(&[
        ("i", ColumnKind::Int64),
        ("f", ColumnKind::Float64),
        ("b", ColumnKind::Boolean),
        ("y", ColumnKind::Binary),
    ]);
    let got = read("a.ndjson", text, options).unwrap();
    assert_eq!(got.rows[0].1, some(&["-9223372036854775808", "1000.0", "true", "A"]));
    assert_eq!(got.rows[1].1[0], None);
    assert_eq!(got.rows[1].1[3], Some(String::new()));
}

#[test]
fn optional_fields_are_null_where_absent_and_whole_rows_are_verbatim() {
    let projection = Projection::Columns {
        needs: vec![ColumnNeed::optional("b", ColumnKind::Utf8)],
        whole_row: true,
    };
    let got = read("a.jsonl", " {\"a\" : 1.0} \n{\"b\":\"x\"}\n", ReadOptions::new(projection));
    let rows = got.unwrap().rows;
    assert_eq!(rows[0].1, [None, Some("{\"a\" : 1.0}".into())]);
    assert_eq!(rows[1].1, some(&["x", "{\"b\":\"x\"}"]));
}

#[test]
fn all_columns_are_the_union_of_the_batch_with_json_marked() {
    let dir = tempfile::tempdir().unwrap();
    let text = "{\"a\":\"x\",\"m\":1}\n{\"b\":[1],\"m\":\"s\"}\n{\"a\":null}\n";
    let file = discover_file(&write(dir.path(), "a.jsonl", text)).unwrap();
    let batch = SourceReader::new([file], all()).next().unwrap().unwrap();
    let schema = batch.batch.schema();
    let is_json = |i: usize| schema.field(i).metadata().contains_key(JSON_METADATA_KEY);
    let names: Vec<_> = schema.fields().iter().map(|f| f.name().as_str()).collect();
    assert_eq!(names, ["a", "m", "b"]);
    assert_eq!((is_json(0), is_json(1), is_json(2)), (false, true, true));
    let row = |r| batch.batch.columns().iter().map(|c| shown_value(c, r)).collect::<Vec<_>>();
    assert_eq!(row(0), [Some("x".into()), Some("1".into()), None]);
    assert_eq!(row(1), [None, Some("\"s\"".into()), Some("[1]".into())]);
    assert_eq!(row(2), [None, None, None]);
}

#[test]
fn arrays_and_spread_objects_are_rows_too() {
    for (name, text) in [
        ("a.json", "[{\"a\": 1},\n {\"a\": 2}\n]"),
        ("a.jsonl", " [ {\"a\":1} , {\"a\":2}]"),
        ("a.json", "{\n  \"a\": 1\n}\n{\n  \"a\": 2\n}\n"),
        ("a.json", "{\"a\": 1}\n{\"a\": 2}"),
        ("a.json", "{\"a\":\n1} {\"a\": 2}"),
    ] {
        let got = read(name, text, needs(&[("a", ColumnKind::Int64)])).unwrap();
        assert_eq!(got.rows, [(1, some(&["1"])), (2, some(&["2"]))], "{text}");
    }
}

#[test]
fn batches_are_bounded_and_rows_numbered_through() {
    let dir = tempfile::tempdir().unwrap();
    let text: String = (0..1000).map(|i| format!("{{\"a\":{i}}}\n")).collect();
    let file = discover_file(&write(dir.path(), "a.jsonl", text)).unwrap();
    let batches: Vec<_> =
        SourceReader::new([file.clone(), file], all()).map(Result::unwrap).collect();
    let sizes: Vec<_> = batches.iter().map(|b| b.rows.len()).collect();
    assert_eq!(sizes, [512, 488, 512, 488]);
    assert_eq!((batches[1].rows[0], batches[2].rows[0]), (513, 1));
}

#[test]
fn large_rows_close_a_batch_early() {
    let dir = tempfile::tempdir().unwrap();
    let row = format!("{{\"a\":\"{}\"}}\n", "x".repeat(9 << 20));
    let file = discover_file(&write(dir.path(), "a.jsonl", row.repeat(3))).unwrap();
    let sizes: Vec<_> =
        SourceReader::new([file], all()).map(|b| b.unwrap().batch.num_rows()).collect();
    assert_eq!(sizes, [2, 1]);
}

#[test]
fn compressed_text_reads_as_the_plain_one_whatever_its_name() {
    let text: String = (0..2000).map(|i| format!("{{\"a\":{i}}}\n")).collect();
    let plain = read("a.jsonl", &text, all()).unwrap();
    let mut gz = Vec::new();
    // Two members, as `cat a.gz b.gz` makes them.
    for half in [&text[..5000], &text[5000..]] {
        let mut member = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        member.write_all(half.as_bytes()).unwrap();
        gz.extend(member.finish().unwrap());
    }
    let zst = zstd::encode_all(text.as_bytes(), 1).unwrap();
    assert_eq!(read("a.jsonl.gz", &gz, all()).unwrap(), plain);
    assert_eq!(read("a.jsonl", &gz, all()).unwrap(), plain);
    assert_eq!(read("a.json.zst", &zst, all()).unwrap(), plain);
}

#[test]
fn tables_follow_the_quoting_rules_and_number_lines() {
    let text = "\u{feff}q,n,b\r\n\"a, \"\"b\"\"\nc\",1,true\r\nx,,\r\n";
    let options =
        needs(&[("b", ColumnKind::Boolean), ("q", ColumnKind::Utf8), ("n", ColumnKind::Int64)]);
    let got = read("a.csv", text, options).unwrap();
    assert_eq!(got.rows[0], (2, some(&["true", "a, \"b\"\nc", "1"])));
    assert_eq!(got.rows[1], (4, vec![None, Some("x".into()), None]));
    let got = read("a.tsv", "a\tb\n1,2\t5\" pipe\n", all()).unwrap();
    assert_eq!(got.rows, [(2, some(&["1,2", "5\" pipe"]))]);
    let whole = Projection::Columns { needs: vec![], whole_row: true };
    let got = read("a.csv", "a,b\n1,\"x\"\n", ReadOptions::new(whole)).unwrap();
    assert_eq!(got.rows, [(2, some(&["{\"a\":\"1\",\"b\":\"x\"}"]))]);
}

#[test]
fn plain_text_is_a_document_per_line_or_per_file() {
    let text = "one\r\n\n  \ntwo";
    let got = read("a.txt", text, all()).unwrap();
    assert_eq!(got.rows, [(1, some(&["one"])), (4, some(&["two"]))]);
    assert_eq!(got.blank, 2);
    let options = ReadOptions { whole_file_text: true, ..needs(&[("text", ColumnKind::Utf8)]) };
    assert_eq!(read("a.txt", text, options).unwrap().rows, [(1, some(&[text]))]);
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "\\PC{0,8}|[\\u{0}-\\u{1f}\"\\\\]{0,4}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map("[a-c\u{e9}\"]{0,2}", inner, 0..4)
                .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

/// A line of a file: an object, a blank, or something broken.
fn line() -> impl Strategy<Value = String> {
    let object = proptest::collection::btree_map("[a-d]", json_value(), 0..4)
        .prop_map(|m| Value::Object(m.into_iter().collect()).to_string());
    prop_oneof![
        6 => object,
        1 => Just(String::new()),
        1 => Just("  \t".to_string()),
        1 => "[ -~]{1,20}".prop_filter("an array would be the whole file", |s| !s.trim().starts_with('[')),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn lines_read_as_serde_json_reads_them(
        lines in proptest::collection::vec((line(), any::<bool>()), 1..30),
        last_ends: bool,
        batch_rows in 1usize..9,
    ) {
        let mut text = String::new();
        for (i, (line, crlf)) in lines.iter().enumerate() {
            text += line;
            if i + 1 < lines.len() || last_ends {
                text += if *crlf { "\r\n" } else { "\n" };
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let file = discover_file(&write(dir.path(), "a.jsonl", &text)).unwrap();
        let (mut good, mut bad, mut blank) = (Vec::new(), Vec::new(), 0);
        for batch in SourceReader::new([file], ReadOptions { batch_rows, ..all() }) {
            let batch = match batch {
                Ok(batch) => batch,
                Err(DataError::NoRows { .. }) => {
                    prop_assert!(text.trim().is_empty());
                    return Ok(());
                }
                Err(e) => panic!("{e}"),
            };
            prop_assert!(batch.rows.len() + batch.rejects.len() <= batch_rows);
            for i in 0..batch.rows.len() {
                let text = json_value::row(&batch.batch, i, |_| false).unwrap();
                let _: Value = serde_json::from_str(&text).unwrap();
                let mut row = serde_json::Map::new();
                for (field, column) in batch.batch.schema().fields().iter().zip(batch.batch.columns()) {
                    let Some(text) = shown_value(column, i) else { continue };
                    let json = field.metadata().contains_key(JSON_METADATA_KEY);
                    let value = if json { serde_json::from_str(&text).unwrap() } else { Value::from(text) };
                    row.insert(field.name().clone(), value);
                }
                good.push((batch.rows[i], row));
            }
            bad.extend(batch.rejects.iter().map(|r| r.row));
            blank += batch.blank;
        }
        let (mut want_good, mut want_bad, mut want_blank) = (Vec::new(), Vec::new(), 0);
        for (n, (line, _)) in (1u64..).zip(&lines) {
            if n as usize == lines.len() && line.is_empty() && !last_ends {
                break;
            }
            if line.trim().is_empty() {
                want_blank += 1;
                continue;
            }
            match serde_json::from_str::<Value>(line) {
                Ok(Value::Object(mut map)) => {
                    map.retain(|_, v| !v.is_null());
                    want_good.push((n, map));
                }
                _ => want_bad.push(n),
            }
        }
        let sort = |rows: Vec<(u64, serde_json::Map<String, Value>)>| -> Vec<(u64, Value)> {
            rows.into_iter().map(|(n, map)| (n, Value::Object(map))).collect()
        };
        prop_assert_eq!(sort(good), sort(want_good));
        prop_assert_eq!(bad, want_bad);
        prop_assert_eq!(blank, want_blank);
    }

    #[test]
    fn arrays_read_as_lines_do(rows in proptest::collection::vec(
        proptest::collection::btree_map("[a-d]", json_value(), 0..4), 1..20), pretty: bool) {
        let rows: Vec<Value> =
            rows.into_iter().map(|m| Value::Object(m.into_iter().collect())).collect();
        let lines: String = rows.iter().map(|r| format!("{r}\n")).collect();
        let array = if pretty { serde_json::to_string_pretty(&rows) } else { serde_json::to_string(&rows) };
        let whole = || ReadOptions::new(Projection::Columns { needs: vec![], whole_row: true });
        let by_line = read("a.jsonl", lines, whole()).unwrap();
        let by_element = read("a.json", array.unwrap(), whole()).unwrap();
        prop_assert_eq!(by_line.rows.len(), by_element.rows.len());
        for ((n, a), (m, b)) in by_line.rows.iter().zip(&by_element.rows) {
            prop_assert_eq!(n, m);
            let parse = |t: &Option<String>| serde_json::from_str::<Value>(t.as_deref().unwrap()).unwrap();
            prop_assert_eq!(parse(&a[0]), parse(&b[0]));
        }
    }

    #[test]
    fn any_bytes_end_in_rows_rejects_or_an_error(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        prefix in prop_oneof![Just("[{\"a\":1},"), Just("{\"a\":"), Just("a,b\n"), Just("")],
    ) {
        let bytes = [prefix.as_bytes(), &bytes].concat();
        for name in ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.txt", "a.parquet", "a.arrow", "a.jsonl.gz"] {
            let _ = read(name, &bytes, all());
        }
    }
}
