//! `stats`, `head` and `validate`: nothing is written.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::table::{Table, bar, cut};
use super::{COLUMNS, JSON, LOOK, checked, input, names};
use crate::cli::convert::formatter;
use crate::cli::flags::{self, Parsed};
use crate::cli::outputs;
use crate::cli::settings::{self, DATA};
use crate::cli::{screen, signals};
use crate::config::table::{Kind, Setting, row};
use crate::config::values::Values;
use crate::data::DataError;
use crate::error::Result;
use crate::stage::inspect::{self, Compared, Head, Method, StatsOptions, Summary, Watch};
use crate::text::TextTokenizer;

const DUPLICATES: &str = "Duplicates";

pub const THRESHOLD: Setting = row(
    DUPLICATES,
    "threshold",
    Kind::Float(0.0, 1.0),
    "0.8",
    &[],
    "minhash: similarity of the sets of --ngram words from which on rows are near duplicates",
);

pub const NGRAM: Setting = row(
    DUPLICATES,
    "ngram",
    Kind::Int(1),
    "5",
    &["ngram_size"],
    "minhash: words that are taken together",
);

pub const NUM_PERM: Setting = row(
    DUPLICATES,
    "num_perm",
    Kind::Int(16),
    "128",
    &[],
    "minhash: hash functions; more are slower and tell similarities more exactly",
);

pub const SEED: Setting = row(DUPLICATES, "seed", Kind::Int(0), "42", &[], "seed of what is drawn");

/// The method of a name, with its settings.
pub fn method(v: &mut Values, name: &str) -> Result<Method> {
    let (threshold, ngram, functions) = (v.float("threshold"), v.size("ngram"), v.size("num_perm"));
    let seed = v.int("seed").unsigned_abs();
    match name {
        "minhash" => Method::minhash(threshold, ngram, functions, seed),
        _ => Ok(Method::Exact),
    }
}

const STATS: &[Setting] = &[
    outputs::INPUT,
    outputs::WHOLE_FILE_TEXT,
    settings::num_threads(DATA),
    row(
        LOOK,
        "tokenizer",
        Kind::Path,
        "",
        &["tokenizer_name_or_path", "model_name_or_path"],
        "folder of a tokenizer: texts are counted in its tokens, too",
    ),
    JSON,
    row(
        DUPLICATES,
        "duplicates",
        Kind::Choice(&["exact", "minhash", "none"]),
        "exact",
        &[],
        "duplicates that are counted: equal rows, also near ones, or none",
    ),
    COLUMNS,
    THRESHOLD,
    NGRAM,
    NUM_PERM,
    SEED,
];

const STATS_EXAMPLE: &str = "trainer data stats --input DATA --tokenizer MODEL";

/// `trainer data stats`.
pub fn stats(args: &[String]) -> Result<()> {
    let about = "Count rows, columns, types, missing values, lengths, tokens and duplicates";
    let mut v = match flags::parse("data stats", about, STATS_EXAMPLE, STATS, args)? {
        Parsed::Help => return Ok(()),
        Parsed::Values(values) => *values,
    };
    let input = input(&mut v);
    let tokenizer = v.text("tokenizer").map(PathBuf::from);
    let as_json = v.bool("json");
    let columns = names(&v, "columns");
    let duplicates = v.choice("duplicates");
    let method = method(&mut v, &duplicates)?;
    checked(&mut v)?;
    let options = StatsOptions {
        tokenizer: tokenizer.map(|dir| TextTokenizer::load(&dir, [None; 3])).transpose()?,
        duplicates: (duplicates != "none").then_some(Compared { method, columns }),
    };
    let mut progress = outputs::progress();
    let mut quiet = |_: &_| {};
    let told: &mut dyn FnMut(&_) = if as_json { &mut quiet } else { &mut progress };
    let mut watch = Watch { progress: told, interrupted: &signals::interrupted };
    let stats = inspect::stats(&input, &options, &mut watch)?;
    match as_json {
        true => screen::line(&json!(stats).to_string()),
        false => print(&stats),
    }
    Ok(())
}

