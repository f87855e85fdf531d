//! 1 where the final answer of a completion is the reference, else 0.

mod answer;

use answer::{Extract, extract, same};
use serde::Deserialize;
use trainer_plugin::{About, Need, Reads, Reward, Row, Score};

const SCHEMA: &str = r#"{
  "type": "object",
  "additionalProperties": false,
  "properties": {
    "extract": {"type": "string", "enum": ["auto", "tag", "hashes", "boxed", "last_number", "whole"], "default": "auto", "description": "where the final answer stands"},
    "tolerance": {"type": "number", "default": 1e-6, "minimum": 0, "description": "how far numbers may be apart, relative to the greater"},
    "right": {"type": "number", "default": 1, "description": "score of a right answer"},
    "wrong": {"type": "number", "default": 0, "description": "score of a wrong answer"}
  }
}"#;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Accuracy {
    extract: Extract,
    tolerance: f64,
    right: f64,
    wrong: f64,
}

impl Default for Accuracy {
    fn default() -> Self {
        Self { extract: Extract::Auto, tolerance: 1e-6, right: 1.0, wrong: 0.0 }
    }
}

impl Reward for Accuracy {
    type Options = Accuracy;
    const ABOUT: About = About::new(
        "accuracy",
        env!("CARGO_PKG_VERSION"),
        "1 where the final answer is the reference, else 0.",
    )
    .options(SCHEMA);

    fn new(options: Accuracy, _seed: u64) -> Result<Self, String> {
        Ok(options)
    }

    fn reads(&self) -> Reads {
        Reads::columns([Need::text("completion"), Need::text("reference").optional()])
    }

    fn score_row(&self, row: &Row<'_>) -> Score {
        let Some(reference) = row.text("reference") else { return Score::none() };
        let reference = match extract(reference, Extract::Auto) {
            // A text with a number in it is compared as a text.
            Some(found) if reference.contains(['<', '#', '\\']) => found,
            _ => reference.trim(),
        };
        let completion = row.text("completion").unwrap_or("");
        let answer = extract(completion, self.extract);
        // Words are looked for in the whole answer where no number is asked for.
        let answer = match answer {
            Some(_) if self.extract == Extract::Auto && answer::number(reference).is_none() => {
                let marked = completion.contains("<answer>")
                    || completion.contains("####")
                    || completion.contains("\\boxed{");
                if marked { answer } else { Some(completion.trim()) }
            }
            other => other,
        };
        let right = answer.is_some_and(|a| same(a, reference, self.tolerance));
        Score::new(if right { self.right } else { self.wrong })
    }
}

trainer_plugin::export_reward!(Accuracy);
