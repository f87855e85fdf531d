//! A model folder as a GGUF file, for the families that llama.cpp reads as LLaMA, Qwen 2 and Qwen 3.

use std::path::Path;

use candle_core::Tensor;

use super::gguf_file::{self, Entry, Metadata, Storage, Value};
use super::gguf_tokenizer::{self, Roles};
use crate::model::gguf::gguf_name;
use crate::model::projection::Projection;
use crate::model::reader::WeightFiles;
use crate::model::rope_freq::frequencies;
use crate::model::slots::Slot;
use crate::model::spec::{RopeScaling, RopeSpec};
use crate::model::{DecoderSpec, HfConfig, ModelError, bitsandbytes};

/// What an export wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportReport {
    /// Tensors written.
    pub num_tensors: usize,
    /// What the file does not say as the model does.
    pub notices: Vec<String>,
}

/// Families that are exported, with llama.cpp's name for each.
const ARCHITECTURES: [(&str, &str); 4] =
    [("llama", "llama"), ("mistral", "llama"), ("qwen2", "qwen2"), ("qwen3", "qwen3")];

/// llama.cpp's name for a family.
///
/// # Errors
/// A family that is not exported.
pub fn architecture(spec: &DecoderSpec) -> Result<&'static str, String> {
    let found = ARCHITECTURES.iter().find(|(family, _)| *family == spec.model_type);
    found.map(|(_, name)| *name).ok_or_else(|| {
        format!(
            "models of the family `{}` are not exported to GGUF; {} are",
            spec.model_type,
            ARCHITECTURES.map(|(family, _)| family).join(", ")
        )
    })
}

/// Rows of LLaMA's queries and keys, from Hugging Face's order to llama.cpp's: the two halves of each
/// head in turns. Others stay as they are. `[rows, …]`.
///
/// # Errors
/// A failing tensor operation.
pub fn permuted(
    spec: &DecoderSpec,
    projection: Projection,
    tensor: Tensor,
) -> candle_core::Result<Tensor> {
    let heads = match projection {
        Projection::Q => spec.num_heads,
        Projection::K => spec.num_kv_heads,
        _ => return Ok(tensor),
    };
    if architecture(spec) != Ok("llama") {
        return Ok(tensor);
    }
    let shape = tensor.dims().to_vec();
    let rows = tensor.dim(0)?;
    let width = tensor.elem_count() / rows.max(1);
    let halves = tensor.reshape((heads, 2, rows / heads / 2, width))?;
    halves.transpose(1, 2)?.contiguous()?.reshape(shape)
}

/// Exports the model of `dir` with `tokenizer`, the contents of its `tokenizer.json`, to the file
/// `output`. Matrices are stored as `storage`, norms and biases as f32; blocks of 4 and 5 bits
/// leave the embedding and the head in 8 or 6. One tensor is in memory at a time.
///
/// # Errors
/// [`ModelError::Export`] for a model or tokenizer that GGUF can't hold; damaged files; a full disk.
pub fn export(
    dir: &Path,
    tokenizer: &serde_json::Value,
    roles: &Roles,
    storage: Storage,
    output: &Path,
) -> Result<ExportReport, ModelError> {
    let fault = |reason: String| ModelError::Export { path: dir.into(), reason };
    let config = HfConfig::read(dir)?;
    let spec = &config.spec;
    let mut metadata = head(&config, dir, storage).map_err(fault)?;
    metadata.extend(gguf_tokenizer::metadata(tokenizer, roles, spec.vocab_size).map_err(fault)?);
    let files = WeightFiles::open(dir)?;
    if files.names().any(bitsandbytes::is_part) {
        let reason = "its weights are in 8 or 4 bits; export the full-precision model";
        return Err(fault(reason.into()));
    }
    let base = spec.names.base;
    let mut entries = Vec::new();
    let mut wider = 0;
    for slot in Slot::all(spec) {
        let name = slot.name(spec);
        let in_file = match name.strip_prefix(base) {
            Some(short) if !files.contains(&name) && files.contains(short) => short.to_string(),
            _ => name,
        };
        let shape = slot.shape(spec);
        let mut stored = match (slot, storage) {
            (slot, _) if !slot.is_matrix() => Storage::F32,
            (Slot::Embed | Slot::LmHead, Storage::Q4_0) => Storage::Q8_0,
            (Slot::Embed | Slot::LmHead, Storage::Q4K | Storage::Q5K) => Storage::Q6K,
            _ => storage,
        };
        let fitting = stored.fitting(shape.last().copied().unwrap_or(0));
        if fitting != stored {
            stored = fitting;
            wider += 1;
        }
        let files = &files;
        let tensor = move || -> Result<Tensor, ModelError> {
            let tensor = slot.turned(spec, files.read(&in_file)?)?;
            Ok(match slot {
                Slot::Weight(_, p) | Slot::Bias(_, p) => permuted(spec, p, tensor)?,
                _ => tensor,
            })
        };
        let tensor = Box::new(tensor);
        entries.push(Entry { name: gguf_name(slot), shape, storage: stored, tensor });
    }
    if let Some(factors) = rope_factors(spec)? {
        let shape = factors.dims().to_vec();
        let tensor = Box::new(move || Ok(factors));
        let name = "rope_freqs.weight".into();
        entries.push(Entry { name, shape, storage: Storage::F32, tensor });
    }
    let mut notices = Vec::new();
    if wider > 0 {
        notices.push(format!(
            "{wider} tensors are stored as q8_0 or f16, since their rows are no whole blocks"
        ));
    }
    if let Some(window) = spec.window(0) {
        notices.push(format!(
            "the model attends to {window} positions, which GGUF can't say of its family: texts beyond \
             that length differ"
        ));
    }
    let num_tensors = entries.len();
    gguf_file::write(output, &metadata, entries)?;
    Ok(ExportReport { num_tensors, notices })
}

