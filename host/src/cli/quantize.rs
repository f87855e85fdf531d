//! `trainer quantize`: a model folder with its linear layers in 8 or 4 bits.

use std::path::Path;

use candle_core::DType;

use super::flags::{self, Parsed};
use super::{screen, settings};
use crate::adapter::merge::copy_if_there;
use crate::config::ConfigError;
use crate::config::table::{Kind, Setting, row};
use crate::error::Result;
use crate::model::ModelError;
use crate::model::quantize::quantize;
use crate::ops::quant::Scheme;
use crate::text::{TextError, TextTokenizer};

const FILES: &str = "Files";

const TABLE: &[Setting] = &[
    row(FILES, "model", Kind::Path, "", &["model_name_or_path"], "model folder"),
    row(FILES, "output_dir", Kind::Path, "", &[], "where the narrow model goes"),
    row(
        FILES,
        "bits",
        Kind::Choice(&["8", "4"]),
        "4",
        &["quantization_bit"],
        "8: a byte a value, a scale a row (LLM.int8); 4: NormalFloat with scales in 8 bits (NF4)",
    ),
    settings::torch_dtype(FILES),
];

/// Runs the command.
pub fn run(args: &[String]) -> Result<()> {
    let example = "trainer quantize --model MODEL --bits 4 --output_dir NARROW";
    let about =
        "Write a model folder with its linear layers in 8 or 4 bits, as bitsandbytes saves them";
    let mut values = match flags::parse("quantize", about, example, TABLE, args)? {
        Parsed::Help => return Ok(()),
        Parsed::Values(values) => *values,
    };
    let mut path = |name: &str| {
        values.text(name).unwrap_or_else(|| {
            values.faults.push(format!("`--{name}` is missing"));
            String::new()
        })
    };
    let (model, out) = (path("model"), path("output_dir"));
    let scheme = if values.choice("bits") == "8" { Scheme::Int8 } else { Scheme::Nf4 };
    let dtype = match values.choice("torch_dtype").as_str() {
        "bfloat16" => DType::BF16,
        _ => DType::F32,
    };
    if !out.is_empty() && out == model {
        values.faults.push("`--output_dir` is the model's own folder; choose another".into());
    }
    if !values.faults.is_empty() {
        return Err(ConfigError::Faults(values.faults).into());
    }
    let base = Path::new(&model);
    let tokenizer = TextTokenizer::load(base, [None; 3])?;
    let report = quantize(base, Path::new(&out), scheme, dtype, |dir| {
        let reason =
            |e: TextError| ModelError::Weights { path: base.into(), reason: e.to_string() };
        tokenizer.save(dir).map_err(reason)?;
        copy_if_there(base, dir, &["generation_config.json"])
    })?;
    screen::line(&format!(
        "{} matrices in {} bits; {} bytes of weights in {out}",
        report.num_matrices,
        if scheme == Scheme::Int8 { 8 } else { 4 },
        screen::grouped(report.bytes as u64)
    ));
    screen::line(&format!("next:\n  trainer generate --model {out} --prompt 'Hello!'"));
    Ok(())
}
