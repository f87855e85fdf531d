//! Seeded rows and conversations for plugins that come without examples.

use serde_json::{Map, Value, json};

use super::super::component::World;
use super::super::{Kind, Reads};
use super::items::{Case, Items};
use crate::data::Conversation;
use crate::data::example::{Message, ToolCall};
use crate::plugin::RenderOptions;
use crate::rng::{Purpose, Stream};

const WORDS: [&str; 24] = [
    "the",
    "answer",
    "is",
    "four",
    "river",
    "because",
    "42",
    "3.5",
    "naïve",
    "東京",
    "Ответ",
    "😀",
    "code",
    "x",
    "apples",
    "therefore",
    "and",
    "not",
    "seven",
    "\\boxed{7}",
    "####",
    "12",
    "a",
    "reason",
];

/// `len` items for `plugin`'s world and columns.
pub(super) fn items(world: World, reads: &Reads, len: usize, seed: u64) -> Items {
    let mut rng = Dice { stream: Stream::new(seed, Purpose::Test, 0), rolled: 0 };
    if world == World::Template {
        return Items::Cases((0..len).map(|_| case(&mut rng)).collect());
    }
    let lines: Vec<String> = (0..len).map(|_| row(reads, &mut rng).to_string()).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    // Lines made above are objects.
    Items::parse(&lines, world).unwrap_or(Items::Cases(Vec::new()))
}

struct Dice {
    stream: Stream,
    rolled: u64,
}

/// A number under `n`.
fn below(rng: &mut Dice, n: usize) -> usize {
    rng.rolled += 1;
    (rng.stream.at(rng.rolled) % n as u64) as usize
}

fn text(rng: &mut Dice, most: usize) -> String {
    let count = 1 + below(rng, most);
    let words: Vec<&str> = (0..count).map(|_| WORDS[below(rng, WORDS.len())]).collect();
    words.join(" ")
}

fn row(reads: &Reads, rng: &mut Dice) -> Value {
    let mut row = Map::new();
    for need in &reads.columns {
        if need.optional && below(rng, 4) == 0 {
            row.insert(need.name.clone(), Value::Null);
            continue;
        }
        let value = match need.kind {
            Kind::Utf8 | Kind::Binary => json!(text(rng, 30)),
            Kind::Int64 => json!(below(rng, 2_000) as i64 - 1_000),
            Kind::Float64 => json!(below(rng, 2_000) as f64 / 8.0 - 100.0),
            Kind::Boolean => json!(below(rng, 2) == 0),
            Kind::Json => json_value(&need.name, rng),
        };
        row.insert(need.name.clone(), value);
    }
    if reads.whole_rows && reads.columns.is_empty() {
        for name in ["prompt", "question", "answer", "text"] {
            row.insert(name.into(), json!(text(rng, 30)));
        }
        row.insert("messages".into(), turns(rng, "role", "content"));
    }
    Value::Object(row)
}

/// A value for a column of any type, by what its name lets expect.
fn json_value(name: &str, rng: &mut Dice) -> Value {
    match name {
        "conversations" => turns(rng, "from", "value"),
        "messages" | "conversation" | "prompt" | "chosen" | "rejected" if below(rng, 3) > 0 => {
            turns(rng, "role", "content")
        }
        "tools" => json!([]),
        "history" => json!([[text(rng, 8), text(rng, 8)]]),
        _ => json!(text(rng, 30)),
    }
}

fn turns(rng: &mut Dice, role: &str, content: &str) -> Value {
    let (user, assistant) = if role == "from" { ("human", "gpt") } else { ("user", "assistant") };
    let pairs = 1 + below(rng, 3);
    let turn = |who: &str, text: String| {
        let fields = [(role.to_string(), json!(who)), (content.to_string(), json!(text))];
        Value::Object(Map::from_iter(fields))
    };
    let mut turns = Vec::new();
    for _ in 0..pairs {
        turns.push(turn(user, text(rng, 20)));
        turns.push(turn(assistant, text(rng, 40)));
    }
    Value::Array(turns)
}

fn case(rng: &mut Dice) -> Case {
    let mut messages = Vec::new();
    if below(rng, 3) == 0 {
        messages.push(Message::new("system", text(rng, 10)));
    }
    for _ in 0..1 + below(rng, 3) {
        messages.push(Message::new("user", text(rng, 20)));
        if below(rng, 6) == 0 {
            let call = ToolCall {
                name: "look_up".into(),
                arguments: json!({ "what": text(rng, 3) }).to_string(),
                id: Some("call-1".into()),
            };
            messages.push(Message { tool_calls: vec![call], ..Message::new("assistant", "") });
            messages.push(Message {
                tool_call_id: Some("call-1".into()),
                name: Some("look_up".into()),
                ..Message::new("tool", text(rng, 5))
            });
        }
        messages.push(Message::new("assistant", text(rng, 40)));
    }
    let tools = (below(rng, 4) == 0).then(|| {
        json!([{"type": "function", "function": {"name": "look_up", "description": "finds",
            "parameters": {"type": "object", "properties": {"what": {"type": "string"}}}}}])
        .to_string()
    });
    let options = RenderOptions {
        add_generation_prompt: below(rng, 4) == 0,
        continue_final_message: false,
        bos: "<s>".into(),
        eos: "</s>".into(),
    };
    Case { conversation: Conversation { messages, tools }, options }
}
