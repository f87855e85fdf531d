//! `trainer plugin inspect`: what a plugin is and wants.

use serde_json::{Value, json};

use super::super::screen;
use super::args::Args;
use super::place;
use crate::error::Result;
use crate::plugin::{Inspection, Plugin, PluginLimits};

pub(super) const USAGE: &str = "trainer plugin inspect FILE|NAME|DIR [--json]";

pub(super) const ABOUT: &str = "Shows what a plugin is (world, version, imports, exports, size, sha256) and what it \
     wants (columns and options).";

/// Runs the command.
pub(super) fn run(args: &[String]) -> Result<()> {
    let mut args = Args::new(args, USAGE, &[], &["json"])?;
    let place = place::find(&args.one()?)?;
    let inspection = Plugin::inspect(&place.plugin, PluginLimits::default())?;
    if args.flag("json") {
        screen::line(&format!("{:#}", to_json(&inspection)));
    } else {
        show(&inspection);
    }
    Ok(())
}

fn to_json(i: &Inspection) -> Value {
    let column = |c: &crate::plugin::Need| json!({"name": c.name, "kind": c.kind.name(), "optional": c.optional});
    let columns: Vec<Value> = i.reads.columns.iter().map(column).collect();
    let schema: Value = serde_json::from_str(&i.options_schema).unwrap_or(Value::Null);
    json!({
        "file": i.file, "bytes": i.bytes, "sha256": i.sha256, "world": i.world.name(),
        "contract": i.contract, "core_module": i.core_module, "imports": i.imports,
        "exports": i.exports, "name": i.name, "version": i.version, "summary": i.summary,
        "columns": columns, "whole_rows": i.reads.whole_rows, "options_schema": schema,
        "deterministic": i.deterministic, "start_milliseconds": i.start.as_secs_f64() * 1e3,
        "start_cached": i.cached,
    })
}

fn show(i: &Inspection) {
    let row = |name: &str, value: String| {
        screen::line(&format!("  {name:<10} {}", screen::printable(&value)));
    };
    screen::line(&screen::printable(&format!("{} {}: {}", i.name, i.version, i.summary)));
    row("world", format!("{} (contract {})", i.world, i.contract));
    let kind = if i.core_module { "core module" } else { "component" };
    row("file", format!("{}, {kind} of {} bytes", i.file, screen::grouped(i.bytes as u64)));
    row("sha256", i.sha256.clone());
    let list = |names: &[String]| match names.is_empty() {
        true => "none".to_string(),
        false => names.join(", "),
    };
    row("imports", list(&i.imports));
    row("exports", list(&i.exports));
    let how = if i.cached { "compiled before, from the cache" } else { "compiled now" };
    row("start", format!("{:.1} ms ({how})", i.start.as_secs_f64() * 1e3));
    if !i.deterministic {
        row("note", "its answers differ from time to time, it says".into());
    }
    for (n, column) in i.reads.columns.iter().enumerate() {
        let optional = if column.optional { ", optional" } else { "" };
        let name = if n == 0 { "columns" } else { "" };
        row(name, format!("{} ({}{optional})", column.name, column.kind.name()));
    }
    if i.reads.whole_rows {
        row(if i.reads.columns.is_empty() { "columns" } else { "" }, "whole rows".into());
    }
    let options = i.options();
    if options.is_empty() {
        row("options", "none".into());
    }
    for (n, option) in options.iter().enumerate() {
        let mut text = format!("{} ({}", option.name, option.takes);
        match &option.default {
            Some(default) => text.push_str(&format!("; default {default})")),
            None if option.required => text.push_str("; required)"),
            None => text.push(')'),
        }
        if !option.about.is_empty() {
            text.push_str(&format!(": {}", option.about));
        }
        row(if n == 0 { "options" } else { "" }, text);
    }
}
