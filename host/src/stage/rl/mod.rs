//! Reinforcement learning: sample completions of prompts, judge them by rewards, change the policy.
//!
//! `prompt` makes prompts of rows, `reward` judges, `sample` holds what was sampled, `prepare` loads and `task` drives
//! the three algorithms for the loop, `alarm` watches for what goes wrong silently.

pub mod alarm;
pub mod completions;
pub mod prepare;
pub mod prompt;
pub mod reward;
pub mod reward_model;
pub mod sample;
pub mod task;
