//! Matrices as bitsandbytes saves them in model folders: `NAME.weight` in signed bytes with `NAME.SCB`, or
//! in packed 4-bit values with `NAME.weight.absmax`, `.nested_absmax`, `.nested_quant_map`, `.quant_map`
//! and a JSON text in `.quant_state.bitsandbytes__nf4`.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};

use super::ModelError;
use super::reader::WeightFiles;
use super::save::Entry;
use crate::ops::quant::nf4::{self, NESTED_BLOCK, Scales};
use crate::ops::quant::{Int8, Nf4, Quantized, Scheme};

/// End of the name of a 4-bit matrix's description.
const STATE: &str = ".quant_state.bitsandbytes__nf4";

/// Ends of the names of what belongs to a narrow matrix, behind the module's name.
const PARTS: [&str; 7] = [
    ".SCB",
    ".weight_format",
    ".weight.absmax",
    ".weight.nested_absmax",
    ".weight.nested_quant_map",
    ".weight.quant_map",
    ".weight.quant_state.bitsandbytes__nf4",
];

/// Whether a tensor is part of a narrow matrix.
pub fn is_part(name: &str) -> bool {
    PARTS.iter().any(|end| name.ends_with(end))
}

/// The matrix `name` if the folder holds it narrow.
///
/// # Errors
/// [`ModelError::Weights`] for parts that are absent or don't fit.
pub fn read(files: &WeightFiles, dir: &Path, name: &str) -> Result<Option<Quantized>, ModelError> {
    let damaged = |what: &str| ModelError::Weights {
        path: dir.into(),
        reason: format!("the 8-bit or 4-bit parts of `{name}` {what}"),
    };
    let module = name.strip_suffix(".weight").unwrap_or(name);
    if let Some((values, shape)) = files.read_i8(name)? {
        let scales = floats(files, &format!("{module}.SCB"))?;
        let width = shape.get(1).copied().unwrap_or(0);
        let rows = shape.first().copied();
        let fits = shape.len() == 2 && rows == Some(scales.len());
        let matrix = Int8::from_parts(values, scales, width).filter(|_| fits);
        return matrix.map(Quantized::Int8).map(Some).ok_or_else(|| damaged("don't fit"));
    }
    let state = format!("{name}{STATE}");
    if !files.contains(&state) {
        return Ok(None);
    }
    let state: Value = serde_json::from_slice(&bytes(files, &state)?)
        .map_err(|_| damaged("have a description that is not JSON"))?;
    let number = |key: &str| state.get(key).and_then(Value::as_u64);
    let shape: Vec<usize> = state
        .get("shape")
        .and_then(Value::as_array)
        .map(|a| a.iter().filter_map(Value::as_u64).map(|n| n as usize).collect())
        .unwrap_or_default();
    let usual = state.get("quant_type").and_then(Value::as_str) == Some("nf4")
        && number("blocksize") == Some(nf4::BLOCK as u64)
        && number("nested_blocksize").is_none_or(|n| n == NESTED_BLOCK as u64);
    let [rows, width] = shape[..] else { return Err(damaged("have no shape")) };
    if !usual {
        return Err(damaged("are not nf4 in blocks of 64, the only kind that is read"));
    }
    let part = |end: &str| format!("{name}.{end}");
    let scales = match state.get("nested_offset").and_then(Value::as_f64) {
        None => Scales::Plain(floats(files, &part("absmax"))?),
        Some(offset) => Scales::Nested {
            indices: bytes(files, &part("absmax"))?,
            code: floats(files, &part("nested_quant_map"))?,
            nested: floats(files, &part("nested_absmax"))?,
            offset: offset as f32,
        },
    };
    let matrix = Nf4::from_parts(bytes(files, name)?, scales, rows, width);
    matrix.map(Quantized::Nf4).map(Some).ok_or_else(|| damaged("don't fit each other"))
}

/// Bytes and kind of the matrix `name` if the folder holds it narrow.
pub fn stored(files: &WeightFiles, name: &str) -> Option<(usize, Scheme)> {
    let module = name.strip_suffix(".weight").unwrap_or(name);
    let scheme = match files.is_i8(name) {
        true => Scheme::Int8,
        false if files.contains(&format!("{name}{STATE}")) => Scheme::Nf4,
        false => return None,
    };
    let parts = PARTS.iter().map(|end| files.stored_bytes(&format!("{module}{end}")));
    Some((files.stored_bytes(name) + parts.sum::<usize>(), scheme))
}

