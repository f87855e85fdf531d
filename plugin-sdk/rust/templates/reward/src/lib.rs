//! A reward: 1 where the final answer of a completion is that of the reference.

use serde::Deserialize;
use trainer_plugin::{About, Need, Reads, Reward, Row, Score};

const SCHEMA: &str = r#"{
  "type": "object",
  "additionalProperties": false,
  "properties": {
    "unmarked": {"type": "number", "default": 1, "minimum": 0, "maximum": 1,
      "description": "score of a right answer that no #### marks"}
  }
}"#;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    #[serde(default = "one")]
    unmarked: f64,
}

fn one() -> f64 {
    1.0
}

struct Plugin {
    unmarked: f64,
}

impl Reward for Plugin {
    type Options = Options;
    const ABOUT: About = About::new(
        "my-plugin",
        env!("CARGO_PKG_VERSION"),
        "1 where the final answer is that of the reference, else 0.",
    )
    .options(SCHEMA);

    fn new(options: Options, _seed: u64) -> Result<Self, String> {
        Ok(Self { unmarked: options.unmarked })
    }

    fn reads(&self) -> Reads {
        Reads::columns([Need::text("completion"), Need::text("reference").optional()])
    }

    fn score_row(&self, row: &Row<'_>) -> Score {
        let Some(wanted) = row.text("reference").and_then(answer) else { return Score::none() };
        let completion = row.text("completion").unwrap_or("");
        let marked = completion.contains("####");
        let right = answer(completion).is_some_and(|said| said == wanted);
        let value = match (right, marked) {
            (false, _) => 0.0,
            (true, true) => 1.0,
            (true, false) => self.unmarked,
        };
        Score::new(value).with_part("marked", f64::from(u8::from(marked)))
    }
}

/// The first number after the last `####`, else the last number; in canonical form.
fn answer(said: &str) -> Option<String> {
    let (said, marked) = match said.rsplit_once("####") {
        Some((_, rest)) => (rest, true),
        None => (said, false),
    };
    let bytes = said.as_bytes();
    let digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    let mut number = None;
    let mut at = 0;
    while at < bytes.len() {
        if !digit(at) {
            at += 1;
            continue;
        }
        let mut begin = at;
        at = number_end(at, bytes, digit);
        let minus = begin.checked_sub(1).filter(|before| bytes[*before] == b'-');
        if let Some(minus) = minus
            && !minus.checked_sub(1).is_some_and(digit)
        {
            begin = minus;
        }
        number = said.get(begin..at);
        if marked {
            break;
        }
    }
    number.map(canonical)
}

/// The end of the number that begins at the digit `at`.
fn number_end(mut at: usize, bytes: &[u8], digit: impl Fn(usize) -> bool) -> usize {
    loop {
        while digit(at) {
            at += 1;
        }
        let group =
            bytes.get(at) == Some(&b',') && (1..=3).all(|i| digit(at + i)) && !digit(at + 4);
        if !group {
            break;
        }
        at += 4;
    }
    if bytes.get(at) == Some(&b'.') && digit(at + 1) {
        at += 1;
        while digit(at) {
            at += 1;
        }
    }
    at
}

/// Without separators and zeros that say nothing.
fn canonical(number: &str) -> String {
    let (sign, digits) = match number.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", number),
    };
    let digits = digits.replace(',', "");
    let (whole, fraction) = digits.split_once('.').unwrap_or((&digits, ""));
    let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
    let whole = if whole.is_empty() { "0" } else { whole };
    match (whole, fraction) {
        ("0", "") => "0".into(),
        (_, "") => format!("{sign}{whole}"),
        _ => format!("{sign}{whole}.{fraction}"),
    }
}

trainer_plugin::export_reward!(Plugin);
