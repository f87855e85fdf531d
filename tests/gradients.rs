//! Losses, logits and gradients of whole models against PyTorch, transformers and PEFT. The golden
//! files and the scripts that made them are in `golden/`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Tensor};
use trainer::adapter::{attach_loaded, peft};
use trainer::model::reader::read_all;
use trainer::model::{Decoder, GradSet, HfConfig, ParamSet, TokenBatch, Weights};
use trainer::objective::causal;
use trainer::ops::Exec;
use trainer::text::TokenizedExample;

fn load(dir: &Path) -> Decoder {
    let config = HfConfig::read(dir).unwrap();
    let (weights, _) = Weights::load(dir, &config.spec, DType::F32, &support::device()).unwrap();
    Decoder::new(config.spec, weights, &support::device(), 128).unwrap()
}

fn examples(path: &Path) -> Vec<TokenizedExample> {
    let provenance = trainer::data::Provenance { file: "batch.json".into(), row: 1 };
    let numbers = |v: &serde_json::Value| -> Vec<i64> {
        v.as_array().unwrap().iter().map(|n| n.as_i64().unwrap()).collect()
    };
    support::json(path)
        .as_array()
        .unwrap()
        .iter()
        .map(|row| TokenizedExample {
            input_ids: numbers(&row["input_ids"]).iter().map(|&n| n as u32).collect(),
            labels: numbers(&row["labels"]).iter().map(|&n| n as i32).collect(),
            loss_weights: None,
            provenance: provenance.clone(),
        })
        .collect()
}

/// Loss and gradients of `batches`, divided once by all of their targets.
fn step(decoder: &Decoder, params: &ParamSet, batches: &[TokenBatch]) -> (f64, GradSet) {
    let denominator: f64 = batches.iter().map(|b| b.targets().len() as f64).sum();
    let mut grads = GradSet::new(params.params.len());
    let mut loss = 0.0;
    for batch in batches {
        let scored = decoder
            .score_and_backward(
                params,
                batch,
                None,
                |t| causal::dlogprob(t.weight, denominator),
                &mut grads,
            )
            .unwrap();
        loss -= scored.scores.logprobs.iter().map(|&l| f64::from(l)).sum::<f64>();
    }
    (loss / denominator, grads)
}

fn values(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

/// Every gradient within `tolerance` of the wanted one's largest value.
fn compare(
    params: &ParamSet,
    grads: &GradSet,
    want: &BTreeMap<String, Tensor>,
    tolerance: f32,
    what: &str,
) {
    assert_eq!(params.params.len(), want.len(), "{what}");
    for (param, grad) in params.params.iter().zip(&grads.grads) {
        let (got, want) = (values(grad.as_ref().unwrap()), values(&want[&param.name]));
        let scale = want.iter().fold(1e-6f32, |m, v| m.max(v.abs()));
        let worst = got.iter().zip(&want).map(|(g, w)| (g - w).abs()).fold(0f32, f32::max);
        assert!(worst / scale < tolerance, "{what}: {} is off by {}", param.name, worst / scale);
    }
}

/// All ways to compute the same step.
fn check(decoder: &mut Decoder, params: &ParamSet, folder: &Path, want_loss: f64) {
    let want = read_all(&folder.join("grads.safetensors")).unwrap();
    let examples = examples(&folder.join("batch.json"));
    let together = vec![TokenBatch::from_examples(&examples)];
    let apart: Vec<TokenBatch> = examples.iter().map(|e| TokenBatch::from_examples([e])).collect();
    for exec in [Exec::Fused, Exec::Portable] {
        for (batches, how) in [(&together, "together"), (&apart, "apart")] {
            for checkpointing in [false, true] {
                decoder.set_exec(exec);
                decoder.gradient_checkpointing = checkpointing;
                let (loss, grads) = step(decoder, params, batches);
                let what = format!("{exec:?}, {how}, checkpointing {checkpointing}");
                assert!((loss - want_loss).abs() / want_loss < 1e-5, "{what}: {loss} {want_loss}");
                compare(params, &grads, &want, 1e-4, &what);
            }
        }
    }
}

#[test]
fn lora_gradients_are_pefts() {
    for (name, base) in [("llama", "hf"), ("qwen2", "hf-qwen2"), ("qwen3", "hf-qwen3")] {
        let Some(base) = support::shared(&format!("stories260K/{base}")) else { return };
        let folder = support::root().join("tests/golden/lora_step").join(name);
        let mut decoder = load(&base);
        let adapter = peft::read(&folder.join("adapter")).unwrap();
        let params = attach_loaded(&mut decoder, &adapter).unwrap();
        let loss = support::json(folder.join("loss.json"))["loss"].as_f64().unwrap();
        check(&mut decoder, &params, &folder, loss);
    }
}

#[test]
fn logits_and_gradients_of_every_weight_are_pytorchs() {
    for name in ["mistral", "llama"] {
        let folder = support::root().join("tests/golden/full_step").join(name);
        let mut decoder = load(&folder.join("model"));
        let expected = support::json(folder.join("expected.json"));
        let first = examples(&folder.join("batch.json")).remove(0);
        for exec in [Exec::Fused, Exec::Portable] {
            decoder.set_exec(exec);
            let batch = TokenBatch::from_examples([&first]);
            let hidden = decoder.hidden(&ParamSet::default(), &batch).unwrap();
            let logits: Vec<Vec<f32>> = decoder.logits(&hidden).unwrap().to_vec2().unwrap();
            for (row, want) in logits.iter().zip(expected["logits"].as_array().unwrap()) {
                for (got, want) in row.iter().zip(want.as_array().unwrap()) {
                    let want = want.as_f64().unwrap();
                    assert!((f64::from(*got) - want).abs() < 1e-4, "{name}: {got} {want}");
                }
            }
        }
        let params = decoder.train_all();
        check(&mut decoder, &params, &folder, expected["loss"].as_f64().unwrap());
    }
}
