//! `trainer run`: stages after each other, adapters merged between them, resumed where it stopped.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::{screen, signals};
use crate::adapter::merge;
use crate::config::values::{Given, Values};
use crate::config::{ConfigError, RunConfig, Stage, file, table};
use crate::dist::World;
use crate::error::Result;
use crate::fs;
use crate::model::save::write_json;
use crate::stage::dataset::load_plugins;

const HELP: &str = "Run a pipeline of stages, each on the model that the one before left

Usage: trainer run PIPELINE.yaml

  output_dir: OUT                       # every stage gets a folder in it
  model_name_or_path: BASE              # of the first stage; none for one from scratch
  stages:
    - stage: sft                        # pt, sft, rm, dpo, orpo, simpo, kto, grpo, rloo, ppo
      plugin: sharegpt                  # and any setting of `trainer sft`
      train_file_dir: DATA
    - stage: rm
      name: reward                      # its folder; by default the stage's name
      plugin: preference
      train_file_dir: PAIRS
    - stage: ppo
      plugin: sharegpt
      reward_model_name_or_path: '@reward'   # what that stage left
      train_file_dir: PROMPTS

Adapters are merged into their base (OUT/NAME/merged). A stage after `rm` goes on from the language model
before it. Started again, finished stages are not run again, and one that was interrupted goes on from its
newest checkpoint. OUT/report.md and report.json say what every stage came to.";

/// A stage of a pipeline, checked before the first is run.
struct Step {
    name: String,
    dir: PathBuf,
    config: RunConfig,
    command: Vec<String>,
    /// Hash of its settings and of what comes before it.
    fingerprint: String,
}

impl Step {
    /// The model folder it leaves.
    fn result(&self) -> PathBuf {
        if self.config.use_peft { self.dir.join("merged") } else { self.dir.clone() }
    }
}

const DONE: &str = "stage_done.json";

/// Runs the command.
pub fn run(args: &[String]) -> Result<()> {
    let path = match args {
        [flag] if flag == "--help" || flag == "-h" => {
            screen::line(HELP);
            return Ok(());
        }
        [path] if !path.starts_with('-') => Path::new(path),
        _ => {
            let fault = "`trainer run` takes one pipeline file; `trainer run --help` shows one";
            return Err(ConfigError::one(fault).into());
        }
    };
    let (output_dir, steps) = plan(path)?;
    signals::install();
    std::fs::create_dir_all(&output_dir).map_err(fs::io_error("create", &output_dir))?;
    let mut report = Vec::new();
    for (i, step) in steps.iter().enumerate() {
        screen::line(&format!("{}/{} {}", i + 1, steps.len(), step.name));
        let done = done_before(step)?;
        if done {
            screen::line(&format!("    finished before, in {}", step.dir.display()));
        } else if !train(step)? {
            screen::line(&format!("go on with:\n  trainer run {}", path.display()));
            return Ok(());
        }
        report.push(json!({
            "name": step.name,
            "stage": step.config.stage.name(),
            "model": step.config.model_name_or_path,
            "result": step.result(),
            "metrics": metrics(&step.dir),
        }));
        write_report(&output_dir, &report)?;
    }
    screen::line(&format!("all stages are done; {}", output_dir.join("report.md").display()));
    if let Some(last) = steps.iter().rfind(|s| s.config.stage != Stage::Rm) {
        screen::line(&format!("next:\n  trainer chat --model {}", last.result().display()));
    }
    Ok(())
}

/// Trains a step and merges what it left; false when interrupted.
fn train(step: &Step) -> Result<bool> {
    let manifest = step.dir.join("trainer_manifest.json");
    if !manifest.is_file() {
        let mut config = step.config.clone();
        if !crate::run::checkpoint::list(&step.dir).is_empty() {
            config.training.resume_from_checkpoint = Some("True".into());
        }
        super::train::train(&config, step.command.clone(), &World::default())?;
        if !manifest.is_file() {
            return Ok(false);
        }
    }
    if step.config.use_peft {
        let report =
            merge::merge(&step.config.model_name_or_path, &step.dir, &step.result(), None)?;
        screen::line(&format!("    {} matrices merged", report.merged_modules));
    }
    write_json(&step.dir.join(DONE), &json!({"fingerprint": step.fingerprint}), 2)?;
    Ok(true)
}

