//! The decoder against transformers and PEFT: logits, greedy continuations, gradients. The golden
//! files are in `golden/`, with the scripts that made them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::Path;

use candle_core::DType;
use trainer::model::generate::SamplingOptions;
use trainer::model::{Decoder, HfConfig, ParamSet, TokenBatch, Weights};
use trainer::ops::Exec;

fn load(dir: &Path, positions: usize) -> Decoder {
    let config = HfConfig::read(dir).unwrap();
    let (weights, unused) =
        Weights::load(dir, &config.spec, DType::F32, &support::device()).unwrap();
    assert!(unused.is_empty(), "{unused:?}");
    Decoder::new(config.spec, weights, &support::device(), positions).unwrap()
}

/// The little-endian integers of a one-dimensional `.npy` file.
fn npy_ids(path: &Path) -> Vec<u32> {
    let bytes = std::fs::read(path).unwrap();
    let header = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let text = String::from_utf8_lossy(&bytes[10..10 + header]).into_owned();
    let data = &bytes[10 + header..];
    if text.contains("<i8") {
        data.chunks_exact(8).map(|c| i64::from_le_bytes(c.try_into().unwrap()) as u32).collect()
    } else {
        assert!(text.contains("<i4"), "{text}");
        data.chunks_exact(4).map(|c| i32::from_le_bytes(c.try_into().unwrap()) as u32).collect()
    }
}

fn greedy(decoder: &Decoder, prompt: &[u32], max_new_tokens: usize) -> Vec<u32> {
    let options = SamplingOptions { max_new_tokens, ..SamplingOptions::default() };
    decoder.generate(&ParamSet::default(), prompt, &options, 0, |_| true).unwrap().ids
}

#[test]
fn greedy_continuation_of_llama_is_the_published_one() {
    let Some(dir) = support::shared("stories260K") else { return };
    let want = npy_ids(&dir.join("greedy_ids.npy"));
    let mut decoder = load(&dir.join("hf"), 512);
    for exec in [Exec::Fused, Exec::Portable] {
        decoder.set_exec(exec);
        let mut got = vec![want[0]];
        got.extend(greedy(&decoder, &want[..1], want.len() - 1));
        assert_eq!(got, want, "{exec:?}");
    }
}

fn rows_of(value: &serde_json::Value) -> Vec<Vec<f64>> {
    let row = |r: &serde_json::Value| -> Vec<f64> {
        r.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
    };
    value.as_array().unwrap().iter().map(row).collect()
}

fn ids_of(row: &[f64]) -> Vec<u32> {
    row.iter().map(|&v| v as u32).collect()
}

#[test]
fn qwen_logits_losses_and_continuations_are_those_of_transformers() {
    for name in ["hf-qwen2", "hf-qwen3"] {
        let Some(dir) = support::shared(&format!("stories260K/{name}")) else { return };
        let reference = support::json(dir.join("reference.json"));
        let probes: Vec<Vec<u32>> =
            rows_of(&reference["probe_input_ids"]).iter().map(|r| ids_of(r)).collect();
        let want = rows_of(&reference["logits_pos_last"]);
        let mut decoder = load(&dir, 512);
        for exec in [Exec::Fused, Exec::Portable] {
            decoder.set_exec(exec);
            let slices: Vec<&[u32]> = probes.iter().map(Vec::as_slice).collect();
            let mut batch = TokenBatch::from_ids(&slices);
            let hidden = decoder.hidden(&ParamSet::default(), &batch).unwrap();
            for (bound, want) in batch.bounds[1..].iter().zip(&want) {
                let last = hidden.narrow(0, bound - 1, 1).unwrap().contiguous().unwrap();
                let logits = decoder.logits(&last).unwrap().squeeze(0).unwrap();
                for (got, want) in logits.to_vec1::<f32>().unwrap().iter().zip(want) {
                    assert!((f64::from(*got) - want).abs() < 1e-4, "{name}: {got} {want}");
                }
            }
            batch.labels = batch.input_ids.iter().map(|&id| id as i32).collect();
            let scored = decoder.score(&ParamSet::default(), &batch).unwrap();
            let sum: f64 = scored.scores.logprobs.iter().map(|&l| -f64::from(l)).sum();
            let loss = sum / scored.targets.len() as f64;
            let want = reference["loss_on_probe"].as_f64().unwrap();
            assert!((loss - want).abs() < 1e-5, "{name}: {loss} {want}");
        }
        decoder.set_exec(Exec::Fused);
        let greedy_ids: Vec<u32> = reference["greedy_60"]
            .as_array()
            .unwrap()
            .iter()
            .map(|v| v.as_u64().unwrap() as u32)
            .collect();
        let mut got = vec![greedy_ids[0]];
        got.extend(greedy(&decoder, &greedy_ids[..1], 60));
        assert_eq!(got, greedy_ids, "{name}");
    }
}
