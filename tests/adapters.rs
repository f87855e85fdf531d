//! Every kind of adapter against PEFT (`golden/adapters.py`): logits, losses, gradients, ten updates,
//! configuration, merging. With `ADAPTERS_OUT` the folders stay, for `golden/adapters_back.py`, which
//! loads them in PEFT and transformers.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::{Path, PathBuf};

use candle_core::DType;
use serde_json::Value;
use support::filled;
use trainer::adapter::combine::{Combination, combine};
use trainer::adapter::peft::{self, Initialization, LoraConfig, TargetModules};
use trainer::adapter::{attach_fresh, attach_loaded, merge};
use trainer::model::save::{Entry, SHARD_BYTES, write_json, write_weights};
use trainer::model::{Decoder, GradSet, HfConfig, ParamSet, TokenBatch, Weights};
use trainer::objective::causal;
use trainer::ops::Exec;
use trainer::optim::adamw::{AdamW, Settings};
use trainer::text::TokenizedExample;

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

struct Golden {
    name: String,
    record: Value,
    dir: PathBuf,
}

fn goldens() -> Vec<Golden> {
    let base = match std::env::var_os("ADAPTERS_OUT") {
        Some(dir) => PathBuf::from(dir),
        None => tempfile::tempdir().unwrap().keep(),
    };
    let mut paths: Vec<PathBuf> = std::fs::read_dir(support::golden("adapters"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    paths.sort();
    assert!(paths.len() >= 11, "{paths:?}");
    paths
        .into_iter()
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_string();
            Golden { record: support::json(&path), dir: base.join(&name), name }
        })
        .collect()
}

/// A golden file of its own.
fn single(name: &str) -> Golden {
    let dir = tempfile::tempdir().unwrap().keep();
    Golden {
        record: support::json(support::golden(&format!("{name}.json"))),
        dir,
        name: name.into(),
    }
}

