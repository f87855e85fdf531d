//! What a user sees while a run goes on. The command line decides how it looks.

use serde_json::{Map, Value};

/// Where the loop tells what happens.
pub trait Progress {
    /// The loop starts, or goes on after `done` of `total` updates.
    fn start(&mut self, done: u64, total: u64);

    /// An update was made: its loss, its learning rate, and tokens per second so far.
    fn step(&mut self, global_step: u64, loss: f64, learning_rate: f64, tokens_per_second: f64);

    /// A row of metrics was logged.
    fn log(&mut self, row: &Map<String, Value>);

    /// Something happened that the user should read.
    fn note(&mut self, text: &str);

    /// The loop ended.
    fn finish(&mut self);
}

/// Shows nothing.
pub struct Silent;

impl Progress for Silent {
    fn start(&mut self, _: u64, _: u64) {}
    fn step(&mut self, _: u64, _: f64, _: f64, _: f64) {}
    fn log(&mut self, _: &Map<String, Value>) {}
    fn note(&mut self, _: &str) {}
    fn finish(&mut self) {}
}
