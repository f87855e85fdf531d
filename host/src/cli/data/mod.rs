//! `trainer data …`: data files looked at and taken apart before training.

mod look;
mod table;
mod write;

use super::outputs;
use super::screen;
use crate::config::ConfigError;
use crate::config::table::{Kind, Setting, row};
use crate::config::values::Values;
use crate::error::Result;
use crate::stage::inspect::Input;

/// A verb, one line about it, and what runs it.
struct Verb {
    name: &'static str,
    about: &'static str,
    run: fn(&[String]) -> Result<()>,
}

const VERBS: &[Verb] = &[
    Verb {
        name: "stats",
        about: "count rows, columns, lengths, tokens and duplicates",
        run: look::stats,
    },
    Verb { name: "head", about: "show the first rows", run: look::head },
    Verb { name: "validate", about: "read every row and list what is wrong", run: look::validate },
    Verb {
        name: "dedup",
        about: "write the rows that say what no earlier row says",
        run: write::dedup,
    },
    Verb { name: "split", about: "divide rows into train, validation and test", run: write::split },
    Verb { name: "mix", about: "draw rows of several sources by weights", run: write::mix },
];

const LOOK: &str = "Report";

const JSON: Setting =
    row(LOOK, "json", Kind::Bool, "False", &[], "print one JSON document instead of tables");

const COLUMNS: Setting = row(
    LOOK,
    "columns",
    Kind::List,
    "",
    &["column"],
    "columns, or paths such as messages.0.content; may be repeated; all without it",
);

/// Runs a verb.
pub fn run(args: &[String]) -> Result<()> {
    let list = || {
        let each = VERBS.iter().map(|v| format!("  {:<9} {}", v.name, v.about));
        each.collect::<Vec<_>>().join("\n")
    };
    match args.first().map(String::as_str) {
        Some("--help" | "-h" | "help") => {
            screen::line(&format!(
                "Look at data files (.jsonl .json .csv .tsv .txt, each also .gz or .zst, .parquet, \
                 .arrow), free them\nof duplicates, divide and mix them\n\nUsage: trainer data VERB \
                 --input FILES …\n\n{}\n\nExample:\n  trainer data stats --input DATA --tokenizer \
                 MODEL\n\nEach verb has --help.",
                list()
            ));
            Ok(())
        }
        Some(name) => match VERBS.iter().find(|v| v.name == name) {
            Some(verb) => (verb.run)(&args[1..]),
            None => {
                let near = VERBS.iter().min_by_key(|v| strsim::damerau_levenshtein(v.name, name));
                let near = near.filter(|v| strsim::damerau_levenshtein(v.name, name) <= 2);
                let hint = near.map(|v| format!("; did you mean `{}`?", v.name));
                let name = crate::error::excerpt(name);
                let fault = format!(
                    "`trainer data` knows no `{name}`{}\n{}",
                    hint.unwrap_or_default(),
                    list()
                );
                Err(ConfigError::one(fault).into())
            }
        },
        None => {
            let fault = format!("`trainer data` needs a verb:\n{}", list());
            Err(ConfigError::one(fault).into())
        }
    }
}

/// Texts of a list that may be repeated and separated by commas.
fn names(v: &Values, setting: &str) -> Vec<String> {
    let given = v.list(setting);
    let each = given.iter().flat_map(|g| g.split(',')).map(str::trim).filter(|t| !t.is_empty());
    each.map(str::to_string).collect()
}

/// What is looked at.
fn input(v: &mut Values) -> Input {
    Input {
        inputs: outputs::inputs(v),
        whole_file_text: v.bool("whole_file_text"),
        threads: outputs::threads(v),
    }
}

/// All faults so far, if there are any.
fn checked(v: &mut Values) -> Result<()> {
    match std::mem::take(&mut v.faults) {
        faults if faults.is_empty() => Ok(()),
        faults => Err(ConfigError::Faults(faults).into()),
    }
}
