//! `trainer export`: a model or an adapter in another program's format.

use std::path::{Path, PathBuf};

use candle_core::DType;

use super::flags::{self, Parsed};
use super::screen;
use crate::adapter::{export, merge, peft};
use crate::config::ConfigError;
use crate::config::table::{Kind, Setting};
use crate::error::Result;
use crate::model::HfConfig;
use crate::model::export::gguf_file::Storage;
use crate::model::export::gguf_model;
use crate::model::export::gguf_tokenizer::Roles;
use crate::text::TextTokenizer;
use crate::text::chat_template::ChatTemplate;

const TABLE: &[Setting] = &[
    Setting {
        name: "model",
        aliases: &["base_model", "model_name_or_path", "base_model_name_or_path"],
        kind: Kind::Path,
        default: "",
        group: "Files",
        help: "model's folder; for adapters that of their base",
    },
    Setting {
        name: "adapter",
        aliases: &["peft_model_path", "adapter_name_or_path", "peft_path", "lora_model"],
        kind: Kind::Path,
        default: "",
        group: "Files",
        help: "adapter's folder: exported by gguf-lora and mlx-lora, merged into the model by the others",
    },
    Setting {
        name: "output",
        aliases: &["output_dir", "export_dir", "outfile"],
        kind: Kind::Path,
        default: "",
        group: "Files",
        help: "where the result goes: a file for GGUF, else a folder",
    },
    Setting {
        name: "format",
        aliases: &[],
        kind: Kind::Choice(&["hf", "gguf", "gguf-lora", "mlx-lora"]),
        default: "hf",
        group: "Format",
        help: "Hugging Face folder, GGUF model, GGUF adapter, or MLX adapter",
    },
    Setting {
        name: "outtype",
        aliases: &["dtype", "torch_dtype"],
        kind: Kind::Choice(&[
            "auto", "f32", "f16", "bf16", "q8_0", "q6_k", "q5_k", "q4_k", "q4_0", "float32",
            "float16", "bfloat16",
        ]),
        default: "auto",
        group: "Format",
        help: "type of the written matrices; auto: the model's own, for GGUF f16; q8_0 to q4_0 for GGUF",
    },
    Setting {
        name: "max_shard_size",
        aliases: &["export_size"],
        kind: Kind::Text,
        default: "5GB",
        group: "Format",
        help: "size of a file of a Hugging Face folder: 5GB, 200MB",
    },
];

/// Bytes of `5GB`, `200MB`, `10KB`; a bare number counts gigabytes.
fn bytes_of(text: &str) -> Option<usize> {
    let text = text.trim().to_ascii_uppercase();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "KB" | "K" => 1e3,
        "MB" | "M" => 1e6,
        "GB" | "G" | "" => 1e9,
        _ => return None,
    };
    let number: f64 = digits.trim().parse().ok()?;
    let bytes = number * unit;
    (1.0..1e18).contains(&bytes).then_some(bytes as usize)
}

