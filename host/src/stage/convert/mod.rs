//! Conversion of data files: blocks of the sources go to workers, which make rows of them; rows
//! are cut into groups, encoded by the same workers, and appended to shards in their order.
//!
//! `plan` decides the way, `worker` goes it, `cut` says where groups and shards end, `sink` writes
//! them, `state` lets a stopped job go on. What comes out depends on the inputs and the settings
//! alone, not on threads, time or interruptions.

mod cut;
mod infer;
mod json_lines;
mod plan;
mod pool;
mod rows;
mod run;
mod shape;
mod sink;
mod state;
mod worker;

pub use plan::{Job, OutputSchema};
pub use run::{Progress, Report, run};
pub use shape::Shape;
pub use sink::{OutputFormat, Written};
