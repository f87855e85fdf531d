//! `trainer quickstart`: everything at once, offline, on shipped data.

use std::path::PathBuf;
use std::time::Instant;

use super::flags::{self, Parsed};
use super::progress::Console;
use super::{screen, signals};
use crate::adapter::merge;
use crate::config::table::{Kind, SFT, Setting};
use crate::config::values::{Given, Values};
use crate::config::{ConfigError, Precision, RunConfig, Stage};
use crate::data::{Conversation, Message};
use crate::dist::World;
use crate::error::{Error, Result};
use crate::model::generate::SamplingOptions;
use crate::run::Outcome;
use crate::stage::chat::Speaker;
use crate::stage::quickstart::{self, Folders};

const TABLE: &[Setting] = &[
    Setting {
        name: "output_dir",
        aliases: &[],
        kind: Kind::Path,
        default: "quickstart",
        group: "Quick start",
        help: "where everything goes",
    },
    Setting {
        name: "pretrain_epochs",
        aliases: &[],
        kind: Kind::Float(f64::MIN_POSITIVE, 1e4),
        default: "10",
        group: "Quick start",
        help: "passes over the text",
    },
    Setting {
        name: "sft_epochs",
        aliases: &[],
        kind: Kind::Float(f64::MIN_POSITIVE, 1e4),
        default: "14",
        group: "Quick start",
        help: "passes over the conversations",
    },
    Setting {
        name: "seed",
        aliases: &[],
        kind: Kind::Int(0),
        default: "42",
        group: "Quick start",
        help: "seed of everything random",
    },
];

const QUESTIONS: [&str; 4] = [
    "What is the capital of Norway?",
    "What is the capital of Kenya?",
    "What does the heart do?",
    "Tell me about Jupiter.",
];

/// Runs the command.
pub fn run(args: &[String]) -> Result<()> {
    let about = "Pre-train a tiny LLaMA on shipped text, fine-tune it through a plugin, merge, ask";
    let mut values = match flags::parse("quickstart", about, "trainer quickstart", TABLE, args)? {
        Parsed::Help => return Ok(()),
        Parsed::Values(values) => *values,
    };
    let root = PathBuf::from(values.text("output_dir").unwrap_or_default());
    let pretrain_epochs = values.float("pretrain_epochs");
    let sft_epochs = values.float("sft_epochs");
    let seed = values.int("seed").unsigned_abs();
    if root.join("base").exists() {
        values.faults.push(format!(
            "{} holds an earlier quick start; remove it or choose another --output_dir",
            root.display()
        ));
    }
    if !values.faults.is_empty() {
        return Err(ConfigError::Faults(values.faults).into());
    }
    signals::install();
    let begun = Instant::now();
    let folders = Folders::within(&root);
    quickstart::write_data(&folders)?;

    screen::line("1/4 pre-training a LLaMA from scratch on data/pretrain (own BPE tokenizer)");
    std::fs::create_dir_all(&folders.base).map_err(crate::fs::io_error("create", &folders.base))?;
    let mut console = Console::new(&folders.base);
    let interrupted = &signals::interrupted;
    let (outcome, parameters) =
        quickstart::pretrain(&folders, pretrain_epochs, seed, &mut console, interrupted)?;
    if outcome != Outcome::Finished {
        return Err(Error::Interrupted("remove the folder and start the quick start again".into()));
    }
    screen::line(&format!(
        "    {} values in {}",
        screen::grouped(parameters as u64),
        folders.base.display()
    ));

    screen::line("2/4 LoRA fine-tuning on ShareGPT conversations through the plugin sharegpt");
    let (config, command) = sft_config(&folders, sft_epochs, seed)?;
    super::train::train(&config, command.clone(), &World::default())?;
    if signals::interrupted() {
        return Ok(());
    }

    screen::line("3/4 merging the adapter into the base");
    let report = merge::merge(&folders.base, &folders.adapter, &folders.merged, None)?;
    screen::line(&format!("    {} matrices merged", report.merged_modules));

    screen::line("4/4 the same questions before and after");
    let before = Speaker::load(&folders.base, None, None, Precision::default())?;
    let after = Speaker::load(&folders.merged, None, None, Precision::default())?;
    let options = SamplingOptions { max_new_tokens: 48, ..SamplingOptions::default() };
    for (row, question) in QUESTIONS.iter().enumerate() {
        screen::line(&format!("  {question}"));
        for (name, speaker) in [("before", &before), ("after", &after)] {
            let messages = vec![Message::new("user", *question)];
            let prompt = speaker.render(&Conversation { messages, tools: None })?;
            let answer = speaker.answer(&prompt, false, &options, &[], row as u64, |_| {})?;
            let text = answer.text.trim().replace('\n', " ");
            screen::line(&format!("    {name:<7} {}", screen::printable(&text)));
        }
    }

    let root = root.display();
    screen::line(&format!(
        "\nall of it took {:.0} s and lies in {root}:",
        begun.elapsed().as_secs_f64()
    ));
    for (name, what) in [
        ("data/", "the text and the conversations"),
        ("base/", "the model from scratch (Hugging Face folder)"),
        ("adapter/", "the LoRA adapter (PEFT folder), logs, results, manifest"),
        ("merged/", "the fine-tuned model"),
    ] {
        screen::line(&format!("  {name:<9} {what}"));
    }
    screen::line("what to run next:");
    screen::line(&format!("  trainer chat --model {root}/merged"));
    screen::line(&format!(
        "  trainer preview --plugin sharegpt --model_name_or_path {root}/base --train_file_dir {root}/data/sft"
    ));
    screen::line(&format!("  {}", command.join(" ").replace("/adapter", "/adapter-2")));
    Ok(())
}

/// The configuration of the fine-tuning, and the command that does the same.
fn sft_config(folders: &Folders, epochs: f64, seed: u64) -> Result<(RunConfig, Vec<String>)> {
    let entries: Vec<(&str, String)> = vec![
        ("plugin", "sharegpt".into()),
        ("model_name_or_path", folders.base.display().to_string()),
        ("train_file_dir", folders.sft_data.display().to_string()),
        ("validation_split_percentage", "5".into()),
        ("output_dir", folders.adapter.display().to_string()),
        ("num_train_epochs", epochs.to_string()),
        ("learning_rate", "2.5e-3".into()),
        ("lora_rank", "16".into()),
        ("lora_dropout", "0".into()),
        ("model_max_length", "256".into()),
        ("packing", "True".into()),
        ("per_device_train_batch_size", "2".into()),
        ("warmup_ratio", "0.05".into()),
        ("weight_decay", "0.01".into()),
        ("eval_strategy", "epoch".into()),
        ("save_strategy", "no".into()),
        ("logging_steps", "20".into()),
        ("seed", seed.to_string()),
    ];
    let mut command = vec!["trainer".to_string(), "sft".to_string()];
    for (name, text) in &entries {
        command.extend([format!("--{name}"), text.clone()]);
    }
    let given = |(name, text): (&str, String)| {
        (name.to_string(), Given { text, origin: "quickstart".into() })
    };
    let mut values = Values::new(SFT);
    values.take(entries.into_iter().map(given).collect());
    Ok((RunConfig::resolve(Stage::Sft, values, true)?, command))
}
