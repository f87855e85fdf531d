//! `trainer generate`: answers to prompts.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::flags::{self, Parsed};
use super::screen;
use super::settings::{self, MODEL, SAMPLING};
use crate::config::table::{Kind, Setting, row};
use crate::config::values::Values;
use crate::config::{ConfigError, Precision};
use crate::data::{Conversation, Message};
use crate::error::Result;
use crate::model::generate::SamplingOptions;
use crate::stage::chat::Speaker;
use crate::stage::dataset::load_plugin;

const PROMPTS: &str = "Prompts";

/// Settings of `generate`; `chat` takes those without prompts.
const TABLE: &[Setting] = &[
    row(MODEL, "model", Kind::Path, "", &["model_name_or_path", "base_model"], "model folder"),
    row(
        MODEL,
        "adapter",
        Kind::Path,
        "",
        &["adapter_name_or_path", "lora_model", "peft_model_path"],
        "LoRA adapter to put on it",
    ),
    row(
        MODEL,
        "plugin",
        Kind::Text,
        "",
        &[],
        "template plugin; without it the model's own chat template",
    ),
    settings::device(MODEL),
    settings::torch_dtype(MODEL),
    settings::load_in_8bit(MODEL),
    settings::load_in_4bit(MODEL),
    settings::num_threads(MODEL),
    row(SAMPLING, "max_new_tokens", Kind::Int(1), "256", &[], "most tokens of an answer"),
    settings::TEMPERATURE,
    settings::TOP_P,
    settings::TOP_K,
    settings::REPETITION_PENALTY,
    row(
        SAMPLING,
        "stop",
        Kind::List,
        "",
        &["stop_str"],
        "text that ends an answer; may be repeated",
    ),
    settings::SEED,
    row(PROMPTS, "system", Kind::Text, "", &["system_prompt"], "system message"),
    row(PROMPTS, "prompt", Kind::List, "", &["query"], "what the user says; may be repeated"),
    row(PROMPTS, "data_file", Kind::Path, "", &[], "file of prompts, one a line"),
    row(PROMPTS, "output_file", Kind::Path, "", &[], "write {\"Input\", \"Output\"} lines here"),
    row(
        PROMPTS,
        "raw",
        Kind::Bool,
        "False",
        &[],
        "continue the prompt as it stands, without a template",
    ),
];

/// A loaded model and how it answers.
pub struct Session {
    /// The model.
    pub speaker: Speaker,
    /// Sampling.
    pub options: SamplingOptions,
    /// Texts that end an answer.
    pub stop: Vec<String>,
    /// System message.
    pub system: Option<String>,
}

/// Parses the arguments of `generate` or `chat`; `None` after `--help`.
pub fn parse(
    command: &'static str,
    about: &'static str,
    example: &'static str,
    args: &[String],
) -> Result<Option<Values>> {
    Ok(match flags::parse(command, about, example, TABLE, args)? {
        Parsed::Help => None,
        Parsed::Values(values) => Some(*values),
    })
}

/// Loads the model the values name; reports all their faults first.
pub fn open(mut values: Values) -> Result<Session> {
    let model = values.text("model").unwrap_or_else(|| {
        values.faults.push("`--model` is missing: give a model folder".into());
        String::new()
    });
    let options = settings::sampling(&mut values, "max_new_tokens");
    let precision = Precision::resolve(&mut values);
    let threads = values.size("num_threads");
    if !values.faults.is_empty() {
        return Err(ConfigError::Faults(values.faults).into());
    }
    crate::stage::setup::set_threads(threads);
    let template = match values.text("plugin") {
        Some(name) => Some(load_plugin(&name, "", options.seed)?),
        None => None,
    };
    if let Some(template) = &template {
        template.expect(crate::plugin::World::Template)?;
    }
    let adapter = values.text("adapter").map(PathBuf::from);
    let speaker = Speaker::load(Path::new(&model), adapter.as_deref(), template, precision)?;
    let mut stop = values.list("stop");
    stop.retain(|s| !s.is_empty());
    stop.extend(speaker.stop_strings()?);
    Ok(Session { speaker, options, stop, system: values.text("system") })
}

/// Runs the command.
pub fn run(args: &[String]) -> Result<()> {
    let example = "trainer generate --model MODEL --prompt 'What is the capital of France?'";
    let Some(mut values) = parse("generate", "Answer prompts", example, args)? else {
        return Ok(());
    };
    let raw = values.bool("raw");
    let mut prompts = values.list("prompt");
    if let Some(file) = values.text("data_file") {
        let path = Path::new(&file);
        let text = std::fs::read_to_string(path).map_err(crate::fs::io_error("read", path))?;
        prompts.extend(text.lines().filter(|l| !l.trim().is_empty()).map(str::to_string));
    }
    if prompts.is_empty() {
        values
            .faults
            .push("`--prompt` or `--data_file` is missing: there is nothing to answer".into());
    }
    let output_file = values.text("output_file").map(PathBuf::from);
    let session = open(values)?;
    let mut lines = String::new();
    for (row, prompt) in prompts.iter().enumerate() {
        let text = if raw {
            prompt.clone()
        } else {
            let mut messages: Vec<Message> =
                session.system.iter().map(|s| Message::new("system", s.as_str())).collect();
            messages.push(Message::new("user", prompt.as_str()));
            session.speaker.render(&Conversation { messages, tools: None })?
        };
        let show = |piece: &str| {
            if output_file.is_none() {
                screen::piece(&screen::printable(piece));
            }
        };
        let options = &session.options;
        let answer =
            session.speaker.answer(&text, raw, options, &session.stop, row as u64, show)?;
        if output_file.is_none() {
            screen::line("");
        }
        lines.push_str(&json!({"Input": prompt, "Output": answer.text}).to_string());
        lines.push('\n');
    }
    if let Some(path) = output_file {
        crate::fs::write_atomic(&path, lines.as_bytes())?;
        screen::line(&format!("{} answers in {}", prompts.len(), path.display()));
    }
    Ok(())
}