/// Runs the command.
pub fn run(args: &[String]) -> Result<()> {
    let example = "trainer export --model MODEL --format gguf --outtype q8_0 --output model.gguf";
    let about = "Write a model or an adapter in another program's format";
    let mut values = match flags::parse("export", about, example, TABLE, args)? {
        Parsed::Help => return Ok(()),
        Parsed::Values(values) => *values,
    };
    let format = values.choice("format");
    let outtype = values.choice("outtype");
    let of_adapter = format.ends_with("-lora");
    let mut path = |name: &str, needed: bool| {
        let text = values.text(name);
        if text.is_none() && needed {
            values.faults.push(format!("`--{name}` is missing"));
        }
        text.map(PathBuf::from)
    };
    let model = path("model", true).unwrap_or_default();
    let adapter = path("adapter", of_adapter);
    let output = path("output", true).unwrap_or_default();
    let size = values.text("max_shard_size").unwrap_or_default();
    let shard_bytes = bytes_of(&size);
    if shard_bytes.is_none() {
        let size = crate::error::excerpt(&size);
        values.faults.push(format!("`--max_shard_size` is `{size}`, expected a size such as 5GB"));
    }
    if outtype.starts_with('q') && format != "gguf" {
        values.faults.push(format!("`--outtype {outtype}` is for `--format gguf`"));
    }
    if of_adapter && outtype != "auto" {
        values.faults.push("adapters are written in f32; leave `--outtype` out".into());
    }
    if !output.as_os_str().is_empty() && (output == model || Some(&output) == adapter.as_ref()) {
        values.faults.push("`--output` is an input; choose another place".into());
    }
    if format.starts_with("gguf") && output.is_dir() {
        values.faults.push("`--output` is a folder; GGUF is one file, so name it".into());
    }
    if !values.faults.is_empty() {
        return Err(ConfigError::Faults(values.faults).into());
    }
    let done = match (format.as_str(), &adapter) {
        ("gguf-lora" | "mlx-lora", Some(adapter)) => {
            let spec = HfConfig::read_any(&model)?.spec;
            let adapter = peft::read(adapter)?;
            let base = model.display().to_string();
            let pairs = match format.as_str() {
                "gguf-lora" => export::gguf::export(&adapter, &spec, &base, &output)?,
                _ => export::mlx::export(&adapter, &spec, &base, &output)?,
            };
            format!("{pairs} pairs")
        }
        ("gguf", _) => gguf(&model, adapter.as_deref(), &outtype, &output)?,
        _ => {
            let dtype = match outtype.as_str() {
                "f32" | "float32" => Some(DType::F32),
                "f16" | "float16" => Some(DType::F16),
                "bf16" | "bfloat16" => Some(DType::BF16),
                _ => None,
            };
            let adapters: Vec<(&Path, f64)> = adapter.iter().map(|a| (a.as_path(), 1.0)).collect();
            let options = merge::Options { dtype, shard_bytes: shard_bytes.unwrap_or(usize::MAX) };
            let report = merge::merge_all(&model, &adapters, &output, options)?;
            let merged = report.merged_modules + report.replaced_tensors;
            format!("{} tensors ({})", report.copied_tensors + merged, report.dtype)
        }
    };
    screen::line(&format!("exported {done} to {}", output.display()));
    Ok(())
}

/// A GGUF model, of a folder that the adapter is merged into first.
fn gguf(model: &Path, adapter: Option<&Path>, outtype: &str, output: &Path) -> Result<String> {
    let storage = match outtype {
        "f32" | "float32" => Storage::F32,
        "bf16" | "bfloat16" => Storage::Bf16,
        "q8_0" => Storage::Q8_0,
        "q6_k" => Storage::Q6K,
        "q5_k" => Storage::Q5K,
        "q4_k" => Storage::Q4K,
        "q4_0" => Storage::Q4_0,
        _ => Storage::F16,
    };
    let config = HfConfig::read(model)?;
    let ids = [config.bos_token_id, config.eos_token_ids.first().copied(), config.pad_token_id];
    // An adapter may have added tokens.
    let with_tokenizer = adapter.filter(|dir| dir.join("tokenizer.json").is_file());
    let tokenizer = TextTokenizer::load(with_tokenizer.unwrap_or(model), ids)?;
    let roles = Roles {
        bos: tokenizer.bos().map(|(_, id)| id),
        eos: tokenizer.eos().map(|(_, id)| id),
        unk: tokenizer.unk().map(|(_, id)| id),
        pad: tokenizer.pad().map(|(_, id)| id),
        chat_template: ChatTemplate::source(&tokenizer)?,
    };
    let json = tokenizer.to_json()?;
    let report = match adapter {
        None => gguf_model::export(model, &json, &roles, storage, output)?,
        Some(adapter) => {
            // Beside the result, which is on a disk that has room for a model.
            let mut name = output.file_name().unwrap_or_default().to_os_string();
            name.push(".merged");
            let merged = output.with_file_name(name);
            let result = merge::merge(model, adapter, &merged, Some(DType::F32))
                .and_then(|_| gguf_model::export(&merged, &json, &roles, storage, output));
            if merged.is_dir() {
                std::fs::remove_dir_all(&merged).map_err(crate::fs::io_error("remove", &merged))?;
            }
            result?
        }
    };
    report.notices.iter().for_each(|notice| screen::line(&format!("note: {notice}")));
    Ok(format!("{} tensors ({})", report.num_tensors, outtype.replace("auto", "f16")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(bytes_of("5GB"), Some(5_000_000_000));
        assert_eq!(bytes_of("200mb"), Some(200_000_000));
        assert_eq!(bytes_of("2"), Some(2_000_000_000));
        assert_eq!(bytes_of("1.5 K"), Some(1500));
        for bad in ["", "GB", "-1GB", "0", "5TB", "1e30GB"] {
            assert_eq!(bytes_of(bad), None, "{bad}");
        }
    }
}
