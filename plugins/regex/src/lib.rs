//! Scores completions by a regular expression: whether it matches, or whether what it captures is
//! the reference. Matching takes time linear in the text, whatever the pattern.

use regex_lite::{Regex, RegexBuilder};
use serde::Deserialize;
use trainer_plugin::{About, Need, Reads, Reward, Row, Score};

const SCHEMA: &str = r#"{
  "type": "object",
  "additionalProperties": false,
  "required": ["pattern"],
  "properties": {
    "pattern": {"type": "string", "minLength": 1, "description": "regular expression (syntax of Rust's regex, without Unicode classes)"},
    "match": {"type": "string", "enum": ["anywhere", "whole"], "default": "anywhere", "description": "where the pattern has to match: anywhere in the text, or the whole of it"},
    "column": {"type": "string", "default": "completion", "minLength": 1, "description": "column that is looked at"},
    "capture_is_reference": {"type": "boolean", "default": false, "description": "besides matching, the first group of the last match has to be the reference"},
    "ignore_case": {"type": "boolean", "default": false, "description": "upper and lower case are the same"},
    "multi_line": {"type": "boolean", "default": false, "description": "^ and $ match at every line"},
    "dot_matches_newline": {"type": "boolean", "default": false, "description": "the dot matches line ends too"},
    "matched": {"type": "number", "default": 1, "description": "score of a text that matches"},
    "unmatched": {"type": "number", "default": 0, "description": "score of a text that does not"}
  }
}"#;

#[derive(Clone, Copy, Default, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Place {
    #[default]
    Anywhere,
    Whole,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    pattern: String,
    #[serde(default, rename = "match")]
    place: Place,
    #[serde(default = "completion")]
    column: String,
    #[serde(default)]
    capture_is_reference: bool,
    #[serde(default)]
    ignore_case: bool,
    #[serde(default)]
    multi_line: bool,
    #[serde(default)]
    dot_matches_newline: bool,
    #[serde(default = "one")]
    matched: f64,
    #[serde(default)]
    unmatched: f64,
}

fn completion() -> String {
    "completion".into()
}

fn one() -> f64 {
    1.0
}

struct Pattern {
    regex: Regex,
    options: Options,
}

impl Reward for Pattern {
    type Options = Options;
    const ABOUT: About = About::new(
        "regex",
        env!("CARGO_PKG_VERSION"),
        "1 where a regular expression matches, or captures the reference, else 0.",
    )
    .options(SCHEMA);

    fn new(options: Options, _seed: u64) -> Result<Self, String> {
        let build = |pattern: &str| {
            RegexBuilder::new(pattern)
                .case_insensitive(options.ignore_case)
                .multi_line(options.multi_line)
                .dot_matches_new_line(options.dot_matches_newline)
                .build()
                .map_err(|e| format!("`pattern` is no regular expression: {e}"))
        };
        // First as it is: a fault is then told of what the user wrote.
        let mut regex = build(&options.pattern)?;
        if options.capture_is_reference && regex.captures_len() < 2 {
            return Err(
                "`pattern` captures nothing; put ( ) around what has to be the reference, \
                or leave out `capture_is_reference`"
                    .into(),
            );
        }
        if options.place == Place::Whole {
            regex = build(&format!(r"\A(?:{})\z", options.pattern))?;
        }
        Ok(Self { regex, options })
    }

    fn reads(&self) -> Reads {
        let own = Need::text(&self.options.column);
        if self.options.capture_is_reference {
            return Reads::columns([own, Need::text("reference").optional()]);
        }
        Reads::columns([own])
    }

    fn score_row(&self, row: &Row<'_>) -> Score {
        let text = row.text(&self.options.column).unwrap_or("");
        let matches = if self.options.capture_is_reference {
            let Some(reference) = row.text("reference") else { return Score::none() };
            let last = self.regex.captures_iter(text).last();
            let captured = last.and_then(|found| found.get(1));
            captured.is_some_and(|found| found.as_str().trim() == reference.trim())
        } else {
            self.regex.is_match(text)
        };
        Score::new(if matches { self.options.matched } else { self.options.unmatched })
    }
}

trainer_plugin::export_reward!(Pattern);
