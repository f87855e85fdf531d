//! Progress of a run: a live bar on a terminal, plain lines elsewhere; and the JSON-lines log.

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};

use super::screen;
use crate::fs::io_error;
use crate::run::progress::Progress;

/// See the module.
pub struct Console {
    bar: Option<ProgressBar>,
    path: PathBuf,
    log: Option<File>,
    started: Instant,
    first: u64,
    total: u64,
}

impl Console {
    /// Progress of a run into `output_dir`, which is also logged to its `trainer_log.jsonl`.
    pub fn new(output_dir: &Path) -> Self {
        let path = output_dir.join("trainer_log.jsonl");
        Self { bar: None, path, log: None, started: Instant::now(), first: 0, total: 0 }
    }

    /// Opens the log for a run that goes on after `done` updates: rows of updates that will be
    /// made again are dropped.
    fn open_log(&mut self, done: u64) -> Result<File, crate::fs::FsError> {
        let old = std::fs::read_to_string(&self.path).unwrap_or_default();
        let kept: String = old
            .lines()
            .filter(|line| {
                let row: Value = serde_json::from_str(line).unwrap_or_default();
                row["current_steps"].as_u64().is_some_and(|step| step <= done && done > 0)
            })
            .flat_map(|line| [line, "\n"])
            .collect();
        crate::fs::write_atomic(&self.path, kept.as_bytes())?;
        let mut options = std::fs::OpenOptions::new();
        options.append(true).open(&self.path).map_err(io_error("create", &self.path))
    }

    fn print(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => screen::line(text),
        }
    }
}

/// Six significant digits at most, as people read them.
fn short(value: f64) -> String {
    match value.abs() {
        v if v == 0.0 || (1e-3..1e6).contains(&v) => {
            let text = format!("{value:.4}");
            text.trim_end_matches('0').trim_end_matches('.').to_string()
        }
        _ => format!("{value:.3e}"),
    }
}

impl Progress for Console {
    fn start(&mut self, done: u64, total: u64) {
        (self.first, self.total, self.started) = (done, total, Instant::now());
        match self.open_log(done) {
            Ok(file) => self.log = Some(file),
            Err(e) => screen::line(&format!("no trainer_log.jsonl: {e}")),
        }
        if std::io::stderr().is_terminal() {
            let bar = ProgressBar::new(total).with_position(done);
            let style = "{bar:30} {pos}/{len} {msg} [{elapsed_precise}, {eta_precise} left]";
            if let Ok(style) = ProgressStyle::with_template(style) {
                bar.set_style(style);
            }
            self.bar = Some(bar);
        }
    }

    fn step(&mut self, global_step: u64, loss: f64, learning_rate: f64, tokens_per_second: f64) {
        if let Some(bar) = &self.bar {
            bar.set_position(global_step);
            bar.set_message(format!(
                "loss {} lr {} {tokens_per_second:.0} tokens/s",
                short(loss),
                short(learning_rate)
            ));
        }
    }

    fn log(&mut self, row: &Map<String, Value>) {
        // The Hugging Face trainer's lines, which many scripts parse.
        let order = ["loss", "eval_loss", "grad_norm", "learning_rate"];
        let mut keys: Vec<&String> = row.keys().filter(|k| *k != "step").collect();
        keys.sort_by_key(|k| (order.iter().position(|o| o == k).unwrap_or(order.len()), *k));
        let parts: Vec<String> = keys
            .iter()
            .filter_map(|k| Some(format!("'{k}': {}", short(row[*k].as_f64()?))))
            .collect();
        self.print(&format!("{{{}}}", parts.join(", ")));
        let Some(file) = &mut self.log else { return };
        let step = row.get("step").and_then(Value::as_u64).unwrap_or(0);
        let elapsed = self.started.elapsed().as_secs_f64();
        let made = step.saturating_sub(self.first).max(1) as f64;
        let remaining = elapsed / made * self.total.saturating_sub(step) as f64;
        let mut entry = json!({
            "current_steps": step,
            "total_steps": self.total,
            "epoch": row.get("epoch"),
            "percentage": 100.0 * step as f64 / self.total.max(1) as f64,
            "elapsed_time": elapsed,
            "remaining_time": remaining,
        });
        for (ours, theirs) in [
            ("loss", "loss"),
            ("eval_loss", "eval_loss"),
            ("learning_rate", "lr"),
            ("num_tokens", "total_tokens"),
        ] {
            if let Some(value) = row.get(ours) {
                entry[theirs] = value.clone();
            }
        }
        // A log that can't be written must not end a run that can go on.
        if writeln!(file, "{entry}").is_err() {
            self.log = None;
            self.print("trainer_log.jsonl can't be written any more; the run goes on without it");
        }
    }

    fn note(&mut self, text: &str) {
        self.print(&screen::printable(text));
    }

    fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}
