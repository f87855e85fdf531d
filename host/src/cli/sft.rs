//! `trainer sft`: supervised fine-tuning.

use super::flags::{self, Parsed};
use super::progress::Console;
use super::{screen, signals};
use crate::config::table::SFT;
use crate::config::{RunConfig, Stage};
use crate::error::Result;
use crate::run::Task;
use crate::stage::setup::Prepared;
use crate::stage::{causal, dpo};

const EXAMPLE: &str =
    "trainer --plugin sharegpt --model_name_or_path MODEL --train_file_dir DATA --output_dir OUT";

/// Runs the command.
pub fn run(args: &[String]) -> Result<()> {
    let about = "Fine-tune a model on conversations, by LoRA unless --use_peft False";
    let values = match flags::parse("sft", about, EXAMPLE, SFT, args)? {
        Parsed::Help => return Ok(()),
        Parsed::Values(values) => *values,
    };
    let config = RunConfig::resolve(Stage::Sft, values, true)?;
    let mut command = vec!["trainer".to_string(), "sft".to_string()];
    command.extend(args.iter().cloned());
    signals::install();
    train(&config, command)
}

/// Trains by a resolved configuration, with both screens.
pub fn train(config: &RunConfig, command: Vec<String>) -> Result<()> {
    match config.stage {
        Stage::Pt | Stage::Sft => run_prepared(causal::prepare(config, command.clone())?, command),
        Stage::Dpo => run_prepared(dpo::prepare(config, command.clone())?, command),
    }
}

fn run_prepared<T: Task>(prepared: Prepared<'_, T>, command: Vec<String>) -> Result<()> {
    let config = prepared.config();
    let mut shown = prepared.summary.clone();
    let mut console = Console::new(&config.training.output_dir);
    let report = prepared.train(&mut console, &signals::interrupted, |summary| {
        screen::summary(summary);
        shown = summary.clone();
    })?;
    let resume = resume_command(&command);
    screen::report(&report, &shown, &resume, config.use_peft);
    Ok(())
}

/// The same command, resuming from the newest checkpoint.
fn resume_command(command: &[String]) -> String {
    let quoted = |arg: &String| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./,:+@%".contains(c);
        if !arg.is_empty() && arg.chars().all(plain) {
            arg.clone()
        } else {
            format!("'{}'", arg.replace('\'', r"'\''"))
        }
    };
    let mut parts: Vec<String> = Vec::new();
    let mut rest = command.iter();
    while let Some(arg) = rest.next() {
        let name = arg.replace('-', "_");
        if name == "__resume_from_checkpoint" {
            rest.next();
        } else if !name.starts_with("__resume_from_checkpoint=") {
            parts.push(quoted(arg));
        }
    }
    format!("{} --resume_from_checkpoint True", parts.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_resume_command_is_the_same_command() {
        let command: Vec<String> =
            ["trainer", "sft", "--plugin_options", "a={\"b\": 1}", "--resume-from-checkpoint", "x"]
                .map(str::to_string)
                .to_vec();
        assert_eq!(
            resume_command(&command),
            "trainer sft --plugin_options 'a={\"b\": 1}' --resume_from_checkpoint True"
        );
    }
}
