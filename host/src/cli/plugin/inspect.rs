//! `trainer plugin inspect`: what a plugin is and wants.

use serde_json::json;

use super::super::screen;
use crate::config::ConfigError;
use crate::error::Result;
use crate::plugin::{Plugin, PluginLimits};

pub(super) const USAGE: &str = "trainer plugin inspect FILE|NAME [--json]";

/// Runs the command.
pub(super) fn run(args: &[String]) -> Result<()> {
    let as_json = args.iter().any(|a| a == "--json");
    let rest: Vec<&str> = args.iter().map(String::as_str).filter(|a| *a != "--json").collect();
    match rest.as_slice() {
        [name] => inspect(name, as_json),
        _ => Err(ConfigError::one(format!("usage: {USAGE}")).into()),
    }
}

fn inspect(name: &str, as_json: bool) -> Result<()> {
    let i = Plugin::inspect(name, PluginLimits::default())?;
    let columns: Vec<serde_json::Value> = i
        .reads
        .columns
        .iter()
        .map(|c| json!({"name": c.name, "kind": c.kind.name(), "optional": c.optional}))
        .collect();
    if as_json {
        let schema: serde_json::Value =
            serde_json::from_str(&i.options_schema).unwrap_or(serde_json::Value::Null);
        let value = json!({
            "file": i.file, "bytes": i.bytes, "sha256": i.sha256, "world": i.world.name(),
            "contract": i.contract, "core_module": i.core_module, "imports": i.imports,
            "exports": i.exports, "name": i.name, "version": i.version, "summary": i.summary,
            "columns": columns, "whole_rows": i.reads.whole_rows, "options_schema": schema,
            "deterministic": i.deterministic,
        });
        screen::line(&format!("{value:#}"));
        return Ok(());
    }
    let row = |name: &str, value: String| {
        screen::line(&format!("  {name:<10} {}", screen::printable(&value)));
    };
    screen::line(&screen::printable(&format!("{} {}: {}", i.name, i.version, i.summary)));
    row("world", format!("{} ({})", i.world.name(), i.contract));
    row("file", format!("{}, {} bytes", i.file, screen::grouped(i.bytes as u64)));
    row("sha256", i.sha256.clone());
    row("imports", i.imports.join(", "));
    for column in &i.reads.columns {
        let optional = if column.optional { ", optional" } else { "" };
        row("column", format!("{} ({}{optional})", column.name, column.kind.name()));
    }
    if !i.options_schema.is_empty() {
        row("options", i.options_schema.clone());
    }
    Ok(())
}
