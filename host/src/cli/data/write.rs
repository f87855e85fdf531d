//! `dedup`, `split` and `mix`: rows are written as `trainer convert` writes them.

use std::path::{Path, PathBuf};

use super::look::{NGRAM, NUM_PERM, SEED, THRESHOLD, method};
use super::{checked, names};
use crate::cli::flags::{self, Parsed};
use crate::cli::outputs;
use crate::cli::settings::{self, DATA};
use crate::cli::{screen, signals};
use crate::config::MixStrategy;
use crate::config::table::{Kind, Setting, row};
use crate::error::Result;
use crate::stage::convert::Job;
use crate::stage::inspect::dedup::{self, Dedup};
use crate::stage::inspect::mix::{self, Mix};
use crate::stage::inspect::split::{self, By, Size, Split};
use crate::stage::inspect::{Input, Watch};

const DUPLICATES: &str = "Duplicates";
const PARTS: &str = "Parts";
const MIX: &str = "Mix";

fn input(job: &Job) -> Input {
    Input { inputs: job.inputs.clone(), whole_file_text: job.whole_file_text, threads: job.threads }
}

const DEDUP: &[Setting] = &[
    outputs::INPUT,
    outputs::WHOLE_FILE_TEXT,
    settings::num_threads(DATA),
    row(
        DUPLICATES,
        "method",
        Kind::Choice(&["exact", "minhash"]),
        "exact",
        &[],
        "exact: equal rows; minhash: also rows that share most of their words",
    ),
    row(
        DUPLICATES,
        "columns",
        Kind::List,
        "",
        &["column"],
        "columns, or paths such as messages.0.content, that are compared; all without it",
    ),
    THRESHOLD,
    NGRAM,
    NUM_PERM,
    SEED,
    row(
        DUPLICATES,
        "dropped",
        Kind::Path,
        "",
        &[],
        "list dropped rows here, with the rows that are kept instead [OUTPUT.dropped.jsonl]",
    ),
    outputs::OUTPUT_FILE,
    outputs::SHARD_ROWS,
    outputs::SHARD_BYTES,
    outputs::ROW_GROUP_ROWS,
    outputs::OVERWRITE,
    outputs::REJECTS,
    outputs::MAX_REJECT_RATE,
];

const DEDUP_EXAMPLE: &str =
    "trainer data dedup --method minhash --input DATA --output unique.parquet";

/// `trainer data dedup`.
pub fn dedup(args: &[String]) -> Result<()> {
    let about = "Write the rows without those that say what an earlier row said; the first is kept. \
                 Memory: 40 bytes for every kept row, 500 more with minhash";
    let mut v = match flags::parse("data dedup", about, DEDUP_EXAMPLE, DEDUP, args)? {
        Parsed::Help => return Ok(()),
        Parsed::Values(values) => *values,
    };
    let job = outputs::job(&mut v);
    let name = v.choice("method");
    let method = method(&mut v, &name)?;
    let columns = names(&v, "columns");
    let dropped = v.text("dropped").map(PathBuf::from);
    let dropped =
        dropped.unwrap_or_else(|| PathBuf::from(format!("{}.dropped.jsonl", job.output.display())));
    checked(&mut v)?;
    let of = Dedup { input: input(&job), method, columns, dropped: dropped.clone(), job };
    let mut progress = outputs::progress();
    let mut watch = Watch { progress: &mut progress, interrupted: &signals::interrupted };
    let done = dedup::dedup(of, &mut watch)?;
    outputs::print(&done.report);
    let near = match name.as_str() {
        "minhash" => format!(", {} near an earlier one", screen::grouped(done.near)),
        _ => String::new(),
    };
    screen::line(&format!(
        "dropped {} of {} rows: {} equal to an earlier one{near}; listed in {}",
        screen::grouped(done.exact + done.near),
        screen::grouped(done.rows),
        screen::grouped(done.exact),
        dropped.display()
    ));
    Ok(())
}

const SPLIT: &[Setting] = &[
    outputs::INPUT,
    outputs::WHOLE_FILE_TEXT,
    settings::num_threads(DATA),
    row(
        PARTS,
        "validation_size",
        Kind::Text,
        "",
        &["val_size"],
        "rows to hold out for validation: a share such as 0.05 or 5%, or a number of rows",
    ),
    row(PARTS, "test_size", Kind::Text, "", &[], "rows to hold out for a test, likewise"),
    row(
        PARTS,
        "group_by",
        Kind::Text,
        "",
        &[],
        "column, or path such as messages.0.content: rows with the same value stay in one part",
    ),
    row(
        PARTS,
        "stratify_by",
        Kind::Text,
        "",
        &["stratify_by_column"],
        "column or path: every part gets its share of the rows with each value",
    ),
    row(PARTS, "seed", Kind::Int(0), "42", &[], "seed of the draw"),
    row(
        outputs::OUTPUT,
        "output",
        Kind::Path,
        "",
        &["output_file"],
        "the files to write, {part} in it standing for train, validation or test; without it the \
         part's name goes before the extension",
    ),
    outputs::SHARD_ROWS,
    outputs::SHARD_BYTES,
    outputs::ROW_GROUP_ROWS,
    outputs::OVERWRITE,
    outputs::REJECTS,
    outputs::MAX_REJECT_RATE,
];

const SPLIT_EXAMPLE: &str = "trainer data split --input DATA --validation_size 0.05 --group_by prompt --output 'out/{part}.parquet'";