/// The tensor `name`, widened to f32 if the folder holds it narrow.
///
/// # Errors
/// As [`read`].
pub fn read_dense(files: &WeightFiles, dir: &Path, name: &str) -> Result<Tensor, ModelError> {
    match read(files, dir, name)? {
        Some(matrix) => Ok(matrix.dequantize(&Device::Cpu)?),
        None => files.read(name),
    }
}

fn floats(files: &WeightFiles, name: &str) -> Result<Vec<f32>, ModelError> {
    Ok(files.read(name)?.flatten_all()?.to_dtype(DType::F32)?.to_vec1()?)
}

fn bytes(files: &WeightFiles, name: &str) -> Result<Vec<u8>, ModelError> {
    Ok(files.read(name)?.flatten_all()?.to_vec1::<u8>()?)
}

/// The tensors that stand for a matrix `name` in a folder. GGUF's blocks are no part of this format: they
/// go as f32.
///
/// # Errors
/// When a tensor can't be made.
pub fn entries(name: &str, matrix: &Quantized) -> Result<Vec<Entry<'static>>, ModelError> {
    match matrix {
        Quantized::Int8(matrix) => int8_entries(name, matrix),
        Quantized::Nf4(matrix) => nf4_entries(name, matrix),
        Quantized::Blocks(_) => Ok(vec![Entry::of(name, matrix.dequantize(&Device::Cpu)?)]),
    }
}

fn int8_entries(name: &str, matrix: &Int8) -> Result<Vec<Entry<'static>>, ModelError> {
    let (values, scales) = matrix.parts();
    let module = name.strip_suffix(".weight").unwrap_or(name);
    let bytes: Vec<u8> = values.iter().map(|&v| v as u8).collect();
    let mut weight = Entry::of(name, Tensor::from_vec(bytes, matrix.dims(), &Device::Cpu)?);
    weight.signed = true;
    let scales = Tensor::from_slice(scales, scales.len(), &Device::Cpu)?;
    // 0: values row by row.
    let format = Tensor::new(0u8, &Device::Cpu)?;
    Ok(vec![
        weight,
        Entry::of(format!("{module}.SCB"), scales),
        Entry::of(format!("{module}.weight_format"), format),
    ])
}

fn nf4_entries(name: &str, matrix: &Nf4) -> Result<Vec<Entry<'static>>, ModelError> {
    let device = &Device::Cpu;
    let (rows, width) = matrix.dims();
    let (packed, scales) = matrix.parts();
    let row = |v: &[f32]| Tensor::from_slice(v, v.len(), device);
    let part = |end: &str| format!("{name}.{end}");
    let mut state = json!({
        "quant_type": "nf4", "blocksize": nf4::BLOCK, "dtype": "float32", "shape": [rows, width],
    });
    let mut out = vec![Entry::of(name, Tensor::from_slice(packed, (packed.len(), 1), device)?)];
    match scales {
        Scales::Plain(scales) => out.push(Entry::of(part("absmax"), row(scales)?)),
        Scales::Nested { indices, code, nested, offset } => {
            let indices = Tensor::from_slice(indices, indices.len(), device)?;
            out.push(Entry::of(part("absmax"), indices));
            out.push(Entry::of(part("nested_absmax"), row(nested)?));
            out.push(Entry::of(part("nested_quant_map"), row(code)?));
            state["nested_blocksize"] = json!(NESTED_BLOCK);
            state["nested_dtype"] = json!("float32");
            state["nested_offset"] = json!(offset);
        }
    }
    out.push(Entry::of(part("quant_map"), row(&nf4::CODE)?));
    let state = state.to_string().into_bytes();
    let length = state.len();
    out.push(Entry::of(format!("{name}{STATE}"), Tensor::from_vec(state, length, device)?));
    Ok(out)
}

/// What `config.json` says of a folder whose linear layers are narrow, in the words of bitsandbytes.
pub fn quantization_config(scheme: Scheme) -> Value {
    let four = scheme == Scheme::Nf4;
    json!({
        "_load_in_4bit": four,
        "_load_in_8bit": !four,
        "bnb_4bit_compute_dtype": "float32",
        "bnb_4bit_quant_storage": "uint8",
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": four,
        "llm_int8_enable_fp32_cpu_offload": false,
        "llm_int8_has_fp16_weight": false,
        "llm_int8_skip_modules": null,
        "llm_int8_threshold": 6.0,
        "load_in_4bit": four,
        "load_in_8bit": !four,
        "quant_method": "bitsandbytes",
    })
}
