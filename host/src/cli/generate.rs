//! `trainer generate`: answers to prompts.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::flags::{self, Parsed};
use super::screen;
use crate::config::ConfigError;
use crate::config::table::{Kind, Setting};
use crate::config::values::Values;
use crate::data::{Conversation, Message};
use crate::error::Result;
use crate::model::generate::SamplingOptions;
use crate::stage::chat::Speaker;
use crate::stage::dataset::load_plugin;

const MODEL: &str = "Model";
const SAMPLING: &str = "Sampling";
const PROMPTS: &str = "Prompts";

const fn setting(
    group: &'static str,
    name: &'static str,
    aliases: &'static [&'static str],
    kind: Kind,
    default: &'static str,
    help: &'static str,
) -> Setting {
    Setting { name, aliases, kind, default, group, help }
}

/// Settings of `generate`; `chat` takes those without prompts.
const TABLE: &[Setting] = &[
    setting(MODEL, "model", &["model_name_or_path", "base_model"], Kind::Path, "", "model folder"),
    setting(
        MODEL,
        "adapter",
        &["adapter_name_or_path", "lora_model", "peft_model_path"],
        Kind::Path,
        "",
        "LoRA adapter to put on it",
    ),
    setting(
        MODEL,
        "plugin",
        &[],
        Kind::Text,
        "",
        "template plugin; without it the model's own chat template",
    ),
    setting(
        MODEL,
        "torch_dtype",
        &["dtype"],
        Kind::Choice(&["float32", "bfloat16"]),
        "float32",
        "type of the weights in memory",
    ),
    setting(MODEL, "num_threads", &[], Kind::Int(0), "0", "CPU threads; 0: all"),
    setting(SAMPLING, "max_new_tokens", &[], Kind::Int(1), "256", "most tokens of an answer"),
    setting(SAMPLING, "temperature", &[], Kind::Float(0.0, 100.0), "0", "0: the most likely token"),
    setting(
        SAMPLING,
        "top_p",
        &[],
        Kind::Float(0.0, 1.0),
        "1",
        "keep the likeliest tokens up to this probability",
    ),
    setting(SAMPLING, "top_k", &[], Kind::Int(0), "0", "keep so many likeliest tokens; 0: all"),
    setting(
        SAMPLING,
        "repetition_penalty",
        &[],
        Kind::Float(f64::MIN_POSITIVE, 100.0),
        "1",
        "above 1: less repetition",
    ),
    setting(
        SAMPLING,
        "stop",
        &["stop_str"],
        Kind::List,
        "",
        "text that ends an answer; may be repeated",
    ),
    setting(SAMPLING, "seed", &[], Kind::Int(0), "42", "seed of the choice"),
    setting(PROMPTS, "system", &["system_prompt"], Kind::Text, "", "system message"),
    setting(PROMPTS, "prompt", &["query"], Kind::List, "", "what the user says; may be repeated"),
    setting(PROMPTS, "data_file", &[], Kind::Path, "", "file of prompts, one a line"),
    setting(
        PROMPTS,
        "output_file",
        &[],
        Kind::Path,
        "",
        "write {\"Input\", \"Output\"} lines here",
    ),
    setting(
        PROMPTS,
        "raw",
        &[],
        Kind::Bool,
        "False",
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
    let options = SamplingOptions {
        temperature: values.float("temperature"),
        top_p: values.float("top_p"),
        top_k: values.size("top_k"),
        repetition_penalty: values.float("repetition_penalty") as f32,
        max_new_tokens: values.size("max_new_tokens"),
        stop_ids: Vec::new(),
        seed: values.int("seed").unsigned_abs(),
    };
    let bfloat16 = values.choice("torch_dtype") == "bfloat16";
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
    let speaker = Speaker::load(Path::new(&model), adapter.as_deref(), template, bfloat16)?;
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
