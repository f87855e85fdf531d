//! Bases in 8 and 4 bits: values against bitsandbytes and llama.cpp's definitions (`golden/quantized.py`),
//! products against those of the widened matrix, and training, generation and merging on top.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use candle_core::quantized::GgmlDType;
use candle_core::{Device, Tensor};
use serde_json::Value;
use support::{arg, json, losses, root, shared, trainer_fails, trainer_ok};
use trainer::model::bitsandbytes;
use trainer::model::reader::WeightFiles;
use trainer::model::save::{Entry, write_safetensors};
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
    assert_eq!(bits(&code), bits(&f32s(&golden["code"])));
    let want = &golden["nf4"];
    let scales = Scales::Nested {
        indices: u8s(&want["indices"]),
        code,
        nested: f32s(&want["nested"]),
        offset: want["offset"].as_f64().unwrap() as f32,
    };
    let stored = Nf4::from_parts(u8s(&want["packed"]), scales.clone(), 3, 96).unwrap();
    assert_eq!(bits(&values(&Quantized::Nf4(stored))), bits(&f32s(&want["dequantized"])));
    // Made from the source: the same.
    let made = Nf4::quantize(&f32s(&want["source"]), 3, 96);
    assert_eq!(made.parts(), (&u8s(&want["packed"])[..], &scales));
    // Parts that don't fit are no matrix.
    assert!(Nf4::from_parts(vec![0; 143], scales.clone(), 3, 96).is_none());
    assert!(Nf4::from_parts(vec![0; 144], Scales::Plain(vec![1.0; 4]), 3, 96).is_none());
    assert!(Nf4::from_parts(vec![], scales, usize::MAX, 96).is_none());
}

#[test]
fn matrices_that_bitsandbytes_saved_are_read_and_written() {
    let dir = root().join("tests/golden/quantized");
    let files = WeightFiles::open(&dir).unwrap();
    let read = |name: &str| bitsandbytes::read(&files, &dir, name).unwrap().unwrap();
    let golden = golden();
    assert_eq!(bits(&values(&read("a.weight"))), bits(&f32s(&golden["int8"]["dequantized"])));
    let b = read("b.weight");
    assert_eq!(bits(&values(&b)), bits(&f32s(&golden["nf4"]["dequantized"])));
    assert!(bitsandbytes::read(&files, &dir, "c.weight").unwrap().is_none());
    let Quantized::Nf4(matrix) = &b else { panic!("{b:?}") };
    let out = tempfile::tempdir().unwrap();
    let entries = bitsandbytes::nf4_tensors("b.weight", matrix).unwrap();
    let entries = entries.into_iter().map(|(name, tensor)| Entry::of(name, tensor)).collect();
    write_safetensors(&out.path().join("model.safetensors"), entries, &[]).unwrap();
    let again = WeightFiles::open(out.path()).unwrap();
    let again = bitsandbytes::read(&again, out.path(), "b.weight").unwrap().unwrap();
    assert_eq!(bits(&values(&again)), bits(&values(&b)));
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

#[test]
fn a_base_in_eight_and_four_bits_learns_as_the_whole_one_does() {
    let Some(base) = shared("stories260K/hf") else { return };
    let rows = root().join("tests/golden/sft_curve/rows.jsonl");
    let dir = tempfile::tempdir().unwrap();
    let run = |name: &str, more: &[&str]| {
        let out = dir.path().join(name);
        let (base, rows, out_text) = (arg(&base), arg(&rows), arg(&out));
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
        (losses(&out), text, out)
    };
    let (whole, _, _) = run("whole", &[]);
    assert!(whole[19] < whole[0] - 0.2, "{whole:?}");
    for (flag, name, tolerance) in
        [("--load_in_8bit", "int8", 0.005), ("--load_in_4bit", "nf4", 0.12)]
    {
        let (narrow, text, out) = run(name, &[flag, "True"]);
        assert!(text.contains(&format!("{name}, the rest float32")), "{text}");
        for (n, w) in narrow.iter().zip(&whole) {
            assert!((n - w).abs() / w < tolerance, "{flag}: {n} {w}");
        }
        assert!(narrow[19] < narrow[0] - 0.2, "{narrow:?}");
        // Generation on the narrow base with the adapter, and the merge into the whole base.
        let answer = |more: &[&str]| {
            let base = arg(&base);
            let prompt = ["--prompt", "Once upon a time", "--max_new_tokens", "8"];
            let first = ["generate", "--model", &base];
            trainer_ok(first.iter().chain(more).chain(&prompt))
        };
        let adapter = arg(&out);
        assert!(!answer(&["--adapter", &adapter, flag, "True"]).trim().is_empty());
        let merged = arg(&dir.path().join(format!("{name}-merged")));
        trainer_ok([
            "merge",
            "--base_model",
            &arg(&base),
            "--peft_model_path",
            &adapter,
            "--output_dir",
            &merged,
        ]);
    }
    let out = arg(&dir.path().join("none"));
    let base = arg(&base);
    let rows = arg(&rows);
    let common =
        ["sft", "--model_name_or_path", &base, "--train_file_dir", &rows, "--output_dir", &out];
    let fails = |more: &[&str], fragment: &str| {
        trainer_fails(common.iter().chain(more), 2, &[fragment]);
    };
    fails(&["--load_in_8bit", "True", "--use_peft", "False"], "keep the base frozen");
    fails(&["--load_in_8bit", "True", "--qlora", "True"], "exclude each other");
}
