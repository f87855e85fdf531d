//! Divergences and gradients against PyTorch's, in both executions.
#![allow(clippy::unwrap_used)]

use candle_core::{DType, Device};
use serde_json::Value;

use super::*;

fn tensor(value: &Value) -> Tensor {
    let rows: Vec<Vec<f32>> = serde_json::from_value(value.clone()).unwrap();
    Tensor::new(rows, &Device::Cpu).unwrap()
}

fn list(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn of<'a>(hidden: &'a Tensor, weight: &'a Tensor) -> Predictor<'a> {
    Predictor { hidden, head: weight.into() }
}

fn close(got: &[f32], want: &[f32], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    let scale = want.iter().fold(1e-3f32, |m, v| m.max(v.abs()));
    for (g, w) in got.iter().zip(want) {
        assert!((g - w).abs() / scale < 2e-5, "{what}: {g} is not {w}");
    }
}

#[test]
fn divergences_and_gradients_are_those_of_trl() {
    let text = include_str!("../../../../tests/golden/divergence.json");
    let golden: Value = serde_json::from_str(text).unwrap();
    let [h, w, th, tw] =
        ["hidden", "weight", "teacher_hidden", "teacher_weight"].map(|name| tensor(&golden[name]));
    let numbers = |v: &Value| -> Vec<f32> { serde_json::from_value(v.clone()).unwrap() };
    let coefficients = numbers(&golden["coefficients"]);
    let (student, teacher) = (of(&h, &w), of(&th, &tw));
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 5);
    for case in cases {
        let beta = case["beta"].as_f64().unwrap();
        for exec in [Exec::Portable, Exec::Fused] {
            let what = format!("{exec:?} at {beta}");
            let compared = compare(exec, student, teacher, beta, Some(&coefficients), true);
            let (found, grads) = compared.unwrap();
            let grads = grads.unwrap();
            close(&found.divergences, &numbers(&case["divergences"]), &what);
            close(&found.entropies, &numbers(&golden["entropies"]), &what);
            let dhidden = list(&tensor(&case["dhidden"]));
            let dweight = list(&tensor(&case["dweight"]));
            close(&list(&grads.hidden), &dhidden, &what);
            close(&list(&grads.weight.unwrap()), &dweight, &what);
            let agrees: Vec<bool> = serde_json::from_value(golden["agrees"].clone()).unwrap();
            assert_eq!(found.agrees, agrees);
            let (alone, none) = compare(exec, student, teacher, beta, None, false).unwrap();
            assert_eq!(alone, found);
            assert!(none.is_none());
        }
    }
}

#[test]
fn a_student_that_is_its_teacher_diverges_by_nothing() {
    let h = Tensor::randn(0f32, 1.0, (7, 12), &Device::Cpu).unwrap();
    let w = Tensor::randn(0f32, 1.0, (50, 12), &Device::Cpu).unwrap();
    let it = of(&h, &w);
    for beta in [0.0, 0.3, 1.0] {
        let compared = compare(Exec::Fused, it, it, beta, Some(&[1.0; 7]), false).unwrap();
        assert!(compared.0.divergences.iter().all(|d| d.abs() < 1e-6));
        assert!(compared.0.agrees.iter().all(|&a| a));
        assert!(list(&compared.1.unwrap().hidden).iter().all(|d| d.abs() < 1e-5));
    }
}

#[test]
fn chunks_change_nothing_and_what_is_not_finite_is_not_hidden() {
    // 600,000 logits a row: sixteen rows fill a chunk.
    let h = Tensor::randn(0f32, 1.0, (35, 2), &Device::Cpu).unwrap();
    let w = Tensor::randn(0f32, 1.0, (600_000, 2), &Device::Cpu).unwrap();
    let th = Tensor::randn(0f32, 1.0, (35, 2), &Device::Cpu).unwrap();
    let (all, _) = compare(Exec::Fused, of(&h, &w), of(&th, &w), 0.5, None, false).unwrap();
    for i in [0, 16, 34] {
        let (a, b) = (h.narrow(0, i, 1).unwrap(), th.narrow(0, i, 1).unwrap());
        let (one, _) = compare(Exec::Fused, of(&a, &w), of(&b, &w), 0.5, None, false).unwrap();
        assert!((one.divergences[0] - all.divergences[i]).abs() < 1e-5);
    }
    let bad = Tensor::new(&[[f32::NAN, 0.0], [1.0, 1.0]], &Device::Cpu).unwrap();
    let good = bad.zeros_like().unwrap().to_dtype(DType::F32).unwrap();
    let w = w.narrow(0, 0, 40).unwrap();
    for (a, b) in [(&bad, &good), (&good, &bad)] {
        for (exec, beta) in
            [Exec::Portable, Exec::Fused].into_iter().flat_map(|e| [0.0, 0.5, 1.0].map(|b| (e, b)))
        {
            let (found, _) = compare(exec, of(a, &w), of(b, &w), beta, None, false).unwrap();
            assert!(!found.divergences[0].is_finite(), "{exec:?} at {beta}");
            assert!(found.divergences[1].is_finite());
        }
    }
}
