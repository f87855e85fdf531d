//! `trainer rollout`: answers to a file of prompts, as data.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::flags::{self, Parsed};
use super::{screen, signals};
use crate::config::ConfigError;
use crate::config::run::plugin_options;
use crate::config::table::{Kind, Setting};
use crate::error::Result;
use crate::model::generate::{SamplingOptions, StopReason};
use crate::stage::answers::{self, Plugins};
use crate::stage::chat::Speaker;

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

const MODEL: &str = "Model";
const DATA: &str = "Data";
const SAMPLING: &str = "Sampling";

const TABLE: &[Setting] = &[
    setting(MODEL, "model_name_or_path", &["model"], Kind::Path, "", "model folder"),
    setting(
        MODEL,
        "peft_path",
        &["adapter", "adapter_name_or_path", "lora_model"],
        Kind::Path,
        "",
        "LoRA adapter to put on it",
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
    setting(
        DATA,
        "data_file",
        &["train_file_dir"],
        Kind::List,
        "",
        "prompts: file, folder or pattern; may be repeated",
    ),
    setting(
        DATA,
        "plugin",
        &[],
        Kind::List,
        "",
        "formatter (by default prompt) or template; may be repeated",
    ),
    setting(
        DATA,
        "plugin_options",
        &[],
        Kind::List,
        "",
        "options of a plugin: NAME={\"key\": value}; may be repeated",
    ),
    setting(DATA, "output_file", &[], Kind::Path, "", "where the answers go, JSON lines"),
    setting(SAMPLING, "num_generations", &[], Kind::Int(1), "1", "answers to each prompt"),
    setting(
        SAMPLING,
        "max_completion_length",
        &["max_new_tokens"],
        Kind::Int(1),
        "256",
        "most tokens of an answer",
    ),
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
        "generation_batch_size",
        &[],
        Kind::Int(1),
        "64",
        "answers generated at a time",
    ),
    setting(SAMPLING, "seed", &[], Kind::Int(0), "42", "seed of the choice"),
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
    let options = SamplingOptions {
        temperature: v.float("temperature"),
        top_p: v.float("top_p"),
        top_k: v.size("top_k"),
        repetition_penalty: v.float("repetition_penalty") as f32,
        max_new_tokens: v.size("max_completion_length"),
        stop_ids: Vec::new(),
        seed: v.int("seed").unsigned_abs(),
    };
    let slots = v.size("generation_batch_size");
    let bfloat16 = v.choice("torch_dtype") == "bfloat16";
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
        Speaker::load(Path::new(&model), adapter.as_deref(), plugins.template.take(), bfloat16)?;
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
