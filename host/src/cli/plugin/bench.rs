//! `trainer plugin bench`: how fast a plugin is.

use serde_json::json;

use super::super::screen;
use super::args::Args;
use super::place;
use crate::config::ConfigError;
use crate::data::{ReadOptions, SourceReader, source};
use crate::error::Result;
use crate::limits::PLUGIN_CALL_ROWS;
use crate::plugin::trial::{Bench, Items, Timing};
use crate::plugin::{Plugin, PluginLimits, World};
use crate::stage::dataset::projection;

pub(super) const USAGE: &str = "trainer plugin bench FILE|NAME|DIR [--input FILE] [--rows N] [--batch N] [--options JSON] \
     [--seed N] [--json]";

pub(super) const ABOUT: &str = "Measures rows a second on one thread and on all, time per row, and the share of it that \
     goes into crossing the sandbox's border. Rows are made up, or read from a file.";

/// Runs the command.
pub(super) fn run(args: &[String]) -> Result<()> {
    let names = ["input", "rows", "batch", "options", "seed"];
    let mut args = Args::new(args, USAGE, &names, &["json"])?;
    let place = place::find(&args.one()?)?;
    let options = args.json_object("options")?;
    let seed = args.number("seed", 42)?;
    let rows = args.number("rows", 20_000)?.clamp(1, 10_000_000) as usize;
    let batch = args.number("batch", PLUGIN_CALL_ROWS as u64)?.max(1) as usize;
    let plugin = Plugin::load(&place.plugin, &options, seed, PluginLimits::default())?;
    let bench = match args.value("input") {
        Some(file) => Bench { items: read(&plugin, &file, rows)?, batch },
        None => Bench::seeded(&plugin, rows, batch, seed),
    };
    let timing = bench.run(&plugin)?;
    if args.flag("json") {
        screen::line(&format!("{:#}", to_json(&plugin, &timing, batch)));
    } else {
        show(&plugin, &timing, batch);
    }
    Ok(())
}

/// At most `rows` rows of a file of any format that the trainer reads.
fn read(plugin: &Plugin, file: &str, rows: usize) -> Result<Items> {
    if plugin.world() == World::Template {
        return Err(ConfigError::one(
            "a template reads no rows: leave --input out, conversations are made up",
        )
        .into());
    }
    let found = source::discover(&[file.to_string()])?;
    let options = ReadOptions::new(projection(plugin.reads()));
    let mut batches = Vec::new();
    let mut left = rows;
    for batch in SourceReader::new(found.files, options) {
        let batch = batch?.batch;
        let batch = batch.slice(0, batch.num_rows().min(left));
        left -= batch.num_rows();
        batches.push(batch);
        if left == 0 {
            break;
        }
    }
    let items = batches
        .first()
        .and_then(|first| arrow::compute::concat_batches(&first.schema(), &batches).ok())
        .filter(|all| all.num_rows() > 0)
        .map(Items::Rows);
    Ok(items.ok_or_else(|| ConfigError::one(format!("`{file}` has no row that could be read")))?)
}

fn per_second(amount: usize, time: std::time::Duration) -> f64 {
    amount as f64 / time.as_secs_f64().max(1e-9)
}

fn to_json(plugin: &Plugin, t: &Timing, batch: usize) -> serde_json::Value {
    json!({
        "plugin": plugin.name(), "version": plugin.version(), "world": plugin.world().name(),
        "sha256": plugin.sha256(), "rows": t.rows, "bytes": t.bytes, "batch": batch.min(PLUGIN_CALL_ROWS),
        "rows_per_second": per_second(t.rows, t.one_thread),
        "megabytes_per_second": per_second(t.bytes, t.one_thread) / 1e6,
        "nanoseconds_per_row": t.one_thread.as_nanos() as f64 / t.rows.max(1) as f64,
        "crossing_share": t.crossing,
        "fuel_per_row": t.fuel_per_row,
        "threads": t.threads,
        "rows_per_second_all_threads": per_second(t.rows, t.all_threads),
        "start_milliseconds": plugin.inspection().start.as_secs_f64() * 1e3,
        "start_cached": plugin.inspection().cached,
    })
}

fn show(plugin: &Plugin, t: &Timing, batch: usize) {
    let row = |name: &str, value: String| {
        screen::line(&format!("  {name:<12} {}", screen::printable(&value)));
    };
    let (name, version) = (plugin.name(), plugin.version());
    screen::line(&screen::printable(&format!("{name} {version} ({})", plugin.world())));
    let mean = t.bytes / t.rows.max(1);
    row(
        "rows",
        format!(
            "{} of {} bytes each, {} to a call",
            screen::grouped(t.rows as u64),
            screen::grouped(mean as u64),
            batch.min(PLUGIN_CALL_ROWS)
        ),
    );
    let speed = |time| {
        format!(
            "{} rows/s, {:.1} MB/s",
            screen::grouped(per_second(t.rows, time) as u64),
            per_second(t.bytes, time) / 1e6
        )
    };
    row("one thread", speed(t.one_thread));
    row(&format!("{} threads", t.threads), speed(t.all_threads));
    let micros = t.one_thread.as_nanos() as f64 / 1e3 / t.rows.max(1) as f64;
    row("per row", format!("{micros:.2} µs, {:.0} units of fuel at most", t.fuel_per_row));
    row("crossing", format!("{:.0} % of the time", 100.0 * t.crossing));
    let start = plugin.inspection().start.as_secs_f64() * 1e3;
    let how = if plugin.inspection().cached { "compiled before" } else { "compiled now" };
    row("start", format!("{start:.1} ms ({how})"));
}
