//! `trainer plugin COMMAND`: one file per command.

mod args;
mod bench;
mod build;
mod check;
mod inspect;
mod language;
mod new;
mod place;

use super::screen;
use crate::config::ConfigError;
use crate::error::Result;
use crate::plugin::shipped_names;

/// A command: its name, what `--help` says of it, and what runs it with the arguments after its
/// name.
struct Command {
    name: &'static str,
    usage: &'static str,
    about: &'static str,
    run: fn(&[String]) -> Result<()>,
}

/// The commands, in the order of `--help`.
const COMMANDS: &[Command] = &[
    Command { name: "new", usage: new::USAGE, about: new::ABOUT, run: new::run },
    Command { name: "build", usage: build::USAGE, about: build::ABOUT, run: build::run },
    Command { name: "inspect", usage: inspect::USAGE, about: inspect::ABOUT, run: inspect::run },
    Command { name: "check", usage: check::USAGE, about: check::ABOUT, run: check::run },
    Command { name: "bench", usage: bench::USAGE, about: bench::ABOUT, run: bench::run },
];

/// Runs the command.
pub fn run(args: &[String]) -> Result<()> {
    let wants_help = |a: &String| a == "--help" || a == "-h";
    let Some(name) = args.first().filter(|a| !wants_help(a)) else {
        help();
        return Ok(());
    };
    let rest = &args[1..];
    let Some(command) = COMMANDS.iter().find(|c| c.name == name) else {
        let names: Vec<&str> = COMMANDS.iter().map(|c| c.name).collect();
        let message = format!(
            "`trainer plugin {name}` is no command; there are {} (`trainer plugin --help`)",
            names.join(", ")
        );
        return Err(ConfigError::one(message).into());
    };
    if rest.iter().any(wants_help) {
        screen::line(&format!("usage: {}\n\n{}", command.usage, command.about));
        return Ok(());
    }
    (command.run)(rest)
}

fn help() {
    let shipped: Vec<&str> = shipped_names().collect();
    let mut text = String::new();
    for command in COMMANDS {
        text.push_str(&format!("{}\n    {}\n\n", command.usage, command.about));
    }
    text.push_str(&format!(
        "Shipped with this binary: {}",
        if shipped.is_empty() { "none".to_string() } else { shipped.join(", ") }
    ));
    screen::line(&text);
}
