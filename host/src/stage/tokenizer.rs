//! Texts of files through a formatter, and a tokenizer trained on them.

use std::path::Path;

use super::dataset::{load_plugin, projection};
use crate::config::ConfigError;
use crate::data::source::{ReadOptions, SourceFile};
use crate::data::{Example, Ledger, Provenance, Reject, RejectKind, SourceReader};
use crate::error::Result;
use crate::fs::io_error;
use crate::plugin::{Plugin, Verdict, World};
use crate::text::TextTokenizer;
use crate::text::train::train_bpe;

/// A tokenizer that was trained.
pub struct Trained {
    /// Tokens it knows.
    pub vocab_size: usize,
    /// Where the rows went.
    pub ledger: Ledger,
}

/// Texts that a formatter makes of `files`, with where they came from. A conversation gives the
/// text of its turns. Broken rows are counted and left out.
///
/// # Errors
/// Files that can't be read, a plugin that fails.
pub fn texts(
    files: Vec<SourceFile>,
    plugin: &Plugin,
) -> Result<(Vec<(Provenance, String)>, Ledger)> {
    let mut ledger = Ledger::default();
    let mut texts = Vec::new();
    for batch in SourceReader::new(files, ReadOptions::new(projection(plugin.reads()))) {
        let batch = batch?;
        ledger.read(&batch);
        let outcomes = plugin
            .format(std::slice::from_ref(&batch.batch))
            .map_err(|e| e.placed(|row| batch.provenance(row).to_string()))?;
        for (i, outcome) in outcomes.into_iter().enumerate() {
            let at = batch.provenance(i);
            outcome.notes.iter().for_each(|note| ledger.note(&at.file, note));
            match outcome.verdict {
                Verdict::Keep(examples) => {
                    let found: Vec<String> = examples.into_iter().flat_map(words).collect();
                    if found.is_empty() {
                        ledger.skipped(&at, "holds no text, only pairs, prompts or tokens");
                        continue;
                    }
                    ledger.used(&at, found.len() as u64);
                    texts.extend(found.into_iter().map(|text| (at.clone(), text)));
                }
                Verdict::Skip(reason) => ledger.skipped(&at, &reason),
                Verdict::Reject(reason) => ledger.rejected(Reject {
                    file: at.file.clone(),
                    row: at.row,
                    kind: RejectKind::Formatter,
                    reason,
                    excerpt: String::new(),
                }),
            }
        }
    }
    ledger.check()?;
    Ok((texts, ledger))
}

fn words(example: Example) -> Vec<String> {
    match example {
        Example::Text(text) => vec![text],
        Example::Conversation(c) => c.messages.into_iter().map(|m| m.content).collect(),
        _ => Vec::new(),
    }
}

/// Trains a tokenizer of `vocab_size` tokens on `files` into `dir`.
///
/// # Errors
/// As [`texts`]; also when there is no text, and when the folder can't be written.
pub fn train(
    files: Vec<SourceFile>,
    plugin: &str,
    vocab_size: usize,
    seed: u64,
    dir: &Path,
) -> Result<Trained> {
    let plugin = load_plugin(plugin, "", seed)?;
    if plugin.world() != World::Formatter {
        let fault = format!("plugin `{}` is no formatter; give one, such as text", plugin.name());
        return Err(ConfigError::one(fault).into());
    }
    let (texts, ledger) = texts(files, &plugin)?;
    if texts.iter().all(|(_, t)| t.trim().is_empty()) {
        let fault = "the files hold no text to train a tokenizer on; check --train_file_dir";
        return Err(ConfigError::one(fault).into());
    }
    std::fs::create_dir_all(dir).map_err(io_error("create", dir))?;
    train_bpe(texts.iter().map(|(_, t)| t.as_str()), vocab_size, dir)?;
    let tokenizer = TextTokenizer::load(dir, [None; 3])?;
    Ok(Trained { vocab_size: tokenizer.largest_id() as usize + 1, ledger })
}
