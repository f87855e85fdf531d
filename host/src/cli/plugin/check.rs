//! `trainer plugin check`: whether a plugin keeps the contract.

use std::path::{Path, PathBuf};

use super::super::screen;
use super::args::Args;
use super::place;
use crate::error::Result;
use crate::plugin::PluginLimits;
use crate::plugin::trial::{self, Report, Request, Status};

pub(super) const USAGE: &str =
    "trainer plugin check FILE|NAME|DIR [--golden DIR] [--options JSON] [--seed N] [--json]";

pub(super) const ABOUT: &str = "Checks that a plugin keeps the contract: golden rows (golden/in.jsonl and out.jsonl beside \
     it, with options.json where they need options, or folders of these), the same answers twice, in \
     calls of any size and in any order, an answer to whatever a row holds, and distance to its limits.";

/// Runs the command.
pub(super) fn run(args: &[String]) -> Result<()> {
    let mut args = Args::new(args, USAGE, &["golden", "options", "seed"], &["json"])?;
    let place = place::find(&args.one()?)?;
    let golden = args.value("golden").map(PathBuf::from).or(place.golden);
    let options = args.json_object("options")?;
    let request = Request {
        plugin: &place.plugin,
        options: &options,
        seed: args.number("seed", 42)?,
        golden: golden.as_deref(),
        limits: PluginLimits::default(),
    };
    let report = trial::check(&request)?;
    if args.flag("json") {
        screen::line(&format!("{:#}", report.to_json()));
    } else {
        show(&report, golden.as_deref());
    }
    Ok(report.verdict()?)
}

fn show(report: &Report, golden: Option<&Path>) {
    let Report { name, version, world, .. } = report;
    screen::line(&screen::printable(&format!("{name} {version} ({world})")));
    for check in &report.checks {
        let mut detail = check.detail.clone();
        if let ("golden", Status::Passed | Status::Failed, Some(dir)) =
            (check.name, check.status, golden)
        {
            detail.push_str(&format!(" ({})", dir.display()));
        }
        let line = format!("  {:<8} {:<9} {detail}", check.status.name(), check.name);
        screen::line(&screen::printable(&line));
        for fault in &check.faults {
            screen::line(&screen::printable(&format!("           - {fault}")));
        }
    }
}
