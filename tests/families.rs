//! Every family against transformers, or, where transformers does not carry it, against PyTorch modules
//! written from the published architecture (`golden/families.py`): logits, losses, gradients of every
//! weight and of LoRA pairs, ten updates, generation, merging. With `FAMILIES_OUT` the folders stay, for
//! `golden/families_back.py`, which loads them in transformers and PEFT.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde_json::Value;
use support::filled;
use trainer::adapter::peft::{self, LoraConfig, TargetModules};
use trainer::adapter::{attach_fresh, attach_loaded, merge, peft_key};
use trainer::model::generate::SamplingOptions;
use trainer::model::save::{Entry, SHARD_BYTES, write_json, write_weights};
use trainer::model::{Decoder, GradSet, HfConfig, ParamSet, TokenBatch, Weights, families};
use trainer::objective::causal;
use trainer::ops::Exec;
use trainer::optim::adamw::{AdamW, Settings};
use trainer::text::TokenizedExample;

struct Golden {
    name: String,
    record: Value,
    dir: PathBuf,
}

fn goldens() -> Vec<Golden> {
    let folder = support::root().join("tests/golden/families");
    let base = match std::env::var_os("FAMILIES_OUT") {
        Some(dir) => PathBuf::from(dir),
        None => tempfile::tempdir().unwrap().keep(),
    };
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() >= 22, "{paths:?}");
    paths
        .into_iter()
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_string();
            Golden { record: support::json(&path), dir: base.join(&name), name }
        })
        .collect()
}

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

fn shape_of(value: &Value) -> Vec<usize> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as usize).collect()
}

impl Golden {
    /// The model's folder, written on first use.
    fn base(&self) -> PathBuf {
        let dir = self.dir.join("base");
        std::fs::create_dir_all(&dir).unwrap();
        write_json(&dir.join("config.json"), &self.record["config"], 2).unwrap();
        let offset = if self.name.contains("gemma") { 0.0 } else { 1.0 };
        let entries = self.record["tensors"].as_array().unwrap().iter().map(|t| {
            let name = t[0].as_str().unwrap();
            Entry::of(name, filled(name, &shape_of(&t[1]), offset))
        });
        write_weights(&dir, entries.collect(), SHARD_BYTES).unwrap();
        dir
    }

    fn examples(&self) -> Vec<TokenizedExample> {
        let provenance = trainer::data::Provenance { file: "golden".into(), row: 1 };
        let row = |r: &Value| TokenizedExample {
            input_ids: floats(&r["input_ids"]).iter().map(|&n| n as u32).collect(),
            labels: floats(&r["labels"]).iter().map(|&n| n as i32).collect(),
            loss_weights: None,
            provenance: provenance.clone(),
        };
        self.record["rows"].as_array().unwrap().iter().map(row).collect()
    }

    fn lora_config(&self) -> LoraConfig {
        let lora = &self.record["lora"];
        let targets = lora["targets"].as_array().unwrap();
        LoraConfig {
            r: 4,
            lora_alpha: 8.0,
            lora_dropout: 0.0,
            target_modules: TargetModules::List(
                targets.iter().map(|t| t.as_str().unwrap().to_string()).collect(),
            ),
            fan_in_fan_out: lora["fan_in_fan_out"].as_bool().unwrap(),
            base_model_name_or_path: "base".into(),
            ..LoraConfig::default()
        }
    }

    /// The decoder with the golden file's LoRA pairs.
    fn adapted(&self, dir: &Path) -> (Decoder, ParamSet) {
        let mut decoder = load(dir);
        let mut params = attach_fresh(&mut decoder, &self.lora_config(), 1).unwrap();
        for param in &mut params.params {
            let values = filled(&param.name, param.tensor.dims(), 0.0);
            param.tensor = values.to_device(&support::device()).unwrap();
        }
        (decoder, params)
    }
}

