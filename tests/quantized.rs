//! Bases in 8 and 4 bits: values against bitsandbytes and llama.cpp's definitions (`golden/quantized.py`),
//! products against those of the widened matrix, and training, generation and merging on top.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::{Path, PathBuf};

use candle_core::quantized::GgmlDType;
use candle_core::{Device, Tensor};
use serde_json::Value;
use support::{arg, json, losses, root, shared, trainer_fails, trainer_ok};
use trainer::model::bitsandbytes;
use trainer::model::reader::WeightFiles;
use trainer::model::save::write_safetensors;
use trainer::ops::quant::nf4::{Scales, dynamic_code};
use trainer::ops::quant::{Blocks, Int8, Nf4, Quantized, Scheme};
use trainer::ops::{Exec, linear};

fn golden() -> Value {
    json(root().join("tests/golden/quantized.json"))
}

fn f32s(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
}

fn u8s(value: &Value) -> Vec<u8> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u8).collect()
}

fn values(matrix: &Quantized) -> Vec<f32> {
    matrix.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn eight_bits_are_those_of_bitsandbytes() {
    let want = &golden()["int8"];
    let made = Int8::quantize(&f32s(&want["source"]), 3, 40);
    let bytes: Vec<i8> =
        want["values"].as_array().unwrap().iter().map(|v| v.as_i64().unwrap() as i8).collect();
    assert_eq!(made.parts(), (&bytes[..], &f32s(&want["scales"])[..]));
    assert_eq!(bits(&values(&Quantized::Int8(made))), bits(&f32s(&want["dequantized"])));
}

#[test]
fn four_bits_are_those_of_bitsandbytes() {
    let golden = golden();
    let code = dynamic_code();
    // PyTorch's `linspace`, which bitsandbytes makes them with, rounds as the processor has it.
    let beside = |a: &f32, b: &f32| a.to_bits().abs_diff(b.to_bits()) <= 2;
    let stored_code = f32s(&golden["code"]);
    assert!(code.len() == 256 && code.iter().zip(&stored_code).all(|(a, b)| beside(a, b)));
    let want = &golden["nf4"];
    let scales = Scales::Nested {
        indices: u8s(&want["indices"]),
        code: stored_code,
        nested: f32s(&want["nested"]),
        offset: want["offset"].as_f64().unwrap() as f32,
    };
    let stored = Nf4::from_parts(u8s(&want["packed"]), scales.clone(), 3, 128).unwrap();
    assert_eq!(bits(&values(&Quantized::Nf4(stored))), bits(&f32s(&want["dequantized"])));
    // Made from the source: the same.
    let made = Nf4::quantize(&f32s(&want["source"]), 3, 128);
    let Scales::Nested { indices, nested, offset, .. } = made.parts().1 else { panic!("{made:?}") };
    assert_eq!((made.parts().0, indices), (&u8s(&want["packed"])[..], &u8s(&want["indices"])));
    assert_eq!(
        (nested, *offset),
        (&f32s(&want["nested"]), want["offset"].as_f64().unwrap() as f32)
    );
    // Parts that don't fit are no matrix.
    assert!(Nf4::from_parts(vec![0; 191], scales.clone(), 3, 128).is_none());
    assert!(Nf4::from_parts(vec![0; 192], Scales::Plain(vec![1.0; 5]), 3, 128).is_none());
    assert!(Nf4::from_parts(vec![], scales, usize::MAX, 128).is_none());
}

#[test]
fn matrices_that_bitsandbytes_saved_are_read_and_written() {
    let dir = root().join("tests/golden/quantized");
    let files = WeightFiles::open(&dir).unwrap();
    let read = |name: &str| bitsandbytes::read(&files, &dir, name).unwrap().unwrap();
    let golden = golden();
    assert_eq!(bits(&values(&read("a.weight"))), bits(&f32s(&golden["int8"]["dequantized"])));
    assert_eq!(bits(&values(&read("b.weight"))), bits(&f32s(&golden["nf4"]["dequantized"])));
    assert!(bitsandbytes::read(&files, &dir, "c.weight").unwrap().is_none());
    let out = tempfile::tempdir().unwrap();
    let entries = ["a.weight", "b.weight"]
        .iter()
        .flat_map(|name| bitsandbytes::entries(name, &read(name)).unwrap())
        .collect();
    write_safetensors(&out.path().join("model.safetensors"), entries, &[]).unwrap();
    let again = WeightFiles::open(out.path()).unwrap();
    for name in ["a.weight", "b.weight"] {
        let written = bitsandbytes::read(&again, out.path(), name).unwrap().unwrap();
        assert_eq!(bits(&values(&written)), bits(&values(&read(name))));
    }
}

fn kinds() -> Vec<(&'static str, GgmlDType)> {
    use GgmlDType::*;
    let kinds = [Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2K, Q3K, Q4K, Q5K, Q6K];
    ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]
        .into_iter()
        .zip(kinds)
        .collect()
}

