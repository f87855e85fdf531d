//! The command line: one file per command. The only place that prints.

mod chat;
mod convert;
mod data;
mod estimate;
mod export;
mod flags;
mod generate;
mod import;
mod launch;
mod merge;
mod outputs;
mod pipeline;
mod plugin;
mod preview;
mod progress;
mod quantize;
mod quickstart;
mod rollout;
mod score;
mod screen;
mod settings;
mod signals;
mod tokenizer;
mod train;

use std::process::ExitCode;

use crate::config::Stage;
use crate::error::{Error, Result};

/// A command: its name, one line about it, and what runs it with the arguments after the name.
struct Command {
    name: &'static str,
    about: &'static str,
    run: fn(&[String]) -> Result<()>,
}

const COMMANDS: &[Command] = &[
    Command {
        name: "sft",
        about: "fine-tune a model on conversations (also without the name)",
        run: |args| train::run(Stage::Sft, args),
    },
    Command {
        name: "pt",
        about: "train on plain text: a base, or a model from scratch",
        run: |args| train::run(Stage::Pt, args),
    },
    Command {
        name: "rm",
        about: "train a reward model on pairs of answers",
        run: |args| train::run(Stage::Rm, args),
    },
    Command {
        name: "dpo",
        about: "train on pairs of a better and a worse answer",
        run: |args| train::run(Stage::Dpo, args),
    },
    Command {
        name: "orpo",
        about: "the same without a reference, by odds ratios",
        run: |args| train::run(Stage::Orpo, args),
    },
    Command {
        name: "simpo",
        about: "the same without a reference, by mean log-probabilities",
        run: |args| train::run(Stage::Simpo, args),
    },
    Command {
        name: "kto",
        about: "train on single answers, good or bad",
        run: |args| train::run(Stage::Kto, args),
    },
    Command {
        name: "grpo",
        about: "train on sampled answers, judged by rewards, by group",
        run: |args| train::run(Stage::Grpo, args),
    },
    Command {
        name: "rloo",
        about: "the same with a leave-one-out baseline",
        run: |args| train::run(Stage::Rloo, args),
    },
    Command {
        name: "ppo",
        about: "the same with a value head and a divergence penalty",
        run: |args| train::run(Stage::Ppo, args),
    },
    Command {
        name: "distill",
        about: "train a model to say what a teacher would",
        run: |args| train::run(Stage::Distill, args),
    },
    Command {
        name: "run",
        about: "run a pipeline of stages, each on the one before",
        run: pipeline::run,
    },
    Command {
        name: "launch",
        about: "train with several processes, on one machine or more",
        run: launch::run,
    },
    Command { name: "convert", about: "turn data files into other data files", run: convert::run },
    Command {
        name: "data",
        about: "look at data files, free them of duplicates, divide and mix them",
        run: data::run,
    },
    Command { name: "tokenizer", about: "train a tokenizer on texts", run: tokenizer::run },
    Command { name: "estimate", about: "say what memory a stage will take", run: estimate::run },
    Command { name: "preview", about: "show rows as the model will see them", run: preview::run },
    Command {
        name: "export",
        about: "write a model or an adapter as GGUF, MLX or Hugging Face files",
        run: export::run,
    },
    Command {
        name: "merge",
        about: "merge LoRA adapters into their base, or into one",
        run: merge::run,
    },
    Command { name: "generate", about: "answer prompts", run: generate::run },
    Command {
        name: "rollout",
        about: "answer a file of prompts, many at a time",
        run: rollout::run,
    },
    Command { name: "score", about: "judge a file of answers by rewards", run: score::run },
    Command { name: "chat", about: "talk with a model", run: chat::run },
    Command { name: "import", about: "turn a GGUF file into a model folder", run: import::run },
    Command {
        name: "quantize",
        about: "write a model with its linear layers in 8 or 4 bits",
        run: quantize::run,
    },
    Command { name: "plugin", about: "make, build, check and time plugins", run: plugin::run },
    Command {
        name: "quickstart",
        about: "see everything work on shipped data",
        run: quickstart::run,
    },
];

/// Runs the command line.
pub fn main() -> ExitCode {
    let args: Vec<String> =
        std::env::args_os().skip(1).map(|a| a.to_string_lossy().into()).collect();
    // Panics are our faults, not the user's: say so in one line instead of a trace.
    if std::env::var_os("RUST_BACKTRACE").is_none() {
        std::panic::set_hook(Box::new(|_| {}));
    }
    match std::panic::catch_unwind(|| dispatch(&args)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            let text = screen::printable(&error.to_string());
            eprintln!("error: {text}");
            launch::tell_torchrun(&text);
            ExitCode::from(error.exit_code())
        }
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("unknown");
            eprintln!(
                "internal error: {}; please report it with the command and its input",
                screen::printable(text)
            );
            ExitCode::from(1)
        }
    }
}

fn dispatch(args: &[String]) -> Result<()> {
    match args.first().map(String::as_str) {
        None | Some("help" | "--help" | "-h") => {
            print_help();
            Ok(())
        }
        Some("--version" | "-V") => {
            screen::line(&format!("trainer {}", env!("CARGO_PKG_VERSION")));
            Ok(())
        }
        Some(flag) if flag.starts_with("--") => train::run(Stage::Sft, args),
        Some(name) => match COMMANDS.iter().find(|c| c.name == name) {
            Some(command) => {
                // Training is shared by ranks, a conversion by machines; all else is done once.
                let shared = Stage::ALL.iter().any(|s| s.name() == name);
                if !shared && !["convert", "launch"].contains(&name) {
                    launch::refuse_several(name)?;
                }
                (command.run)(&args[1..])
            }
            None => Err(unknown_command(name)),
        },
    }
}

fn unknown_command(name: &str) -> Error {
    let names: Vec<&str> = COMMANDS.iter().map(|c| c.name).collect();
    let near = names.iter().min_by_key(|n| strsim::damerau_levenshtein(n, name));
    let near = near.filter(|n| strsim::damerau_levenshtein(n, name) <= 2);
    let hint = match near {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("commands are {}", names.join(", ")),
    };
    let name = crate::error::excerpt(name);
    crate::config::ConfigError::one(format!("unknown command `{name}`; {hint}")).into()
}

fn print_help() {
    let mut text = String::from(
        "trainer fine-tunes language models; dataset formats and prompt templates are sandboxed\n\
         WebAssembly plugins\n\nCommands:\n",
    );
    for command in COMMANDS {
        text.push_str(&format!("  {:<11} {}\n", command.name, command.about));
    }
    text.push_str(
        "\nExample:\n  trainer --plugin sharegpt.wasm --model_name_or_path MODEL --train_file_dir DATA \
         --output_dir OUT\n\nEach command has --help. Exit codes: 0 done (also after an interrupt that saved \
         a checkpoint),\n1 internal error, 2 usage, 3 data or model files, 4 plugin, 5 diverged, 6 storage, \
         75 another rank\nis lost, 130 interrupted without a checkpoint.",
    );
    screen::line(&text);
}
