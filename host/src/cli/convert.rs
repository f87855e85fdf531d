//! `trainer convert`: data files into other data files.

use std::path::PathBuf;

use super::flags::{self, Parsed};
use super::settings::{self, DATA};
use super::{screen, signals};
use crate::config::ConfigError;
use crate::config::run::plugin_options;
use crate::config::table::{Kind, Setting, row};
use crate::config::values::Values;
use crate::error::Result;
use crate::plugin::{OnFault, Plugin, World};
use crate::stage::answers::Plugins;
use crate::stage::convert::{self, Job, OutputSchema, Progress, Report, Shape};

const OUTPUT: &str = "Output";
const ROWS: &str = "Rows";
const MACHINES: &str = "Machines";

const SCHEMAS: &[&str] =
    &["same", "messages", "sharegpt", "text", "preference", "prompt", "tokens"];

const TABLE: &[Setting] = &[
    row(
        DATA,
        "input",
        Kind::List,
        "",
        &["data_file", "train_file_dir"],
        "files to convert: file, folder or pattern; may be repeated",
    ),
    settings::plugins(
        DATA,
        "formatter that makes examples of rows; without it rows stay as they are",
    ),
    settings::plugin_options(DATA),
    row(
        DATA,
        "whole_file_text",
        Kind::Bool,
        "False",
        &[],
        "plain text: a whole file is one document, and not every line",
    ),
    row(
        OUTPUT,
        "output",
        Kind::Path,
        "",
        &["output_file"],
        "the file to write: .parquet, .jsonl (also .gz, .zst) or .arrow",
    ),
    row(
        OUTPUT,
        "output_schema",
        Kind::Choice(SCHEMAS),
        "same",
        &[],
        "columns of the output; same: as the formatter's examples are, or the rows' own",
    ),
    row(
        OUTPUT,
        "shard_rows",
        Kind::Int(1),
        "",
        &[],
        "rows of a shard: the output is written in files NAME-00000, NAME-00001 …",
    ),
    row(
        OUTPUT,
        "shard_bytes",
        Kind::Text,
        "",
        &[],
        "size of a shard before compression, such as 512MB; shards end behind the rows that fill \
         them",
    ),
    row(
        OUTPUT,
        "row_group_rows",
        Kind::Int(1),
        "65536",
        &["row_group_size"],
        "most rows of a Parquet row group (which is full at 16 MB, too)",
    ),
    row(OUTPUT, "overwrite", Kind::Bool, "False", &[], "replace what an earlier conversion left"),
    row(
        ROWS,
        "rejects",
        Kind::Path,
        "",
        &[],
        "list rejected rows here: file, row, reason, excerpt",
    ),
    row(
        ROWS,
        "max_reject_rate",
        Kind::Float(0.0, 1.0),
        "0.01",
        &[],
        "share of rejected rows that ends the job",
    ),
    row(
        MACHINES,
        "num_shards",
        Kind::Int(1),
        "1",
        &[],
        "machines that share the work; each writes files of its own",
    ),
    row(
        MACHINES,
        "shard_index",
        Kind::Int(0),
        "",
        &[],
        "which of them this is, from 0; by default as Slurm or Kubernetes say",
    ),
    settings::num_threads(MACHINES),
    row(MACHINES, "seed", Kind::Int(0), "42", &[], "seed handed to plugins"),
];

const EXAMPLE: &str = "trainer convert --plugin sharegpt --input CONVERSATIONS --output OUT.parquet --rejects REJECTS.jsonl";

/// A number of bytes, with a unit if there is one.
fn bytes(text: &str) -> Option<usize> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let scale: f64 = match &lower[digits.len()..] {
        "" | "b" => 1.0,
        "k" | "kb" => 1e3,
        "m" | "mb" => 1e6,
        "g" | "gb" => 1e9,
        "kib" => 1024.0,
        "mib" => 1048576.0,
        "gib" => 1073741824.0,
        _ => return None,
    };
    let number: f64 = digits.trim().parse().ok()?;
    let bytes = number * scale;
    (1.0..=1e15).contains(&bytes).then_some(bytes as usize)
}

/// Which of several machines this is.
fn machine(v: &mut Values) -> (u64, u64) {
    let count = v.size("num_shards") as u64;
    if count == 1 && !v.is_given("shard_index") {
        return (0, 1);
    }
    let of = |name: &str| std::env::var(name).ok().and_then(|v| v.trim().parse::<u64>().ok());
    let by_array = || {
        let first = of("SLURM_ARRAY_TASK_MIN").unwrap_or(0);
        Some(of("SLURM_ARRAY_TASK_ID")?.saturating_sub(first))
    };
    let found = match v.optional_int("shard_index") {
        Some(index) => Some(index.unsigned_abs()),
        None => by_array().or_else(|| of("SLURM_PROCID")).or_else(|| of("JOB_COMPLETION_INDEX")),
    };
    let index = found.unwrap_or_else(|| {
        v.faults.push(
            "`--num_shards` needs `--shard_index`: neither Slurm nor Kubernetes say which machine \
             this is"
                .into(),
        );
        0
    });
    if index >= count {
        v.faults
            .push(format!("`--shard_index` is {index}, but the machines are 0 to {}", count - 1));
    }
    (index, count)
}