fn print(stats: &inspect::Stats) {
    for line in &stats.account {
        screen::line(&screen::printable(line));
    }
    let megabytes = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
    let mut files = Table::new(&["file", "format", "", ">size", ">rows"]);
    const FILES_SHOWN: usize = 20;
    for file in stats.files.iter().take(FILES_SHOWN) {
        files.row(vec![
            file.file.clone(),
            file.format.into(),
            file.compression.unwrap_or_default().into(),
            megabytes(file.bytes),
            screen::grouped(file.rows),
        ]);
    }
    screen::line("");
    files.print();
    if stats.files.len() > FILES_SHOWN {
        screen::line(&format!("and {} more files", stats.files.len() - FILES_SHOWN));
    }
    screen::line("");
    let mut columns = Table::new(&[
        "column",
        "type",
        ">missing",
        ">distinct",
        "values",
        ">items",
        ">chars",
        ">tokens",
    ]);
    let typical = |s: &Option<Summary>| {
        s.as_ref().map_or(String::new(), |s| format!("{} ({} … {})", s.p50, s.min, s.max))
    };
    for column in &stats.columns {
        let values = match (column.values.as_slice(), column.range) {
            ([], None) => String::new(),
            ([], Some((low, high))) => format!("{low} … {high}"),
            (values, _) => {
                let each =
                    values.iter().map(|(value, n)| format!("{value} × {}", screen::grouped(*n)));
                each.collect::<Vec<_>>().join(", ")
            }
        };
        columns.row(vec![
            cut(&screen::printable(&column.name), 30),
            cut(&screen::printable(&column.kind), 44),
            screen::grouped(column.missing),
            column.distinct.map_or("many".into(), |n| screen::grouped(n as u64)),
            cut(&screen::printable(&values).replace('\n', " "), 48),
            typical(&column.items),
            typical(&column.chars),
            typical(&column.tokens),
        ]);
    }
    columns.print();
    screen::line("items, chars and tokens: median (least … most)");
    for (name, summary) in [("characters", &stats.chars), ("tokens", &stats.tokens)] {
        let Some(s) = summary else { continue };
        screen::line("");
        screen::line(&format!(
            "{name} of a row: {} in all, mean {:.1}, median {}, 90 % up to {}, 99 % up to {}, most {}",
            screen::grouped(u64::try_from(s.sum).unwrap_or(u64::MAX)),
            s.mean,
            screen::grouped(s.p50),
            screen::grouped(s.p90),
            screen::grouped(s.p99),
            screen::grouped(s.max)
        ));
        let most = s.histogram.iter().map(|b| b.count).max().unwrap_or(1);
        let mut bars = Table::new(&[">up to", ">rows", ""]);
        for b in &s.histogram {
            let share = b.count as f64 / most as f64;
            bars.row(vec![screen::grouped(b.to), screen::grouped(b.count), bar(share)]);
        }
        bars.print();
    }
    if let Some(found) = stats.duplicates {
        let near = found.near.map(|n| format!(", {} near an earlier one", screen::grouped(n)));
        screen::line("");
        screen::line(&format!(
            "duplicates: {} rows equal to an earlier one{}{}",
            screen::grouped(found.exact),
            near.unwrap_or_default(),
            if found.exact + found.near.unwrap_or(0) > 0 {
                "; trainer data dedup drops them"
            } else {
                ""
            }
        ));
    }
}

const HEAD: &[Setting] = &[
    outputs::INPUT,
    outputs::WHOLE_FILE_TEXT,
    row(LOOK, "rows", Kind::Int(1), "5", &["n"], "rows to show"),
    row(LOOK, "skip", Kind::Int(0), "0", &[], "rows to pass over before"),
    COLUMNS,
    row(LOOK, "json", Kind::Bool, "False", &[], "print every row as a line of JSON"),
];

const HEAD_EXAMPLE: &str = "trainer data head --input DATA --rows 3";

