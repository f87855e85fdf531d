//! The training stages' commands.

use std::time::Duration;

use super::flags::{self, Parsed};
use super::progress::Console;
use super::{screen, signals};
use crate::config::{RunConfig, Stage, table};
use crate::data::hub::HubOptions;
use crate::device;
use crate::dist::World;
use crate::error::Result;
use crate::run::Task;
use crate::run::progress::Silent;
use crate::stage::setup::Prepared;
use crate::stage::{causal, distill, kto, preference, rl, rm, sources};

/// One sentence about a stage, and an example of its command.
fn about(stage: Stage) -> (&'static str, &'static str) {
    match stage {
        Stage::Sft => (
            "Fine-tune a model on conversations, by LoRA unless --use_peft False",
            "trainer --plugin sharegpt --model_name_or_path MODEL --train_file_dir DATA --output_dir OUT",
        ),
        Stage::Pt => (
            "Train on plain text: every token of every document, by LoRA on a base unless \
             --use_peft False, or a new model from scratch",
            "trainer pt --model_name_or_path MODEL --train_file_dir TEXTS --output_dir OUT
  trainer pt --tokenizer_name_or_path TOKENIZER --hidden_size 256 --num_hidden_layers 6 \
   --num_attention_heads 8 --train_file_dir TEXTS --output_dir OUT",
        ),
        Stage::Rm => (
            "Train a reward model on pairs of a better and a worse answer, by LoRA and a head with \
             one output unless --use_peft False",
            "trainer rm --plugin preference --model_name_or_path MODEL --train_file_dir PAIRS --output_dir OUT",
        ),
        Stage::Dpo => (
            "Train on pairs of a better and a worse answer (direct preference optimisation), by \
             LoRA unless --use_peft False",
            "trainer dpo --plugin preference --model_name_or_path MODEL --train_file_dir PAIRS --output_dir OUT",
        ),
        Stage::Orpo => (
            "Train on pairs of a better and a worse answer without a reference (odds-ratio \
             preference optimisation), by LoRA unless --use_peft False",
            "trainer orpo --plugin preference --model_name_or_path MODEL --train_file_dir PAIRS --output_dir OUT",
        ),
        Stage::Simpo => (
            "Train on pairs of a better and a worse answer without a reference (simple preference \
             optimisation), by LoRA unless --use_peft False",
            "trainer simpo --plugin preference --model_name_or_path MODEL --train_file_dir PAIRS --output_dir OUT",
        ),
        Stage::Kto => (
            "Train on single answers that are known to be good or bad (Kahneman-Tversky \
             optimisation), by LoRA unless --use_peft False",
            "trainer kto --plugin preference --model_name_or_path MODEL --train_file_dir ANSWERS --output_dir OUT",
        ),
        Stage::Grpo => (
            "Train on sampled answers, several to a prompt, judged by rewards (group-relative policy \
             optimisation), by LoRA unless --use_peft False",
            "trainer grpo --plugin prompt --plugin accuracy --model_name_or_path MODEL --train_file_dir PROMPTS --output_dir OUT",
        ),
        Stage::Rloo => (
            "Train on sampled answers, several to a prompt, judged by rewards (REINFORCE with a \
             leave-one-out baseline), by LoRA unless --use_peft False",
            "trainer rloo --plugin prompt --reward_model_name_or_path REWARD --model_name_or_path MODEL \
             --train_file_dir PROMPTS --output_dir OUT",
        ),
        Stage::Ppo => (
            "Train on sampled answers judged by a reward model or plugins (proximal policy \
             optimisation with a value head), by LoRA unless --use_peft False",
            "trainer ppo --plugin sharegpt --reward_model_name_or_path REWARD --model_name_or_path MODEL \
             --train_file_dir PROMPTS --output_dir OUT",
        ),
        Stage::Distill => (
            "Train a model to say what a teacher would, at every token of its own answers, by LoRA \
             unless --use_peft False",
            "trainer distill --plugin sharegpt --teacher_model_name_or_path TEACHER \
             --model_name_or_path MODEL --train_file_dir DATA --output_dir OUT",
        ),
    }
}

/// Runs a stage's command.
pub fn run(stage: Stage, args: &[String]) -> Result<()> {
    let (about, example) = about(stage);
    let values = match flags::parse(stage.name(), about, example, table::of(stage), args)? {
        Parsed::Help => return Ok(()),
        Parsed::Values(values) => *values,
    };
    let mut config = RunConfig::resolve(stage, values, true)?;
    let mut command = vec!["trainer".to_string(), stage.name().to_string()];
    command.extend(args.iter().cloned());
    signals::install();
    let choice = config.precision.device;
    let gpu = |local_rank| device::gpu_of(choice.of_rank(local_rank));
    let world = World::join(Duration::from_secs(config.training.ddp_timeout), gpu)?;
    config.precision.device = config.precision.device.of_rank(world.local_rank());
    let trained = train(&config, command, &world);
    if let Err(e) = &trained {
        world.leave(&e.to_string());
    }
    trained
}

/// Trains by a resolved configuration, with both screens; the ranks of `world` together.
pub fn train(config: &RunConfig, command: Vec<String>, world: &World) -> Result<()> {
    let again = command.clone();
    // Rank 0 fetches first; others of its machine find the files there.
    let config = match world.is_main() {
        true => with_files(config)?,
        false => {
            world.collective().barrier("data sets of the hub")?;
            sources::fetched(config, &HubOptions::from_env(), &mut |_| {})?
        }
    };
    if world.is_main() {
        world.collective().barrier("data sets of the hub")?;
    }
    let config = &config;
    match config.stage {
        Stage::Pt | Stage::Sft => run_prepared(causal::prepare(config, command, world)?, again),
        Stage::Rm => run_prepared(rm::prepare(config, command, world)?, again),
        Stage::Dpo | Stage::Orpo | Stage::Simpo => {
            run_prepared(preference::prepare(config, command, world)?, again)
        }
        Stage::Kto => run_prepared(kto::prepare(config, command, world)?, again),
        Stage::Grpo | Stage::Rloo | Stage::Ppo => {
            run_prepared(rl::prepare::prepare(config, command, world)?, again)
        }
        Stage::Distill => run_prepared(distill::prepare(config, command, world)?, again),
    }
}

/// The configuration with the files of its data sets on the hub.
///
/// # Errors
/// What the hub refuses, or how it fails.
pub fn with_files(config: &RunConfig) -> Result<RunConfig> {
    let mut told = |text: &str| eprintln!("{}", screen::printable(text));
    sources::fetched(config, &HubOptions::from_env(), &mut told)
}

fn run_prepared<T: Task>(prepared: Prepared<'_, T>, command: Vec<String>) -> Result<()> {
    let config = prepared.config();
    if !prepared.is_main() {
        // Rank 0 prints, for all.
        prepared.train(&mut Silent, &signals::interrupted, |_| {})?;
        return Ok(());
    }
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
    let own = format!("{} --resume_from_checkpoint True", parts.join(" "));
    match std::env::var(super::launch::COMMAND_VARIABLE) {
        // Behind the launcher's own arguments stands the command without the program.
        Ok(launch) => format!("{launch} -- {}", own.trim_start_matches("trainer ")),
        Err(_) => own,
    }
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
