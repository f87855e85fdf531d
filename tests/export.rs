//! Exports against the readers that own the formats: `golden/gguf_exports.py` has the `gguf` package's
//! bytes; our own importer gives the same logits back; MLX's shapes and values by their definition. With
//! `EXPORT_OUT` the GGUF files stay, for the package's reader.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::{DType, Device, Tensor};
use support::{arg, golden, json, shared, trainer_fails, trainer_ok};
use trainer::adapter::peft;
use trainer::fs::sha256_hex;
use trainer::model::reader::read_all;
use trainer::model::{Decoder, HfConfig, ParamSet, TokenBatch, Weights};
use trainer::text::TextTokenizer;

fn export(more: &[&str]) -> String {
    trainer_ok([&["export"], more].concat())
}

fn out_dir() -> (Option<tempfile::TempDir>, PathBuf) {
    match std::env::var_os("EXPORT_OUT") {
        Some(dir) => {
            std::fs::create_dir_all(&dir).unwrap();
            (None, PathBuf::from(dir))
        }
        None => {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().to_path_buf();
            (Some(dir), path)
        }
    }
}

/// A GGUF file with the raw bytes of its tensors.
struct Gguf {
    content: Content,
    file: std::fs::File,
}

impl Gguf {
    fn open(path: &Path) -> Self {
        let mut file = std::fs::File::open(path).unwrap();
        Self { content: Content::read(&mut file).unwrap(), file }
    }

    fn bytes(&mut self, name: &str) -> Vec<u8> {
        let info = &self.content.tensor_infos[name];
        let dtype = info.ggml_dtype;
        let size = info.shape.elem_count() / dtype.block_size() * dtype.type_size();
        let mut bytes = vec![0; size];
        self.file.seek(SeekFrom::Start(self.content.tensor_data_offset + info.offset)).unwrap();
        self.file.read_exact(&mut bytes).unwrap();
        bytes
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.content.tensor_infos.keys().cloned().collect();
        names.sort();
        names
    }

    fn texts(&self, key: &str) -> Vec<String> {
        let list = self.content.metadata[key].to_vec().unwrap();
        list.iter().map(|v| v.to_string().unwrap().clone()).collect()
    }
}

fn assert_value(got: &Value, want: &serde_json::Value, key: &str) {
    match want {
        serde_json::Value::String(s) => assert_eq!(got.to_string().unwrap(), s, "{key}"),
        serde_json::Value::Bool(b) => assert_eq!(got.to_bool().unwrap(), *b, "{key}"),
        n => assert_eq!(u64::from(got.to_u32().unwrap()), n.as_u64().unwrap(), "{key}"),
    }
}

#[test]
fn gguf_files_hold_the_bytes_of_the_gguf_package() {
    let Some(model) = shared("stories260K/hf") else { return };
    let want = json(golden("gguf_exports.json"));
    let (_keep, out) = out_dir();
    for (kind, tensors) in want["tensors"].as_object().unwrap() {
        let path = out.join(format!("{kind}.gguf"));
        let screen = export(&[
            "--model",
            &arg(&model),
            "--format",
            "gguf",
            "--outtype",
            kind,
            "--output",
            &arg(&path),
        ]);
        assert_eq!(screen.contains("stored as q8_0 or f16"), kind.starts_with('q'), "{screen}");
        let mut file = Gguf::open(&path);
        let tensors = tensors.as_object().unwrap();
        let mut names: Vec<&String> = tensors.keys().collect();
        names.sort();
        assert_eq!(file.names().iter().collect::<Vec<_>>(), names, "{kind}");
        for (name, hash) in tensors {
            assert_eq!(sha256_hex(&file.bytes(name)), hash.as_str().unwrap(), "{kind}: {name}");
        }
        for (key, value) in want["metadata"].as_object().unwrap() {
            assert_value(&file.content.metadata[key], value, key);
        }
    }
    let file = Gguf::open(&out.join("f32.gguf"));
    let tokens = file.texts("tokenizer.ggml.tokens");
    let numbers = |key: &str| file.content.metadata[key].to_vec().unwrap().clone();
    let kinds: Vec<i32> =
        numbers("tokenizer.ggml.token_type").iter().map(|v| v.to_i32().unwrap()).collect();
    let lines: String = tokens.iter().zip(&kinds).map(|(t, k)| format!("{t}\t{k}\n")).collect();
    assert_eq!(sha256_hex(lines.as_bytes()), want["tokens"]["sha256"].as_str().unwrap());
    let scores: Vec<f32> =
        numbers("tokenizer.ggml.scores").iter().map(|v| v.to_f32().unwrap()).collect();
    let mut made: Vec<usize> =
        (0..tokens.len()).filter(|&i| kinds[i] == 1 && tokens[i].chars().count() > 1).collect();
    made.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    let order: String = made.iter().map(|&i| format!("{}\n", tokens[i])).collect();
    assert_eq!(sha256_hex(order.as_bytes()), want["order"].as_str().unwrap());
}

