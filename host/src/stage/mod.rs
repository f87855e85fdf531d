//! Stages: compose everything above into runs. Know no command line and print nothing.

pub mod answers;
mod base;
pub mod causal;
pub mod causal_task;
pub mod chat;
pub mod compare;
pub mod convert;
pub mod dataset;
pub mod distill;
pub mod estimate;
pub mod inspect;
pub mod kto;
pub mod pairs;
pub mod persist;
pub mod preference;
mod preprocessed;
pub mod pt;
pub mod quickstart;
mod record;
pub mod reference;
pub mod rl;
pub mod rm;
pub mod sampling;
pub mod setup;
pub mod sources;
pub mod tokenizer;
mod trained;
