//! `trainer rollout`: answers to a file of prompts, as data.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::flags::{self, Parsed};
use super::settings::{self, DATA, MODEL, SAMPLING};
use super::{screen, signals};
use crate::config::run::plugin_options;
use crate::config::table::{Kind, Setting, row};
use crate::config::{ConfigError, Precision};
use crate::error::Result;
use crate::model::generate::StopReason;
use crate::stage::answers::{self, Plugins};
use crate::stage::chat::Speaker;

const TABLE: &[Setting] = &[
    row(MODEL, "model_name_or_path", Kind::Path, "", &["model"], "model folder"),
    row(
        MODEL,
        "peft_path",
        Kind::Path,
        "",
        &["adapter", "adapter_name_or_path", "lora_model"],
        "LoRA adapter to put on it",
    ),
    settings::device(MODEL),
    settings::torch_dtype(MODEL),
    settings::load_in_8bit(MODEL),
    settings::load_in_4bit(MODEL),
    settings::num_threads(MODEL),
    row(
        DATA,
        "data_file",
        Kind::List,
        "",
        &["train_file_dir"],
        "prompts: file, folder or pattern; may be repeated",
    ),
    settings::plugins(DATA, "formatter (by default prompt) or template; may be repeated"),
    settings::plugin_options(DATA),
    row(DATA, "output_file", Kind::Path, "", &[], "where the answers go, JSON lines"),
    row(SAMPLING, "num_generations", Kind::Int(1), "1", &[], "answers to each prompt"),
    row(
        SAMPLING,
        "max_completion_length",
        Kind::Int(1),
        "256",
        &["max_new_tokens"],
        "most tokens of an answer",
    ),
    settings::TEMPERATURE,
    settings::TOP_P,
    settings::TOP_K,
    settings::REPETITION_PENALTY,
    row(SAMPLING, "generation_batch_size", Kind::Int(1), "64", &[], "answers generated at a time"),
    settings::SEED,
];

const EXAMPLE: &str =
    "trainer rollout --model_name_or_path MODEL --data_file PROMPTS --output_file ANSWERS.jsonl";

/// Runs the command.
pub fn run(args: &[String]) -> Result<()> {
    let about =
        "Answer a file of prompts, many at a time; the answers can be judged by `trainer score`";
    let mut v = match flags::parse("rollout", about, EXAMPLE, TABLE, args)? {
        Parsed::Help => return Ok(()),
        Parsed::Values(values) => *values,
    };
    let mut need = |name: &str| {
        v.text(name).unwrap_or_else(|| {
            v.faults.push(format!("`--{name}` is missing"));
            String::new()
        })
    };
    let (model, out) = (need("model_name_or_path"), PathBuf::from(need("output_file")));
    let inputs = v.list("data_file");
    if inputs.is_empty() {
        v.faults.push("`--data_file` is missing: give prompts (file or folder)".into());
    }
    let copies = v.size("num_generations");
    let options = settings::sampling(&mut v, "max_completion_length");
    let slots = v.size("generation_batch_size");
    let precision = Precision::resolve(&mut v);
    let threads = v.size("num_threads");
    let own = plugin_options(&mut v);
    let names = v.list("plugin");
    let adapter = v.text("peft_path").map(PathBuf::from);
    if copies > 1 && options.temperature == 0.0 {
        let fault =
            "`--num_generations` above 1 gives equal answers at temperature 0; set `--temperature`";
        v.faults.push(fault.into());
    }
    if !v.faults.is_empty() {
        return Err(ConfigError::Faults(v.faults).into());
    }
    signals::install();
    crate::stage::setup::set_threads(threads);
    let mut plugins = Plugins::load(&names, own, options.seed)?;
    if let Some(reward) = plugins.rewards.first() {
        let fault =
            format!("`{}` is a reward; judge the answers by `trainer score`", reward.name());
        return Err(ConfigError::one(fault).into());
    }
    let formatter = match plugins.formatter.take() {
        Some(plugin) => plugin,
        None => crate::stage::dataset::load_plugin("prompt", "", options.seed)?,
    };
    let (prompts, ledger) = answers::read(&inputs, &formatter)?;
    let speaker =
        Speaker::load(Path::new(&model), adapter.as_deref(), plugins.template.take(), precision)?;
    let stop = speaker.stop_strings()?;
    let mut texts = Vec::with_capacity(prompts.len() * copies);
    for prompt in &prompts {
        let text = speaker.render(&prompt.conversation)?;
        texts.extend(std::iter::repeat_n(text, copies));
    }
    let done = speaker.answer_all(&texts, &options, &stop, slots, &signals::interrupted)?;
    let Some(done) = done else {
        screen::line("interrupted; nothing was written");
        return Ok(());
    };
    let mut lines = String::new();
    for (i, answer) in done.iter().enumerate() {
        let prompt = &prompts[i / copies];
        let mut line = json!({
            "prompt": prompt.conversation.messages,
            "completion": answer.text,
            "finish_reason": match answer.stop_reason {
                StopReason::StopToken => "stop",
                _ => "length",
            },
            "num_tokens": answer.num_tokens,
        });
        if let Some(tools) = &prompt.conversation.tools {
            line["tools"] = json!(tools);
        }
        if let Some(reference) = &prompt.reference {
            line["reference"] = json!(reference);
        }
        let columns = prompt.columns.as_deref().unwrap_or("{}");
        let columns: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(columns).unwrap_or_default();
        for (name, value) in columns {
            if line.get(&name).is_none() {
                line[name] = value;
            }
        }
        lines.push_str(&line.to_string());
        lines.push('\n');
    }
    crate::fs::write_atomic(&out, lines.as_bytes())?;
    ledger.lines().iter().for_each(|l| screen::line(&screen::printable(l)));
    let cut = done.iter().filter(|a| a.stop_reason != StopReason::StopToken).count();
    screen::line(&format!("{} answers in {}, {cut} of them cut off", done.len(), out.display()));
    Ok(())
}