impl Golden {
    /// The model's folder.
    fn base(&self) -> PathBuf {
        let dir = self.dir.join("base");
        std::fs::create_dir_all(&dir).unwrap();
        write_json(&dir.join("config.json"), &self.record["config"], 2).unwrap();
        let entries = self.record["tensors"].as_array().unwrap().iter().map(|t| {
            let name = t[0].as_str().unwrap();
            let shape: Vec<usize> = floats(&t[1]).iter().map(|&n| n as usize).collect();
            Entry::of(name, filled(name, &shape, 1.0))
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

    /// PEFT's own configuration, as read.
    fn lora_config(&self) -> LoraConfig {
        peft::parse_config(self.record["settings"].as_object().unwrap()).unwrap()
    }

    fn ratio(&self) -> f64 {
        self.record["optimizer"]["loraplus_lr_ratio"].as_f64().unwrap_or(1.0)
    }

    /// The decoder with the golden file's parameters.
    fn adapted(&self, base: &Path) -> (Decoder, ParamSet) {
        let mut decoder = load(base);
        let mut params = attach_fresh(&mut decoder, &self.lora_config(), 1).unwrap();
        for param in &mut params.params {
            let vector = param.name.ends_with("lora_magnitude_vector");
            let name = format!("{}{}", param.name, if vector { ".weight" } else { "" });
            param.tensor = filled(&name, param.tensor.dims(), 1.0);
            if param.name.ends_with(".lora_B.weight") || param.tensor.dims().len() == 1 {
                param.learning_rate_ratio = self.ratio();
            }
        }
        decoder.relink(&params).unwrap();
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
    for batch in batches {
        let dlogprob = |t: &trainer::model::batch::Target| causal::dlogprob(t.weight, denominator);
        let scored = decoder.score_and_backward(params, batch, None, dlogprob, &mut grads).unwrap();
        loss -= scored.scores.logprobs.iter().map(|&l| f64::from(l)).sum::<f64>();
    }
    (loss / denominator, grads)
}

/// Length, first, middle and last value of every gradient.
fn assert_grads(params: &ParamSet, grads: &GradSet, want: &Value, what: &str) {
    let want = want.as_object().unwrap();
    let mut names: Vec<&String> = params.params.iter().map(|p| &p.name).collect();
    let mut wanted: Vec<&String> = want.keys().collect();
    names.sort();
    wanted.sort();
    assert_eq!(names, wanted, "{what}");
    for (param, grad) in params.params.iter().zip(&grads.grads) {
        let grad = grad.clone().expect(&param.name);
        let values: Vec<f32> = grad.flatten_all().unwrap().to_vec1().unwrap();
        let length = values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
        let at = |i: usize| f64::from(values[i]);
        let got = [length, at(0), at(values.len() / 2), at(values.len() - 1)];
        let want = floats(&want[&param.name]);
        for (g, w) in got.iter().zip(&want) {
            let error = (g - w).abs() / want[0].max(1e-3);
            assert!(error < 1e-4, "{what}: {} is off by {error:e}: {got:?} {want:?}", param.name);
        }
    }
}

#[test]
fn a_fresh_adapter_changes_nothing_and_off_is_the_base() {
    for golden in goldens() {
        let mut decoder = load(&golden.base());
        let examples = golden.examples();
        let none = ParamSet::default();
        let plain = last_logits(&decoder, &none, &examples);
        assert_logits(&plain, &golden.record["base_logits"], &golden.name);
        let params = attach_fresh(&mut decoder, &golden.lora_config(), 1).unwrap();
        let fresh = last_logits(&decoder, &params, &examples);
        assert_logits(&fresh, &golden.record["fresh_logits"], &golden.name);
        let (mut decoder, params) = golden.adapted(&golden.base());
        let on = last_logits(&decoder, &params, &examples);
        assert_logits(&on, &golden.record["logits"], &golden.name);
        // To the bit, and the adapter is back afterwards.
        let off = decoder.with_adapter_off(|d| last_logits(d, &none, &examples)).unwrap();
        assert_eq!(off, plain, "{}", golden.name);
        assert_eq!(last_logits(&decoder, &params, &examples), on, "{}", golden.name);
        let mut other = params.clone();
        for param in &mut other.params {
            param.tensor = (&param.tensor * 0.5).unwrap();
        }
        let of_other =
            decoder.with_adapter_of(&other, |d| last_logits(d, &other, &examples)).unwrap();
        assert_ne!(of_other, on);
        assert_eq!(last_logits(&decoder, &params, &examples), on, "{}", golden.name);
        decoder.relink(&other).unwrap();
        assert_eq!(last_logits(&decoder, &other, &examples), of_other, "{}", golden.name);
    }
}

#[test]
fn gradients_are_pefts_however_they_are_computed() {
    for golden in goldens() {
        let (mut decoder, params) = golden.adapted(&golden.base());
        let examples = golden.examples();
        let together = vec![TokenBatch::from_examples(&examples)];
        let apart: Vec<TokenBatch> =
            examples.iter().map(|e| TokenBatch::from_examples([e])).collect();
        for exec in [Exec::Fused, Exec::Portable] {
            decoder.set_exec(exec);
            decoder.relink(&params).unwrap();
            for (batches, how) in [(&together, "together"), (&apart, "apart")] {
                for checkpointing in [false, true] {
                    decoder.gradient_checkpointing = checkpointing;
                    let what = format!("{}, {exec:?}, {how}, {checkpointing}", golden.name);
                    let (loss, grads) = step(&decoder, &params, batches);
                    let want = golden.record["loss"].as_f64().unwrap();
                    assert!((loss - want).abs() / want < 1e-5, "{what}: {loss} {want}");
                    assert_grads(&params, &grads, &golden.record["grads"], &what);
                }
            }
        }
    }
}

#[test]
fn ten_updates_follow_and_merge() {
    for golden in goldens() {
        let base = golden.base();
        let (mut decoder, mut params) = golden.adapted(&base);
        let weight_decay =
            golden.record["optimizer"]["loraplus_weight_decay"].as_f64().unwrap_or(0.0);
        let settings = Settings { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay };
        let mut optimizer = AdamW::new(settings, &params).unwrap();
        let examples = golden.examples();
        let batches = [TokenBatch::from_examples(&examples)];
        for (update, want) in floats(&golden.record["curve"]).iter().enumerate() {
            let (loss, grads) = step(&decoder, &params, &batches);
            let error = (loss - want).abs() / want;
            assert!(error < 1e-4, "{}: update {update}: {loss} {want}", golden.name);
            optimizer.update(&mut params, &grads, 5e-3, 1.0).unwrap();
            decoder.relink(&params).unwrap();
        }
        let (adapter, merged) = (golden.dir.join("adapter"), golden.dir.join("merged"));
        std::fs::create_dir_all(&adapter).unwrap();
        peft::write(&adapter, &golden.lora_config(), &params).unwrap();
        let want = last_logits(&decoder, &params, &examples);
        for (row, peft) in want.iter().zip(golden.record["merged"].as_array().unwrap()) {
            for (g, w) in row.iter().zip(floats(peft)) {
                assert!((f64::from(*g) - w).abs() < 2e-3, "{}: {g} {w}", golden.name);
            }
        }
        let wanted: Vec<Vec<f64>> =
            want.iter().map(|r| r.iter().map(|&v| f64::from(v)).collect()).collect();
        let wanted = serde_json::json!(wanted);
        let mut loaded = load(&base);
        let read = attach_loaded(&mut loaded, &peft::read(&adapter).unwrap()).unwrap();
        assert_eq!(last_logits(&loaded, &read, &examples), want, "{}", golden.name);
        let _ = std::fs::remove_dir_all(&merged);
        merge::merge(&base, &adapter, &merged, None).unwrap();
        let alone = load(&merged);
        let got = last_logits(&alone, &ParamSet::default(), &examples);
        assert_logits(&got, &wanted, &format!("{}, merged", golden.name));
    }
}

#[test]
fn the_written_configuration_is_pefts() {
    for golden in goldens() {
        let (_, params) = golden.adapted(&golden.base());
        let dir = tempfile::tempdir().unwrap();
        peft::write(dir.path(), &golden.lora_config(), &params).unwrap();
        let written = support::json(dir.path().join("adapter_config.json"));
        for (key, value) in written.as_object().unwrap() {
            let mut want = golden.record["settings"][key].clone();
            let mut value = value.clone();
            // A set has no order.
            for list in [&mut want, &mut value] {
                if let (true, Some(list)) = (key == "target_modules", list.as_array_mut()) {
                    list.sort_by_key(ToString::to_string);
                }
            }
            if let (Some(a), Some(b)) = (value.as_f64(), want.as_f64()) {
                assert_eq!(a, b, "{}: {key}", golden.name);
            } else {
                assert_eq!(value, want, "{}: {key}", golden.name);
            }
        }
    }
}

fn follow(decoder: &mut Decoder, params: &mut ParamSet, golden: &Golden, tolerance: f64) {
    let settings = Settings { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0 };
    let mut optimizer = AdamW::new(settings, params).unwrap();
    let batches = [TokenBatch::from_examples(&golden.examples())];
    for (update, want) in floats(&golden.record["curve"]).iter().enumerate() {
        let (loss, grads) = step(decoder, params, &batches);
        let error = (loss - want).abs() / want;
        assert!(error < tolerance, "{}: update {update}: {loss} {want}", golden.name);
        optimizer.update(params, &grads, 5e-3, 1.0).unwrap();
        decoder.relink(params).unwrap();
    }
}

#[test]
fn pairs_of_singular_vectors_train_as_pefts_and_fit_the_base_when_saved() {
    let golden = single("pissa");
    let base = golden.base();
    let mut decoder = load(&base);
    let config = LoraConfig {
        r: 4,
        lora_alpha: 6.0,
        use_rslora: true,
        initialization: Initialization::Pissa,
        ..LoraConfig::default()
    };
    let mut params = attach_fresh(&mut decoder, &config, 1).unwrap();
    let examples = golden.examples();
    let fresh = last_logits(&decoder, &params, &examples);
    assert_logits(&fresh, &golden.record["fresh_logits"], "fresh");
    assert_logits(&fresh, &golden.record["base_logits"], "fresh, base");
    let mut initial = params.clone();
    for param in &mut initial.params {
        param.tensor = param.tensor.copy().unwrap();
    }
    follow(&mut decoder, &mut params, &golden, 1e-4);
    let adapter = golden.dir.join("adapter");
    std::fs::create_dir_all(&adapter).unwrap();
    let (config, converted) = peft::from_initial(&config, &params, &initial).unwrap();
    assert_eq!((config.r, converted.params[0].tensor.dims()), (8, [8usize, 16].as_slice()));
    peft::write(&adapter, &config, &converted).unwrap();
    // On the base as it is, whoever loads it.
    let mut plain = load(&base);
    let read = attach_loaded(&mut plain, &peft::read(&adapter).unwrap()).unwrap();
    let got = last_logits(&plain, &read, &examples);
    let own = last_logits(&decoder, &params, &examples);
    for ((got, own), want) in got.iter().zip(&own).zip(golden.record["merged"].as_array().unwrap())
    {
        for ((g, o), w) in got.iter().zip(own).zip(floats(want)) {
            assert!((g - o).abs() < 1e-4, "{g} {o}");
            assert!((f64::from(*g) - w).abs() < 2e-3, "{g} {w}");
        }
    }
    for (now, (stored, before)) in
        params.params.iter().zip(converted.params.iter().zip(&initial.params))
    {
        let back = peft::since_initial(&now.name, &stored.tensor, &before.tensor).unwrap().unwrap();
        let values =
            |t: &candle_core::Tensor| -> Vec<f32> { t.flatten_all().unwrap().to_vec1().unwrap() };
        assert_eq!(values(&back), values(&now.tensor));
        let other = (&before.tensor * 2.0).unwrap();
        assert!(peft::since_initial(&now.name, &stored.tensor, &other).unwrap().is_none());
    }
}

#[test]
fn several_adapters_become_one_as_in_peft() {
    let golden = single("combined");
    let base = golden.base();
    let examples = golden.examples();
    let folder = |name: &str| {
        let targets: Vec<String> =
            serde_json::from_value(golden.record["targets"][name].clone()).unwrap();
        let config = LoraConfig {
            r: 4,
            lora_alpha: if name == "one" { 8.0 } else { 2.0 },
            target_modules: TargetModules::List(targets),
            ..LoraConfig::default()
        };
        let mut decoder = load(&base);
        let mut params = attach_fresh(&mut decoder, &config, 1).unwrap();
        for param in &mut params.params {
            param.tensor = filled(&format!("{name}.{}", param.name), param.tensor.dims(), 0.0);
        }
        let dir = golden.dir.join(name);
        std::fs::create_dir_all(&dir).unwrap();
        peft::write(&dir, &config, &params).unwrap();
        dir
    };
    let (one, two) = (folder("one"), folder("two"));
    let both = [(one.as_path(), 0.7), (two.as_path(), -0.3)];
    for (name, how) in
        [("cat", Combination::Cat), ("linear", Combination::Linear), ("svd", Combination::Svd(3))]
    {
        let out = golden.dir.join(name);
        assert_eq!(combine(&both, how, &out).unwrap(), 12);
        let mut decoder = load(&base);
        let params = attach_loaded(&mut decoder, &peft::read(&out).unwrap()).unwrap();
        let got = last_logits(&decoder, &params, &examples);
        assert_logits(&got, &golden.record["logits"][name], name);
    }
    let merged = golden.dir.join("merged");
    let report = merge::merge_all(&base, &both, &merged, merge::Options::default()).unwrap();
    assert_eq!(report.merged_modules, 12);
    let got = last_logits(&load(&merged), &ParamSet::default(), &examples);
    assert_logits(&got, &golden.record["logits"]["cat"], "merged");
}

#[test]
fn what_names_nothing_is_refused_with_what_there_is() {
    let golden = single("combined");
    let mut decoder = load(&golden.base());
    let mut refused =
        |config: LoraConfig| attach_fresh(&mut decoder, &config, 1).unwrap_err().to_string();
    let pattern = |name: &str| [(name.to_string(), 3)].into();
    let error = refused(LoraConfig { rank_pattern: pattern("k_pro"), ..LoraConfig::default() });
    assert!(error.contains("rank_pattern `k_pro` matches no adapted layer"), "{error}");
    let some = Some(vec![1, 7]);
    let error = refused(LoraConfig { layers_to_transform: some, ..LoraConfig::default() });
    assert!(error.contains("block 7") && error.contains("blocks 0 to 2"), "{error}");
    let saved =
        |name: &str| LoraConfig { modules_to_save: vec![name.into()], ..LoraConfig::default() };
    let error = refused(saved("embed_token"));
    assert!(error.contains("`embed_token`") && error.contains("embed_tokens, "), "{error}");
    let error = refused(saved("down_proj"));
    assert!(error.contains("linear layer `down_proj`"), "{error}");
}
