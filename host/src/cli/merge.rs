//! `trainer merge`: an adapter into its base.

use std::path::Path;

use candle_core::DType;

use super::flags::{self, Parsed};
use super::screen;
use crate::adapter::merge;
use crate::config::ConfigError;
use crate::config::table::{Kind, Setting};
use crate::error::Result;

const TABLE: &[Setting] = &[
    Setting {
        name: "base_model",
        aliases: &["base_model_name_or_path", "model_name_or_path", "model"],
        kind: Kind::Path,
        default: "",
        group: "Files",
        help: "base model's folder",
    },
    Setting {
        name: "peft_model_path",
        aliases: &["lora_model", "adapter", "adapter_name_or_path", "peft_path"],
        kind: Kind::Path,
        default: "",
        group: "Files",
        help: "adapter's folder",
    },
    Setting {
        name: "output_dir",
        aliases: &["export_dir"],
        kind: Kind::Path,
        default: "",
        group: "Files",
        help: "where the merged model goes",
    },
    Setting {
        name: "torch_dtype",
        aliases: &["dtype"],
        kind: Kind::Choice(&["auto", "float32", "bfloat16", "float16"]),
        default: "auto",
        group: "Files",
        help: "type of the written weights; auto: the base's",
    },
];

/// Runs the command.
pub fn run(args: &[String]) -> Result<()> {
    let example = "trainer merge --base_model BASE --peft_model_path ADAPTER --output_dir MERGED";
    let about = "Merge a LoRA adapter into its base; the result is a model folder";
    let mut values = match flags::parse("merge", about, example, TABLE, args)? {
        Parsed::Help => return Ok(()),
        Parsed::Values(values) => *values,
    };
    let mut path = |name: &str| {
        values.text(name).unwrap_or_else(|| {
            values.faults.push(format!("`--{name}` is missing"));
            String::new()
        })
    };
    let (base, adapter, out) = (path("base_model"), path("peft_model_path"), path("output_dir"));
    let dtype = match values.choice("torch_dtype").as_str() {
        "float32" => Some(DType::F32),
        "bfloat16" => Some(DType::BF16),
        "float16" => Some(DType::F16),
        _ => None,
    };
    if !out.is_empty() && (out == base || out == adapter) {
        values.faults.push("`--output_dir` is an input; choose another folder".into());
    }
    if !values.faults.is_empty() {
        return Err(ConfigError::Faults(values.faults).into());
    }
    let report = merge::merge(Path::new(&base), Path::new(&adapter), Path::new(&out), dtype)?;
    screen::line(&format!(
        "merged {} matrices into {out} ({}); largest change of a weight {:.3e}",
        report.merged_modules, report.dtype, report.largest_change
    ));
    screen::line(&format!("next:\n  trainer chat --model {out}"));
    Ok(())
}