fn decoder(dir: &Path) -> Decoder {
    let config = HfConfig::read(dir).unwrap();
    let (weights, _) = Weights::load(dir, &config.spec, DType::F32, &Device::Cpu).unwrap();
    Decoder::new(config.spec, weights, &Device::Cpu, 64).unwrap()
}

fn logits(dir: &Path) -> Vec<Vec<f32>> {
    let decoder = decoder(dir);
    let ids: Vec<u32> = (0..24).map(|i| 3 + (i * i * 7) % 400).collect();
    let batch = TokenBatch::from_ids(&[&ids]);
    let hidden = decoder.hidden(&ParamSet::default(), &batch).unwrap();
    decoder.logits(&hidden).unwrap().to_vec2().unwrap()
}

/// A model folder with a byte-level tokenizer of its own.
fn byte_level(model: &Path, into: &Path) {
    std::fs::create_dir_all(into).unwrap();
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(model.join(name), into.join(name)).unwrap();
    }
    let tmp = tempfile::tempdir().unwrap();
    let (texts, made) = (tmp.path().join("texts.txt"), tmp.path().join("made"));
    let line = "Once upon a time there was a river, 123 miles long; é 日本.\n";
    std::fs::write(&texts, line.repeat(20)).unwrap();
    let size = ["--vocab_size", "300"];
    let args =
        ["tokenizer", "train", "--train_file_dir", &arg(&texts), "--output_dir", &arg(&made)];
    trainer_ok([&args[..], &size].concat());
    for entry in std::fs::read_dir(&made).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, into.join(path.file_name().unwrap())).unwrap();
    }
}

#[test]
fn our_own_import_gives_the_same_logits_and_tokens() {
    for name in ["hf", "hf-qwen2", "hf-qwen3"] {
        let Some(model) = shared(&format!("stories260K/{name}")) else { return };
        let tmp = tempfile::tempdir().unwrap();
        let folder = tmp.path().join("model");
        byte_level(&model, &folder);
        let want = logits(&folder);
        for (kind, tolerance) in [("f32", 0.0), ("f16", 0.02), ("bf16", 0.2), ("q8_0", 0.3)] {
            let (file, back) = (tmp.path().join("m.gguf"), tmp.path().join(kind));
            export(&[
                "--model",
                &arg(&folder),
                "--format",
                "gguf",
                "--outtype",
                kind,
                "--output",
                &arg(&file),
            ]);
            trainer_ok(["import", &arg(&file), "--output_dir", &arg(&back)]);
            let got = logits(&back);
            let worst = got.iter().flatten().zip(want.iter().flatten());
            let worst = worst.map(|(g, w)| (g - w).abs()).fold(0f32, f32::max);
            assert!(worst <= tolerance, "{name}, {kind}: {worst}");
            let load = |dir: &Path| TextTokenizer::load(dir, [None; 3]).unwrap();
            let (before, after) = (load(&folder), load(&back));
            assert_eq!(before.eos(), after.eos(), "{name}");
            for text in ["Once upon a time, 123 é 日本\n", "a  b<|endoftext|>"] {
                let ids = |t: &TextTokenizer| t.encode(text, true).unwrap().ids;
                assert_eq!(ids(&before), ids(&after), "{name}: {text}");
            }
        }
    }
}

#[test]
fn a_tokenizer_of_sentencepiece_comes_back_by_its_scores() {
    let Some(model) = shared("stories260K/hf") else { return };
    let tmp = tempfile::tempdir().unwrap();
    let load = |dir: &Path| TextTokenizer::load(dir, [None; 3]).unwrap();
    let before = load(&model);
    for kind in ["f32", "q6_k", "q5_k", "q4_k"] {
        let (file, back) = (tmp.path().join("m.gguf"), tmp.path().join(kind));
        let screen = export(&[
            "--model",
            &arg(&model),
            "--format",
            "gguf",
            "--outtype",
            kind,
            "--output",
            &arg(&file),
        ]);
        // Rows of 64 values are no blocks of 256.
        assert_eq!(screen.contains("stored as q8_0 or f16"), kind != "f32", "{screen}");
        trainer_ok(["import", &arg(&file), "--output_dir", &arg(&back)]);
        let after = load(&back);
        assert_eq!((before.bos(), before.eos()), (after.bos(), after.eos()));
        for text in [
            "Once upon a time, there was a little girl.",
            "  two  spaces\n\nand é, 日本, 🙂 1234",
            "",
            " leading<s>and special</s> ones",
        ] {
            let ids = |t: &TextTokenizer| t.encode(text, true).unwrap().ids;
            assert_eq!(ids(&before), ids(&after), "{text:?}");
        }
        if kind == "f32" {
            assert_eq!(logits(&back), logits(&model));
        }
        std::fs::remove_file(&file).unwrap();
    }
}

