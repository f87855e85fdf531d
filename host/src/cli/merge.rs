//! `trainer merge`: adapters into their base, or into one adapter.

use std::path::{Path, PathBuf};

use candle_core::DType;

use super::flags::{self, Parsed};
use super::screen;
use crate::adapter::combine::{Combination, combine};
use crate::adapter::merge;
use crate::config::ConfigError;
use crate::config::table::{Kind, Setting, row};
use crate::config::values::Values;
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
        kind: Kind::List,
        default: "",
        group: "Files",
        help: "adapter's folder; several are summed by their weights",
    },
    Setting {
        name: "adapter_weights",
        aliases: &[],
        kind: Kind::List,
        default: "",
        group: "Several adapters",
        help: "a weight for each adapter (0.7,0.3); 1 each by default",
    },
    Setting {
        name: "combination_type",
        aliases: &[],
        kind: Kind::Choice(&["cat", "linear", "svd"]),
        default: "cat",
        group: "Several adapters",
        help: "without --base_model the result is one adapter: pairs side by side, added (equal ranks), \
               or their sum at --svd_rank",
    },
    Setting {
        name: "svd_rank",
        aliases: &[],
        kind: Kind::Int(1),
        default: "",
        group: "Several adapters",
        help: "rank of the result of svd; the largest of the adapters' by default",
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

/// The adapters' folders: values of the flag, and parts of one with commas that is no folder itself.
fn adapters(values: &Values) -> Vec<String> {
    let given = values.list("peft_model_path");
    let parts = |text: String| match Path::new(&text).exists() {
        true => vec![text],
        false => text.split(',').map(|part| part.trim().to_string()).collect(),
    };
    given.into_iter().flat_map(parts).filter(|text| !text.is_empty()).collect()
}

/// A weight for each adapter.
fn weights(values: &mut Values, count: usize) -> Vec<f64> {
    let list = values.list("adapter_weights");
    let words: Vec<&str> =
        list.iter().flat_map(|t| t.split([',', ' '])).filter(|w| !w.is_empty()).collect();
    if words.is_empty() {
        return vec![1.0; count];
    }
    let weights: Option<Vec<f64>> =
        words.iter().map(|w| w.parse().ok().filter(|w: &f64| w.is_finite())).collect();
    match weights {
        Some(weights) if weights.len() == count => weights,
        Some(weights) => {
            values.faults.push(format!(
                "`--adapter_weights` has {} numbers for {count} adapters",
                weights.len()
            ));
            vec![1.0; count]
        }
        None => {
            values.faults.push("`--adapter_weights` expects numbers (0.7,0.3)".into());
            vec![1.0; count]
        }
    }
}

fn largest_rank(adapters: &[PathBuf]) -> Result<usize> {
    let mut largest = 1;
    for dir in adapters {
        let adapter = crate::adapter::peft::read(dir)?;
        largest = adapter.tensors.values().map(|(a, _)| a.dims()[0]).fold(largest, usize::max);
    }
    Ok(largest)
}

/// Runs the command.
pub fn run(args: &[String]) -> Result<()> {
    let example = "trainer merge --base_model BASE --peft_model_path ADAPTER --output_dir MERGED
  trainer merge --peft_model_path ONE TWO --adapter_weights 0.7,0.3 --output_dir BOTH";
    let about = "Merge LoRA adapters into their base; the result is a model folder. Without a base, \
                 make one adapter of several";
    let mut values = match flags::parse("merge", about, example, TABLE, args)? {
        Parsed::Help => return Ok(()),
        Parsed::Values(values) => *values,
    };
    let base = values.text("base_model").map(PathBuf::from);
    let adapters: Vec<PathBuf> = adapters(&values).into_iter().map(PathBuf::from).collect();
    let out = values.text("output_dir").map(PathBuf::from).unwrap_or_default();
    let weights = weights(&mut values, adapters.len());
    let combination = values.choice("combination_type");
    let svd_rank = values.optional_int("svd_rank");
    let dtype = match values.choice("torch_dtype").as_str() {
        "float32" => Some(DType::F32),
        "bfloat16" => Some(DType::BF16),
        "float16" => Some(DType::F16),
        _ => None,
    };
    let compare = values.choice("compare_logits");
    if adapters.is_empty() {
        values.faults.push("`--peft_model_path` is missing".into());
    }
    if out.as_os_str().is_empty() {
        values.faults.push("`--output_dir` is missing".into());
    } else if base.as_ref() == Some(&out) || adapters.contains(&out) {
        values.faults.push("`--output_dir` is an input; choose another folder".into());
    }
    match &base {
        None if adapters.len() == 1 => values.faults.push(
            "`--base_model` is missing: give the adapter's base, or several adapters to make one of"
                .into(),
        ),
        None => {}
        Some(_) => {
            for name in ["combination_type", "svd_rank"] {
                if values.is_given(name) {
                    values.faults.push(format!(
                        "`--{name}` is about one adapter made of several; leave it or `--base_model` out"
                    ));
                }
            }
        }
    }
    if svd_rank.is_some() && combination != "svd" {
        values.faults.push("`--svd_rank` is of `--combination_type svd`; leave it out".into());
    }
    if !values.faults.is_empty() {
        return Err(ConfigError::Faults(values.faults).into());
    }
    let weighted: Vec<(&Path, f64)> = adapters.iter().map(PathBuf::as_path).zip(weights).collect();
    let shown = out.display();
    let Some(base) = base else {
        let combination = match combination.as_str() {
            "linear" => Combination::Linear,
            "svd" => Combination::Svd(match svd_rank {
                Some(rank) => rank.unsigned_abs() as usize,
                None => largest_rank(&adapters)?,
            }),
            _ => Combination::Cat,
        };
        let count = combine(&weighted, combination, &out)?;
        screen::line(&format!(
            "combined {} adapters of {count} matrices into {shown}",
            adapters.len()
        ));
        return Ok(());
    };
    let options = merge::Options { dtype, ..merge::Options::default() };
    let report = merge::merge_all(&base, &weighted, &out, options)?;
    if report.replaced_tensors > 0 {
        screen::line(&format!("{} tensors were trained whole", report.replaced_tensors));
    }
    if report.untied {
        screen::line("the head, which was the embedding, is a matrix of its own now");
    }
    screen::line(&format!(
        "merged {} matrices into {shown} ({}); largest change of a weight {:.3e}",
        report.merged_modules, report.dtype, report.largest_change
    ));
    // What was trained is one adapter on its base.
    if let (true, [(adapter, weight)]) = (compare != "False", weighted.as_slice())
        && *weight == 1.0
    {
        compare_logits(&base, adapter, &out, compare == "True")?;
    }
    screen::line(&format!("next:\n  trainer chat --model {shown}"));
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
