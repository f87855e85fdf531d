#![allow(clippy::unwrap_used)]
use std::collections::HashMap;

use arrow::array::{
    BinaryArray, BooleanArray, DictionaryArray, Float64Array, Int64Array, ListArray, NullArray,
    StringArray, StructArray, UInt64Array,
};
use arrow::datatypes::{Int32Type, Schema};

use super::*;

fn who() -> Arc<Who> {
    Arc::new(Who { name: "p".into(), version: "1".into() })
}

fn json_field(name: &str) -> Field {
    let metadata = HashMap::from([(JSON_METADATA_KEY.to_string(), "true".to_string())]);
    Field::new(name, DataType::Utf8, true).with_metadata(metadata)
}

/// The values one column becomes, and the faults.
fn convert_one(field: Field, array: ArrayRef, kind: Kind) -> (types::Column, Vec<(usize, String)>) {
    let batch =
        RecordBatch::try_new(Arc::new(Schema::new(vec![field.clone()])), vec![array]).unwrap();
    let need = Need { name: field.name().clone(), kind, optional: false };
    let reads = Reads { columns: vec![need], whole_rows: false };
    let mut rows = convert(&who(), &reads, &batch).unwrap();
    let faults = std::mem::take(&mut rows.faults);
    let call = rows.next_call(usize::MAX);
    let column = call.map(|mut c| c.batch.columns.remove(0)).unwrap_or(types::Column {
        name: String::new(),
        values: empty_values(kind),
        nulls: vec![],
    });
    (column, faults)
}

fn utf8(column: types::Column) -> Vec<String> {
    match column.values {
        types::Values::Utf8(v) | types::Values::Json(v) => v,
        other => panic!("{other:?}"),
    }
}

#[test]
fn json_texts_reach_a_json_reader_unchanged() {
    let own = r#"[ {"n":  12345678901234567890123} ]"#;
    let array = Arc::new(StringArray::from(vec![Some(own), None]));
    let (column, faults) = convert_one(json_field("a"), array, Kind::Json);
    assert_eq!(column.nulls, [1]);
    assert_eq!(utf8(column), [own, ""]);
    assert!(faults.is_empty());
}