/// `trainer data head`.
pub fn head(args: &[String]) -> Result<()> {
    let about = "Show the first rows, whatever their format";
    let mut v = match flags::parse("data head", about, HEAD_EXAMPLE, HEAD, args)? {
        Parsed::Help => return Ok(()),
        Parsed::Values(values) => *values,
    };
    let input = inspect::Input {
        inputs: outputs::inputs(&mut v),
        whole_file_text: v.bool("whole_file_text"),
        threads: 1,
    };
    let (rows, skip) = (v.size("rows"), v.size("skip"));
    let (columns, as_json) = (names(&v, "columns"), v.bool("json"));
    checked(&mut v)?;
    let width = console::Term::stdout().size_checked().map_or(100, |(_, w)| usize::from(w)).max(40);
    for one in inspect::head(&input, skip, rows, &columns)? {
        match one {
            Head::Row { values, .. } if as_json => screen::line(&Value::Object(values).to_string()),
            Head::Reject(reject) if as_json => {
                screen::line(&json!({"rejected": reject}).to_string())
            }
            Head::Reject(reject) => {
                screen::line(&screen::printable(&format!("rejected: {reject}\n")))
            }
            Head::Row { file, row, values } => {
                screen::line(&screen::printable(&format!("{file}:{row}")));
                let mut table = Table::new(&["", ""]);
                for (name, value) in &values {
                    let text = match value {
                        Value::String(text) => text.clone(),
                        other => other.to_string(),
                    };
                    let name = cut(&screen::printable(name), 30);
                    table.row(vec![
                        format!("  {name}"),
                        cut(
                            &screen::printable(&text).replace('\n', "⏎"),
                            width - 4 - console::measure_text_width(&name).min(30),
                        ),
                    ]);
                }
                table.lines().iter().skip(1).for_each(|line| screen::line(line));
                screen::line("");
            }
        }
    }
    Ok(())
}

const VALIDATE: &[Setting] = &[
    outputs::INPUT,
    settings::plugins(DATA, "formatter: its skips and rejects are counted, too"),
    settings::plugin_options(DATA),
    outputs::WHOLE_FILE_TEXT,
    settings::num_threads(DATA),
    row(DATA, "seed", Kind::Int(0), "42", &[], "seed handed to plugins"),
    row(LOOK, "show", Kind::Int(0), "20", &[], "rejected rows to show"),
    outputs::REJECTS,
    JSON,
];

const VALIDATE_EXAMPLE: &str = "trainer data validate --plugin sharegpt --input DATA";

/// `trainer data validate`.
pub fn validate(args: &[String]) -> Result<()> {
    let about =
        "Read every row of every file and list what is wrong; the exit code is 3 if anything is";
    let mut v = match flags::parse("data validate", about, VALIDATE_EXAMPLE, VALIDATE, args)? {
        Parsed::Help => return Ok(()),
        Parsed::Values(values) => *values,
    };
    let input = input(&mut v);
    let (show, as_json) = (v.size("show"), v.bool("json"));
    let rejects = v.text("rejects").map(PathBuf::from);
    let formatter = formatter(&mut v)?;
    let kept = if rejects.is_some() { usize::MAX } else { show };
    let mut progress = outputs::progress();
    let mut quiet = |_: &_| {};
    let told: &mut dyn FnMut(&_) = if as_json { &mut quiet } else { &mut progress };
    let mut watch = Watch { progress: told, interrupted: &signals::interrupted };
    let found = inspect::validate(&input, formatter.as_ref(), kept, &mut watch)?;
    if let Some(path) = &rejects {
        found.rows.write_rejects(path)?;
    }
    if as_json {
        screen::line(&json!(found).to_string());
    } else {
        for line in found.rows.lines() {
            screen::line(&screen::printable(&line));
        }
        for file in &found.broken {
            screen::line(&screen::printable(&format!("broken: {}", file.problem)));
        }
        for reject in found.rejects.iter().take(show) {
            screen::line(&screen::printable(&format!("rejected: {reject}")));
        }
        let more = found.totals.rejected.saturating_sub(show as u64);
        if more > 0 {
            screen::line(&format!("and {more} more rejected rows; --rejects FILE lists all"));
        }
    }
    match found.is_clean() {
        true => Ok(()),
        false => Err(DataError::Invalid {
            rejected: found.totals.rejected,
            broken: found.broken.len() as u64,
        }
        .into()),
    }
}
