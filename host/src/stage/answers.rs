//! Prompts of files without a training run: to be answered (`rollout`), or with answers to be
//! judged (`score`).

use serde_json::{Map, Value};

use super::dataset::{Item, load_plugins, projection};
use super::rl::prompt::Prompt;
use crate::config::ConfigError;
use crate::data::source::{self, ReadOptions};
use crate::data::{DataError, Ledger, Reject, RejectKind, SourceReader};
use crate::error::Result;
use crate::plugin::{Plugin, Verdict, World};

/// Plugins by what they are for.
#[derive(Default)]
pub struct Plugins {
    /// Makes prompts of rows.
    pub formatter: Option<Plugin>,
    /// Renders them.
    pub template: Option<Plugin>,
    /// Judge answers.
    pub rewards: Vec<Plugin>,
}

impl Plugins {
    /// Loads plugins with their options, given by name.
    ///
    /// # Errors
    /// A plugin that can't be loaded, or two of one kind where one is wanted.
    pub fn load(
        names: &[String],
        options: std::collections::BTreeMap<String, String>,
        seed: u64,
    ) -> Result<Self> {
        let mut out = Self::default();
        for (name, plugin) in names.iter().zip(load_plugins(names, options, seed)?) {
            let slot = match plugin.world() {
                World::Formatter => &mut out.formatter,
                World::Template => &mut out.template,
                World::Reward => {
                    out.rewards.push(plugin);
                    continue;
                }
            };
            if slot.is_some() {
                let kind = plugin.world().name();
                let fault = format!("plugin `{name}` is a second {kind}; give one");
                return Err(ConfigError::one(fault).into());
            }
            *slot = Some(plugin);
        }
        Ok(out)
    }
}

/// Reads all prompts of `inputs`; the first broken row is an error.
///
/// # Errors
/// Files that can't be read, a plugin that fails, a broken row.
pub fn read(inputs: &[String], formatter: &Plugin) -> Result<(Vec<Prompt>, Ledger)> {
    let mut ledger = Ledger::default();
    let mut prompts = Vec::new();
    for file in source::discover(inputs)?.files {
        let options = ReadOptions::new(projection(formatter.reads()));
        for batch in SourceReader::new([file], options) {
            let batch = batch?;
            ledger.read(&batch);
            if let Some(reject) = batch.rejects.first() {
                return Err(DataError::from(reject.clone()).into());
            }
            let outcomes = formatter
                .format(std::slice::from_ref(&batch.batch))
                .map_err(|e| e.placed(|row| batch.provenance(row).to_string()))?;
            for (index, outcome) in outcomes.into_iter().enumerate() {
                let at = batch.provenance(index);
                let reject = |reason: String| {
                    let kind = RejectKind::Formatter;
                    let (file, row, excerpt) = (at.file.clone(), at.row, String::new());
                    DataError::from(Reject { file, row, kind, reason, excerpt })
                };
                let examples = match outcome.verdict {
                    Verdict::Keep(examples) => examples,
                    Verdict::Skip(reason) => {
                        ledger.skipped(&at, &reason);
                        continue;
                    }
                    Verdict::Reject(reason) => return Err(reject(reason).into()),
                };
                ledger.used(&at, examples.len() as u64);
                for example in &examples {
                    Prompt::conversations(example).map_err(reject)?;
                    prompts.extend(Prompt::unread(example, at.clone()));
                }
            }
        }
    }
    ledger.check()?;
    Ok((prompts, ledger))
}

/// Takes the column of the answer out of a prompt's columns; none where it is absent or no text.
pub fn take_completion(prompt: &mut Prompt) -> Option<String> {
    let mut columns: Map<String, Value> =
        serde_json::from_str(prompt.columns.as_deref()?).unwrap_or_default();
    let completion = columns.remove("completion");
    prompt.columns = (!columns.is_empty()).then(|| Value::Object(columns).to_string());
    match completion {
        Some(Value::String(text)) => Some(text),
        _ => None,
    }
}
