//! Settings that several commands beside training share.

use crate::config::table::{Kind, Setting, row};
use crate::config::values::Values;
use crate::model::generate::SamplingOptions;

pub const MODEL: &str = "Model";
pub const DATA: &str = "Data";
pub const SAMPLING: &str = "Sampling";

/// Type of loaded weights.
pub const fn torch_dtype(group: &'static str) -> Setting {
    let choices = Kind::Choice(&["float32", "bfloat16"]);
    row(group, "torch_dtype", choices, "float32", &["dtype"], "type of the weights in memory")
}

/// Where everything is computed.
pub const fn device(group: &'static str) -> Setting {
    let help = "auto (a GPU where there is one), cpu, cuda or cuda:N";
    row(group, "device", Kind::Text, "auto", &[], help)
}

/// Linear layers in 8 bits.
pub const fn load_in_8bit(group: &'static str) -> Setting {
    row(group, "load_in_8bit", Kind::Bool, "false", &[], "keep linear layers in 8 bits")
}

/// Linear layers in 4 bits.
pub const fn load_in_4bit(group: &'static str) -> Setting {
    let help = "keep linear layers in 4-bit NormalFloat";
    row(group, "load_in_4bit", Kind::Bool, "false", &["qlora"], help)
}

/// Threads of the process.
pub const fn num_threads(group: &'static str) -> Setting {
    row(group, "num_threads", Kind::Int(0), "0", &[], "CPU threads; 0: all")
}

/// Plugins of a command; `help` says of what kinds.
pub const fn plugins(group: &'static str, help: &'static str) -> Setting {
    row(group, "plugin", Kind::List, "", &[], help)
}

/// Their options.
pub const fn plugin_options(group: &'static str) -> Setting {
    let help = "options of a plugin: NAME={\"key\": value}; may be repeated";
    row(group, "plugin_options", Kind::List, "", &[], help)
}

pub const TEMPERATURE: Setting =
    row(SAMPLING, "temperature", Kind::Float(0.0, 100.0), "0", &[], "0: the most likely token");

pub const TOP_P: Setting = row(
    SAMPLING,
    "top_p",
    Kind::Float(0.0, 1.0),
    "1",
    &[],
    "keep the likeliest tokens up to this probability",
);

pub const TOP_K: Setting =
    row(SAMPLING, "top_k", Kind::Int(0), "0", &[], "keep so many likeliest tokens; 0: all");

pub const REPETITION_PENALTY: Setting = row(
    SAMPLING,
    "repetition_penalty",
    Kind::Float(f64::MIN_POSITIVE, 100.0),
    "1",
    &[],
    "above 1: less repetition",
);

pub const SEED: Setting = row(SAMPLING, "seed", Kind::Int(0), "42", &[], "seed of the choice");

/// The sampler's options; `longest` names the setting of the most tokens.
pub fn sampling(v: &mut Values, longest: &str) -> SamplingOptions {
    SamplingOptions {
        temperature: v.float("temperature"),
        top_p: v.float("top_p"),
        top_k: v.size("top_k"),
        repetition_penalty: v.float("repetition_penalty") as f32,
        max_new_tokens: v.size(longest),
        stop_ids: Vec::new(),
        seed: v.int("seed").unsigned_abs(),
    }
}
