//! `trainer tokenizer train`: a tokenizer of one's own texts.

use std::path::PathBuf;

use super::flags::{self, Parsed};
use super::screen;
use crate::config::ConfigError;
use crate::config::table::{Kind, Setting};
use crate::data::source;
use crate::error::Result;
use crate::stage::tokenizer;

const EXAMPLE: &str =
    "trainer tokenizer train --train_file_dir TEXTS --vocab_size 8192 --output_dir TOKENIZER";

const fn setting(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    help: &'static str,
) -> Setting {
    Setting { name, aliases: &[], kind, default, group: "Tokenizer", help }
}

const TABLE: &[Setting] = &[
    Setting {
        name: "train_file_dir",
        aliases: &["input", "train_file"],
        kind: Kind::List,
        default: "",
        group: "Tokenizer",
        help: "texts: file, folder or pattern; may be repeated",
    },
    setting("plugin", Kind::Path, "text", "formatter that makes texts of rows"),
    setting("vocab_size", Kind::Int(300), "8192", "tokens of the vocabulary"),
    setting("output_dir", Kind::Path, "", "where the tokenizer goes"),
    setting("seed", Kind::Int(0), "42", "seed of the plugin"),
];

/// Runs the command.
pub fn run(args: &[String]) -> Result<()> {
    let args = match args.split_first() {
        Some((verb, rest)) if verb == "train" => rest,
        Some((help, _)) if help == "--help" || help == "-h" => args,
        _ => {
            let fault = format!("`trainer tokenizer` knows `train`; for example\n  {EXAMPLE}");
            return Err(ConfigError::one(fault).into());
        }
    };
    let about = "Train a byte-level BPE tokenizer (with ChatML's turn markers) on texts";
    let mut values = match flags::parse("tokenizer train", about, EXAMPLE, TABLE, args)? {
        Parsed::Help => return Ok(()),
        Parsed::Values(values) => *values,
    };
    let inputs = values.list("train_file_dir");
    let plugin = values.text("plugin").unwrap_or_default();
    let vocab_size = values.size("vocab_size");
    let output_dir = values.text("output_dir").map(PathBuf::from);
    let seed = values.int("seed").unsigned_abs();
    if inputs.is_empty() {
        values.faults.push("`--train_file_dir` is missing: give texts (file or folder)".into());
    }
    if output_dir.is_none() {
        values.faults.push("`--output_dir` is missing: say where the tokenizer goes".into());
    }
    let (Some(output_dir), true) = (output_dir, values.faults.is_empty()) else {
        return Err(ConfigError::Faults(values.faults).into());
    };
    let files = source::discover(&inputs)?.files;
    let trained = tokenizer::train(files, &plugin, vocab_size, seed, &output_dir)?;
    for line in trained.ledger.lines() {
        screen::line(&format!("  rows         {}", screen::printable(&line)));
    }
    screen::line(&format!(
        "{} tokens in {}",
        screen::grouped(trained.vocab_size as u64),
        output_dir.display()
    ));
    Ok(())
}
