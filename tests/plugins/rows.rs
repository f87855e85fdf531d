//! JSON lines as record batches, and outcomes as JSON.

use arrow::array::RecordBatch;
use trainer::plugin::World;
use trainer::plugin::trial::Items;
pub use trainer::plugin::trial::outcome;

/// One batch of JSON objects, one column per key, each value as its own text.
pub fn batch(lines: &[&str]) -> RecordBatch {
    match Items::parse(lines, World::Formatter).unwrap() {
        Items::Rows(batch) => batch,
        Items::Cases(_) => unreachable!("a formatter reads rows"),
    }
}