fn base64(text: &str) -> Vec<u8> {
    let digit = |c: u8| match c {
        b'A'..=b'Z' => c - b'A',
        b'a'..=b'z' => c - b'a' + 26,
        b'0'..=b'9' => c - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let digits: Vec<u8> = text.bytes().filter(|&c| c != b'=').map(digit).collect();
    let number =
        |c: &[u8]| c.iter().fold(0u32, |n, &d| n << 6 | u32::from(d)) << (6 * (4 - c.len()));
    digits.chunks(4).flat_map(|c| number(c).to_be_bytes()[1..c.len()].to_vec()).collect()
}

#[test]
fn blocks_are_those_of_llama_cpp() {
    let golden = golden();
    for (name, dtype) in kinds() {
        let want = &golden["blocks"][name];
        let bytes = base64(want["bytes"].as_str().unwrap());
        let blocks = Blocks::from_bytes(&bytes, dtype, 1, 256).unwrap();
        assert_eq!(blocks.bytes(), bytes.len(), "{name}");
        let got = values(&Quantized::Blocks(blocks));
        for (g, w) in got.iter().zip(f32s(&want["values"])) {
            // The two definitions may multiply in another order.
            assert!((g - w).abs() <= 2.0 * f32::EPSILON * w.abs(), "{name}: {g} {w}");
        }
        assert!(Blocks::from_bytes(&bytes[1..], dtype, 1, 256).is_err());
        assert!(Blocks::from_bytes(&bytes, dtype, 1, 255).is_err());
    }
}

#[test]
fn products_are_those_of_the_widened_matrix() {
    let number = |i: usize| ((i * 2_654_435_761) % 1009) as f32 / 504.5 - 1.0;
    let tensor = |n: usize, m: usize, first: usize| {
        Tensor::from_vec((first..first + n * m).map(number).collect(), (n, m), &Device::Cpu)
            .unwrap()
    };
    let list = |t: Tensor| -> Vec<f32> { t.flatten_all().unwrap().to_vec1().unwrap() };
    // 300 rows: more than are widened at a time; 70 values: no whole number of 4-bit blocks.
    for width in [70, 256] {
        let source = tensor(300, width, 17);
        let mut matrices: Vec<Quantized> = [Scheme::Int8, Scheme::Nf4]
            .map(|scheme| Quantized::from_tensor(scheme, &source).unwrap())
            .into();
        if width == 256 {
            let golden = golden();
            let bytes = base64(golden["blocks"]["Q4_K"]["bytes"].as_str().unwrap());
            let blocks = Blocks::from_bytes(&bytes.repeat(300), GgmlDType::Q4K, 300, 256).unwrap();
            matrices.push(Quantized::Blocks(blocks));
        }
        let (x, dy, sum) = (tensor(5, width, 3), tensor(5, 300, 5), tensor(5, width, 9));
        for matrix in &matrices {
            let wide = matrix.dequantize(&Device::Cpu).unwrap();
            for exec in [Exec::Fused, Exec::Portable] {
                use trainer::ops::quant::Frozen;
                let narrow = || Frozen::Quantized(matrix);
                let close = |got: Tensor, want: Tensor| {
                    for (g, w) in list(got).iter().zip(list(want)) {
                        assert!((g - w).abs() < 1e-4, "{exec:?} {matrix:?}: {g} {w}");
                    }
                };
                close(
                    linear::forward(exec, &x, narrow(), None).unwrap(),
                    linear::forward(exec, &x, &wide, None).unwrap(),
                );
                let want = linear::backward_input(exec, &dy, &wide).unwrap();
                close(linear::backward_input(exec, &dy, narrow()).unwrap(), want.clone());
                let again = sum.copy().unwrap();
                close(
                    linear::backward_input_add(exec, &dy, narrow(), again).unwrap(),
                    (want + &sum).unwrap(),
                );
            }
        }
    }
}

/// Twenty updates on the shared rows; losses, the screen, and the output folder.
fn twenty_updates(base: &Path, out: PathBuf, more: &[&str]) -> (Vec<f64>, String, PathBuf) {
    let rows = root().join("tests/golden/sft_curve/rows.jsonl");
    let (base, rows, out_text) = (arg(base), arg(rows), arg(&out));
    let common = [
        "sft",
        "--model_name_or_path",
        &base,
        "--train_file_dir",
        &rows,
        "--output_dir",
        &out_text,
        "--max_steps",
        "20",
        "--per_device_train_batch_size",
        "4",
        "--learning_rate",
        "5e-3",
        "--lora_dropout",
        "0",
        "--logging_steps",
        "1",
        "--eval_strategy",
        "no",
        "--report_to",
        "none",
    ];
    let text = trainer_ok(common.iter().chain(more));
    (losses(&out).into_iter().map(|(_, loss)| loss).collect(), text, out)
}

/// Whether the last five losses are lower than the first five.
fn falls(losses: &[f64]) -> bool {
    mean(&losses[15..]) < mean(&losses[..5]) - 0.05
}

fn mean(losses: &[f64]) -> f64 {
    losses.iter().sum::<f64>() / losses.len() as f64
}

fn close(a: &[f64], b: &[f64], tolerance: f64) {
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(b) {
        assert!((a - b).abs() / b < tolerance, "{a} {b}");
    }
}

fn merge(base: &Path, adapter: &Path, out: &Path) -> String {
    let (base, adapter, out) = (arg(base), arg(adapter), arg(out));
    let args =
        ["merge", "--base_model", &base, "--peft_model_path", &adapter, "--output_dir", &out];
    trainer_ok(args)
}

fn answer(model: &Path, more: &[&str]) -> String {
    let model = arg(model);
    let prompt = ["--raw", "True", "--prompt", "Once upon a time", "--max_new_tokens", "8"];
    let first = ["generate", "--model", &model];
    trainer_ok(first.iter().chain(more).chain(&prompt))
}

#[test]
fn a_base_in_eight_and_four_bits_learns_as_the_whole_one_does() {
    let Some(base) = shared("stories260K/hf") else { return };
    let dir = tempfile::tempdir().unwrap();
    let (whole, _, _) = twenty_updates(&base, dir.path().join("whole"), &[]);
    assert!(falls(&whole), "{whole:?}");
    for (flag, name, bits, tolerance) in
        [("--load_in_8bit", "int8", "8", 0.02), ("--load_in_4bit", "nf4", "4", 0.12)]
    {
        let (narrow, text, out) = twenty_updates(&base, dir.path().join(name), &[flag, "True"]);
        assert!(text.contains(&format!("{name}, the rest float32")), "{text}");
        let apart = mean(&narrow) / mean(&whole) - 1.0;
        assert!(apart.abs() < tolerance, "{name}: {apart} {narrow:?} {whole:?}");
        assert!(falls(&narrow), "{narrow:?}");
        // Generation on the narrow base with the adapter, and the merge into the whole base.
        let adapter = arg(&out);
        assert!(!answer(&base, &["--adapter", &adapter, flag, "True"]).trim().is_empty());
        let said = merge(&base, &out, &dir.path().join(format!("{name}-merged")));
        assert!(said.contains(&format!("from the base in {name}")), "{said}");
        // The same base written narrow beforehand: the same bits.
        let stored = dir.path().join(format!("{name}-base"));
        let (from, to) = (arg(&base), arg(&stored));
        trainer_ok(["quantize", "--model", &from, "--bits", bits, "--output_dir", &to]);
        let config = json(stored.join("config.json"));
        assert_eq!(config["quantization_config"]["quant_method"], "bitsandbytes");
        let (again, text, out) =
            twenty_updates(&stored, dir.path().join(format!("{name}-again")), &[]);
        assert_eq!(again, narrow);
        assert!(text.contains(&format!("{name}, the rest float32")), "{text}");
        // Merged, it is whole.
        let merged = dir.path().join(format!("{name}-again-merged"));
        merge(&stored, &out, &merged);
        assert!(json(merged.join("config.json")).get("quantization_config").is_none());
        let adapter = arg(&out);
        assert_eq!(answer(&merged, &[]), answer(&stored, &["--adapter", &adapter]));
        // Trained as a whole, it is widened first.
        let full = dir.path().join(format!("{name}-full"));
        let (full, text, _) = twenty_updates(&stored, full, &["--use_peft", "False"]);
        assert!(text.contains("float32 weights") && falls(&full), "{text} {full:?}");
    }
    let (base, out) = (arg(&base), arg(dir.path().join("none")));
    let rows = arg(root().join("tests/golden/sft_curve/rows.jsonl"));
    let common =
        ["sft", "--model_name_or_path", &base, "--train_file_dir", &rows, "--output_dir", &out];
    let fails = |more: &[&str], fragment: &str| {
        trainer_fails(common.iter().chain(more), 2, &[fragment]);
    };
    fails(&["--load_in_8bit", "True", "--use_peft", "False"], "keep the base frozen");
    fails(&["--load_in_8bit", "True", "--qlora", "True"], "exclude each other");
}

/// The rows of LLaMA's queries and keys in the order in which llama.cpp's converter puts them.
fn permuted(weight: &Tensor, heads: usize) -> Tensor {
    let (rows, columns) = weight.dims2().unwrap();
    let split = weight.reshape((heads, 2, rows / heads / 2, columns)).unwrap();
    split.transpose(1, 2).unwrap().contiguous().unwrap().reshape((rows, columns)).unwrap()
}

/// The shared LLaMA under the goldens' byte-level tokenizer as a GGUF file. Rows that are no whole blocks
/// are half-precision numbers, as llama.cpp's own quantiser leaves them.
fn write_gguf(path: &Path, base: &Path, blocks: GgmlDType) {
    use candle_core::quantized::QTensor;
    use candle_core::quantized::gguf_file::{self, Value as Meta};
    let (config, files) = (json(base.join("config.json")), WeightFiles::open(base).unwrap());
    let tokenizer = json(support::golden("dpo_curve/tokenizer/tokenizer.json"));
    let mut vocab: Vec<(String, u64)> = tokenizer["model"]["vocab"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(token, id)| (token.clone(), id.as_u64().unwrap()))
        .collect();
    vocab.sort_by_key(|(_, id)| *id);
    let text = |t: &str| Meta::String(t.to_string());
    let size = |key: &str| Meta::U32(config[key].as_u64().unwrap() as u32);
    let merges = tokenizer["model"]["merges"].as_array().unwrap().iter().map(|m| match m {
        Value::String(pair) => text(pair),
        pair => text(&format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap())),
    });
    let eps = config["rms_norm_eps"].as_f64().unwrap() as f32;
    let metadata = [
        ("general.architecture", text("llama")),
        ("llama.block_count", size("num_hidden_layers")),
        ("llama.context_length", size("max_position_embeddings")),
        ("llama.embedding_length", size("hidden_size")),
        ("llama.feed_forward_length", size("intermediate_size")),
        ("llama.attention.head_count", size("num_attention_heads")),
        ("llama.attention.head_count_kv", size("num_key_value_heads")),
        ("llama.attention.layer_norm_rms_epsilon", Meta::F32(eps)),
        ("tokenizer.ggml.model", text("gpt2")),
        ("tokenizer.ggml.pre", text("gpt-2")),
        (
            "tokenizer.ggml.tokens",
            Meta::Array(vocab.iter().map(|(token, _)| text(token)).collect()),
        ),
        ("tokenizer.ggml.merges", Meta::Array(merges.collect())),
        ("tokenizer.ggml.eos_token_id", Meta::U32(2)),
    ];
    let renamed = [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("model.layers.", "blk."),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
    ];
    let heads = |key: &str| config[key].as_u64().unwrap() as usize;
    let mut tensors = Vec::new();
    for name in files.names() {
        let mut tensor = files.read(name).unwrap().to_dtype(candle_core::DType::F32).unwrap();
        if name.contains("q_proj") {
            tensor = permuted(&tensor, heads("num_attention_heads"));
        } else if name.contains("k_proj") {
            tensor = permuted(&tensor, heads("num_key_value_heads"));
        }
        let linear = name.contains("_proj");
        let whole = tensor.dims().last().unwrap() % blocks.block_size() == 0;
        let dtype = match (linear, whole) {
            (false, _) => GgmlDType::F32,
            (true, true) => blocks,
            (true, false) => GgmlDType::F16,
        };
        let name = renamed.iter().fold(name.to_string(), |n, (from, to)| n.replace(from, to));
        tensors.push((name, QTensor::quantize(&tensor, dtype).unwrap()));
    }
    let metadata: Vec<(&str, &Meta)> = metadata.iter().map(|(k, v)| (*k, v)).collect();
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(k, v)| (k.as_str(), v)).collect();
    gguf_file::write(&mut std::fs::File::create(path).unwrap(), &metadata, &tensors).unwrap();
}