fn load(dir: &Path) -> Decoder {
    let config = HfConfig::read(dir).unwrap();
    let (weights, unused) =
        Weights::load(dir, &config.spec, DType::F32, &support::device()).unwrap();
    assert!(unused.is_empty(), "{unused:?}");
    Decoder::new(config.spec, weights, &support::device(), 48).unwrap()
}

/// Logits of each sequence's last position.
fn last_logits(
    decoder: &Decoder,
    params: &ParamSet,
    examples: &[TokenizedExample],
) -> Vec<Vec<f32>> {
    let batch = TokenBatch::from_examples(examples);
    let hidden = decoder.hidden(params, &batch).unwrap();
    let last = |&bound: &usize| {
        let row = hidden.narrow(0, bound - 1, 1).unwrap().contiguous().unwrap();
        decoder.logits(&row).unwrap().squeeze(0).unwrap().to_vec1().unwrap()
    };
    batch.bounds[1..].iter().map(last).collect()
}

fn assert_logits(got: &[Vec<f32>], want: &Value, what: &str) {
    for (got, want) in got.iter().zip(want.as_array().unwrap()) {
        for (g, w) in got.iter().zip(floats(want)) {
            assert!((f64::from(*g) - w).abs() < 1e-4, "{what}: {g} is not {w}");
        }
    }
}

fn step(decoder: &Decoder, params: &ParamSet, batches: &[TokenBatch]) -> (f64, GradSet) {
    let denominator: f64 = batches.iter().map(|b| b.targets().len() as f64).sum();
    let mut grads = GradSet::new(params.params.len());
    let mut loss = 0.0;
    let coefficient = decoder.spec.mixture.as_ref().and_then(|m| m.balance);
    for batch in batches {
        let dlogprob = |t: &trainer::model::batch::Target| causal::dlogprob(t.weight, denominator);
        let scored = decoder.score_and_backward(params, batch, None, dlogprob, &mut grads).unwrap();
        loss -= scored.scores.logprobs.iter().map(|&l| f64::from(l)).sum::<f64>() / denominator;
        loss += scored.balance.unwrap_or(0.0) * coefficient.unwrap_or(0.0);
    }
    (loss, grads)
}

/// Length, first, middle and last value of every gradient.
fn assert_grads(params: &ParamSet, grads: &GradSet, want: &Value, what: &str) {
    let want = want.as_object().unwrap();
    assert_eq!(params.params.len(), want.len(), "{what}");
    for (param, grad) in params.params.iter().zip(&grads.grads) {
        let grad = param.turned(grad.clone().expect(&param.name)).unwrap();
        let values: Vec<f32> = grad.flatten_all().unwrap().to_vec1().unwrap();
        let length = values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
        let at = |i: usize| f64::from(values[i]);
        let got = [length, at(0), at(values.len() / 2), at(values.len() - 1)];
        let want = floats(&want[&param.name]);
        for (g, w) in got.iter().zip(&want) {
            // Relative to the gradient's length; a gradient that is zero by cancellation has none.
            let error = (g - w).abs() / want[0].max(1e-3);
            assert!(error < 1e-4, "{what}: {} is off by {error:e}: {got:?} {want:?}", param.name);
        }
    }
}

/// All ways to compute the same step.
fn check(golden: &Golden, decoder: &mut Decoder, params: &ParamSet, want: &Value) {
    let examples = golden.examples();
    let together = vec![TokenBatch::from_examples(&examples)];
    let apart: Vec<TokenBatch> = examples.iter().map(|e| TokenBatch::from_examples([e])).collect();
    for exec in [Exec::Fused, Exec::Portable] {
        decoder.set_exec(exec);
        assert_logits(&last_logits(decoder, params, &examples), &want["logits"], &golden.name);
        // The loss that balances experts is of the whole batch.
        let balanced = golden.name.ends_with("balanced");
        for (batches, how) in [(&together, "together"), (&apart, "apart")] {
            if balanced && how == "apart" {
                continue;
            }
            for checkpointing in [false, true] {
                decoder.gradient_checkpointing = checkpointing;
                let what = format!("{}, {exec:?}, {how}, {checkpointing}", golden.name);
                let (loss, grads) = step(decoder, params, batches);
                let want_loss = want["loss"].as_f64().unwrap();
                assert!((loss - want_loss).abs() / want_loss < 1e-5, "{what}: {loss} {want_loss}");
                assert_grads(params, &grads, &want["grads"], &what);
            }
        }
    }
}

