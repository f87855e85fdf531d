//! Parquet and Arrow files written here: types, projection, damage.

use std::sync::Arc;

use ::parquet::arrow::ArrowWriter;
use ::parquet::basic::{Compression, ZstdLevel};
use ::parquet::file::properties::WriterProperties;
use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, DictionaryArray, Float32Array, Float64Array, Int32Array,
    LargeStringArray, ListArray, RecordBatch, StringArray, StringViewArray, StructArray,
    UInt64Array,
};
use arrow::datatypes::{DataType, Field, Int32Type};
use arrow::ipc::CompressionType;
use arrow::ipc::writer::{FileWriter, IpcWriteOptions, StreamWriter};

use super::*;

fn sample() -> RecordBatch {
    let list = ListArray::from_iter_primitive::<Int32Type, _, _>([
        Some(vec![Some(1), None]),
        None,
        Some(vec![]),
    ]);
    let inner: ArrayRef = Arc::new(StringArray::from(vec!["x\"", "y", "z"]));
    let nested = StructArray::from(vec![
        (Arc::new(Field::new("role", DataType::Utf8, true)), inner),
        (
            Arc::new(Field::new("w", DataType::Float64, true)),
            Arc::new(Float64Array::from(vec![Some(1.5), None, Some(f64::NAN)])) as ArrayRef,
        ),
    ]);
    let dictionary: DictionaryArray<Int32Type> = vec!["p", "q", "p"].into_iter().collect();
    RecordBatch::try_from_iter_with_nullable([
        ("text", Arc::new(StringArray::from(vec![Some("a"), None, Some("c")])) as ArrayRef, true),
        ("large", Arc::new(LargeStringArray::from(vec!["l1", "l2", "l3"])) as ArrayRef, true),
        ("view", Arc::new(StringViewArray::from(vec!["v1", "v2", "v3"])) as ArrayRef, true),
        ("dict", Arc::new(dictionary) as ArrayRef, true),
        ("int", Arc::new(Int32Array::from(vec![1, -2, 3])) as ArrayRef, true),
        ("big", Arc::new(UInt64Array::from(vec![1, u64::MAX, 3])) as ArrayRef, true),
        ("real", Arc::new(Float32Array::from(vec![0.5, f32::INFINITY, 2.0])) as ArrayRef, true),
        ("flag", Arc::new(BooleanArray::from(vec![true, false, true])) as ArrayRef, true),
        (
            "bytes",
            Arc::new(BinaryArray::from(vec![&b"ok"[..], b"\xff", b"fine"])) as ArrayRef,
            true,
        ),
        ("list", Arc::new(list) as ArrayRef, true),
        ("nested", Arc::new(nested) as ArrayRef, true),
    ])
    .unwrap()
}

fn parquet(batch: &RecordBatch) -> Vec<u8> {
    let mut out = Vec::new();
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .build();
    let mut writer = ArrowWriter::try_new(&mut out, batch.schema(), Some(properties)).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
    out
}

fn arrow_file(batch: &RecordBatch, compression: Option<CompressionType>) -> Vec<u8> {
    let mut out = Vec::new();
    let options = IpcWriteOptions::default().try_with_compression(compression).unwrap();
    let mut writer = FileWriter::try_new_with_options(&mut out, &batch.schema(), options).unwrap();
    writer.write(batch).unwrap();
    writer.write(batch).unwrap();
    writer.finish().unwrap();
    drop(writer);
    out
}

fn arrow_stream(batch: &RecordBatch) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = StreamWriter::try_new(&mut out, &batch.schema()).unwrap();
    writer.write(batch).unwrap();
    writer.write(batch).unwrap();
    writer.finish().unwrap();
    drop(writer);
    out
}

/// The sample in every container, each with how many times it holds the three rows.
fn containers() -> Vec<(&'static str, Vec<u8>, usize)> {
    let batch = sample();
    vec![
        ("f.parquet", parquet(&batch), 1),
        ("f.arrow", arrow_file(&batch, None), 2),
        ("f.ipc", arrow_file(&batch, Some(CompressionType::ZSTD)), 2),
        ("f.feather", arrow_file(&batch, Some(CompressionType::LZ4_FRAME)), 2),
        ("g.arrow", arrow_stream(&batch), 2),
    ]
}

#[test]
fn texts_numbers_and_nested_values_arrive_as_wanted() {
    for (name, bytes, times) in containers() {
        let options = needs(&[
            ("nested", ColumnKind::Json),
            ("text", ColumnKind::Utf8),
            ("large", ColumnKind::Utf8),
            ("view", ColumnKind::Utf8),
            ("dict", ColumnKind::Utf8),
            ("int", ColumnKind::Int64),
            ("flag", ColumnKind::Boolean),
            ("bytes", ColumnKind::Binary),
            ("list", ColumnKind::Json),
        ]);
        let got = read(name, &bytes, options).unwrap();
        assert_eq!(got.rows.len(), 2 * times, "{name}");
        let first =
            ["{\"role\":\"x\\\"\",\"w\":1.5}", "a", "l1", "v1", "p", "1", "true", "ok", "[1,null]"];
        assert_eq!(got.rows[0], (1, some(&first)), "{name}");
        assert_eq!(got.rows[1].1[1], None, "{name}");
        assert_eq!(got.rows[1].1[0].as_deref(), Some("{\"role\":\"y\",\"w\":null}"), "{name}");
        let nan = &got.rejects[0];
        assert!(nan.starts_with("row 3 of ") && nan.contains("`nested` that is NaN"), "{nan}");
        if times == 2 {
            assert_eq!(got.rows[2].0, 4, "{name}");
        }
    }
}