#[test]
fn json_texts_are_decoded_for_a_string_reader_and_others_rejected() {
    let array = Arc::new(StringArray::from(vec![r#""a\nb""#, "5", "null"]));
    let (column, faults) = convert_one(json_field("a"), array, Kind::Utf8);
    assert_eq!(column.nulls, [1], "positions count the rows that are passed");
    assert_eq!(utf8(column), ["a\nb", ""]);
    assert_eq!(faults, [(1, "field `a` is a number, not a string".to_string())]);
}

#[test]
fn plain_strings_become_json_strings_for_a_json_reader() {
    let array = Arc::new(StringArray::from(vec!["a\"b"]));
    let (column, _) = convert_one(Field::new("a", DataType::Utf8, true), array, Kind::Json);
    assert_eq!(utf8(column), [r#""a\"b""#]);
}

#[test]
fn dictionaries_are_read_as_their_values() {
    let array: DictionaryArray<Int32Type> = vec![Some("x"), None, Some("x")].into_iter().collect();
    let field = Field::new("a", array.data_type().clone(), true);
    let (column, _) = convert_one(field.clone(), Arc::new(array.clone()), Kind::Utf8);
    assert_eq!(column.nulls, [1]);
    assert_eq!(utf8(column), ["x", "", "x"]);
    let (column, _) = convert_one(field, Arc::new(array), Kind::Json);
    assert_eq!(utf8(column), ["\"x\"", "", "\"x\""]);
}

#[test]
fn nested_values_become_json() {
    let from = Arc::new(StringArray::from(vec!["human", "gpt"])) as ArrayRef;
    let n = Arc::new(Float64Array::from(vec![Some(0.5), None])) as ArrayRef;
    let fields = vec![
        (Arc::new(Field::new("from", DataType::Utf8, false)), from),
        (Arc::new(Field::new("n", DataType::Float64, true)), n),
    ];
    let structs = StructArray::from(fields);
    let item = Arc::new(Field::new("item", structs.data_type().clone(), true));
    let offsets = arrow::buffer::OffsetBuffer::new(vec![0, 2, 2].into());
    let list = ListArray::new(item, offsets, Arc::new(structs), None);
    let field = Field::new("turns", list.data_type().clone(), true);
    let (column, faults) = convert_one(field, Arc::new(list), Kind::Json);
    assert_eq!(utf8(column), [r#"[{"from":"human","n":0.5},{"from":"gpt","n":null}]"#, "[]"]);
    assert!(faults.is_empty());
}

#[test]
fn numbers_keep_their_kind_and_range() {
    let big = Arc::new(UInt64Array::from(vec![1, u64::MAX]));
    let field = Field::new("a", DataType::UInt64, false);
    let (column, faults) = convert_one(field, big, Kind::Int64);
    assert!(matches!(column.values, types::Values::Int64(v) if v == [1]));
    assert!(faults[0].1.contains("does not fit 64 bits"));

    let floats = Arc::new(Float64Array::from(vec![1.5, f64::NAN]));
    let field = Field::new("a", DataType::Float64, false);
    let (column, faults) = convert_one(field.clone(), floats.clone(), Kind::Float64);
    assert!(matches!(column.values, types::Values::Float64(v) if v == [1.5]));
    assert!(faults[0].1.contains("NaN"));
    let (_, faults) = convert_one(field, floats, Kind::Json);
    assert_eq!(faults.len(), 1);

    let texts = Arc::new(StringArray::from(vec![" 7", "x"]));
    let (column, faults) = convert_one(Field::new("a", DataType::Utf8, false), texts, Kind::Int64);
    assert!(matches!(column.values, types::Values::Int64(v) if v == [7]));
    assert!(faults[0].1.contains("`x`, not an integer"));
}

#[test]
fn booleans_bytes_and_null_columns_pass() {
    let field = |ty: &DataType| Field::new("a", ty.clone(), true);
    let array = Arc::new(BooleanArray::from(vec![Some(true), None]));
    let (column, _) = convert_one(field(array.data_type()), array, Kind::Boolean);
    assert!(matches!(column.values, types::Values::Boolean(v) if v == [true, false]));
    let array = Arc::new(BinaryArray::from(vec![b"\xff\x00".as_slice()]));
    let (column, _) = convert_one(field(array.data_type()), array, Kind::Binary);
    assert!(matches!(column.values, types::Values::Binary(v) if v == [vec![0xff, 0]]));
    let (column, _) = convert_one(field(&DataType::Null), Arc::new(NullArray::new(2)), Kind::Utf8);
    assert_eq!(column.nulls, [0, 1]);
}

#[test]
fn a_column_of_an_unsuitable_type_is_named() {
    let field = Field::new("a", DataType::Int64, false);
    let array = Arc::new(Int64Array::from(vec![1])) as ArrayRef;
    let batch = RecordBatch::try_new(Arc::new(Schema::new(vec![field])), vec![array]).unwrap();
    let need = |name: &str, optional| Need { name: name.into(), kind: Kind::Utf8, optional };
    let error = |need| {
        let reads = Reads { columns: vec![need], whole_rows: false };
        convert(&who(), &reads, &batch).err().unwrap().to_string()
    };
    assert!(error(need("a", false)).contains("needs the column `a` as utf8, but it is Int64"));
    let missing = error(need("b", false));
    assert!(
        missing.contains("needs the column `b`") && missing.contains("it has `a`"),
        "{missing}"
    );
    let reads = Reads { columns: vec![need("b", true)], whole_rows: true };
    let mut rows = convert(&who(), &reads, &batch).unwrap();
    let call = rows.next_call(usize::MAX).unwrap();
    assert!(call.batch.columns.is_empty());
    assert_eq!(call.batch.whole_rows, [r#"{"a":1}"#]);
}

#[test]
fn long_rows_are_spread_over_several_calls() {
    let texts = Arc::new(StringArray::from(vec!["a".repeat(60), "b".repeat(60), "c".into()]));
    let field = Field::new("a", DataType::Utf8, false);
    let batch = RecordBatch::try_new(Arc::new(Schema::new(vec![field])), vec![texts]).unwrap();
    let need = Need { name: "a".into(), kind: Kind::Utf8, optional: false };
    let reads = Reads { columns: vec![need], whole_rows: false };
    let mut rows = convert(&who(), &reads, &batch).unwrap();
    let mut calls = Vec::new();
    while let Some(call) = rows.next_call(64) {
        calls.push(call.positions);
    }
    assert_eq!(calls, [vec![0], vec![1, 2]]);
}
