//! AdamW with a state that can be saved, schedules, clipping. Knows no model.

pub mod adamw;
pub mod clip;
pub mod loss_scale;
pub mod partition;
pub mod schedule;

pub use adamw::AdamW;
pub use loss_scale::LossScale;
pub use partition::Partition;
