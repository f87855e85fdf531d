//! Files that are not as they should be: each has its message, and none stops the program.

use std::io::Write;

use super::*;

const A: (&str, ColumnKind) = ("a", ColumnKind::Json);

/// Reads a JSONL file of one good row, this one and a good one.
fn row(bytes: &[u8], kind: ColumnKind) -> Read {
    let good = b"{\"a\": null}\n";
    read("f.jsonl", [&good[..], bytes, b"\n", good].concat(), needs(&[("a", kind)])).unwrap()
}

#[test]
fn bad_json_rows_are_rejected_one_by_one_with_the_reason() {
    let deep = format!("{{\"a\": {}1{}}}", "[".repeat(64), "]".repeat(64));
    let very_deep = "[".repeat(100_000);
    let cases: Vec<(&[u8], ColumnKind, &str)> = vec![
        (b"{\"a\": 1", ColumnKind::Json, "ends inside its JSON value: it is cut off"),
        (b"{\"a\": \"x", ColumnKind::Json, "cut off"),
        (b"{\"a\": 1,}", ColumnKind::Json, "is not valid JSON: trailing comma (column 9)"),
        (b"{\"a\": 1} x", ColumnKind::Json, "trailing characters"),
        (b"{a: 1}", ColumnKind::Json, "key must be a string"),
        (b"{'a': 1}", ColumnKind::Json, "is not valid JSON"),
        (b"{\"a\": NaN}", ColumnKind::Json, "is not valid JSON"),
        (b"{\"a\": Infinity}", ColumnKind::Json, "is not valid JSON"),
        (b"{\"a\": 1e400}", ColumnKind::Json, "in field `a`: number out of range"),
        (
            b"{\"a\": 1e400}",
            ColumnKind::Float64,
            "the number 1e400 in field `a`, expected a finite",
        ),
        (b"{\"a\": 01}", ColumnKind::Json, "is not valid JSON"),
        (b"[1, 2]", ColumnKind::Json, "is a list, not an object of fields"),
        (b"\"text\"", ColumnKind::Json, "is a string, not an object"),
        (b"7", ColumnKind::Json, "is a number, not an object"),
        (b"null", ColumnKind::Json, "is null, not an object"),
        (b"{\"a\": \"\xff\"}", ColumnKind::Json, "is not UTF-8 (column 8)"),
        (b"{\"b\": \"\xc3\", \"a\": 1}", ColumnKind::Json, "is not UTF-8"),
        (b"{\"a\": \"x\0\"}", ColumnKind::Json, "NUL byte (column 9)"),
        (b"{\"a\": \"x\ty\"}", ColumnKind::Json, "control character"),
        (b"{\"a\": \"\\ud800\"}", ColumnKind::Utf8, "bad value in field `a`"),
        (b"{\"a\": [\"\\ud800\"]}", ColumnKind::Json, "bad value in field `a`"),
        (b"{\"a\": \"\\udc00\"}", ColumnKind::Json, "bad value in field `a`"),
        (b"{\"a\": 1, \"a\": 2}", ColumnKind::Json, "the key `a` twice"),
        (b"{\"a\": {\"b\": 1, \"b\": 2}}", ColumnKind::Json, "`b` twice in an object of field `a`"),
        (b"{\"A\": 1}", ColumnKind::Json, "no field `a`; found fields: `A`; did you mean `A`"),
        (b"{}", ColumnKind::Json, "has no field `a`; found fields: none"),
        (b"{\"a\": 1}", ColumnKind::Utf8, "has the number 1 in field `a`, expected a string"),
        (b"{\"a\": {}}", ColumnKind::Utf8, "has an object in field `a`, expected a string"),
        (b"{\"a\": 1.5}", ColumnKind::Int64, "the number 1.5 in field `a`, expected a 64-bit"),
        (b"{\"a\": 9223372036854775808}", ColumnKind::Int64, "expected a 64-bit integer"),
        (b"{\"a\": \"1\"}", ColumnKind::Int64, "has a string in field `a`"),
        (b"{\"a\": \"1\"}", ColumnKind::Float64, "has a string in field `a`"),
        (b"{\"a\": 0}", ColumnKind::Boolean, "expected true or false"),
        (deep.as_bytes(), ColumnKind::Json, "nested deeper than 64"),
        (very_deep.as_bytes(), ColumnKind::Json, "nested deeper than 64"),
    ];
    for (bytes, kind, why) in cases {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
        let got = row(bytes, kind);
        assert_eq!(got.rows.len(), 2, "{shown}: {:?}", got.rejects);
        let [reject] = got.rejects.as_slice() else { panic!("{shown}: {:?}", got.rejects) };
        assert!(reject.starts_with("row 2 of ") && reject.contains(why), "{shown}: {reject}");
    }
}

