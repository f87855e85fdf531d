//! `trainer preview`: rows as the model will see them.

use std::io::IsTerminal;
use std::sync::Arc;

use super::flags::{self, Parsed};
use super::screen;
use crate::config::table::{Kind, SFT, Setting};
use crate::config::{ConfigError, RunConfig, Stage};
use crate::error::Result;
use crate::model::HfConfig;
use crate::stage::dataset::Pipeline;
use crate::text::{TextTokenizer, TokenizedExample, preview};

const EXAMPLE: &str = "trainer preview --plugin sharegpt --model_name_or_path MODEL --train_file_dir DATA --num_rows 3";

const OWN: [Setting; 3] = [
    Setting {
        name: "num_rows",
        aliases: &[],
        kind: Kind::Int(1),
        default: "3",
        group: "Preview",
        help: "rows to show",
    },
    Setting {
        name: "show_ids",
        aliases: &[],
        kind: Kind::Bool,
        default: "False",
        group: "Preview",
        help: "show token ids",
    },
    Setting {
        name: "json",
        aliases: &[],
        kind: Kind::Bool,
        default: "False",
        group: "Preview",
        help: "print one JSON object per row",
    },
];

fn table() -> &'static [Setting] {
    static TABLE: std::sync::OnceLock<Vec<Setting>> = std::sync::OnceLock::new();
    TABLE.get_or_init(|| SFT.iter().chain(&OWN).copied().collect())
}

/// Runs the command; an error when a shown row has no trained token.
pub fn run(args: &[String]) -> Result<()> {
    let about = "Show rows as the model will see them: trained text green, the rest dim";
    let mut values = match flags::parse("preview", about, EXAMPLE, table(), args)? {
        Parsed::Help => return Ok(()),
        Parsed::Values(values) => *values,
    };
    let rows = values.size("num_rows");
    let (show_ids, as_json) = (values.bool("show_ids"), values.bool("json"));
    let config = RunConfig::resolve(Stage::Sft, values, false)?;
    let config = super::train::with_files(&config)?;
    let model = HfConfig::read(&config.model_name_or_path)?;
    let dir = config.tokenizer_name_or_path.as_ref().unwrap_or(&config.model_name_or_path);
    let ids = [model.bos_token_id, model.eos_token_ids.first().copied(), model.pad_token_id];
    let mut tokenizer = TextTokenizer::load(dir, ids)?;
    tokenizer.add_tokens(&config.adapter.add_tokens, false)?;
    tokenizer.add_tokens(&config.adapter.add_special_tokens, true)?;
    let tokenizer = Arc::new(tokenizer);
    let pipeline = Pipeline::load(&config, &tokenizer)?;
    let part = pipeline.read::<TokenizedExample>(&config.train_sources().concat(), Some(rows))?;
    for example in &part.examples {
        if as_json {
            screen::line(&preview::as_json(&tokenizer, example)?.to_string());
        } else {
            let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            screen::line(&preview::terminal(&tokenizer, example, show_ids, colours)?);
        }
    }
    if !as_json {
        part.ledger.lines().iter().for_each(|l| screen::line(&screen::printable(l)));
    }
    let untrained: u64 = part
        .ledger
        .files
        .values()
        .flat_map(|f| f.skipped.iter())
        .filter(|(reason, _)| reason.starts_with("no trained token"))
        .map(|(_, tally)| tally.count)
        .sum();
    if untrained > 0 || part.examples.is_empty() {
        return Err(ConfigError::one(format!(
            "{untrained} of the rows read have no trained token; raise --model_max_length, or look at \
             the formatter and the template"
        ))
        .into());
    }
    Ok(())
}
