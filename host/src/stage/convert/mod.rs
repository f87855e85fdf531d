//! Conversion of data files: blocks of the sources go to workers, which make rows of them; rows
//! are cut into groups, encoded by the same workers, and appended to shards in their order.
//!
//! `plan` decides the way, `take` and `mixture` which rows go it, `worker` goes it, `cut` says where
//! groups and shards end, `sink` writes them, `state` lets a stopped job go on; `scan` reads all
//! blocks without writing any. What comes out depends on the inputs and the settings
//! alone, not on threads, time or interruptions.

mod cut;
mod infer;
mod json_lines;
mod mixture;
mod plan;
mod pool;
mod rows;
mod run;
mod scan;
mod shape;
mod sink;
mod state;
mod take;
mod worker;

pub use infer::Type;
pub use mixture::Mixture;
pub use plan::{Job, OutputSchema};
pub use run::{Progress, Report, is_done, run};
pub use scan::scan;
pub use shape::Shape;
pub use sink::{OutputFormat, Written};
pub use take::{Selection, Take};
