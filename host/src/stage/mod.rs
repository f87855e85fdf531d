//! Stages: compose everything above into runs. Know no command line and print nothing.

pub mod causal;
pub mod causal_task;
pub mod chat;
pub mod dataset;
pub mod dpo;
pub mod persist;
pub mod pt;
pub mod quickstart;
pub mod setup;
pub mod tokenizer;
