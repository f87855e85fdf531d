//! 1 where a completion keeps a format, else 0: tags in order, each once, and nothing but white
//! space between and around them.

use serde::Deserialize;
use trainer_plugin::{About, Need, Reads, Reward, Row, Score};

const SCHEMA: &str = r#"{
  "type": "object",
  "additionalProperties": false,
  "properties": {
    "tags": {"type": "array", "items": {"type": "string"}, "default": ["think", "answer"], "description": "tags in their order; none: any text"},
    "starts_with": {"type": "string", "default": "", "description": "what the text begins with"},
    "ends_with": {"type": "string", "default": "", "description": "what the text ends with"},
    "partial": {"type": "boolean", "default": false, "description": "the share of tags that are there in order, instead of all or nothing"}
  }
}"#;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Format {
    tags: Vec<String>,
    starts_with: String,
    ends_with: String,
    partial: bool,
}

impl Default for Format {
    fn default() -> Self {
        Self {
            tags: vec!["think".into(), "answer".into()],
            starts_with: String::new(),
            ends_with: String::new(),
            partial: false,
        }
    }
}

impl Format {
    /// How many tags stand in order, and whether the text is nothing but them.
    fn tags_of(&self, text: &str) -> (usize, bool) {
        let (mut rest, mut clean) = (text, true);
        for (found, tag) in self.tags.iter().enumerate() {
            let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
            let once = text.matches(&open).count() == 1 && text.matches(&close).count() == 1;
            let Some((before, after)) = rest.split_once(&open) else { return (found, false) };
            let Some((_, after)) = after.split_once(&close) else { return (found, false) };
            clean &= once && before.trim().is_empty();
            rest = after;
        }
        (self.tags.len(), clean && (self.tags.is_empty() || rest.trim().is_empty()))
    }
}

impl Reward for Format {
    type Options = Format;
    const ABOUT: About = About::new(
        "format",
        env!("CARGO_PKG_VERSION"),
        "1 where a completion keeps a format of tags, else 0.",
    )
    .options(SCHEMA);

    fn new(options: Format, _seed: u64) -> Result<Self, String> {
        if options.tags.iter().any(|tag| tag.is_empty() || tag.contains(['<', '>'])) {
            return Err("`tags` holds an empty name or one with < or >".into());
        }
        Ok(options)
    }

    fn reads(&self) -> Reads {
        Reads::columns([Need::text("completion")])
    }

    fn score_row(&self, row: &Row<'_>) -> Score {
        let text = row.text("completion").unwrap_or("").trim();
        let (found, clean) = self.tags_of(text);
        let ends = text.starts_with(&self.starts_with) && text.ends_with(&self.ends_with);
        if self.partial && !self.tags.is_empty() {
            return Score::new(found as f64 / self.tags.len() as f64);
        }
        Score::new(f64::from(u8::from(clean && ends)))
    }
}

trainer_plugin::export_reward!(Format);