#[test]
fn depth_up_to_the_limit_and_unwanted_oddities_are_read() {
    let deep = format!("{{\"a\": {}1{}}}", "[".repeat(63), "]".repeat(63));
    for text in
        [deep.as_bytes(), b"{\"a\": \"[[{{\\\"\", \"b\": \"\\ud800\"}", b"{\"a\": 1, \"b\": 1e400}"]
    {
        assert_eq!(row(text, ColumnKind::Json).rejects, Vec::<String>::new());
    }
}

#[test]
fn excerpts_are_short_and_escaped() {
    let got = row(format!("\u{1b}[31m\u{202e}{}", "x".repeat(1000)).as_bytes(), ColumnKind::Json);
    let reject = &got.rejects[0];
    assert!(reject.contains("\\u{1b}[31m\\u{202e}xxx") && reject.len() < 700, "{reject}");
}

#[test]
fn overlong_rows_are_rejected_without_being_held() {
    let long = format!("{{\"a\": \"{}\"}}", "x".repeat(17 << 20));
    let got = row(long.as_bytes(), ColumnKind::Utf8);
    assert!(got.rejects[0].contains("is longer than 16777216 bytes"), "{:?}", got.rejects);
    assert_eq!(got.rows.len(), 2);
    let array = format!("[{{\"a\": 1}}, {long}, {{\"a\": 2}}]");
    let got = read("f.json", array, needs(&[A])).unwrap();
    assert_eq!(got.rows.iter().map(|r| r.0).collect::<Vec<_>>(), [1, 3]);
    assert!(got.rejects[0].starts_with("row 2 of "), "{:?}", got.rejects);
}