/// Whether a step was finished with the same settings.
fn done_before(step: &Step) -> Result<bool> {
    let started = step.dir.join("fingerprint.json");
    let read = |path: &Path| -> Option<String> {
        let value: Value = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        Some(value["fingerprint"].as_str()?.to_string())
    };
    match read(&started) {
        Some(other) if other != step.fingerprint => Err(ConfigError::one(format!(
            "{} was begun with other settings (of it or of a stage before it); remove it, or choose another output_dir",
            step.dir.display()
        ))
        .into()),
        Some(_) => Ok(read(&step.dir.join(DONE)).is_some()),
        None => {
            std::fs::create_dir_all(&step.dir).map_err(fs::io_error("create", &step.dir))?;
            write_json(&started, &json!({"fingerprint": step.fingerprint}), 2)?;
            Ok(false)
        }
    }
}

/// The pipeline of a file, all faults of all stages at once.
fn plan(path: &Path) -> Result<(PathBuf, Vec<Step>)> {
    let place = path.display().to_string();
    let mut map = file::parse(path)?;
    let mut faults = Vec::new();
    let mut text = |map: &mut Map<String, Value>, key: &str| match map.remove(key) {
        Some(Value::String(text)) if !text.is_empty() => Some(text),
        Some(other) => {
            faults.push(format!("{place}: `{key}` is {other}, expected a text"));
            None
        }
        None => None,
    };
    let output_dir = text(&mut map, "output_dir");
    let base = text(&mut map, "model_name_or_path");
    if output_dir.is_none() {
        faults.push(format!("{place}: `output_dir` is missing: say where results go"));
    }
    let output_dir = PathBuf::from(output_dir.unwrap_or_default());
    let stages = match map.remove("stages") {
        Some(Value::Array(stages)) if !stages.is_empty() => stages,
        _ => {
            faults.push(format!("{place}: `stages` is missing: give a list of stages"));
            Vec::new()
        }
    };
    for key in map.keys() {
        let key = crate::error::excerpt(key);
        faults.push(format!("{place}: unknown key `{key}`; settings belong to a stage"));
    }
    let mut steps: Vec<Step> = Vec::new();
    let mut model = base.map(PathBuf::from);
    for (i, stage) in stages.into_iter().enumerate() {
        match plan_step(&place, i, stage, &output_dir, model.as_deref(), &steps) {
            Ok(step) => {
                if step.config.stage != Stage::Rm {
                    model = Some(step.result());
                }
                steps.push(step);
            }
            Err(more) => faults.extend(more),
        }
    }
    if faults.is_empty() {
        Ok((output_dir, steps))
    } else {
        Err(ConfigError::Faults(faults).into())
    }
}

