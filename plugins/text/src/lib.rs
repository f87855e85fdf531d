//! Plain text for continued pre-training: one column, all of it trained.

use serde::Deserialize;
use trainer_plugin::{About, Formatter, Need, Outcome, Reads, Row};

const SCHEMA: &str = r#"{
  "type": "object",
  "additionalProperties": false,
  "properties": {
    "column": {"type": "string", "default": "text", "minLength": 1,
      "description": "name of the column that holds the text"}
  }
}"#;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    #[serde(default = "default_column")]
    column: String,
}

fn default_column() -> String {
    "text".into()
}

struct Text {
    column: String,
}

impl Formatter for Text {
    type Options = Options;
    const ABOUT: About =
        About::new("text", env!("CARGO_PKG_VERSION"), "Plain text, all of it trained.")
            .options(SCHEMA);

    fn new(options: Options, _seed: u64) -> Result<Self, String> {
        if options.column.is_empty() {
            return Err("`column` is empty; give the name of the column that holds the text".into());
        }
        Ok(Self { column: options.column })
    }

    fn reads(&self) -> Reads {
        Reads::columns([Need::json(&self.column)])
    }

    fn format_row(&self, row: &Row<'_>) -> Outcome {
        match row.json::<serde_json::Value>(&self.column) {
            Ok(None) => Outcome::reject(format!("field `{}` is missing", self.column)),
            Ok(Some(serde_json::Value::String(text))) if text.trim().is_empty() => {
                Outcome::skip("empty text")
            }
            Ok(Some(serde_json::Value::String(text))) => Outcome::text(text),
            Ok(Some(other)) => Outcome::reject(format!(
                "field `{}` is {}, not a string",
                self.column,
                trainer_plugin::json_kind(&other)
            )),
            Err(reason) => Outcome::reject(reason),
        }
    }
}

trainer_plugin::export_formatter!(Text);