#[test]
fn an_adapter_is_merged_into_a_gguf_model_and_folders_are_cut_into_shards() {
    let Some(model) = shared("stories260K/hf") else { return };
    let tmp = tempfile::tempdir().unwrap();
    let folder = tmp.path().join("model");
    byte_level(&model, &folder);
    let adapter = arg(golden("lora_step/llama/adapter"));
    let (file, back) = (tmp.path().join("m.gguf"), tmp.path().join("back"));
    let base = ["--model", &arg(&folder), "--adapter", &adapter];
    export(
        &[&base[..], &["--format", "gguf", "--outtype", "f32", "--output", &arg(&file)]].concat(),
    );
    trainer_ok(["import", &arg(&file), "--output_dir", &arg(&back)]);
    let hf = tmp.path().join("hf");
    let small = ["--format", "hf", "--max_shard_size", "200KB", "--output", &arg(&hf)];
    export(&[&base[..], &small].concat());
    assert!(hf.join("model.safetensors.index.json").is_file());
    assert!(hf.join("model-00005-of-00006.safetensors").is_file(), "fewer shards");
    assert!(hf.join("tokenizer.json").is_file());
    assert_eq!(logits(&back), logits(&hf));
    assert_ne!(logits(&hf), logits(&folder));
    // Nothing but the results is left.
    assert_eq!(std::fs::read_dir(tmp.path()).unwrap().count(), 4);
    // Another type, no adapter.
    let half = tmp.path().join("half");
    export(&["--model", &arg(&folder), "--outtype", "bf16", "--output", &arg(&half)]);
    assert_eq!(HfConfig::read(&half).unwrap().dtype, Some(DType::BF16));
}

#[test]
fn gguf_adapters_hold_the_whole_change_in_llama_cpps_order() {
    let Some(model) = shared("stories260K/hf") else { return };
    let want = &json(golden("gguf_exports.json"))["lora"];
    let (_keep, out) = out_dir();
    let path = out.join("lora.gguf");
    let base = ["--model", &arg(&model), "--format", "gguf-lora"];
    let adapter = arg(golden("lora_step/llama/adapter"));
    export(&[&base[..], &["--adapter", &adapter, "--output", &arg(&path)]].concat());
    let mut file = Gguf::open(&path);
    let alpha = |file: &Gguf| file.content.metadata["adapter.lora.alpha"].to_f32().unwrap();
    assert_eq!(f64::from(alpha(&file)), want["alpha"].as_f64().unwrap());
    assert_eq!(file.content.metadata["general.type"].to_string().unwrap(), "adapter");
    let tensors = want["tensors"].as_object().unwrap();
    assert_eq!(file.names().len(), tensors.len());
    for (name, hash) in tensors {
        assert_eq!(sha256_hex(&file.bytes(name)), hash.as_str().unwrap(), "{name}");
    }
    // Scales of their own go into B.
    let tmp = tempfile::tempdir().unwrap();
    let odd = tmp.path().join("odd");
    std::fs::create_dir(&odd).unwrap();
    let mut config = json(golden("lora_step/llama/adapter/adapter_config.json"));
    config["use_rslora"] = true.into();
    config["alpha_pattern"] = serde_json::json!({"up_proj": 3});
    std::fs::write(odd.join("adapter_config.json"), config.to_string()).unwrap();
    let weights = "adapter_model.safetensors";
    std::fs::copy(golden("lora_step/llama/adapter").join(weights), odd.join(weights)).unwrap();
    let path = tmp.path().join("odd.gguf");
    export(&[&base[..], &["--adapter", &arg(&odd), "--output", &arg(&path)]].concat());
    let read = peft::read(&odd).unwrap();
    let mut file = Gguf::open(&path);
    let alpha = f64::from(alpha(&file));
    let mut tensor = |name: String| {
        file.content
            .tensor(&mut file.file, &name, &Device::Cpu)
            .unwrap()
            .dequantize(&Device::Cpu)
            .unwrap()
    };
    for (module, place) in [("mlp.up_proj", "ffn_up"), ("self_attn.v_proj", "attn_v")] {
        let module = format!("model.layers.2.{module}");
        let (a, b) = &read.tensors[&module];
        let want = (b.matmul(a).unwrap() * read.config.rank_and_scale(&module).1).unwrap();
        let a = tensor(format!("blk.2.{place}.weight.lora_a"));
        let b = tensor(format!("blk.2.{place}.weight.lora_b"));
        let got = (b.matmul(&a).unwrap() * (alpha / a.dims()[0] as f64)).unwrap();
        near(&got, &want);
    }
}