fn formatter(v: &mut Values) -> Result<Option<Plugin>> {
    let own = plugin_options(v);
    let (names, seed) = (v.list("plugin"), v.int("seed").unsigned_abs());
    if !v.faults.is_empty() {
        return Err(ConfigError::Faults(std::mem::take(&mut v.faults)).into());
    }
    let plugins = Plugins::load(&names, own, seed)?;
    let others = plugins.template.iter().chain(&plugins.rewards);
    for other in others {
        other.expect(World::Formatter)?;
    }
    // Rejected rows are listed, and too many of them end the job.
    Ok(plugins.formatter.map(|formatter| formatter.on_fault(OnFault::Reject)))
}

/// Runs the command.
pub fn run(args: &[String]) -> Result<()> {
    let about = "Convert data files, by a formatter or as they are; every row is accounted for";
    let mut v = match flags::parse("convert", about, EXAMPLE, TABLE, args)? {
        Parsed::Help => return Ok(()),
        Parsed::Values(values) => *values,
    };
    let inputs = v.list("input");
    if inputs.is_empty() {
        v.faults.push("`--input` is missing: give files to convert".into());
    }
    let output = v.text("output").map(PathBuf::from).unwrap_or_else(|| {
        v.faults.push("`--output` is missing: say where the result goes".into());
        PathBuf::new()
    });
    let shard_bytes = v.text("shard_bytes").map(|text| {
        bytes(&text).unwrap_or_else(|| {
            let text = crate::error::excerpt(&text);
            v.faults.push(format!("`--shard_bytes` is `{text}`, expected a size such as 512MB"));
            0
        })
    });
    let schema = v.choice("output_schema");
    let threads = match v.size("num_threads") {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    };
    let machine = machine(&mut v);
    let job = Job {
        inputs,
        output,
        schema: Shape::find(&schema).map_or(OutputSchema::Same, OutputSchema::Of),
        shard_rows: v.optional_int("shard_rows").map(|n| n.unsigned_abs() as usize),
        shard_bytes,
        row_group_rows: v.size("row_group_rows"),
        rejects: v.text("rejects").map(PathBuf::from),
        max_reject_rate: v.float("max_reject_rate"),
        whole_file_text: v.bool("whole_file_text"),
        machine,
        threads,
        overwrite: v.bool("overwrite"),
        formatter: formatter(&mut v)?,
    };
    signals::install();
    let mut shown = 0.0;
    let report = convert::run(
        job,
        &mut |progress| {
            const SECONDS: f64 = 5.0;
            if progress.seconds - shown >= SECONDS {
                shown = progress.seconds;
                screen::line(&describe(progress));
            }
        },
        &signals::interrupted,
    )?;
    print(&report);
    Ok(())
}

fn describe(p: &Progress) -> String {
    let speed = p.bytes as f64 / 1e6 / p.seconds.max(1e-9);
    let text = match p.bytes {
        0 => String::new(),
        bytes => format!(", {:.0} MB at {speed:.0} MB/s", bytes as f64 / 1e6),
    };
    if p.inferring {
        return format!("looking for the columns' types{text}, {:.0} s", p.seconds);
    }
    let shards = if p.shards > 0 { format!(", {} files", p.shards) } else { String::new() };
    let rows = screen::grouped(p.rows);
    format!("{rows} rows, {} rejected{text}{shards}, {:.0} s", p.rejected, p.seconds)
}

fn print(report: &Report) {
    for line in &report.ignored {
        screen::line(&screen::printable(line));
    }
    for line in report.ledger.lines() {
        screen::line(&screen::printable(&line));
    }
    if !report.mixed.is_empty() {
        let names = screen::printable(&report.mixed.join(", "));
        screen::line(&format!("kept as JSON text, because types differ between rows: {names}"));
    }
    if report.resumed > 0 {
        screen::line(&format!("{} files were finished before", report.resumed));
    }
    let rows: u64 = report.shards.iter().map(|s| s.rows).sum();
    let bytes: u64 = report.shards.iter().map(|s| s.bytes).sum();
    let megabytes = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
    let place = match report.shards.as_slice() {
        [one] => one.file.clone(),
        all => format!("{} files, the first {}", all.len(), all[0].file),
    };
    screen::line(&format!(
        "{} rows, {} of {} in {place}, {:.1} s",
        screen::grouped(rows),
        megabytes(bytes),
        megabytes(report.input_bytes),
        report.seconds
    ));
    screen::line(&format!("account: {}", report.manifest.display()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(bytes("512MB"), Some(512_000_000));
        assert_eq!(bytes("1.5 GiB"), Some(1_610_612_736));
        assert_eq!(bytes("100"), Some(100));
        for bad in ["", "MB", "x", "12 parsecs", "-1", "0"] {
            assert_eq!(bytes(bad), None, "{bad}");
        }
    }
}
