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

/// A column as the guest gets it.
struct Got {
    values: Owned,
    nulls: Vec<u32>,
}

#[derive(Debug, PartialEq)]
enum Owned {
    Texts(Vec<String>),
    Int64(Vec<i64>),
    Float64(Vec<f64>),
    Boolean(Vec<bool>),
    Binary(Vec<Vec<u8>>),
}

fn owned(values: &types::Values<'_>) -> Owned {
    match values {
        types::Values::Utf8(v) | types::Values::Json(v) => {
            Owned::Texts(v.iter().map(|t| t.to_string()).collect())
        }
        types::Values::Int64(v) => Owned::Int64(v.to_vec()),
        types::Values::Float64(v) => Owned::Float64(v.to_vec()),
        types::Values::Boolean(v) => Owned::Boolean(v.to_vec()),
        types::Values::Binary(v) => Owned::Binary(v.iter().map(|b| b.to_vec()).collect()),
    }
}

/// The values one column becomes, and the faults.
fn convert_one(field: Field, array: ArrayRef, kind: Kind) -> (Got, Vec<(usize, String)>) {
    let batch =
        RecordBatch::try_new(Arc::new(Schema::new(vec![field.clone()])), vec![array]).unwrap();
    let need = Need { name: field.name().clone(), kind, optional: false };
    let reads = Reads { columns: vec![need], whole_rows: false };
    let mut rows = convert(&who(), &reads, &batch).unwrap();
    let faults = std::mem::take(&mut rows.faults);
    let table = rows.table();
    let all = 0..table.positions.len();
    let got = table.with(&all, |batch| {
        let column = &batch.columns[0];
        assert_eq!(batch.rows as usize, all.len());
        Got { values: owned(&column.values), nulls: column.nulls.to_vec() }
    });
    (got, faults)
}

fn utf8(column: Got) -> Vec<String> {
    match column.values {
        Owned::Texts(v) => v,
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
    assert!(matches!(column.values, Owned::Int64(v) if v == [1]));
    assert!(faults[0].1.contains("does not fit 64 bits"));

    let floats = Arc::new(Float64Array::from(vec![1.5, f64::NAN]));
    let field = Field::new("a", DataType::Float64, false);
    let (column, faults) = convert_one(field.clone(), floats.clone(), Kind::Float64);
    assert!(matches!(column.values, Owned::Float64(v) if v == [1.5]));
    assert!(faults[0].1.contains("NaN"));
    let (_, faults) = convert_one(field, floats, Kind::Json);
    assert_eq!(faults.len(), 1);

    let texts = Arc::new(StringArray::from(vec![" 7", "x"]));
    let (column, faults) = convert_one(Field::new("a", DataType::Utf8, false), texts, Kind::Int64);
    assert!(matches!(column.values, Owned::Int64(v) if v == [7]));
    assert!(faults[0].1.contains("`x`, not an integer"));
}

#[test]
fn booleans_bytes_and_null_columns_pass() {
    let field = |ty: &DataType| Field::new("a", ty.clone(), true);
    let array = Arc::new(BooleanArray::from(vec![Some(true), None]));
    let (column, _) = convert_one(field(array.data_type()), array, Kind::Boolean);
    assert!(matches!(column.values, Owned::Boolean(v) if v == [true, false]));
    let array = Arc::new(BinaryArray::from(vec![b"\xff\x00".as_slice()]));
    let (column, _) = convert_one(field(array.data_type()), array, Kind::Binary);
    assert!(matches!(column.values, Owned::Binary(v) if v == [vec![0xff, 0]]));
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
    let rows = convert(&who(), &reads, &batch).unwrap();
    rows.table().with(&(0..1), |batch| {
        assert!(batch.columns.is_empty());
        assert_eq!(batch.whole_rows, [r#"{"a":1}"#]);
    });
}

#[test]
fn long_rows_are_spread_over_several_calls() {
    let texts = Arc::new(StringArray::from(vec!["a".repeat(60), "b".repeat(60), "c".into()]));
    let field = Field::new("a", DataType::Utf8, false);
    let batch = RecordBatch::try_new(Arc::new(Schema::new(vec![field])), vec![texts]).unwrap();
    let need = Need { name: "a".into(), kind: Kind::Utf8, optional: false };
    let reads = Reads { columns: vec![need], whole_rows: false };
    let rows = convert(&who(), &reads, &batch).unwrap();
    let table = rows.table();
    assert_eq!(table.calls(64), [0..1, 1..3]);
    assert_eq!(table.calls(1), [0..1, 1..2, 2..3]);
    assert_eq!(table.calls(usize::MAX), std::slice::from_ref(&(0..3)));
    assert_eq!((table.bytes(&(0..3)), table.bytes(&(1..3))), (121, 61));
    assert!(convert(&who(), &reads, &batch.slice(0, 0)).unwrap().table().calls(9).is_empty());
}

#[test]
fn some_rows_of_a_table_keep_their_nulls_and_positions() {
    let texts: Vec<Option<&str>> =
        vec![Some("\"a\""), None, Some("5"), Some("null"), Some("\"\\n\"")];
    let batch = RecordBatch::try_new(
        Arc::new(Schema::new(vec![json_field("a")])),
        vec![Arc::new(StringArray::from(texts))],
    )
    .unwrap();
    let need = Need { name: "a".into(), kind: Kind::Utf8, optional: false };
    let reads = Reads { columns: vec![need], whole_rows: false };
    let rows = convert(&who(), &reads, &batch).unwrap();
    assert_eq!(rows.faults.len(), 1);
    let table = rows.table();
    assert_eq!(table.positions(&(1..4)), [1, 3, 4]);
    table.with(&(1..4), |batch| {
        assert_eq!(batch.columns[0].nulls, [0, 1]);
        assert_eq!(
            owned(&batch.columns[0].values),
            Owned::Texts(vec!["".into(), "".into(), "\n".into()])
        );
    });
}
