//! What commands that write converted files share: settings, the job they make, and its screens.

use std::path::PathBuf;

use super::settings::DATA;
use super::{screen, signals};
use crate::config::table::{Kind, Setting, row};
use crate::config::values::Values;
use crate::stage::convert::{Job, OutputSchema, Progress, Report, Take};

pub const OUTPUT: &str = "Output";
pub const ROWS: &str = "Rows";
pub const MACHINES: &str = "Machines";

pub const INPUT: Setting = row(
    DATA,
    "input",
    Kind::List,
    "",
    &["data_file", "train_file_dir"],
    "files to read: file, folder or pattern; may be repeated",
);

pub const WHOLE_FILE_TEXT: Setting = row(
    DATA,
    "whole_file_text",
    Kind::Bool,
    "False",
    &[],
    "plain text: a whole file is one document, and not every line",
);

pub const OUTPUT_FILE: Setting = row(
    OUTPUT,
    "output",
    Kind::Path,
    "",
    &["output_file"],
    "the file to write: .parquet, .jsonl (also .gz, .zst) or .arrow",
);

pub const SHARD_ROWS: Setting = row(
    OUTPUT,
    "shard_rows",
    Kind::Int(1),
    "",
    &[],
    "rows of a shard: the output is written in files NAME-00000, NAME-00001 …",
);

pub const SHARD_BYTES: Setting = row(
    OUTPUT,
    "shard_bytes",
    Kind::Text,
    "",
    &[],
    "size of a shard before compression, such as 512MB; shards end behind the rows that fill them",
);

pub const ROW_GROUP_ROWS: Setting = row(
    OUTPUT,
    "row_group_rows",
    Kind::Int(1),
    "65536",
    &["row_group_size"],
    "most rows of a Parquet row group (which is full at 16 MB, too)",
);

pub const OVERWRITE: Setting =
    row(OUTPUT, "overwrite", Kind::Bool, "False", &[], "replace what an earlier run left");

pub const REJECTS: Setting = row(
    ROWS,
    "rejects",
    Kind::Path,
    "",
    &[],
    "list rejected rows here: file, row, reason, excerpt",
);

pub const MAX_REJECT_RATE: Setting = row(
    ROWS,
    "max_reject_rate",
    Kind::Float(0.0, 1.0),
    "0.01",
    &[],
    "share of rejected rows that ends the job",
);

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

/// The inputs; a fault where there is none.
pub fn inputs(v: &mut Values) -> Vec<String> {
    let inputs = v.list("input");
    if inputs.is_empty() {
        v.faults.push("`--input` is missing: give files to read".into());
    }
    inputs
}

/// The threads wanted, all by default.
pub fn threads(v: &mut Values) -> usize {
    match v.size("num_threads") {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    }
}

/// The job that the shared settings ask for: rows as they are, on this machine alone.
pub fn job(v: &mut Values) -> Job {
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
    Job {
        inputs: inputs(v),
        output,
        schema: OutputSchema::Same,
        shard_rows: v.optional_int("shard_rows").map(|n| n.unsigned_abs() as usize),
        shard_bytes,
        row_group_rows: v.size("row_group_rows"),
        rejects: v.text("rejects").map(PathBuf::from),
        max_reject_rate: v.float("max_reject_rate"),
        whole_file_text: v.bool("whole_file_text"),
        machine: (0, 1),
        threads: threads(v),
        overwrite: v.bool("overwrite"),
        formatter: None,
        take: Take::All,
    }
}

/// Shows progress every few seconds.
pub fn progress() -> impl FnMut(&Progress) {
    const SECONDS: f64 = 5.0;
    let mut shown = 0.0;
    signals::install();
    move |progress| {
        // Each pass counts its own time.
        if progress.seconds < shown {
            shown = 0.0;
        }
        if progress.seconds - shown >= SECONDS {
            shown = progress.seconds;
            screen::line(&describe(progress));
        }
    }
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

/// The last screen: the account, and what was written.
pub fn print(report: &Report) {
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