#[test]
fn values_that_do_not_fit_reject_their_row_and_types_that_do_not_fit_the_file() {
    for (name, bytes, _) in containers() {
        for (column, kind, why) in [
            ("big", ColumnKind::Int64, "field `big` that does not fit 64 bits"),
            ("real", ColumnKind::Float64, "field `real` that is inf, not a finite number"),
            ("bytes", ColumnKind::Utf8, "field `bytes` that holds bytes that are not UTF-8"),
        ] {
            let got = read(name, &bytes, needs(&[(column, kind)])).unwrap();
            assert!(got.rejects[0].starts_with("row 2 of "), "{name}: {:?}", got.rejects);
            assert!(got.rejects[0].contains(why), "{name}: {:?}", got.rejects);
        }
        for (column, kind) in [
            ("int", ColumnKind::Utf8),
            ("list", ColumnKind::Utf8),
            ("text", ColumnKind::Int64),
            ("real", ColumnKind::Int64),
            ("int", ColumnKind::Boolean),
        ] {
            let e = read(name, &bytes, needs(&[(column, kind)])).unwrap_err().to_string();
            assert!(
                e.contains(&format!("column `{column}` of ")) && e.contains(kind.name()),
                "{e}"
            );
        }
        let e = read(name, &bytes, needs(&[("txt", ColumnKind::Utf8)])).unwrap_err().to_string();
        assert!(e.contains("has no field `txt`") && e.contains("did you mean `text`"), "{e}");
    }
}

#[test]
fn optional_columns_and_whole_rows_of_columnar_files() {
    let batch = sample().project(&[0, 4, 3]).unwrap();
    for (name, bytes) in [("f.parquet", parquet(&batch)), ("f.arrow", arrow_stream(&batch))] {
        let projection = Projection::Columns {
            needs: vec![ColumnNeed::optional("none", ColumnKind::Int64)],
            whole_row: true,
        };
        let got = read(name, &bytes, ReadOptions::new(projection)).unwrap();
        assert_eq!(got.rows[0].1, [None, Some("{\"text\":\"a\",\"int\":1,\"dict\":\"p\"}".into())]);
        assert_eq!(got.rows[1].1[1].as_deref(), Some("{\"int\":-2,\"dict\":\"q\"}"));
    }
}

#[test]
fn a_foreign_mark_does_not_make_a_text_json() {
    let mark = [(JSON_METADATA_KEY.to_string(), "true".to_string())];
    let field = Field::new("t", DataType::Utf8, true).with_metadata(mark.into_iter().collect());
    let schema = Arc::new(arrow::datatypes::Schema::new(vec![field]));
    let text: ArrayRef = Arc::new(StringArray::from(vec!["{not json"]));
    let bytes = arrow_stream(&RecordBatch::try_new(schema, vec![text]).unwrap());
    let got = read("f.arrow", &bytes, needs(&[("t", ColumnKind::Json)])).unwrap();
    assert_eq!(got.rows[0].1, some(&["\"{not json\""]));
    let dir = tempfile::tempdir().unwrap();
    let file = discover_file(&write(dir.path(), "f.arrow", &bytes)).unwrap();
    assert!(peek(&file).unwrap().unwrap().field(0).metadata().is_empty());
}

#[test]
fn large_batches_are_cut_and_numbered() {
    let numbers: ArrayRef = Arc::new(Int32Array::from_iter_values(0..1300));
    let batch = RecordBatch::try_from_iter([("n", numbers)]).unwrap();
    for (name, bytes, rows) in
        [("f.parquet", parquet(&batch), 1300), ("f.arrow", arrow_stream(&batch), 2600)]
    {
        let dir = tempfile::tempdir().unwrap();
        let file = discover_file(&write(dir.path(), name, bytes)).unwrap();
        let batches: Vec<_> = SourceReader::new([file], all()).map(Result::unwrap).collect();
        assert!(batches.iter().all(|b| b.batch.num_rows() <= 512));
        let all: Vec<u64> = batches.iter().flat_map(|b| b.rows.clone()).collect();
        assert_eq!(all, (1..=rows).collect::<Vec<_>>());
    }
}

#[test]
fn damaged_files_end_in_an_error_or_in_rows() {
    for (name, bytes, _) in containers() {
        let mut errors = 0;
        for cut in (0..bytes.len()).step_by(bytes.len() / 150 + 1) {
            errors += usize::from(read(name, &bytes[..cut], all()).is_err());
        }
        // A stream may be cut between two messages; everything else lacks its end.
        assert!(errors >= 140 || name == "g.arrow", "{name}: {errors}");
        for at in (0..bytes.len()).step_by(bytes.len() / 300 + 1) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0xff;
            let _ = read(name, &damaged, all());
        }
    }
}

#[test]
fn lengths_in_a_file_are_not_believed() {
    let bytes = arrow_file(&sample(), Some(CompressionType::ZSTD));
    // Every aligned eight bytes in turn claim to be an enormous length.
    for at in (8..bytes.len() - 8).step_by(8) {
        let mut damaged = bytes.clone();
        damaged[at..at + 8].copy_from_slice(&(44i64 << 40).to_le_bytes());
        let _ = read("f.arrow", &damaged, all());
    }
}