#[test]
fn every_family_has_a_golden_file() {
    let covered: Vec<String> = goldens()
        .iter()
        .map(|g| g.record["config"]["model_type"].as_str().unwrap().to_string())
        // In `gradients.rs` and `parity.rs`.
        .chain(["mistral", "qwen2", "qwen3"].map(String::from))
        .collect();
    for family in &families::FAMILIES {
        assert!(covered.iter().any(|c| c == family.model_type), "{}", family.model_type);
    }
}

#[test]
fn logits_losses_and_gradients_of_every_weight_are_the_references() {
    for golden in goldens() {
        let mut decoder = load(&golden.base());
        let params = decoder.train_all();
        check(&golden, &mut decoder, &params, &golden.record);
    }
}

#[test]
fn lora_gradients_are_pefts_and_ten_updates_follow() {
    for golden in goldens() {
        let (mut decoder, mut params) = golden.adapted(&golden.base());
        let want = &golden.record["lora"];
        check(&golden, &mut decoder, &params, want);
        decoder.set_exec(Exec::Fused);
        decoder.gradient_checkpointing = false;
        let settings = Settings { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0 };
        let mut optimizer = AdamW::new(settings, &params).unwrap();
        let batches = [TokenBatch::from_examples(&golden.examples())];
        for (update, want) in floats(&want["curve"]).iter().enumerate() {
            let (loss, grads) = step(&decoder, &params, &batches);
            let error = (loss - want).abs() / want;
            assert!(error < 1e-4, "{}: update {update}: {loss} {want}", golden.name);
            optimizer.update(&mut params, &grads, 5e-3, 1.0).unwrap();
        }
    }
}

#[test]
fn adapters_and_merged_folders_give_the_same_logits() {
    for golden in goldens() {
        let base = golden.base();
        let (_, params) = golden.adapted(&base);
        let (adapter, merged) = (golden.dir.join("adapter"), golden.dir.join("merged"));
        std::fs::create_dir_all(&adapter).unwrap();
        peft::write(&adapter, &golden.lora_config(), &params).unwrap();
        let _ = std::fs::remove_dir_all(&merged);
        let report = merge::merge(&base, &adapter, &merged, None).unwrap();
        assert_eq!(2 * report.merged_modules, params.params.len());
        let (want, examples) = (&golden.record["lora"]["logits"], golden.examples());
        let merged = load(&merged);
        let got = last_logits(&merged, &ParamSet::default(), &examples);
        assert_logits(&got, want, &format!("{}, merged", golden.name));
        let mut decoder = load(&base);
        let params = attach_loaded(&mut decoder, &peft::read(&adapter).unwrap()).unwrap();
        let got = last_logits(&decoder, &params, &examples);
        assert_logits(&got, want, &format!("{}, loaded", golden.name));
    }
}

/// The most likely token at every step, by running everything anew.
fn greedy_without_cache(decoder: &Decoder, prompt: &[u32], n: usize) -> Vec<u32> {
    let mut ids = prompt.to_vec();
    for _ in 0..n {
        let batch = TokenBatch::from_ids(&[&ids]);
        let hidden = decoder.hidden(&ParamSet::default(), &batch).unwrap();
        let last = hidden.narrow(0, ids.len() - 1, 1).unwrap().contiguous().unwrap();
        let logits: Vec<f32> =
            decoder.logits(&last).unwrap().squeeze(0).unwrap().to_vec1().unwrap();
        let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
        ids.push(best as u32);
    }
    ids.split_off(prompt.len())
}

