//! `trainer import`: a GGUF file becomes a model folder.

use std::path::Path;

use candle_core::DType;

use super::flags::{self, Parsed};
use super::screen;
use crate::config::ConfigError;
use crate::config::table::{Kind, Setting, row};
use crate::error::Result;
use crate::model::gguf::{self, ImportAs};

const TABLE: &[Setting] = &[
    Setting {
        name: "gguf",
        aliases: &["model"],
        kind: Kind::Path,
        default: "",
        group: "Files",
        help: "GGUF file (also the first argument)",
    },
    Setting {
        name: "output_dir",
        aliases: &[],
        kind: Kind::Path,
        default: "",
        group: "Files",
        help: "where the model folder goes",
    },
    Setting {
        name: "torch_dtype",
        aliases: &["dtype"],
        kind: Kind::Choice(&["float32", "bfloat16", "float16"]),
        default: "float32",
        group: "Files",
        help: "type of the written weights",
    },
    row(
        "Files",
        "keep_blocks",
        Kind::Bool,
        "false",
        &[],
        "keep the file's own blocks (Q4_K, Q8_0 …) to train on, instead of widening them",
    ),
];

/// Runs the command.
pub fn run(args: &[String]) -> Result<()> {
    let example = "trainer import MODEL.gguf --output_dir MODEL";
    let about =
        "Turn a GGUF file into a Hugging Face model folder: weights, configuration, tokenizer";
    let mut args = args.to_vec();
    if args.first().is_some_and(|a| !a.starts_with('-')) {
        args.insert(0, "--gguf".into());
    }
    let mut values = match flags::parse("import", about, example, TABLE, &args)? {
        Parsed::Help => return Ok(()),
        Parsed::Values(values) => *values,
    };
    let mut path = |name: &str| {
        values.text(name).unwrap_or_else(|| {
            values.faults.push(format!("`--{name}` is missing"));
            String::new()
        })
    };
    let (file, out) = (path("gguf"), path("output_dir"));
    let dtype = match values.choice("torch_dtype").as_str() {
        "bfloat16" => DType::BF16,
        "float16" => DType::F16,
        _ => DType::F32,
    };
    let weights = match values.bool("keep_blocks") {
        true => ImportAs::Blocks,
        false => ImportAs::Dense(dtype),
    };
    if !values.faults.is_empty() {
        return Err(ConfigError::Faults(values.faults).into());
    }
    let tensors = gguf::import(Path::new(&file), Path::new(&out), weights)?;
    screen::line(&format!("imported {tensors} tensors into {out}"));
    screen::line(&format!("next:\n  trainer generate --model {out} --prompt 'Hello!'"));
    Ok(())
}
