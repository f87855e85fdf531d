//! 0 for a completion of the wanted length, less the further it is from it: minus the share by
//! which it is too short or too long, at most 1.

use serde::Deserialize;
use trainer_plugin::{About, Need, Reads, Reward, Row, Score};

const SCHEMA: &str = r#"{
  "type": "object",
  "additionalProperties": false,
  "properties": {
    "unit": {"type": "string", "enum": ["characters", "words"], "default": "characters", "description": "what is counted"},
    "min": {"type": "integer", "default": 0, "minimum": 0, "description": "shortest length wanted"},
    "max": {"type": "integer", "default": 1000, "minimum": 1, "description": "longest length wanted"}
  }
}"#;

#[derive(Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Unit {
    Characters,
    Words,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Length {
    unit: Unit,
    min: u64,
    max: u64,
}

impl Default for Length {
    fn default() -> Self {
        Self { unit: Unit::Characters, min: 0, max: 1000 }
    }
}

impl Reward for Length {
    type Options = Length;
    const ABOUT: About = About::new(
        "length",
        env!("CARGO_PKG_VERSION"),
        "0 for a completion of the wanted length, down to -1 the further it is from it.",
    )
    .options(SCHEMA);

    fn new(options: Length, _seed: u64) -> Result<Self, String> {
        match options.min <= options.max {
            true => Ok(options),
            false => Err(format!("`min` {} is above `max` {}", options.min, options.max)),
        }
    }

    fn reads(&self) -> Reads {
        Reads::columns([Need::text("completion")])
    }

    fn score_row(&self, row: &Row<'_>) -> Score {
        let text = row.text("completion").unwrap_or("").trim();
        let n = match self.unit {
            Unit::Characters => text.chars().count() as u64,
            Unit::Words => text.split_whitespace().count() as u64,
        };
        let short = self.min.saturating_sub(n) as f64 / self.min.max(1) as f64;
        let long = n.saturating_sub(self.max) as f64 / self.max.max(1) as f64;
        // Not -0: a sound completion's score is plain 0.
        let share = (short + long).min(1.0);
        Score::new(if share > 0.0 { -share } else { 0.0 }).with_part(
            match self.unit {
                Unit::Characters => "characters",
                Unit::Words => "words",
            },
            n as f64,
        )
    }
}

trainer_plugin::export_reward!(Length);
