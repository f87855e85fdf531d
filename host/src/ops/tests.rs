//! Every gradient of every operation, portable and fused, against central differences of the
//! portable forward in f64; fused against portable; and what must hold to the bit.
#![allow(clippy::unwrap_used)]

use candle_core::{DType, Device, Result, Tensor};

use super::attention::Sequences;
use super::*;
use crate::rng::{Purpose, Stream};

/// Normal values of a shape, f64.
fn randn(seed: u64, shape: &[usize]) -> Tensor {
    let stream = Stream::new(seed, Purpose::Test, 0);
    let n: usize = shape.iter().product();
    let values: Vec<f64> = (0..n as u64).map(|i| stream.normal(i)).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn f32s(t: &Tensor) -> Tensor {
    t.to_dtype(DType::F32).unwrap()
}

fn values(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn bits(t: &Tensor) -> Vec<u32> {
    t.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().map(|v| v.to_bits()).collect()
}

/// Largest difference relative to the largest value.
fn difference(got: &[f64], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let scale = want.iter().fold(1e-3f64, |m, v| m.max(v.abs()));
    let worst = got.iter().zip(want).map(|(g, w)| (g - w).abs()).fold(0f64, |m, v| {
        assert!(v.is_finite());
        m.max(v)
    });
    worst / scale
}

type Forward<'a> = dyn Fn(Exec, &[Tensor]) -> Result<Tensor> + 'a;
type Backward<'a> = dyn Fn(Exec, &[Tensor], &Tensor) -> Result<Vec<Tensor>> + 'a;

/// Checks the gradients by every input of `Σ c · forward(inputs)` for a random `c`.
fn check(name: &str, inputs: &[Tensor], forward: &Forward<'_>, backward: &Backward<'_>) {
    let y = forward(Exec::Portable, inputs).unwrap();
    let c = randn(999, y.dims());
    let loss = |inputs: &[Tensor]| -> f64 {
        let y = forward(Exec::Portable, inputs).unwrap();
        (y * &c).unwrap().sum_all().unwrap().to_scalar().unwrap()
    };
    let singles: Vec<Tensor> = inputs.iter().map(f32s).collect();
    let fused = forward(Exec::Fused, &singles).unwrap();
    assert!(difference(&values(&fused), &values(&y)) < 2e-6, "{name}: fused forward");
    let portable = forward(Exec::Portable, &singles).unwrap();
    assert!(difference(&values(&portable), &values(&y)) < 2e-6, "{name}: portable forward");
    let grads: Vec<Vec<Tensor>> = [Exec::Portable, Exec::Fused]
        .iter()
        .map(|&exec| backward(exec, &singles, &f32s(&c)).unwrap())
        .collect();
    for (index, input) in inputs.iter().enumerate() {
        let base = values(input);
        let step = 1e-5;
        let numeric: Vec<f64> = (0..base.len())
            .map(|i| {
                let at = |delta: f64| {
                    let mut moved = base.clone();
                    moved[i] += delta;
                    let mut all = inputs.to_vec();
                    all[index] = Tensor::from_vec(moved, input.shape(), &Device::Cpu).unwrap();
                    loss(&all)
                };
                (at(step) - at(-step)) / (2.0 * step)
            })
            .collect();
        for (exec, grads) in ["portable", "fused"].iter().zip(&grads) {
            let error = difference(&values(&grads[index]), &numeric);
            assert!(error < 1e-5, "{name}: {exec} gradient of input {index} is off by {error:e}");
        }
    }
}

#[test]
fn linear_gradients() {
    let inputs = [randn(1, &[5, 7]), randn(2, &[9, 7]), randn(3, &[9])];
    check(
        "linear",
        &inputs,
        &|exec, i| linear::forward(exec, &i[0], &i[1], Some(&i[2])),
        &|exec, i, dy| {
            let again = Tensor::zeros((5, 7), DType::F32, &Device::Cpu)?;
            let dx = linear::backward_input(exec, dy, &i[1])?;
            let added = linear::backward_input_add(exec, dy, &i[1], again)?;
            assert!(difference(&values(&added), &values(&dx)) < 1e-6);
            Ok(vec![
                dx,
                linear::backward_weight(exec, dy, &i[0])?,
                linear::backward_bias(exec, dy)?,
            ])
        },
    );
}

#[test]
fn lora_gradients_with_and_without_dropout() {
    let inputs = [randn(1, &[6, 7]), randn(2, &[3, 7]), randn(3, &[5, 3])];
    for dropout in [None, Some(dropout::Dropout { p: 0.4, key: 77, rows: &[] })] {
        check(
            "lora",
            &inputs,
            &|exec, i| {
                let y = Tensor::zeros((6, 5), i[0].dtype(), &Device::Cpu)?;
                Ok(lora::forward(exec, &i[0], y, &i[1], &i[2], 0.5, dropout)?.0)
            },
            &|exec, i, dy| {
                let y = Tensor::zeros((6, 5), DType::F32, &Device::Cpu)?;
                let (_, saved) = lora::forward(exec, &i[0], y, &i[1], &i[2], 0.5, dropout)?;
                let dx = Tensor::zeros((6, 7), DType::F32, &Device::Cpu)?;
                let (grads, dx) =
                    lora::backward(exec, dy, &i[0], &saved, &i[1], &i[2], 0.5, dropout, Some(dx))?;
                Ok(vec![dx.unwrap(), grads.a, grads.b])
            },
        );
    }
}

#[test]
fn rms_norm_gradients() {
    for (groups, width) in [(1, 19), (3, 5)] {
        let inputs = [randn(1, &[4, groups * width]), randn(2, &[width])];
        check(
            "rms_norm",
            &inputs,
            &|exec, i| Ok(rms_norm::forward(exec, &i[0], &i[1], 1e-5)?.0),
            &|exec, i, dy| {
                let (y, saved) = rms_norm::forward(exec, &i[0], &i[1], 1e-5)?;
                assert_eq!(bits(&y), bits(&rms_norm::recompute(exec, &i[0], &i[1], &saved)?));
                let (dx, dw) = rms_norm::backward(exec, dy, &i[0], &i[1], &saved, true)?;
                Ok(vec![dx, dw.unwrap()])
            },
        );
    }
}

#[test]
fn layer_norm_gradients() {
    let inputs = [randn(1, &[4, 19]), randn(2, &[19]), randn(3, &[19])];
    check(
        "layer_norm",
        &inputs,
        &|exec, i| Ok(layer_norm::forward(exec, &i[0], &i[1], &i[2], 1e-5)?.0),
        &|exec, i, dy| {
            let (y, saved) = layer_norm::forward(exec, &i[0], &i[1], &i[2], 1e-5)?;
            let again = layer_norm::recompute(exec, &i[0], &i[1], &i[2], &saved)?;
            assert_eq!(bits(&y), bits(&again));
            let (dx, params) = layer_norm::backward(exec, dy, &i[0], &i[1], &saved, true)?;
            let params = params.unwrap();
            Ok(vec![dx, params.weight, params.bias])
        },
    );
}

fn rows(positions: &[u32]) -> rope::Rows {
    rope::Rows::new(positions.to_vec(), &Device::Cpu).unwrap()
}

#[test]
fn rope_gradients_in_every_layout() {
    use rope::Layout;
    let positions = [0, 1, 7, 31];
    // Three heads; of eight values the first six or all are rotated.
    for (layout, frequencies) in [
        (Layout::Halves, vec![1.0, 0.3, 0.01]),
        (Layout::Interleaved, vec![1.0, 0.3, 0.01]),
        (Layout::Interleaved, vec![1.0, 0.3, 0.01, 0.001]),
        (Layout::TwoHalves, vec![1.0, 0.3, 0.7, 0.02]),
    ] {
        let angles: Vec<f32> =
            (0..32).flat_map(|p| frequencies.iter().map(move |&f: &f32| p as f32 * f)).collect();
        let pairs = frequencies.len();
        let table = rope::Table::new(&angles, pairs, 1.25, layout, &Device::Cpu).unwrap();
        check(
            "rope",
            &[randn(1, &[4, 24])],
            &|exec, i| rope::apply(exec, &i[0], &table, 8, &rows(&positions), false),
            &|exec, _, dy| Ok(vec![rope::apply(exec, dy, &table, 8, &rows(&positions), true)?]),
        );
        let x = f32s(&randn(2, &[4, 24]));
        assert!(rope::apply(Exec::Fused, &x, &table, 8, &rows(&[0, 1, 2, 32]), false).is_err());
    }
}

#[test]
fn activation_gradients() {
    use activation::Activation;
    let inputs = [randn(1, &[3, 37]), randn(2, &[3, 37])];
    for act in [Activation::Silu, Activation::Gelu, Activation::GeluTanh, Activation::Relu] {
        check(
            "gated",
            &inputs,
            &|exec, i| activation::forward(exec, act, &i[0], Some(&i[1])),
            &|exec, i, dy| {
                let (dx, dup) = activation::backward(exec, act, dy, &i[0], Some(&i[1]))?;
                Ok(vec![dx, dup.unwrap()])
            },
        );
        check(
            "alone",
            &inputs[..1],
            &|exec, i| activation::forward(exec, act, &i[0], None),
            &|exec, i, dy| Ok(vec![activation::backward(exec, act, dy, &i[0], None)?.0]),
        );
    }
}

#[test]
fn embedding_gradients_add_repeated_ids() {
    let ids = [3, 0, 3, 1];
    check(
        "embedding",
        &[randn(1, &[5, 4])],
        &|exec, i| {
            // The table's forward is f32 by contract; the reference keeps f64.
            let ids = Tensor::new(&ids, &Device::Cpu)?;
            match i[0].dtype() {
                DType::F64 => i[0].index_select(&ids, 0),
                _ => embedding::forward(exec, &i[0], &[3, 0, 3, 1]),
            }
        },
        &|exec, _, dy| {
            let half = embedding::backward(exec, &dy.narrow(0, 0, 2)?, &ids[..2], 5, None)?;
            Ok(vec![embedding::backward(exec, &dy.narrow(0, 2, 2)?, &ids[2..], 5, Some(half))?])
        },
    );
}

const PLAIN: attention::Config = attention::Config {
    num_heads: 2,
    num_kv_heads: 2,
    head_dim: 2,
    scale: 0.7,
    window: None,
    softcap: None,
    alibi: false,
};

/// Attention, bounds, contexts.
type Shape = (attention::Config, &'static [usize], &'static [usize]);

const SHAPES: [Shape; 8] = [
    (attention::Config { num_heads: 4, head_dim: 6, scale: 0.4, ..PLAIN }, &[0, 5, 6, 13], &[]),
    (
        attention::Config { num_heads: 3, num_kv_heads: 1, head_dim: 4, window: Some(3), ..PLAIN },
        &[0, 9, 11],
        &[],
    ),
    (PLAIN, &[0, 0, 4], &[]),
    (attention::Config { num_kv_heads: 1, window: Some(70), ..PLAIN }, &[0, 75], &[]),
    (attention::Config { num_heads: 3, num_kv_heads: 1, alibi: true, ..PLAIN }, &[0, 5, 13], &[]),
    (attention::Config { softcap: Some(0.8), ..PLAIN }, &[0, 5, 13], &[]),
    (attention::Config { num_kv_heads: 1, ..PLAIN }, &[0, 5, 13], &[3, 8]),
    (attention::Config { num_kv_heads: 1, ..PLAIN }, &[0, 75], &[66]),
];

fn qkv(config: &attention::Config, tokens: usize) -> [Tensor; 3] {
    let kv = config.num_kv_heads * config.head_dim;
    [
        randn(1, &[tokens, config.num_heads * config.head_dim]),
        randn(2, &[tokens, kv]),
        randn(3, &[tokens, kv]),
    ]
}

#[test]
fn attention_gradients() {
    for (config, bounds, prefix) in SHAPES {
        let sequences = Sequences { bounds, prefix };
        check(
            "attention",
            &qkv(&config, *bounds.last().unwrap()),
            &|exec, i| Ok(attention::forward(exec, &i[0], &i[1], &i[2], sequences, config)?.0),
            &|exec, i, dy| {
                let (out, saved) =
                    attention::forward(exec, &i[0], &i[1], &i[2], sequences, config)?;
                let (dq, dk, dv) = attention::backward(
                    exec, dy, &i[0], &i[1], &i[2], &out, &saved, sequences, config,
                )?;
                Ok(vec![dq, dk, dv])
            },
        );
    }
}

#[test]
fn sequences_do_not_see_each_other() {
    let (config, bounds, _) = SHAPES[0];
    let bounds = Sequences::causal(bounds);
    let inputs: Vec<Tensor> = qkv(&config, 13).iter().map(f32s).collect();
    let run = |inputs: &[Tensor]| {
        let (out, saved) =
            attention::forward(Exec::Fused, &inputs[0], &inputs[1], &inputs[2], bounds, config)
                .unwrap();
        let (dq, dk, dv) = attention::backward(
            Exec::Fused,
            &out,
            &inputs[0],
            &inputs[1],
            &inputs[2],
            &out,
            &saved,
            bounds,
            config,
        )
        .unwrap();
        [out, dq, dk, dv].map(|t| bits(&t.narrow(0, 0, 6).unwrap()))
    };
    let changed: Vec<Tensor> = inputs
        .iter()
        .map(|t| {
            let tail = (t.narrow(0, 6, 7).unwrap() * 3.0).unwrap();
            Tensor::cat(&[t.narrow(0, 0, 6).unwrap(), tail], 0).unwrap()
        })
        .collect();
    assert_eq!(run(&inputs), run(&changed));
}

#[test]
fn decoding_equals_the_rows_of_the_whole() {
    let configs = [SHAPES[0].0, SHAPES[1].0, SHAPES[4].0, SHAPES[5].0];
    for (config, tokens) in configs.into_iter().zip([13, 11, 13, 13]) {
        let [q, k, v] = qkv(&config, tokens).map(|t| f32s(&t));
        for exec in [Exec::Portable, Exec::Fused] {
            let bounds = [0, 4, tokens];
            let (all, _) =
                attention::forward(exec, &q, &k, &v, Sequences::causal(&bounds), config).unwrap();
            // The last of the first sequence, one in the middle and the last of the second.
            let spans = [(0, 4), (4, 3), (4, tokens - 4)];
            let rows: Vec<u32> = spans.iter().map(|(first, n)| (first + n - 1) as u32).collect();
            let rows = Tensor::from_slice(&rows, rows.len(), &Device::Cpu).unwrap();
            let last = q.index_select(&rows, 0).unwrap();
            let got = attention::decode(exec, &last, &k, &v, &spans, config).unwrap();
            let want = all.index_select(&rows, 0).unwrap();
            assert!(difference(&values(&got), &values(&want)) < 1e-6);
        }
    }
}

fn pending(made: candle_core::Result<(head::Pending, head::Grads)>) -> (head::Scores, head::Grads) {
    let (scores, grads) = made.unwrap();
    (scores.get().unwrap(), grads)
}

#[test]
fn head_scores_and_gradients() {
    for softcap in [None, Some(1.5)] {
        check_head(softcap);
    }
}

fn check_head(softcap: Option<f64>) {
    let (n, width, vocab) = (9, 6, 41);
    let (h, w) = (randn(1, &[n, width]), randn(2, &[vocab, width]));
    let targets: Vec<u32> = (0..n as u32).map(|i| (i * 7) % vocab as u32).collect();
    let coefficients: Vec<f32> = (0..n).map(|i| -0.1 - 0.05 * i as f32).collect();
    let logits = |h: &Tensor, w: &Tensor| -> Vec<Vec<f64>> {
        let rows: Vec<Vec<f64>> = h.matmul(&w.t().unwrap()).unwrap().to_vec2().unwrap();
        let cap = |l: f64| softcap.map_or(l, |c| c * (l / c).tanh());
        rows.into_iter().map(|row| row.into_iter().map(cap).collect()).collect()
    };
    let logprobs = |h: &Tensor, w: &Tensor| -> Vec<f64> {
        let rows = logits(h, w);
        rows.iter()
            .zip(&targets)
            .map(|(row, &t)| row[t as usize] - row.iter().map(|l| l.exp()).sum::<f64>().ln())
            .collect()
    };
    let loss = |h: &Tensor, w: &Tensor| -> f64 {
        logprobs(h, w).iter().zip(&coefficients).map(|(l, &c)| l * f64::from(c)).sum()
    };
    let numeric = |which: usize| -> Vec<f64> {
        let base = values([&h, &w][which]);
        (0..base.len())
            .map(|i| {
                let at = |delta: f64| {
                    let mut moved = base.clone();
                    moved[i] += delta;
                    let t = Tensor::from_vec(moved, [&h, &w][which].shape(), &Device::Cpu).unwrap();
                    if which == 0 { loss(&t, &w) } else { loss(&h, &t) }
                };
                (at(1e-5) - at(-1e-5)) / 2e-5
            })
            .collect()
    };
    let (want_h, want_w) = (numeric(0), numeric(1));
    let (h32, w32) = (f32s(&h), f32s(&w));
    let head = head::Head { weight: &w32, softcap, rows: None };
    for exec in [Exec::Portable, Exec::Fused] {
        let (scores, grads) =
            pending(head::score_and_backward(exec, &h32, head, &targets, &coefficients, true));
        let got: Vec<f64> = scores.logprobs.iter().map(|&v| f64::from(v)).collect();
        assert!(difference(&got, &logprobs(&h, &w)) < 1e-6);
        assert!(difference(&values(&grads.hidden), &want_h) < 1e-5);
        assert!(difference(&values(&grads.weight.unwrap()), &want_w) < 1e-5);
        let alone = head::score(exec, &h32, head, &targets).unwrap();
        assert_eq!(alone, scores);
        let rows = logits(&h, &w);
        for (i, row) in rows.iter().enumerate() {
            let sum: f64 = row.iter().map(|l| l.exp()).sum();
            let entropy: f64 = row.iter().map(|l| l.exp() / sum * (sum.ln() - l)).sum();
            assert!((f64::from(scores.entropies[i]) - entropy).abs() < 1e-5);
            let best = row.iter().cloned().fold(f64::MIN, f64::max);
            assert_eq!(scores.correct[i], row[targets[i] as usize] == best);
        }
    }
}

#[test]
fn gradients_through_rows_of_length_one() {
    let w = randn(2, &[4, 5]);
    let c = randn(3, &[4, 5]);
    let unit = |w: &Tensor| {
        let lengths = w.sqr().unwrap().sum_keepdim(1).unwrap().sqrt().unwrap();
        w.broadcast_div(&lengths).unwrap()
    };
    let loss =
        |w: &Tensor| -> f64 { (unit(w) * &c).unwrap().sum_all().unwrap().to_scalar().unwrap() };
    let base = values(&w);
    let numeric: Vec<f64> = (0..base.len())
        .map(|i| {
            let at = |delta: f64| {
                let mut moved = base.clone();
                moved[i] += delta;
                loss(&Tensor::from_vec(moved, (4, 5), &Device::Cpu).unwrap())
            };
            (at(1e-5) - at(-1e-5)) / 2e-5
        })
        .collect();
    let got = head::through_unit_rows(&f32s(&c), &f32s(&unit(&w)), &f32s(&w)).unwrap();
    assert!(difference(&values(&got), &numeric) < 1e-5);
}

#[test]
fn head_is_the_same_in_one_chunk_and_in_many() {
    // 600,000 logits a row: sixteen rows fill a chunk.
    let (n, width, vocab) = (35, 2, 600_000);
    let (h, w) = (f32s(&randn(1, &[n, width])), f32s(&randn(2, &[vocab, width])));
    let targets: Vec<u32> = (0..n as u32).map(|i| i * 17).collect();
    let ones = vec![-1.0f32; n];
    let (scores, grads) =
        pending(head::score_and_backward(Exec::Fused, &h, (&w).into(), &targets, &ones, false));
    for i in [0, 15, 16, 34] {
        let row = h.narrow(0, i, 1).unwrap().contiguous().unwrap();
        let (one, grad) = pending(head::score_and_backward(
            Exec::Fused,
            &row,
            (&w).into(),
            &targets[i..=i],
            &ones[i..=i],
            false,
        ));
        assert!((one.logprobs[0] - scores.logprobs[i]).abs() < 1e-5);
        let want = values(&grads.hidden.narrow(0, i, 1).unwrap());
        // A sum over 600,000 tokens in f32, in another order.
        assert!(difference(&values(&grad.hidden), &want) < 2e-3);
    }
}

#[test]
fn what_is_not_finite_is_not_hidden() {
    let h = Tensor::new(&[[f32::NAN, 0.0], [1.0, 1.0]], &Device::Cpu).unwrap();
    let w = f32s(&randn(2, &[40, 2]));
    for exec in [Exec::Portable, Exec::Fused] {
        let (scores, _) =
            pending(head::score_and_backward(exec, &h, (&w).into(), &[1, 2], &[-1.0, -1.0], false));
        assert!(!scores.logprobs[0].is_finite() && scores.logprobs[1].is_finite());
    }
}

#[test]
fn bf16_weights_give_the_widened_product() {
    let x = f32s(&randn(1, &[5, 300]));
    let w = randn(2, &[600, 300]).to_dtype(DType::BF16).unwrap();
    let dy = f32s(&randn(3, &[5, 600]));
    let wide = w.to_dtype(DType::F32).unwrap();
    let y = linear::forward(Exec::Fused, &x, &w, None).unwrap();
    let want = linear::forward(Exec::Portable, &x, &wide, None).unwrap();
    assert!(difference(&values(&y), &values(&want)) < 1e-6);
    let dx = linear::backward_input(Exec::Fused, &dy, &w).unwrap();
    let want = linear::backward_input(Exec::Portable, &dy, &wide).unwrap();
    assert!(difference(&values(&dx), &values(&want)) < 1e-6);
    let twice = linear::backward_input_add(Exec::Fused, &dy, &w, dx.copy().unwrap()).unwrap();
    assert!(difference(&values(&twice), &values(&(want * 2.0).unwrap())) < 1e-6);
}

#[test]
fn dropout_keeps_the_mean_and_is_the_same_everywhere() {
    let x = Tensor::ones((200, 300), DType::F32, &Device::Cpu).unwrap();
    let mask = dropout::Dropout { p: 0.25, key: 5, rows: &[] };
    let fused = dropout::apply(Exec::Fused, &x, mask).unwrap();
    assert_eq!(bits(&fused), bits(&dropout::apply(Exec::Portable, &x, mask).unwrap()));
    let mean: f32 = fused.mean_all().unwrap().to_scalar().unwrap();
    assert!((mean - 1.0).abs() < 0.01, "{mean}");
    let other = dropout::Dropout { key: 6, ..mask };
    assert_ne!(bits(&fused), bits(&dropout::apply(Exec::Fused, &x, other).unwrap()));
    // A row's mask is its name's, wherever it stands.
    let names: Vec<u64> = (50..200).chain(0..50).collect();
    let named = dropout::Dropout { rows: &names, ..mask };
    let moved = dropout::apply(Exec::Fused, &x, named).unwrap();
    let row = |t: &Tensor, r: usize| bits(&t.narrow(0, r, 1).unwrap().contiguous().unwrap());
    assert_eq!(row(&moved, 0), row(&fused, 50));
    assert_eq!(row(&moved, 199), row(&fused, 49));
}

#[test]
fn threads_do_not_change_a_bit() {
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let config = attention::Config {
                num_heads: 9,
                num_kv_heads: 3,
                head_dim: 64,
                scale: 0.125,
                ..PLAIN
            };
            let [q, k, v] = qkv(&config, 300).map(|t| f32s(&t));
            let bounds = Sequences::causal(&[0, 170, 300]);
            let (out, saved) = attention::forward(Exec::Fused, &q, &k, &v, bounds, config).unwrap();
            let (dq, dk, dv) =
                attention::backward(Exec::Fused, &out, &q, &k, &v, &out, &saved, bounds, config)
                    .unwrap();
            let w = f32s(&randn(4, &[700, 576]));
            let y = linear::forward(Exec::Fused, &q, &w, None).unwrap();
            let dw = linear::backward_weight(Exec::Fused, &y, &q).unwrap();
            let act =
                activation::forward(Exec::Fused, activation::Activation::Silu, &q, Some(&out))
                    .unwrap();
            let (normed, _) =
                rms_norm::forward(Exec::Fused, &q, &f32s(&randn(5, &[576])), 1e-5).unwrap();
            let targets: Vec<u32> = (0..300).collect();
            let (_, grads) = head::score_and_backward(
                Exec::Fused,
                &q,
                (&w).into(),
                &targets,
                &vec![-0.5; 300],
                true,
            )
            .unwrap();
            let all = [out, dq, dk, dv, y, dw, act, normed, grads.hidden, grads.weight.unwrap()];
            all.map(|t| bits(&t))
        })
    };
    assert!(run(1) == run(2) && run(1) == run(3));
}
