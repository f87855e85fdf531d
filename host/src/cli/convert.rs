//! `trainer convert`: data files into other data files.

use super::flags::{self, Parsed};
use super::outputs::{self, MACHINES, OUTPUT};
use super::settings::{self, DATA};
use super::signals;
use crate::config::ConfigError;
use crate::config::run::plugin_options;
use crate::config::table::{Kind, Setting, row};
use crate::config::values::Values;
use crate::error::Result;
use crate::plugin::{OnFault, Plugin, World};
use crate::stage::answers::Plugins;
use crate::stage::convert::{self, OutputSchema, Shape};

const SCHEMAS: &[&str] =
    &["same", "messages", "sharegpt", "text", "preference", "prompt", "tokens"];

const TABLE: &[Setting] = &[
    outputs::INPUT,
    settings::plugins(
        DATA,
        "formatter that makes examples of rows; without it rows stay as they are",
    ),
    settings::plugin_options(DATA),
    outputs::WHOLE_FILE_TEXT,
    outputs::OUTPUT_FILE,
    row(
        OUTPUT,
        "output_schema",
        Kind::Choice(SCHEMAS),
        "same",
        &[],
        "columns of the output; same: as the formatter's examples are, or the rows' own",
    ),
    outputs::SHARD_ROWS,
    outputs::SHARD_BYTES,
    outputs::ROW_GROUP_ROWS,
    outputs::OVERWRITE,
    outputs::REJECTS,
    outputs::MAX_REJECT_RATE,
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

/// The formatter, if one is given; settings must be right so far.
///
/// # Errors
/// All faults of the settings; a plugin that can't be loaded, or is no formatter.
pub fn formatter(v: &mut Values) -> Result<Option<Plugin>> {
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
    let mut job = outputs::job(&mut v);
    let schema = v.choice("output_schema");
    job.schema = Shape::find(&schema).map_or(OutputSchema::Same, OutputSchema::Of);
    job.machine = machine(&mut v);
    job.formatter = formatter(&mut v)?;
    let report = convert::run(job, &mut outputs::progress(), &signals::interrupted)?;
    outputs::print(&report);
    Ok(())
}
