//! `trainer merge`: an adapter into its base.

use std::path::Path;

use candle_core::DType;

use super::flags::{self, Parsed};
use super::screen;
use crate::adapter::merge;
use crate::config::ConfigError;
use crate::config::table::{Kind, Setting, row};
use crate::error::Result;
use crate::model::reader::WeightFiles;
use crate::model::{HfConfig, Storage};
use crate::run::memory::available_bytes;
use crate::stage::compare;

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
    row(
        "Files",
        "compare_logits",
        Kind::Choice(&["auto", "True", "False"]),
        "auto",
        &[],
        "read base with adapter, and the merged model, and say how far their logits are apart; auto: where the base was in 8 bits or fewer",
    ),
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
    let compare = values.choice("compare_logits");
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
    if compare != "False" {
        compare_logits(Path::new(&base), Path::new(&adapter), Path::new(&out), compare == "True")?;
    }
    screen::line(&format!("next:\n  trainer chat --model {out}"));
    Ok(())
}

/// Says how far the merged model is from what the adapter was trained on, where that was narrow or
/// `always`.
fn compare_logits(base: &Path, adapter: &Path, merged: &Path, always: bool) -> Result<()> {
    let config = HfConfig::read_any(base)?;
    let precision = compare::trained_precision(adapter).unwrap_or_default();
    let storage = Storage::from(precision);
    let footprint = storage.footprint(&WeightFiles::open(base)?, &config.spec);
    if HfConfig::read_any(merged)?.is_reward_model() || !(footprint.narrow || always) {
        return Ok(());
    }
    let needed = compare::bytes(merged)?;
    if available_bytes().is_some_and(|free| needed as u64 > free) {
        screen::line(&format!(
            "logits were not compared: the merged model takes {} and that is not free",
            screen::megabytes(needed as u64)
        ));
        return Ok(());
    }
    let found = compare::difference(base, storage, adapter, merged)?;
    screen::line(&format!(
        "largest difference of a logit from the base in {} with the adapter: {:.3e} (logits up to {:.1}, {} tokens)",
        footprint.name, found.largest, found.scale, found.tokens
    ));
    Ok(())
}