fn near(got: &Tensor, want: &Tensor) {
    assert_eq!(got.dims(), want.dims());
    let worst = (got - want).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    assert!(worst < 1e-5, "{worst}");
}

#[test]
fn mlx_adapters_are_transposed_with_one_rank_and_scale() {
    let Some(model) = shared("stories260K/hf") else { return };
    let tmp = tempfile::tempdir().unwrap();
    let odd = tmp.path().join("odd");
    std::fs::create_dir(&odd).unwrap();
    let mut config = json(golden("lora_step/llama/adapter/adapter_config.json"));
    config["alpha_pattern"] = serde_json::json!({"up_proj": 3});
    std::fs::write(odd.join("adapter_config.json"), config.to_string()).unwrap();
    let weights = "adapter_model.safetensors";
    std::fs::copy(golden("lora_step/llama/adapter").join(weights), odd.join(weights)).unwrap();
    let out = match std::env::var_os("EXPORT_OUT") {
        Some(dir) => PathBuf::from(dir).join("mlx"),
        None => tmp.path().join("mlx"),
    };
    let _ = std::fs::remove_dir_all(&out);
    let base = ["--model", &arg(&model), "--format", "mlx-lora"];
    export(&[&base[..], &["--adapter", &arg(&odd), "--output", &arg(&out)]].concat());
    let settings = json(out.join("adapter_config.json"));
    let lora = &settings["lora_parameters"];
    assert_eq!(
        (settings["fine_tune_type"].as_str(), lora["rank"].as_u64()),
        (Some("lora"), Some(4))
    );
    assert_eq!(lora["keys"].as_array().unwrap().len(), 7);
    let scale = lora["scale"].as_f64().unwrap();
    let read = peft::read(&odd).unwrap();
    let tensors: BTreeMap<String, Tensor> = read_all(&out.join("adapters.safetensors")).unwrap();
    assert_eq!(tensors.len(), 2 * read.tensors.len());
    for (module, (a, b)) in &read.tensors {
        let want = (b.matmul(a).unwrap() * read.config.rank_and_scale(module).1).unwrap();
        let (a, b) = (&tensors[&format!("{module}.lora_a")], &tensors[&format!("{module}.lora_b")]);
        // mlx-lm: y += scale · (x lora_a) lora_b
        let got = (a.matmul(b).unwrap() * scale).unwrap().t().unwrap();
        near(&got, &want);
    }
}

#[test]
fn what_a_format_can_not_hold_is_refused_with_the_way_out() {
    let Some(model) = shared("stories260K/hf") else { return };
    let tmp = tempfile::tempdir().unwrap();
    let dora = tmp.path().join("dora");
    std::fs::create_dir(&dora).unwrap();
    let mut config = json(golden("lora_step/llama/adapter/adapter_config.json"));
    config["modules_to_save"] = serde_json::json!(["lm_head"]);
    std::fs::write(dora.join("adapter_config.json"), config.to_string()).unwrap();
    let mut entries: Vec<trainer::model::save::Entry<'_>> =
        read_all(&golden("lora_step/llama/adapter/adapter_model.safetensors"))
            .unwrap()
            .into_iter()
            .map(|(name, t)| trainer::model::save::Entry::of(name, t))
            .collect();
    let head = Tensor::zeros((512, 64), DType::F32, &Device::Cpu).unwrap();
    entries.push(trainer::model::save::Entry::of("base_model.model.lm_head.weight", head));
    trainer::model::save::write_safetensors(&dora.join("adapter_model.safetensors"), entries, &[])
        .unwrap();
    let model = arg(&model);
    let out = arg(tmp.path().join("out"));
    for format in ["gguf-lora", "mlx-lora"] {
        let args = [
            "export",
            "--model",
            &model,
            "--adapter",
            &arg(&dora),
            "--format",
            format,
            "--output",
            &out,
        ];
        trainer_fails(args, 3, &["lm_head.weight", "merge it"]);
    }
    let usage = |more: &[&str], part: &str| {
        trainer_fails([&["export", "--model", &model], more].concat(), 2, &[part]);
    };
    usage(&["--output", &model], "is an input");
    usage(&["--output", &out, "--outtype", "q8_0"], "for `--format gguf`");
    usage(&["--output", &out, "--format", "mlx-lora"], "`--adapter` is missing");
    usage(&["--output", &out, "--max_shard_size", "5TB"], "expected a size");
    let bloom = tmp.path().join("bloom");
    std::fs::create_dir(&bloom).unwrap();
    let config = golden("families/bloom.json");
    std::fs::write(bloom.join("config.json"), json(config)["config"].to_string()).unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(golden("dpo_curve/tokenizer").join(name), bloom.join(name)).unwrap();
    }
    let args = ["export", "--model", &arg(&bloom), "--format", "gguf", "--output", &out];
    trainer_fails(args, 3, &["bloom", "are not exported"]);
}
