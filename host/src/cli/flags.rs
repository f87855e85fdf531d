//! Flags of a command from its table of settings: lexing, `--config` files, `--help`.

use std::io::IsTerminal;
use std::path::Path;

use clap::builder::styling::Styles;
use clap::{Arg, Command};

use crate::config::table::{Kind, Setting, find};
use crate::config::values::{Given, Values};
use crate::config::{ConfigError, file};
use crate::error::Result;

/// What a command's arguments came to.
pub enum Parsed {
    /// `--help` was asked for, and printed.
    Help,
    /// Values to resolve; faults so far are inside.
    Values(Box<Values>),
}

/// Reads `args` by `table`. A dash in a name is as good as an underscore; `--name value`,
/// `--name=value`, for lists several values and, for booleans, the bare name are understood. `--config FILE` gives values
/// that flags override.
///
/// # Errors
/// A configuration file that can't be read.
pub fn parse(
    command: &'static str,
    about: &'static str,
    example: &'static str,
    table: &'static [Setting],
    args: &[String],
) -> Result<Parsed> {
    if args.iter().any(|a| a == "--help" || a == "-h") {
        help(command, about, example, table);
        return Ok(Parsed::Help);
    }
    let mut entries = Vec::new();
    let mut configs = Vec::new();
    let mut faults = Vec::new();
    let mut rest = args.iter().peekable();
    while let Some(arg) = rest.next() {
        let Some(flag) = arg.strip_prefix("--") else {
            let arg = crate::error::excerpt(arg);
            faults.push(format!("`{arg}` is not a flag; values follow a `--name`"));
            continue;
        };
        let (name, inline) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value.to_string())),
            None => (flag, None),
        };
        let name = name.replace('-', "_");
        let bool_flag = find(table, &name).is_none_or(|s| s.kind == Kind::Bool);
        // A number may begin with a dash; a flag with two.
        let next_is_value = rest.peek().is_some_and(|n| !n.starts_with("--"));
        let text = match inline {
            Some(text) => Some(text),
            None if next_is_value => rest.next().cloned(),
            None if bool_flag => Some("True".to_string()),
            None => {
                faults.push(format!("`--{name}` needs a value"));
                None
            }
        };
        let Some(text) = text else { continue };
        if name == "config" {
            configs.push(text);
            continue;
        }
        let mut texts = vec![text];
        // `--peft_model_path A B`
        if find(table, &name).is_some_and(|s| s.kind == Kind::List) {
            while let Some(more) = rest.next_if(|n| !n.starts_with("--")) {
                texts.push(more.clone());
            }
        }
        let origin = format!("--{}", crate::error::excerpt(&name));
        let given = |text| (name.clone(), Given { text, origin: origin.clone() });
        entries.extend(texts.into_iter().map(given));
    }
    let mut values = Values::new(table);
    for path in configs {
        match file::read(Path::new(&path)) {
            Ok(from_file) => values.take(from_file),
            Err(ConfigError::Faults(more)) => faults.extend(more),
        }
    }
    values.take(entries);
    values.faults.splice(0..0, faults);
    Ok(Parsed::Values(Box::new(values)))
}

/// Prints the help of a command.
fn help(name: &'static str, about: &'static str, example: &'static str, table: &'static [Setting]) {
    let mut command = Command::new(name)
        .bin_name(format!("trainer {name}"))
        .about(about)
        .disable_help_flag(true)
        .max_term_width(100)
        .override_usage(format!("trainer {name} --NAME VALUE …"))
        .after_help(format!(
            "Example:\n  {example}\n\nA dash in a name is as good as an underscore. \
             `--config FILE` (.yaml, .toml, .json) takes the same names; flags win."
        ));
    if !std::io::stdout().is_terminal() {
        command = command.styles(Styles::plain());
    }
    for setting in table {
        let value = match setting.kind {
            Kind::Text => "TEXT",
            Kind::Path => "PATH",
            Kind::List => "…",
            Kind::Bool => "True|False",
            Kind::Int(_) => "N",
            Kind::Float(..) => "X",
            Kind::Choice(_) => "NAME",
        };
        let mut text = setting.help.to_string();
        if let Kind::Choice(choices) = setting.kind {
            text.push_str(&format!(" ({})", choices.join(", ")));
        }
        if !setting.default.is_empty() {
            text.push_str(&format!(" [{}]", setting.default));
        }
        let arg = Arg::new(setting.name)
            .long(setting.name)
            .value_name(value)
            .help(text)
            .help_heading(setting.group);
        command = command.arg(arg);
    }
    super::screen::line(command.render_help().to_string().trim_end());
}
