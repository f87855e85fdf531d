//! AdamW with a state that can be saved, schedules, clipping. Knows no model.

pub mod adamw;
pub mod clip;
pub mod schedule;

pub use adamw::AdamW;