/// The output of a part.
fn of_part(output: &Path, part: &str) -> PathBuf {
    let text = output.to_string_lossy();
    if text.contains("{part}") {
        return PathBuf::from(text.replace("{part}", part));
    }
    let name = output.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let lower = name.to_ascii_lowercase();
    let packed = [".gz", ".zst"].iter().find(|e| lower.ends_with(*e)).map_or(0, |e| e.len());
    let stem = name[..name.len() - packed].rfind('.').unwrap_or(name.len());
    output.with_file_name(format!("{}-{part}{}", &name[..stem], &name[stem..]))
}

/// `trainer data split`.
pub fn split(args: &[String]) -> Result<()> {
    let about = "Divide rows into train, validation and test by a seeded draw; equal rows are always \
                 in one part";
    let mut v = match flags::parse("data split", about, SPLIT_EXAMPLE, SPLIT, args)? {
        Parsed::Help => return Ok(()),
        Parsed::Values(values) => *values,
    };
    let mut job = outputs::job(&mut v);
    let mut parts = Vec::new();
    for (setting, name) in [("validation_size", "validation"), ("test_size", "test")] {
        let Some(text) = v.text(setting) else { continue };
        match Size::parse(&text) {
            Ok(size) => parts.push((name, size)),
            Err(fault) => v.faults.push(format!("`--{setting}` {fault}")),
        }
    }
    if parts.is_empty() && v.faults.is_empty() {
        v.faults.push("give `--validation_size`, `--test_size` or both, such as 0.1".into());
    }
    let by = match (v.text("group_by"), v.text("stratify_by")) {
        (None, None) => By::Row,
        (Some(column), None) => By::Group(column),
        (None, Some(column)) => By::Stratum(column),
        (Some(_), Some(_)) => {
            v.faults.push("`--group_by` and `--stratify_by` exclude each other; give one".into());
            By::Row
        }
    };
    let seed = v.int("seed").unsigned_abs();
    checked(&mut v)?;
    let split = Split { input: input(&job), parts, by, seed };
    // Rejected rows are the same whatever the part.
    let rejects = job.rejects.take();
    let base = job;
    let of = |part: &'static str| Job {
        inputs: base.inputs.clone(),
        output: of_part(&base.output, part),
        schema: base.schema,
        shard_rows: base.shard_rows,
        shard_bytes: base.shard_bytes,
        row_group_rows: base.row_group_rows,
        rejects: rejects.clone().filter(|_| part == split::TRAIN),
        max_reject_rate: base.max_reject_rate,
        whole_file_text: base.whole_file_text,
        machine: base.machine,
        threads: base.threads,
        overwrite: base.overwrite,
        formatter: None,
        take: base.take.clone(),
    };
    let mut progress = outputs::progress();
    let mut watch = Watch { progress: &mut progress, interrupted: &signals::interrupted };
    for part in split::split(&split, &of, &mut watch)? {
        screen::line(&format!("{}: {} rows", part.name, screen::grouped(part.rows)));
        match &part.report {
            Some(report) => outputs::print(report),
            None => screen::line(&format!("{} was finished before", part.output.display())),
        }
    }
    Ok(())
}

const MIXING: &[Setting] = &[
    row(
        DATA,
        "input",
        Kind::List,
        "",
        &["data_file", "train_file_dir"],
        "a source: file, folder or pattern; repeat it for each",
    ),
    outputs::WHOLE_FILE_TEXT,
    settings::num_threads(DATA),
    row(
        MIX,
        "weights",
        Kind::List,
        "",
        &["dataset_weights", "interleave_probs", "probabilities"],
        "how often each source is drawn, such as 0.7,0.3; equally often without it",
    ),
    row(
        MIX,
        "strategy",
        Kind::Choice(MixStrategy::NAMES),
        "first_exhausted",
        &["mix_strategy", "stopping_strategy"],
        "what ends the mix: the first source that is used up; all (used up ones begin again); all, \
         every row once",
    ),
    row(MIX, "num_rows", Kind::Int(1), "", &[], "end after so many rows at the latest"),
    row(MIX, "seed", Kind::Int(0), "42", &[], "seed of the draws"),
    outputs::OUTPUT_FILE,
    outputs::SHARD_ROWS,
    outputs::SHARD_BYTES,
    outputs::ROW_GROUP_ROWS,
    outputs::OVERWRITE,
    outputs::REJECTS,
    outputs::MAX_REJECT_RATE,
];

const MIX_EXAMPLE: &str =
    "trainer data mix --input DOMAIN --input GENERAL --weights 0.7,0.3 --output mixed.parquet";

/// `trainer data mix`.
pub fn mix(args: &[String]) -> Result<()> {
    let about = "Draw rows of several sources by weights; the same seed draws the same rows";
    let mut v = match flags::parse("data mix", about, MIX_EXAMPLE, MIXING, args)? {
        Parsed::Help => return Ok(()),
        Parsed::Values(values) => *values,
    };
    let job = outputs::job(&mut v);
    let strategy = MixStrategy::find(&v.choice("strategy")).unwrap_or(MixStrategy::FirstExhausted);
    let of = Mix {
        weights: v.list("weights"),
        strategy,
        rows: v.optional_int("num_rows").map(i64::unsigned_abs),
        seed: v.int("seed").unsigned_abs(),
        job,
    };
    checked(&mut v)?;
    let mut progress = outputs::progress();
    let mut watch = Watch { progress: &mut progress, interrupted: &signals::interrupted };
    outputs::print(&mix::mix(of, &mut watch)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_have_names() {
        let of = |output: &str| of_part(Path::new(output), "test").display().to_string();
        assert_eq!(of("a/x.parquet"), "a/x-test.parquet");
        assert_eq!(of("a/x.jsonl.zst"), "a/x-test.jsonl.zst");
        assert_eq!(of("a/{part}.parquet"), "a/test.parquet");
    }
}
