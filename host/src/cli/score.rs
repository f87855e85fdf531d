//! `trainer score`: a file of answers, judged by rewards.

use std::path::PathBuf;

use serde_json::json;

use super::flags::{self, Parsed};
use super::screen;
use super::settings::{self, DATA};
use crate::config::run::plugin_options;
use crate::config::table::{Kind, Setting, row};
use crate::config::{ConfigError, Precision, RewardFailure};
use crate::error::Result;
use crate::objective::policy::mean_std;
use crate::stage::answers::{self, Plugins};
use crate::stage::dataset::load_plugin;
use crate::stage::rl::reward::{Answer, Rewards};
use crate::stage::rl::reward_model::RewardModel;

const REWARDS: &str = "Rewards";

const TABLE: &[Setting] = &[
    row(
        DATA,
        "data_file",
        Kind::List,
        "",
        &[],
        "answers: rows with prompt, completion and, where a reward needs it, reference; may be repeated",
    ),
    row(DATA, "output_file", Kind::Path, "", &[], "where the scores go, JSON lines"),
    settings::plugins(REWARDS, "reward, or the template for reward models; may be repeated"),
    settings::plugin_options(REWARDS),
    row(
        REWARDS,
        "reward_model_name_or_path",
        Kind::List,
        "",
        &["reward_model", "reward_model_path"],
        "folder of a reward model or of its adapter; may be repeated",
    ),
    row(
        REWARDS,
        "reward_failure",
        Kind::Choice(&["fail", "null", "zero"]),
        "fail",
        &[],
        "what a reward that fails on an answer does",
    ),
    settings::device(REWARDS),
    settings::torch_dtype(REWARDS),
    settings::load_in_8bit(REWARDS),
    settings::load_in_4bit(REWARDS),
    settings::num_threads(REWARDS),
    row(REWARDS, "seed", Kind::Int(0), "42", &[], "seed handed to plugins"),
];

const EXAMPLE: &str =
    "trainer score --plugin accuracy --data_file ANSWERS.jsonl --output_file SCORES.jsonl";

/// Runs the command.
pub fn run(args: &[String]) -> Result<()> {
    let about = "Judge a file of answers by reward plugins and reward models";
    let mut v = match flags::parse("score", about, EXAMPLE, TABLE, args)? {
        Parsed::Help => return Ok(()),
        Parsed::Values(values) => *values,
    };
    let out = v.text("output_file").map(PathBuf::from);
    let inputs = v.list("data_file");
    if inputs.is_empty() {
        v.faults.push("`--data_file` is missing: give answers (file or folder)".into());
    }
    let failure = match v.choice("reward_failure").as_str() {
        "null" => RewardFailure::Null,
        "zero" => RewardFailure::Zero,
        _ => RewardFailure::Fail,
    };
    let precision = Precision::resolve(&mut v);
    let (threads, seed) = (v.size("num_threads"), v.int("seed").unsigned_abs());
    let own = plugin_options(&mut v);
    let (names, folders) = (v.list("plugin"), v.list("reward_model_name_or_path"));
    if !v.faults.is_empty() {
        return Err(ConfigError::Faults(v.faults).into());
    }
    crate::stage::setup::set_threads(threads);
    let plugins = Plugins::load(&names, own, seed)?;
    let formatter = match plugins.formatter {
        Some(plugin) => plugin,
        None => load_plugin("prompt", r#"{"columns": ["completion"]}"#, seed)?,
    };
    let mut models = Vec::new();
    for folder in folders {
        let dir = PathBuf::from(&folder);
        let name = dir.file_name().map_or(folder.clone(), |n| n.to_string_lossy().into_owned());
        models.push((name, RewardModel::load(&dir, precision)?));
    }
    let rewards = Rewards::new(plugins.rewards, models, &[], plugins.template, failure, None)?;
    let (mut prompts, ledger) = answers::read(&inputs, &formatter)?;
    let mut completions = Vec::with_capacity(prompts.len());
    for prompt in &mut prompts {
        completions.push(answers::take_completion(prompt).ok_or_else(|| {
            let at = &prompt.provenance;
            ConfigError::one(format!(
                "{at} has no `completion`; give rows as `trainer rollout` writes them"
            ))
        })?);
    }
    let all: Vec<Answer<'_>> = prompts
        .iter()
        .zip(&completions)
        .map(|(prompt, completion)| Answer { prompt, completion })
        .collect();
    let judged = rewards.judge(&all, &crate::dist::World::default())?;
    let mut lines = String::new();
    for (i, answer) in all.iter().enumerate() {
        let scores: serde_json::Map<String, serde_json::Value> = rewards
            .names()
            .zip(&judged.values)
            .map(|(name, values)| (name.to_string(), json!(values[i])))
            .collect();
        let line = json!({
            "prompt": answer.prompt.conversation.messages,
            "completion": answer.completion,
            "scores": scores,
            "reward": judged.total[i],
        });
        lines.push_str(&line.to_string());
        lines.push('\n');
    }
    ledger.lines().iter().for_each(|l| screen::line(&screen::printable(l)));
    for (name, values) in rewards.names().zip(&judged.values) {
        let known: Vec<f64> = values.iter().copied().flatten().collect();
        let (mean, std) = mean_std(known.iter().copied());
        screen::line(&format!(
            "  {name}: mean {mean:.4}, deviation {std:.4}, {} of {} answers judged",
            known.len(),
            values.len()
        ));
    }
    if let Some(path) = out {
        crate::fs::write_atomic(&path, lines.as_bytes())?;
        screen::line(&format!("{} scores in {}", all.len(), path.display()));
    }
    Ok(())
}
