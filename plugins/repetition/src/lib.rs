//! Minus the share of a completion's n-grams that it said before. Words where the text has spaces,
//! else characters.

use std::collections::HashSet;

use serde::Deserialize;
use trainer_plugin::{About, Need, Reads, Reward, Row, Score};

const SCHEMA: &str = r#"{
  "type": "object",
  "additionalProperties": false,
  "properties": {
    "n": {"type": "integer", "default": 3, "minimum": 1, "maximum": 64, "description": "words (or characters) of an n-gram"},
    "weight": {"type": "number", "default": 1, "minimum": 0, "description": "score of a completion that only repeats, negative"}
  }
}"#;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Repetition {
    n: usize,
    weight: f64,
}

impl Default for Repetition {
    fn default() -> Self {
        Self { n: 3, weight: 1.0 }
    }
}

/// Share of the n-grams that occur earlier; 0 for fewer than one.
fn repeated<T: std::hash::Hash + Eq>(items: &[T], n: usize) -> f64 {
    let mut seen = HashSet::new();
    let (mut all, mut again) = (0u32, 0u32);
    for gram in items.windows(n) {
        all += 1;
        again += u32::from(!seen.insert(gram));
    }
    if all == 0 { 0.0 } else { f64::from(again) / f64::from(all) }
}

impl Reward for Repetition {
    type Options = Repetition;
    const ABOUT: About = About::new(
        "repetition",
        env!("CARGO_PKG_VERSION"),
        "Minus the share of n-grams that a completion said before.",
    )
    .options(SCHEMA);

    fn new(options: Repetition, _seed: u64) -> Result<Self, String> {
        if options.n == 0 {
            return Err("`n` is 0, expected at least 1".into());
        }
        Ok(options)
    }

    fn reads(&self) -> Reads {
        Reads::columns([Need::text("completion")])
    }

    fn score_row(&self, row: &Row<'_>) -> Score {
        let text = row.text("completion").unwrap_or("").to_lowercase();
        let words: Vec<&str> = text.split_whitespace().collect();
        let characters: Vec<char> = text.chars().collect();
        // A text of very long words is one that is written without spaces.
        let spaced = characters.len() < 12 * words.len().max(1);
        let share = if spaced { repeated(&words, self.n) } else { repeated(&characters, self.n) };
        // Not -0: a sound completion's score is plain 0.
        Score::new(if share > 0.0 { -self.weight * share } else { 0.0 })
    }
}

trainer_plugin::export_reward!(Repetition);
