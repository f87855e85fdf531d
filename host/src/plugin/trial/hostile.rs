//! Values that real data hold sooner or later, for every column of a row and every field of a
//! conversation.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use serde_json::Value;

use super::super::component::World;
use super::super::{Kind, Reads};
use super::items::{Case, Items, json_field};
use crate::data::Conversation;
use crate::data::example::{Message, ToolCall};

/// One try: what it is about, in words, and the items.
pub(super) struct Try {
    pub about: String,
    pub items: Items,
}

/// Texts by name.
fn texts() -> Vec<(&'static str, String)> {
    let controls: String =
        (0u8..32).map(char::from).chain(['\u{7f}', '\u{85}', '\u{9b}']).collect();
    vec![
        ("an empty text", String::new()),
        ("blanks", " \t\n ".into()),
        ("control characters", controls),
        ("a zero byte", "a\0b".into()),
        ("characters beyond the first plane", "😀𝔘𠮷👩‍👩‍👧‍👦\u{10ffff}".into()),
        (
            "right to left and its overrides",
            "שלום \u{202e}abc\u{202c} \u{2066}x\u{2069} مرحبا".into(),
        ),
        ("combining marks", format!("a{}", "\u{0301}".repeat(2_000))),
        ("a byte order mark and zero widths", "\u{feff}a\u{200b}b\u{200d}c\u{ad}".into()),
        ("quotes and escapes", r#""\"\\u0000'`${x}{{y}}%s\n"#.into()),
        (
            "markup of chat templates",
            "<|im_start|>system\n<|im_end|></s>[INST] <think> \\boxed{".into(),
        ),
        ("brackets", "[".repeat(10_000)),
        ("boxes in boxes", "\\boxed{".repeat(3_000)),
        ("tags", "<think><answer>".repeat(3_000)),
        ("fractions", "1/0 0/0 \\frac{1}{0} -1/3 50% 1e309 -1e309".into()),
        ("digits", "9".repeat(5_000)),
        ("numbers' names", "NaN inf -Infinity 0x1p1024 1_000,000.0.0 ٣ ½".into()),
        ("line ends", "a\r\nb\rc\u{2028}d\u{2029}e\u{0b}f".into()),
        ("a long line", "word ".repeat(50_000)),
        ("a long word", "x".repeat(1 << 20)),
        ("many lines", "a\n".repeat(100_000)),
    ]
}

/// JSON texts by name, beside those that are strings.
fn values() -> Vec<(&'static str, String)> {
    let nested = |open: &str, inner: &str, close: &str| {
        format!("{}{inner}{}", open.repeat(60), close.repeat(60))
    };
    let object = |n: usize| {
        let fields: Vec<String> = (0..n).map(|i| format!("\"k{i}\":{i}")).collect();
        format!("{{{}}}", fields.join(","))
    };
    vec![
        ("null", "null".into()),
        ("true", "true".into()),
        ("zero", "0".into()),
        ("minus zero", "-0.0".into()),
        ("the largest 64 bits", i64::MAX.to_string()),
        ("the smallest 64 bits", i64::MIN.to_string()),
        ("more than 64 bits", "18446744073709551616".into()),
        ("a fraction", "0.1".into()),
        ("the largest float", "1.7976931348623157e308".into()),
        ("the smallest float", "5e-324".into()),
        ("a number beyond floats", "1e400".into()),
        ("an empty list", "[]".into()),
        ("an empty object", "{}".into()),
        ("a list of nulls", "[null,null]".into()),
        ("a list of lists", "[[],[[]]]".into()),
        ("a list of everything", r#"[1,"a",true,null,{},[]]"#.into()),
        ("a deep list", nested("[", "", "]")),
        ("a deep object", nested("{\"a\":", "1", "}")),
        ("a long list", format!("[{}1]", "1,".repeat(50_000))),
        ("a large object", object(5_000)),
        ("one key twice", r#"{"a":1,"a":[2]}"#.into()),
        ("keys without words", r#"{"":1," ":2,"\u0000":3,"\u202e":4}"#.into()),
        ("turns without fields", "[{},{}]".into()),
        ("turns of the wrong types", r#"[{"from":1,"value":[]},{"role":null,"content":{}}]"#.into()),
        ("turns of nobody", r#"[{"from":"nobody","value":"x"},{"role":"critic","content":"y"}]"#.into()),
        ("turns in a strange order", r#"[{"from":"gpt","value":"x"},{"from":"gpt","value":"y"},{"from":"system","value":"z"}]"#.into()),
        ("empty turns", r#"[{"from":"human","value":""},{"from":"gpt","value":" "}]"#.into()),
        ("a lone surrogate, escaped", r#""\ud800""#.into()),
    ]
}

/// Arrow columns of other types than JSON sources have, by name.
fn arrays(name: &str, kind: Kind) -> Vec<(&'static str, Field, ArrayRef)> {
    use arrow::array::{Float64Array, Int64Array, NullArray, UInt64Array};
    let field = |ty: DataType| Field::new(name, ty, true);
    let float = |x: f64| Arc::new(Float64Array::from(vec![x])) as ArrayRef;
    let mut all: Vec<(&'static str, Field, ArrayRef)> = Vec::new();
    if matches!(kind, Kind::Float64 | Kind::Json) {
        for (about, x) in [
            ("not a number", f64::NAN),
            ("infinity", f64::INFINITY),
            ("minus infinity", f64::NEG_INFINITY),
            ("a subnormal float", 1e-310),
            ("the smallest float of Arrow", f64::MIN),
        ] {
            all.push((about, field(DataType::Float64), float(x)));
        }
    }
    if matches!(kind, Kind::Int64 | Kind::Float64 | Kind::Json) {
        let int = Arc::new(Int64Array::from(vec![i64::MIN])) as ArrayRef;
        all.push(("the smallest integer of Arrow", field(DataType::Int64), int));
        let large = Arc::new(UInt64Array::from(vec![u64::MAX])) as ArrayRef;
        all.push(("the largest unsigned integer", field(DataType::UInt64), large));
    }
    if kind == Kind::Binary {
        let bytes: Vec<u8> = (0..=255).collect();
        let array = Arc::new(BinaryArray::from(vec![bytes.as_slice()])) as ArrayRef;
        all.push(("all bytes", field(DataType::Binary), array));
    }
    all.push(("a column of nulls", field(DataType::Null), Arc::new(NullArray::new(1))));
    all
}

/// All tries for a plugin: each puts one value in the place of one field of `base`'s first item.
pub(super) fn tries(world: World, reads: &Reads, base: &Items) -> Vec<Try> {
    match base {
        Items::Rows(batch) if world != World::Template => rows(reads, &batch.slice(0, 1)),
        Items::Cases(cases) => cases.first().map(conversations).unwrap_or_default(),
        Items::Rows(_) => Vec::new(),
    }
}

fn rows(reads: &Reads, base: &RecordBatch) -> Vec<Try> {
    let mut tries = Vec::new();
    let mut columns: Vec<(String, Kind)> =
        reads.columns.iter().map(|n| (n.name.clone(), n.kind)).collect();
    if reads.whole_rows {
        let schema = base.schema();
        let others = schema.fields().iter().map(|f| (f.name().clone(), Kind::Json));
        columns.extend(others.filter(|(name, _)| !reads.columns.iter().any(|n| n.name == *name)));
    }
    let mut add = |about: String, field: Field, array: ArrayRef| {
        if let Some(batch) = replaced(base, field, array) {
            tries.push(Try { about, items: Items::Rows(batch) });
        }
    };
    for (name, kind) in &columns {
        let json = |text: &str| Arc::new(StringArray::from(vec![text])) as ArrayRef;
        for (what, text) in texts() {
            let about = format!("{what} in `{name}`");
            add(about, json_field(name), json(&Value::from(text).to_string()));
        }
        for (what, text) in values() {
            add(format!("{what} in `{name}`"), json_field(name), json(&text));
        }
        for (what, field, array) in arrays(name, *kind) {
            add(format!("{what} in `{name}`"), field, array);
        }
    }
    tries
}

/// `base` with its column of that name replaced, or added.
fn replaced(base: &RecordBatch, field: Field, array: ArrayRef) -> Option<RecordBatch> {
    let schema = base.schema();
    let mut fields: Vec<Arc<Field>> = schema.fields().iter().cloned().collect();
    let mut columns = base.columns().to_vec();
    match schema.index_of(field.name()) {
        Ok(i) => {
            fields[i] = Arc::new(field);
            columns[i] = array;
        }
        Err(_) => {
            fields.push(Arc::new(field));
            columns.push(array);
        }
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).ok()
}

fn conversations(base: &Case) -> Vec<Try> {
    let mut tries = Vec::new();
    let mut add = |about: String, conversation: Conversation| {
        let case = Case { conversation, options: base.options.clone() };
        tries.push(Try { about, items: Items::Cases(vec![case]) });
    };
    let plain = |messages| Conversation { messages, tools: None };
    for (what, text) in texts() {
        for role in ["system", "user", "assistant", "tool"] {
            let messages = vec![
                Message::new("user", "q"),
                Message::new(role, text.clone()),
                Message::new("assistant", "a"),
            ];
            add(format!("{what} in a turn of {role}"), plain(messages));
        }
        let call = ToolCall { name: "f".into(), arguments: text.clone(), id: Some(text.clone()) };
        let mut named = ToolCall { name: text.clone(), arguments: "{}".into(), id: None };
        if named.name.is_empty() {
            named.name.push('f');
        }
        let calls = Message { tool_calls: vec![call, named], ..Message::new("assistant", "") };
        add(format!("{what} in a tool call"), plain(vec![Message::new("user", "q"), calls]));
        let tools = Some(text);
        let messages = vec![Message::new("user", "q"), Message::new("assistant", "a")];
        add(format!("{what} as the tools"), Conversation { messages, tools });
    }
    for (what, text) in values() {
        let messages = vec![Message::new("user", "q"), Message::new("assistant", "a")];
        add(format!("{what} as the tools"), Conversation { messages, tools: Some(text) });
    }
    let turns = |roles: &[&str]| plain(roles.iter().map(|r| Message::new(*r, "x")).collect());
    for roles in [
        &[][..],
        &["system"],
        &["assistant"],
        &["tool"],
        &["user", "user", "user"],
        &["assistant", "assistant"],
        &["user", "system", "assistant", "system"],
        &["tool", "tool", "user", "assistant"],
    ] {
        add(
            format!(
                "turns of {}",
                if roles.is_empty() { "nobody".into() } else { roles.join(", ") }
            ),
            turns(roles),
        );
    }
    add("a thousand turns".into(), turns(&["user", "assistant"].repeat(500)));
    for (what, weight) in
        [("weight 0", 0.0), ("the largest weight", f32::MAX), ("a subnormal weight", 1e-40)]
    {
        let heavy = Message { weight: Some(weight), ..Message::new("assistant", "a") };
        add(what.into(), plain(vec![Message::new("user", "q"), heavy]));
    }
    tries
}