#[test]
fn truncated_last_line_is_a_reject_and_a_missing_newline_is_none() {
    let got = read("f.jsonl", "{\"a\": 1}\n{\"a\": 2}", needs(&[A])).unwrap();
    assert_eq!(got.rows.len(), 2);
    let got = read("f.jsonl", "{\"a\": 1}\n{\"a\": ", needs(&[A])).unwrap();
    assert!(got.rejects[0].starts_with("row 2 of ") && got.rejects[0].contains("cut off"));
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

#[test]
fn bad_files_are_named_with_what_to_do() {
    let utf16: Vec<u8> = "{\"a\": 1}\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let marked = [&b"\xff\xfe"[..], &utf16].concat();
    let gz_marked = gz(&marked);
    let good = gz(b"{\"a\": 1}\n{\"a\": 2}\n");
    let zst = zstd::encode_all(&b"{\"a\": 1}\n"[..], 1).unwrap();
    let bomb = gz(&vec![b' '; 64 << 20]);
    let open_quote = [b"a,b\n1,\"".to_vec(), vec![b'x'; 18 << 20]].concat();
    let wide = "x,".repeat(5000) + "a\n";
    let cases: Vec<(&str, &[u8], &str)> = vec![
        ("f.jsonl", b"", "holds no rows; remove it"),
        ("f.jsonl", b"\n \r\n\n", "holds no rows, only blank lines"),
        ("f.json", b"[]", "holds no rows"),
        ("f.txt", b"", "holds no rows"),
        ("f.csv", b"", "holds no rows"),
        ("f.csv", b"a,b\n", "holds no rows below its header"),
        ("f.jsonl", &utf16, "UTF-16 text; save it as UTF-8"),
        ("f.jsonl", &marked, "UTF-16 text; save it as UTF-8"),
        ("f.txt", &marked, "UTF-16 text"),
        ("f.jsonl.gz", &gz_marked, "UTF-16 text"),
        ("f.jsonl", b"PK\x03\x04....", "holds a zip archive; extract or convert it first"),
        ("f.jsonl", b"\x80\x04\x95 ...", "a Python pickle"),
        ("f.jsonl", b"PAR1....", "holds Parquet; rename it"),
        ("f.jsonl.gz", b"{\"a\": 1}\n", "should hold gzip by its name but holds something else"),
        ("f.jsonl.zst", &good, "rename it to end in .gz"),
        ("f.jsonl.gz", &good[..good.len() - 9], "can't decompress"),
        ("f.jsonl.gz", &good[..12], "can't decompress"),
        ("f.jsonl.zst", &zst[..zst.len() - 3], "can't decompress"),
        ("f.txt.gz", &bomb, "200 times its size; it looks like a decompression bomb"),
        ("f.json", b"[{\"a\": 1}, {\"a\": ", "from row 2: the file ends inside it: it is cut off"),
        ("f.json", b"[{\"a\": 1},", "cut off"),
        ("f.json", b"[{\"a\": 1},, {\"a\": 2}]", "there is a comma without a value"),
        ("f.json", b"[{\"a\": 1}] {}", "there is more after the end of the list"),
        ("f.json", b"{\n\"a\": 1,\n", "cut off"),
        (
            "f.jsonl",
            b"{\"b\": 1}\n{\"aa\": 1}\n",
            "has no field `a`; found `aa`, `b`; did you mean `aa`",
        ),
        ("f.csv", b"b,aa\n1,2\n", "has no field `a`; found `b`, `aa`; did you mean `aa`"),
        ("f.csv", b"a,b,a\n1,2,3\n", "the header of"),
        ("f.csv", b"\xff,a\n1,2\n", "is not UTF-8"),
        ("f.csv", wide.as_bytes(), "5001 columns, more than the 4096 allowed"),
        ("f.csv", &open_quote, "a quote seems to be left open"),
        ("f.txt", b"text\n", "has no field `a`; found only `text`"),
        ("f.parquet", b"", "holds nothing; the file is empty"),
        ("f.parquet", b"{\"a\": 1}\n", "check that it was written whole"),
        ("f.parquet", b"PAR1", "can't read"),
        ("f.parquet", b"PAR1\xff\xff\xff\xffPAR1", "can't read"),
        ("f.parquet", b"PAR1xxxxxxxx\x08\0\0\0PAR1", "can't read"),
        ("f.parquet", b"ARROW1\0\0", "holds Arrow IPC; rename it"),
        ("f.arrow", b"ARROW1\0\0", "its end is missing"),
        ("f.arrow", b"\xff\xff\xff\xff\xff\xff\xff\x7f", "the description of a message"),
        ("f.arrow", b"\xff\xff\xff\xff\x10\0\0\0abc", "ends inside a message"),
        ("f.arrow", b"\xff\xff\xff\xff\x08\0\0\0abcdefgh", "a message is damaged"),
    ];
    for (name, bytes, why) in cases {
        let options =
            if why.contains("only") || !name.contains(".txt") { needs(&[A]) } else { all() };
        let e = match read(name, bytes, options) {
            Err(e) => e.to_string(),
            Ok(got) => panic!("{name} {why}: {got:?}"),
        };
        assert!(e.contains(why) && e.contains(name) && !e.ends_with('.'), "{name}: {e}");
    }
}

#[test]
fn bad_rows_of_tables_are_rejected() {
    let text = b"\na,b\n\n1,2\r\n1\n1,2,3\nx,2\n\xff,2\n\r\n5,6";
    let got = read("f.csv", text, needs(&[("a", ColumnKind::Int64)])).unwrap();
    assert_eq!(got.rows.iter().map(|r| r.0).collect::<Vec<_>>(), [4, 10]);
    let why = [
        "row 5 of ",
        "has 1 fields, but the header has 2",
        "row 6 of ",
        "has 3 fields",
        "row 7 of ",
        "has `x` in field `a`, expected a 64-bit integer",
        "row 8 of ",
        "is not UTF-8 (column 1); save the file as UTF-8 in field `a`",
    ];
    for (reject, why) in got.rejects.iter().zip(why.chunks(2)) {
        assert!(reject.starts_with(why[0]) && reject.contains(why[1]), "{reject}");
    }
    assert_eq!(got.rejects.len(), 4);
    assert_eq!(got.blank, 3);
}

#[test]
fn reading_ends_after_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let bad = discover_file(&write(dir.path(), "a.json", "[{\"a\": 1},")).unwrap();
    let good = discover_file(&write(dir.path(), "b.json", "[{\"a\": 1}]")).unwrap();
    let mut reader = SourceReader::new([bad, good], all());
    assert!(reader.next().unwrap().is_err());
    assert!(reader.next().is_none());
}