#[test]
fn blocks_are_trained_on_as_the_same_values_in_f32() {
    let Some(base) = shared("stories260K/hf") else { return };
    let dir = tempfile::tempdir().unwrap();
    for (dtype, name) in [(GgmlDType::Q8_0, "Q8_0"), (GgmlDType::Q4_1, "Q4_1")] {
        let file = dir.path().join(format!("{name}.gguf"));
        write_gguf(&file, &base, dtype);
        let import = |out: &str, more: &[&str]| {
            let out = dir.path().join(format!("{name}-{out}"));
            let (file, to) = (arg(&file), arg(&out));
            let first = ["import", &file, "--output_dir", &to];
            trainer_ok(first.iter().chain(more));
            out
        };
        let (whole, blocks) = (import("whole", &[]), import("blocks", &["--keep_blocks", "True"]));
        let (want, _, _) = twenty_updates(&whole, dir.path().join(format!("{name}-w")), &[]);
        let (got, text, out) = twenty_updates(&blocks, dir.path().join(format!("{name}-b")), &[]);
        assert!(text.contains(&format!("{name}, the rest float32")), "{text}");
        assert!(falls(&got), "{got:?}");
        close(&got, &want, 1e-4);
        // The file itself is a base, too.
        let (direct, _, own) = twenty_updates(&file, dir.path().join(format!("{name}-f")), &[]);
        assert_eq!(direct, got);
        let adapter = arg(&own);
        assert_eq!(
            answer(&file, &["--adapter", &adapter]),
            answer(&blocks, &["--adapter", &adapter])
        );
        merge(&file, &own, &dir.path().join(format!("{name}-fm")));
        // Merging widens.
        let merged = dir.path().join(format!("{name}-merged"));
        merge(&blocks, &out, &merged);
        let adapter = arg(&out);
        assert_eq!(answer(&merged, &[]), answer(&blocks, &["--adapter", &adapter]));
    }
}