fn plan_step(
    place: &str,
    index: usize,
    stage: Value,
    output_dir: &Path,
    model: Option<&Path>,
    before: &[Step],
) -> std::result::Result<Step, Vec<String>> {
    let at = format!("{place}: stage {}", index + 1);
    let Value::Object(mut map) = stage else {
        return Err(vec![format!("{at} is no list of settings")]);
    };
    let kind = map.remove("stage").unwrap_or_default();
    let Some(stage) = kind.as_str().and_then(Stage::find) else {
        let known: Vec<&str> = Stage::ALL.iter().map(|s| s.name()).collect();
        return Err(vec![format!("{at}: `stage` is {kind}, expected one of {}", known.join(", "))]);
    };
    let name = match map.remove("name") {
        None => stage.name().to_string(),
        Some(Value::String(name))
            if !name.is_empty()
                && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c)) =>
        {
            name
        }
        Some(other) => {
            return Err(vec![format!(
                "{at}: `name` is {other}, expected letters, digits, dashes and underscores"
            )]);
        }
    };
    if before.iter().any(|s| s.name == name) {
        return Err(vec![format!("{at}: a stage `{name}` is there already; give it a `name`")]);
    }
    let mut entries = file::entries(map, &at).map_err(|ConfigError::Faults(faults)| faults)?;
    let mut faults = Vec::new();
    for (key, given) in &mut entries {
        if let Some(of) = given.text.strip_prefix('@') {
            match before.iter().find(|s| s.name == of) {
                Some(step) => given.text = step.result().display().to_string(),
                None => faults.push(format!("{at}: `{key}` names `@{of}`, no stage before it")),
            }
        }
        if ["output_dir", "resume_from_checkpoint"].contains(&key.as_str()) {
            faults.push(format!("{at}: `{key}` is the pipeline's to say; leave it out"));
        }
    }
    let dir = output_dir.join(&name);
    let mut own = vec![("output_dir".to_string(), dir.display().to_string())];
    let scratch = entries.iter().any(|(key, _)| key == "config_name" || key == "hidden_size");
    let named = entries.iter().any(|(key, _)| key == "model_name_or_path");
    if let (Some(model), false, false) = (model, named, scratch) {
        own.push(("model_name_or_path".into(), model.display().to_string()));
    }
    let given = |(key, text)| (key, Given { text, origin: at.clone() });
    entries.extend(own.into_iter().map(given));
    let mut command = vec!["trainer".to_string(), stage.name().to_string()];
    let mut settings: Vec<String> = Vec::new();
    for (key, given) in &entries {
        command.extend([format!("--{key}"), given.text.clone()]);
        settings.push(format!("{key}={}", given.text));
    }
    settings.sort();
    settings.push(before.last().map_or(String::new(), |s| s.fingerprint.clone()));
    settings.push(stage.name().into());
    let fingerprint = fs::sha256_hex(settings.join("\n").as_bytes());
    let mut values = Values::new(table::of(stage));
    values.take(entries);
    match RunConfig::resolve(stage, values, true) {
        Ok(config) => {
            // Plugins and their options too: a stage must not find out hours later.
            let (plugins, seed) = (&config.plugin, config.training.seed);
            if let Err(e) = load_plugins(plugins, config.plugin_options.clone(), seed) {
                faults.push(format!("{at}: {e}"));
            }
            match faults.is_empty() {
                true => Ok(Step { name, dir, config, command, fingerprint }),
                false => Err(faults),
            }
        }
        Err(ConfigError::Faults(more)) => {
            // A fault without a place says which stage it is of.
            let placed = |f: String| if f.starts_with(place) { f } else { format!("{at}: {f}") };
            Err(faults.into_iter().chain(more.into_iter().map(placed)).collect())
        }
    }
}

fn metrics(dir: &Path) -> BTreeMap<String, Value> {
    std::fs::read(dir.join("all_results.json"))
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default()
}

/// What the stages came to so far, for programs and for people.
fn write_report(output_dir: &Path, stages: &[Value]) -> Result<()> {
    write_json(&output_dir.join("report.json"), &json!({"stages": stages}), 2)?;
    let mut text = String::from("# Pipeline\n\n| stage | result | figures |\n|---|---|---|\n");
    for stage in stages {
        let shown = [
            "train_loss",
            "eval_loss",
            "perplexity",
            "eval_mean_token_accuracy",
            "eval_accuracy",
            "eval_margin",
            "eval_rewards/accuracies",
            "eval_rewards/margins",
            "eval_reward",
            "train_runtime",
        ];
        let figures: Vec<String> = shown
            .iter()
            .filter_map(|k| Some(format!("{k} {:.4}", stage["metrics"][*k].as_f64()?)))
            .collect();
        let (name, result) = (&stage["name"], &stage["result"]);
        text.push_str(&format!(
            "| {} | `{}` | {} |\n",
            name.as_str().unwrap_or(""),
            result.as_str().unwrap_or(""),
            figures.join(", ")
        ));
    }
    Ok(fs::write_atomic(&output_dir.join("report.md"), text.as_bytes())?)
}
