//! Scores completions that are JSON of a schema.

mod find;
mod schema;
mod validate;

use serde::Deserialize;
use serde_json::Value;
use trainer_plugin::{About, Need, Reads, Reward, Row, Score};

use find::{Find, find};
use schema::Schema;

const SCHEMA: &str = r#"{
  "type": "object",
  "additionalProperties": false,
  "required": ["schema"],
  "properties": {
    "schema": {"type": ["object", "boolean"], "description": "the JSON Schema (2020-12)"},
    "find": {"type": "string", "enum": ["auto", "whole", "fence", "answer"], "default": "auto", "description": "where the JSON stands: the whole text, the last fenced block, the last <answer>; auto: answer, fence or whole"},
    "column": {"type": "string", "default": "completion", "minLength": 1, "description": "column that is looked at"},
    "valid": {"type": "number", "default": 1, "description": "score of JSON that fits the schema"},
    "json": {"type": "number", "default": 0, "description": "score of JSON that does not fit the schema"},
    "invalid": {"type": "number", "default": 0, "description": "score of what is no JSON"}
  }
}"#;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    schema: Value,
    #[serde(default)]
    find: Find,
    #[serde(default = "completion")]
    column: String,
    #[serde(default = "one")]
    valid: f64,
    #[serde(default)]
    json: f64,
    #[serde(default)]
    invalid: f64,
}

fn completion() -> String {
    "completion".into()
}

fn one() -> f64 {
    1.0
}

struct JsonSchema {
    schema: Schema,
    options: Options,
}

impl Reward for JsonSchema {
    type Options = Options;
    const ABOUT: About = About::new(
        "json-schema",
        env!("CARGO_PKG_VERSION"),
        "1 where a completion is JSON that fits a schema, else 0.",
    )
    .options(SCHEMA);

    fn new(options: Options, _seed: u64) -> Result<Self, String> {
        Ok(Self { schema: Schema::new(options.schema.clone())?, options })
    }

    fn reads(&self) -> Reads {
        Reads::columns([Need::text(&self.options.column)])
    }

    fn score_row(&self, row: &Row<'_>) -> Score {
        let text = row.text(&self.options.column).unwrap_or("");
        let value = find(text, self.options.find)
            .and_then(|found| serde_json::from_str::<Value>(found).ok());
        let Some(value) = value else {
            return Score::new(self.options.invalid).with_part("json", 0.0);
        };
        let fits = self.schema.fits(&value);
        Score::new(if fits { self.options.valid } else { self.options.json }).with_part("json", 1.0)
    }
}

trainer_plugin::export_reward!(JsonSchema);
