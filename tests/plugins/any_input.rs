//! Whatever a row holds, a shipped plugin answers: it never traps and never returns nonsense.

use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use trainer::data::Conversation;
use trainer::data::example::{Message, ToolCall};
use trainer::plugin::{Plugin, RenderOptions, Verdict};

use crate::{rows, shipped};

static FORMATTERS: LazyLock<[Plugin; 3]> =
    LazyLock::new(|| ["sharegpt", "alpaca", "text"].map(|name| shipped(name, "{}")));
static TEMPLATES: LazyLock<[Plugin; 2]> =
    LazyLock::new(|| ["chatml", "vicuna"].map(|name| shipped(name, "{}")));

/// Words that mean something to the formatters, and some that don't.
const WORDS: [&str; 22] = [
    "from",
    "value",
    "role",
    "content",
    "human",
    "gpt",
    "system",
    "user",
    "assistant",
    "tool",
    "observation",
    "function_call",
    "tool_calls",
    "function",
    "name",
    "arguments",
    "weight",
    "",
    " ",
    "{\"name\":\"f\",\"arguments\":{}}",
    "[]",
    "ü\u{0}\u{202e}\"\\",
];

fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => prop::sample::select(WORDS.to_vec()).prop_map(str::to_string),
        1 => ".{0,12}",
    ]
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-2.0f64..2.0).prop_map(Value::from),
        word().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((word(), inner), 0..5)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// Half the time something like a turn, so that the deeper code is reached.
fn turn() -> impl Strategy<Value = Value> {
    let role = prop::sample::select(vec![
        "human",
        "gpt",
        "system",
        "observation",
        "function_call",
        "nobody",
    ]);
    prop_oneof![
        3 => (role, word()).prop_map(|(from, value)| json!({"from": from, "value": value})),
        1 => any_json(),
    ]
}

fn row() -> impl Strategy<Value = Value> {
    let turns = prop_oneof![
        4 => prop::collection::vec(turn(), 0..8).prop_map(Value::from),
        1 => any_json(),
    ];
    (turns, any_json(), any_json(), any_json()).prop_map(|(turns, tools, text, history)| {
        json!({
            "conversations": turns, "system_prompt": text, "tools": tools, "text": text,
            "instruction": text, "input": tools, "output": text, "history": history,
        })
    })
}

fn message() -> impl Strategy<Value = Message> {
    let role = prop::sample::select(vec!["system", "user", "assistant", "tool"]);
    let call = (word(), word()).prop_filter_map("a call has a name", |(name, arguments)| {
        (!name.is_empty()).then_some(ToolCall { name, arguments, id: None })
    });
    (role, word(), prop::collection::vec(call, 0..3), prop::option::of(0.0f32..4.0)).prop_map(
        |(role, content, calls, weight)| Message {
            tool_calls: if role == "assistant" { calls } else { vec![] },
            weight,
            ..Message::new(role, content)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn formatters_answer_any_row(rows in prop::collection::vec(row(), 1..60)) {
        let texts: Vec<String> = rows.iter().map(Value::to_string).collect();
        let lines: Vec<&str> = texts.iter().map(String::as_str).collect();
        for plugin in FORMATTERS.iter() {
            let name = plugin.name();
            let outcomes = plugin.format(&[rows::batch(&lines)]);
            let outcomes = outcomes.map_err(|e| TestCaseError::fail(e.to_string()))?;
            prop_assert_eq!(outcomes.len(), rows.len());
            for outcome in &outcomes {
                if let Verdict::Reject(why) = &outcome.verdict {
                    prop_assert!(why.contains("field `"), "{}: {}", name, why);
                }
            }
        }
    }

    #[test]
    fn templates_render_any_conversation(
        messages in prop::collection::vec(prop::collection::vec(message(), 0..6), 1..40),
        tools in prop::option::of(any_json().prop_map(|v| v.to_string())),
        prompt: bool,
        open: bool,
    ) {
        let conversations: Vec<Conversation> = messages
            .into_iter()
            .map(|messages| Conversation { messages, tools: tools.clone() })
            .collect();
        let options = RenderOptions {
            add_generation_prompt: prompt,
            continue_final_message: open,
            bos: "<s>".into(),
            eos: "</s>".into(),
        };
        for plugin in TEMPLATES.iter() {
            let name = plugin.name();
            let renderings = plugin.render(&conversations, &options);
            let renderings = renderings.map_err(|e| TestCaseError::fail(e.to_string()))?;
            prop_assert_eq!(renderings.len(), conversations.len());
            for (conversation, rendering) in conversations.iter().zip(&renderings) {
                let Ok(segments) = rendering else { continue };
                let text: String = segments.iter().map(|s| s.text.as_str()).collect();
                for message in &conversation.messages {
                    prop_assert!(text.contains(&message.content), "{}: {:?}", name, message);
                }
                let trained = segments.iter().any(|s| s.weight > 0.0);
                let wanted = conversation.messages.iter().any(|m| {
                    m.weight.unwrap_or(if m.role == "assistant" { 1.0 } else { 0.0 }) > 0.0
                        && m.role != "system"
                        && m.role != "tool"
                        && !(m.content.is_empty() && m.tool_calls.is_empty())
                });
                prop_assert!(trained || !wanted, "{}: nothing trained in {:?}", name, conversation);
            }
        }
    }
}