/// By how much LLaMA 3.1's scaling slows each pair's rotation, `[rotary_dim / 2]`.
fn rope_factors(spec: &DecoderSpec) -> Result<Option<Tensor>, ModelError> {
    let Some(rope) = spec.rope(0).filter(|r| matches!(r.scaling, RopeScaling::Llama3 { .. }))
    else {
        return Ok(None);
    };
    let plain = RopeSpec { scaling: RopeScaling::Default, ..rope.clone() };
    let (plain, slowed) = (frequencies(&plain, 1).inverse, frequencies(rope, 1).inverse);
    let factors: Vec<f32> = plain.iter().zip(&slowed).map(|(p, s)| (p / s) as f32).collect();
    let count = factors.len();
    Ok(Some(Tensor::from_vec(factors, count, &candle_core::Device::Cpu)?))
}

/// Metadata of the model itself.
fn head(config: &HfConfig, dir: &Path, storage: Storage) -> Result<Metadata, String> {
    let spec = &config.spec;
    let arch = architecture(spec)?;
    let file_type = match storage {
        Storage::F32 => 0,
        Storage::F16 => 1,
        Storage::Q4_0 => 2,
        Storage::Q8_0 => 7,
        // Q4_K_S, Q5_K_S, Q6_K.
        Storage::Q4K => 14,
        Storage::Q5K => 16,
        Storage::Q6K => 18,
        Storage::Bf16 => 32,
    };
    let name = dir.file_name().map_or("model".into(), |n| n.to_string_lossy().into_owned());
    let mut out: Metadata = vec![
        ("general.architecture".into(), arch.into()),
        ("general.type".into(), "model".into()),
        ("general.name".into(), Value::Text(name)),
        ("general.file_type".into(), Value::U32(file_type)),
        ("general.quantization_version".into(), Value::U32(2)),
    ];
    let mut put = |key: &str, value: Value| out.push((format!("{arch}.{key}"), value));
    let count = |n: usize| Value::U32(u32::try_from(n).unwrap_or(u32::MAX));
    let rope = spec.rope(0).ok_or("its positions are no rotations")?;
    put("block_count", count(spec.num_layers));
    put("context_length", count(spec.max_position_embeddings));
    put("embedding_length", count(spec.hidden_size));
    put("feed_forward_length", count(spec.intermediate_size));
    put("attention.head_count", count(spec.num_heads));
    put("attention.head_count_kv", count(spec.num_kv_heads));
    put("attention.key_length", count(spec.head_dim));
    put("attention.value_length", count(spec.head_dim));
    put("attention.layer_norm_rms_epsilon", Value::F32(spec.norm_eps as f32));
    put("vocab_size", count(spec.vocab_size));
    put("rope.dimension_count", count(rope.rotary_dim));
    put("rope.freq_base", Value::F32(rope.theta as f32));
    match &rope.scaling {
        RopeScaling::Default | RopeScaling::Llama3 { .. } => {}
        RopeScaling::Linear { factor } => {
            put("rope.scaling.type", "linear".into());
            put("rope.scaling.factor", Value::F32(*factor as f32));
        }
        RopeScaling::Yarn { factor, original_max_position_embeddings: original, .. } => {
            put("rope.scaling.type", "yarn".into());
            put("rope.scaling.factor", Value::F32(*factor as f32));
            put("rope.scaling.original_context_length", Value::U32(*original as u32));
        }
        RopeScaling::Dynamic { .. } | RopeScaling::Long { .. } => {
            return Err(
                "its rotations change with the length of a text, which GGUF can't say".into()
            );
        }
    }
    Ok(out)
}