#[test]
fn generation_with_a_cache_is_generation_without() {
    for golden in goldens() {
        // Beyond its length, frequencies that grow with the sequence leave the cached keys as they were.
        if golden.name == "llama-dynamic" || golden.name == "phi3-longrope" {
            continue;
        }
        let mut decoder = load(&golden.base());
        for exec in [Exec::Fused, Exec::Portable] {
            decoder.set_exec(exec);
            for example in golden.examples() {
                let prompt = &example.input_ids[..8];
                let options = SamplingOptions { max_new_tokens: 12, ..SamplingOptions::default() };
                let none = ParamSet::default();
                let got = decoder.generate(&none, prompt, &options, 0, |_| true).unwrap().ids;
                let want = greedy_without_cache(&decoder, prompt, 12);
                assert_eq!(got, want, "{}, {exec:?}", golden.name);
            }
        }
    }
}

#[test]
fn names_without_their_prefix_are_read_and_merged() {
    for golden in goldens().into_iter().filter(|g| g.name == "bloom" || g.name == "gpt2") {
        let base = golden.base();
        let mut decoder = load(&base);
        let want = last_logits(&decoder, &ParamSet::default(), &golden.examples());
        // As the first published files have them, with a mask among them.
        let short = golden.dir.join("short");
        std::fs::create_dir_all(&short).unwrap();
        let mut entries: Vec<Entry<'_>> =
            trainer::model::reader::read_all(&base.join("model.safetensors"))
                .unwrap()
                .into_iter()
                .map(|(name, t)| Entry::of(name.strip_prefix("transformer.").unwrap_or(&name), t))
                .collect();
        let mask = Tensor::zeros((1, 1, 4, 4), DType::F32, &Device::Cpu).unwrap();
        entries.push(Entry::of("h.0.attn.bias", mask));
        write_weights(&short, entries, SHARD_BYTES).unwrap();
        std::fs::copy(base.join("config.json"), short.join("config.json")).unwrap();
        decoder = load(&short);
        assert_eq!(last_logits(&decoder, &ParamSet::default(), &golden.examples()), want);
        let (_, params) = golden.adapted(&short);
        assert!(params.params[0].name.starts_with("base_model.model.transformer.h.0."));
        let adapter = golden.dir.join("short-adapter");
        std::fs::create_dir_all(&adapter).unwrap();
        peft::write(&adapter, &golden.lora_config(), &params).unwrap();
        let merged = golden.dir.join("short-merged");
        let _ = std::fs::remove_dir_all(&merged);
        merge::merge(&short, &adapter, &merged, None).unwrap();
        let got = last_logits(&load(&merged), &ParamSet::default(), &golden.examples());
        assert_logits(&got, &golden.record["lora"]["logits"], &golden.name);
    }
}

#[test]
fn a_model_with_learned_positions_refuses_longer_sequences() {
    let golden = goldens().into_iter().find(|g| g.name == "gpt2").unwrap();
    let config = HfConfig::read(&golden.base()).unwrap();
    let (weights, _) =
        Weights::load(&golden.dir.join("base"), &config.spec, DType::F32, &support::device())
            .unwrap();
    let decoder = Decoder::new(config.spec, weights, &support::device(), 100).unwrap();
    let ids: Vec<u32> = vec![5; 49];
    let batch = TokenBatch::from_ids(&[&ids]);
    let error = decoder.hidden(&ParamSet::default(), &batch).unwrap_err().to_string();
    assert!(error.contains("has learned 48 positions"), "{error}");
}

#[test]
fn adapter_keys_are_pefts() {
    assert_eq!(
        peft_key("transformer.h.0.attn.c_attn", 'A'),
        "base_model.model.transformer.h.0.attn.c_attn.lora_A.weight"
    );
}
