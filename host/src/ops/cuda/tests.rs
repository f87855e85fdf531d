//! Every kernel against the portable operations in f64 on the CPU and in f32 on the device, or to the
//! bit against the CPU's kernels where it promises that; and the same bits twice.
#![allow(clippy::unwrap_used)]

use candle_core::{DType, Device, Tensor};

use crate::device::{DeviceChoice, open};
use crate::ops::activation::Activation;
use crate::ops::attention::{self, Sequences};
use crate::ops::cpu::head::score_row;
use crate::ops::quant::{Int8, Nf4, nf4};
use crate::ops::rope::{Layout, Table};
use crate::ops::{Exec, cuda, layer_norm, rms_norm, rope};
use crate::rng::{Purpose, Stream};

/// The device, or the end of the test.
macro_rules! gpu {
    () => {
        match open(DeviceChoice::Cuda(None)) {
            Ok(device) => device,
            Err(reason) => {
                println!("skipped: {reason}");
                return;
            }
        }
    };
}

/// Normal values of a shape, f32, on the CPU.
fn randn(seed: u64, shape: &[usize]) -> Tensor {
    let stream = Stream::new(seed, Purpose::Test, 0);
    let n: usize = shape.iter().product();
    let values: Vec<f32> = (0..n as u64).map(|i| stream.normal(i) as f32).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// Uniform bits.
fn words(seed: u64, n: usize) -> Vec<u32> {
    (0..n as u64).map(|i| (crate::rng::mix64(seed << 40 | i) >> 32) as u32).collect()
}

fn to(t: &Tensor, device: &Device) -> Tensor {
    t.to_device(device).unwrap()
}

fn f64s(t: &Tensor) -> Tensor {
    t.to_dtype(DType::F64).unwrap()
}

fn values(t: &Tensor) -> Vec<f64> {
    let t = t.to_device(&Device::Cpu).unwrap();
    t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Largest difference relative to the largest value; both may be NaN at the same places.
fn close(name: &str, got: &Tensor, want: &Tensor, tolerance: f64) {
    assert_eq!(got.dims(), want.dims(), "{name}");
    let (got, want) = (values(got), values(want));
    let finite = want.iter().filter(|v| v.is_finite());
    let scale = finite.fold(1e-3f64, |m, v| m.max(v.abs()));
    let mut worst = (0f64, 0);
    for (i, (&g, &w)) in got.iter().zip(&want).enumerate() {
        if g.is_nan() && w.is_nan() || g == w {
            continue;
        }
        assert!(g.is_finite() && w.is_finite(), "{name}: {g} instead of {w} at {i}");
        let error = (g - w).abs() / scale;
        worst = if error > worst.0 { (error, i) } else { worst };
    }
    let (error, at) = worst;
    assert!(error <= tolerance, "{name}: {} instead of {} at {at}: {error:e}", got[at], want[at]);
}

/// The same values to the bit (or both NaN).
fn same(name: &str, got: &Tensor, want: &Tensor) {
    assert_eq!((got.dims(), got.dtype()), (want.dims(), want.dtype()), "{name}");
    let (got, want) = (values(got), values(want));
    for (i, (g, w)) in got.iter().zip(&want).enumerate() {
        let equal = g.to_bits() == w.to_bits() || g.is_nan() && w.is_nan();
        assert!(equal, "{name}: {g:e} instead of {w:e} at {i}");
    }
}

/// The results of two runs, which must be the same bits.
fn twice(name: &str, run: impl Fn() -> Vec<Tensor>) -> Vec<Tensor> {
    let (first, second) = (run(), run());
    for (a, b) in first.iter().zip(&second) {
        same(&format!("{name} again"), a, b);
    }
    first
}

/// The same values at a start offset of one: what can't be read 16 bytes at a time.
fn shifted(t: &Tensor) -> Tensor {
    let flat = t.flatten_all().unwrap();
    let pad = flat.narrow(0, 0, 1).unwrap();
    let longer = Tensor::cat(&[&pad, &flat], 0).unwrap();
    longer.narrow(0, 1, flat.elem_count()).unwrap().reshape(t.shape()).unwrap()
}

const SHAPES: [(usize, usize, usize); 10] = [
    (1, 1, 5),
    (7, 1, 64),
    (5, 4, 128),
    (70_001, 1, 33),
    (17_000, 4, 8),
    (3, 1, 1024),
    (5, 1, 1025),
    (67, 1, 4096),
    (2, 1, 16_384),
    (130, 3, 37),
];

#[test]
fn rms_norms_are_the_portable_ones() {
    let device = gpu!();
    for (tokens, groups, width) in SHAPES {
        let name = format!("rms {tokens} x {groups} x {width}");
        let (x, dy) = (randn(1, &[tokens, groups * width]), randn(2, &[tokens, groups * width]));
        let weight = randn(3, &[width]);
        let (forward, saved) =
            rms_norm::forward(Exec::Portable, &f64s(&x), &f64s(&weight), 1e-5).unwrap();
        let (dx, dw) =
            rms_norm::backward(Exec::Portable, &f64s(&dy), &f64s(&x), &f64s(&weight), &saved, true)
                .unwrap();
        let dw = dw.unwrap();
        let (x, dy, weight) = (to(&x, &device), to(&dy, &device), to(&weight, &device));
        for (x, dy) in [(x.clone(), dy.clone()), (shifted(&x), shifted(&dy))] {
            let got = twice(&name, || {
                let (y, rstd) = cuda::norm::rms_forward(&x, &weight, 1e-5).unwrap();
                let again = cuda::norm::rms_recompute(&x, &weight, &rstd).unwrap();
                same(&format!("{name} recomputed"), &again, &y);
                let (dx, dw) = cuda::norm::rms_backward(&dy, &x, &weight, &rstd, true).unwrap();
                let (alone, none) =
                    cuda::norm::rms_backward(&dy, &x, &weight, &rstd, false).unwrap();
                same(&format!("{name} dx alone"), &alone, &dx);
                assert!(none.is_none());
                vec![y, rstd, dx, dw.unwrap()]
            });
            close(&format!("{name} y"), &got[0], &forward, 2e-6);
            close(&format!("{name} rstd"), &got[1], &saved.rstd, 2e-6);
            close(&format!("{name} dx"), &got[2], &dx, 4e-6);
            close(&format!("{name} dw"), &got[3], &dw, 1e-5);
        }
        let (y, saved) = rms_norm::forward(Exec::Portable, &x, &weight, 1e-5).unwrap();
        close(&format!("{name} portable"), &y, &forward, 1e-4);
        let (portable, _) =
            rms_norm::backward(Exec::Portable, &dy, &x, &weight, &saved, false).unwrap();
        close(&format!("{name} portable dx"), &portable, &dx, 1e-4);
    }
}

#[test]
fn layer_norms_are_the_portable_ones() {
    let device = gpu!();
    for (rows, groups, width) in SHAPES {
        let (rows, name) = (rows * groups, format!("layer {rows} x {width}"));
        let (x, dy) = (randn(1, &[rows, width]), randn(2, &[rows, width]));
        let (weight, bias) = (randn(3, &[width]), randn(4, &[width]));
        let (forward, saved) =
            layer_norm::forward(Exec::Portable, &f64s(&x), &f64s(&weight), &f64s(&bias), 1e-5)
                .unwrap();
        let (dx, params) = layer_norm::backward(
            Exec::Portable,
            &f64s(&dy),
            &f64s(&x),
            &f64s(&weight),
            &saved,
            true,
        )
        .unwrap();
        let params = params.unwrap();
        let (x, dy) = (to(&x, &device), to(&dy, &device));
        let (weight, bias) = (to(&weight, &device), to(&bias, &device));
        for (x, dy) in [(x.clone(), dy.clone()), (shifted(&x), shifted(&dy))] {
            let got = twice(&name, || {
                let (y, mean, rstd) = cuda::norm::layer_forward(&x, &weight, &bias, 1e-5).unwrap();
                let again = cuda::norm::layer_recompute(&x, &weight, &bias, &mean, &rstd).unwrap();
                same(&format!("{name} recomputed"), &again, &y);
                let (dx, params) =
                    cuda::norm::layer_backward(&dy, &x, &weight, &mean, &rstd, true).unwrap();
                let (dw, db) = params.unwrap();
                vec![y, mean, rstd, dx, dw, db]
            });
            close(&format!("{name} y"), &got[0], &forward, 4e-6);
            close(&format!("{name} mean"), &got[1], &saved.mean, 2e-6);
            close(&format!("{name} rstd"), &got[2], &saved.rstd, 4e-6);
            close(&format!("{name} dx"), &got[3], &dx, 1e-5);
            close(&format!("{name} dw"), &got[4], &params.weight, 1e-5);
            close(&format!("{name} db"), &got[5], &params.bias, 1e-5);
        }
    }
}

#[test]
fn square_sums_are_exact_to_f64() {
    let device = gpu!();
    for n in [1, 3, 4097, 5_000_003] {
        let x = randn(5, &[n]);
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let x = x.to_dtype(dtype).unwrap();
            let want: f64 = values(&x).iter().map(|v| v * v).sum();
            let x = to(&x, &device);
            let got = twice("square sum", || vec![cuda::norm::square_sum(&x).unwrap()]);
            let got: f64 = got[0].to_scalar().unwrap();
            assert!((got - want).abs() <= 1e-11 * want, "{n} {dtype:?}: {got} {want}");
        }
    }
    let none = cuda::norm::square_sum(&to(&randn(5, &[1]), &device).narrow(0, 0, 0).unwrap());
    assert_eq!(none.unwrap().to_scalar::<f64>().unwrap(), 0.0);
}

#[test]
fn activations_are_the_portable_ones() {
    let device = gpu!();
    let all = [Activation::Silu, Activation::Gelu, Activation::GeluTanh, Activation::Relu];
    for (rows, width) in [(1, 1), (3, 7), (70_001, 4), (1001, 1003)] {
        let x = (randn(6, &[rows, width]) * 3.0).unwrap();
        let (up, dy) = (randn(7, &[rows, width]), randn(8, &[rows, width]));
        for act in all {
            for gated in [false, true] {
                let name = format!("{act:?} {rows} x {width}, gated {gated}");
                let up = gated.then_some(&up);
                let forward = |exec, x: &Tensor, up: Option<&Tensor>| {
                    crate::ops::activation::forward(exec, act, x, up).unwrap()
                };
                let backward = |exec, dy: &Tensor, x: &Tensor, up: Option<&Tensor>| {
                    let (dx, dup) = crate::ops::activation::backward(exec, act, dy, x, up).unwrap();
                    [Some(dx), dup].into_iter().flatten().collect::<Vec<_>>()
                };
                let wide = up.map(f64s);
                let mut want = vec![forward(Exec::Portable, &f64s(&x), wide.as_ref())];
                want.extend(backward(Exec::Portable, &f64s(&dy), &f64s(&x), wide.as_ref()));
                let (x, dy, up) = (to(&x, &device), to(&dy, &device), up.map(|u| to(u, &device)));
                let moved = (shifted(&x), shifted(&dy), up.as_ref().map(shifted));
                for (x, dy, up) in [(x.clone(), dy.clone(), up.clone()), moved] {
                    let got = twice(&name, || {
                        let y = cuda::activation::forward(act, &x, up.as_ref()).unwrap();
                        let (dx, dup) =
                            cuda::activation::backward(act, &dy, &x, up.as_ref()).unwrap();
                        [Some(y), Some(dx), dup].into_iter().flatten().collect()
                    });
                    assert_eq!(got.len(), want.len());
                    for (i, (g, w)) in got.iter().zip(&want).enumerate() {
                        close(&format!("{name} result {i}"), g, w, 4e-6);
                    }
                }
                close(&name, &forward(Exec::Portable, &x, up.as_ref()), &want[0], 1e-4);
                for (g, w) in backward(Exec::Portable, &dy, &x, up.as_ref()).iter().zip(&want[1..])
                {
                    close(&format!("{name} portable"), g, w, 1e-4);
                }
            }
        }
    }
}

#[test]
fn rotations_are_the_cpus_to_the_bit() {
    let device = gpu!();
    let all = [Layout::Halves, Layout::Interleaved, Layout::TwoHalves];
    for (tokens, heads, head_dim, pairs) in
        [(1, 1, 2, 1), (5, 3, 64, 32), (9, 2, 12, 6), (70_001, 2, 8, 4), (33, 33, 128, 64)]
    {
        for layout in all {
            for extra in [0, 3, 16] {
                if layout == Layout::TwoHalves && (extra > 0 || pairs % 2 > 0) {
                    continue;
                }
                let head_dim = head_dim + extra;
                let name = format!("{layout:?} {tokens} x {heads} x {head_dim} of {pairs}");
                let x = randn(9, &[tokens, heads * head_dim]);
                let angles: Vec<f32> = (0..41 * pairs).map(|i| i as f32 * 0.37).collect();
                let table = |device| Table::new(&angles, pairs, 1.1, layout, device).unwrap();
                let rows: Vec<u32> = words(10, tokens).iter().map(|w| w % 41).collect();
                let (own, on_gpu) = (table(&Device::Cpu), to(&x, &device));
                let (theirs, ids) = (table(&device), Tensor::new(&rows[..], &device).unwrap());
                let rows = rope::Rows::new(rows, &device).unwrap();
                for backward in [false, true] {
                    let want =
                        rope::apply(Exec::Fused, &x, &own, head_dim, &rows, backward).unwrap();
                    for x in [on_gpu.clone(), shifted(&on_gpu)] {
                        let (cos, sin) = (&theirs.cos, &theirs.sin);
                        let got = cuda::rope::apply(&x, cos, sin, &ids, layout, head_dim, backward);
                        same(&name, &got.unwrap(), &want);
                    }
                    let portable =
                        rope::apply(Exec::Portable, &on_gpu, &theirs, head_dim, &rows, backward);
                    close(&format!("{name} portable"), &portable.unwrap(), &want, 1e-5);
                }
            }
        }
    }
    let (x, table) = (to(&randn(9, &[2, 8]), &device), randn(10, &[3, 4]));
    let (table, rows) = (to(&table, &device), Tensor::new(&[2u32, 3], &device).unwrap());
    let y = cuda::rope::apply(&x, &table, &table, &rows, Layout::Halves, 8, false).unwrap();
    let y = values(&y);
    assert!(y[..8].iter().all(|v| v.is_finite()) && y[8..].iter().all(|v| v.is_nan()));
}

#[test]
fn dropout_masks_are_the_cpus() {
    use crate::ops::dropout::{Dropout, apply, row_key};
    let device = gpu!();
    for (rows, width) in [(1, 1), (5, 7), (70_001, 9), (33, 4096), (3, 4099)] {
        let x = randn(11, &[rows, width]);
        let names: Vec<u64> = (0..rows as u64 / 2).map(|i| i * 7 + 3).collect();
        for p in [0.1f32, 0.5] {
            let dropout = Dropout { p, key: 12_345, rows: &names };
            let want = apply(Exec::Fused, &x, dropout).unwrap();
            let keys: Vec<u32> = (0..rows).map(|r| row_key(dropout.key, &names, r)).collect();
            let keys = Tensor::new(&keys[..], &device).unwrap();
            let threshold = (f64::from(p) * 4_294_967_296.0) as u32;
            let x = to(&x, &device);
            for x in [x.clone(), shifted(&x)] {
                let got = cuda::dropout::apply(&x, &keys, threshold, 1.0 / (1.0 - p)).unwrap();
                same(&format!("dropout {rows} x {width}"), &got, &want);
            }
        }
    }
}

/// Log-probability, entropy and whether correct by row, and the gradient, on the CPU.
fn scored(logits: &Tensor, targets: &[u32], dlogprobs: &[f32]) -> (Tensor, Tensor) {
    let (n, vocab) = logits.dims2().unwrap();
    let f32s = logits.to_dtype(DType::F32).unwrap().flatten_all().unwrap();
    let mut logits = f32s.to_vec1::<f32>().unwrap();
    let mut scores = Vec::with_capacity(3 * n);
    for (i, row) in logits.chunks_exact_mut(vocab).enumerate() {
        let score = score_row(row, targets[i] as usize, Some(dlogprobs[i]));
        scores.extend([score.logprob, score.entropy, f32::from(u8::from(score.correct))]);
    }
    let tensor = |v: Vec<f32>, width| Tensor::from_vec(v, (n, width), &Device::Cpu).unwrap();
    (tensor(scores, 3), tensor(logits, vocab))
}

#[test]
fn heads_score_as_the_cpu_does() {
    let device = gpu!();
    for (n, vocab) in [(1, 1), (5, 3), (70_001, 5), (9, 511), (7, 50_257), (2, 300_001)] {
        let mut base: Vec<f32> = (randn(12, &[n * vocab]) * 3.0).unwrap().to_vec1::<f32>().unwrap();
        let targets: Vec<u32> = words(13, n).iter().map(|w| w % vocab as u32).collect();
        // Impossible tokens, and some rows whose target is the greatest by far.
        let hidden = words(14, n * vocab);
        for (i, v) in base.iter_mut().enumerate() {
            let (row, column) = (i / vocab, i % vocab);
            if column == targets[row] as usize {
                *v = if row % 3 == 0 { 40.0 } else { *v };
            } else if row % 2 == 1 && hidden[i].is_multiple_of(4) {
                *v = f32::NEG_INFINITY;
            }
        }
        let dlogprobs: Vec<f32> = randn(15, &[n]).to_vec1().unwrap();
        for (dtype, tolerance) in [(DType::F32, 4e-6), (DType::BF16, 5e-3), (DType::F16, 1e-3)] {
            let name = format!("head {n} x {vocab} {dtype:?}");
            let logits = Tensor::from_slice(&base, (n, vocab), &Device::Cpu).unwrap();
            let logits = logits.to_dtype(dtype).unwrap();
            let (scores, gradient) = scored(&logits, &targets, &dlogprobs);
            let targets = Tensor::new(&targets[..], &device).unwrap();
            let coefficients = Tensor::new(&dlogprobs[..], &device).unwrap();
            let logits = to(&logits, &device);
            let untouched = logits.copy().unwrap();
            let (alone, kept) = cuda::head::score(logits.clone(), &targets, None).unwrap();
            same(&format!("{name} kept"), &kept, &untouched);
            close(&name, &alone, &scores, 4e-6);
            let got = twice(&name, || {
                let fresh = logits.copy().unwrap();
                let (scores, gradient) =
                    cuda::head::score(fresh.clone(), &targets, Some(&coefficients)).unwrap();
                same(&format!("{name} in place"), &gradient, &fresh);
                vec![scores, gradient]
            });
            same(&format!("{name} scores with a gradient"), &got[0], &alone);
            close(&format!("{name} gradient"), &got[1], &gradient, tolerance);
            let moved = shifted(&logits);
            let (scores, moved) = cuda::head::score(moved, &targets, Some(&coefficients)).unwrap();
            close(&format!("{name} shifted"), &scores, &alone, 4e-6);
            close(&format!("{name} shifted gradient"), &moved, &gradient, tolerance);
        }
    }
}

#[test]
fn adamw_is_the_cpus_to_the_bit() {
    use crate::model::{GradSet, NamedTensor, ParamSet};
    use crate::optim::adamw::{AdamW, Settings};
    let device = gpu!();
    let settings = Settings { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1 };
    for n in [1usize, 5, 4096, 1_000_003] {
        let start = randn(16, &[n]);
        let mut set = ParamSet { params: vec![NamedTensor::new("p", start.copy().unwrap())] };
        set.params[0].decay = true;
        let mut optimizer = AdamW::new(settings, &set).unwrap();
        let zeros = Tensor::zeros(n, DType::F32, &device).unwrap();
        let p = to(&start, &device);
        let state = [p.clone(), zeros.copy().unwrap(), zeros.copy().unwrap()];
        let moved = [shifted(&p), shifted(&zeros), shifted(&zeros)];
        for t in 1..=3 {
            let g = randn(16 + t, &[n]);
            optimizer.update(&mut set, &GradSet::of(vec![Some(g.clone())]), 0.01, 0.5).unwrap();
            let (bias1, bias2) = (1.0 - 0.9f64.powf(t as f64), 1.0 - 0.999f64.powf(t as f64));
            let numbers = cuda::adamw::Numbers {
                keep: (1.0 - 0.01 * settings.weight_decay) as f32,
                one_minus_beta1: (1.0 - settings.beta1) as f32,
                beta2: settings.beta2 as f32,
                one_minus_beta2: (1.0 - settings.beta2) as f32,
                step_size: (0.01 / bias1) as f32,
                bias2_sqrt: bias2.sqrt() as f32,
                eps: settings.eps as f32,
                grad_scale: 0.5,
            };
            let g = to(&g, &device);
            for [p, m, v] in [&state, &moved] {
                cuda::adamw::update(p, m, v, &g, numbers).unwrap();
                same(&format!("p of {n}"), p, &set.params[0].tensor);
                same(&format!("m of {n}"), m, &optimizer.m[0]);
                same(&format!("v of {n}"), v, &optimizer.v[0]);
            }
        }
    }
}

#[test]
fn what_cannot_be_done_is_said() {
    let device = gpu!();
    let x = to(&randn(1, &[4, 6]), &device);
    let weight = to(&randn(2, &[4]), &device);
    let turned = cuda::norm::rms_forward(&x.t().unwrap(), &weight, 1e-5).unwrap_err().to_string();
    assert!(turned.contains("contiguous()"), "{turned}");
    let host = cuda::activation::forward(Activation::Relu, &randn(1, &[3]), None);
    assert!(host.unwrap_err().to_string().contains("another device"));
    let half = x.to_dtype(DType::BF16).unwrap();
    assert!(cuda::activation::forward(Activation::Relu, &half, None).is_err());
    let numbers = cuda::adamw::Numbers {
        keep: 1.0,
        one_minus_beta1: 0.1,
        beta2: 0.9,
        one_minus_beta2: 0.1,
        step_size: 0.1,
        bias2_sqrt: 1.0,
        eps: 1e-8,
        grad_scale: 1.0,
    };
    let (m, g) = (x.copy().unwrap(), x.copy().unwrap());
    let shared = cuda::adamw::update(&x, &m, &m, &g, numbers).unwrap_err().to_string();
    assert!(shared.contains("share their memory"), "{shared}");
}

#[test]
fn widened_matrices_are_the_cpus_to_the_bit() {
    let device = gpu!();
    for (rows, width) in [(1, 1), (3, 37), (1, 64 * 300), (70_001, 5), (33, 4096), (7, 64 * 9 + 8)]
    {
        let weights: Vec<f32> = randn(20, &[rows * width]).to_vec1().unwrap();
        let widened = |widen: &dyn Fn(usize, &mut [f32])| {
            let mut all = vec![0f32; rows * width];
            all.chunks_exact_mut(width).enumerate().for_each(|(r, to)| widen(r, to));
            Tensor::from_vec(all, (rows, width), &Device::Cpu).unwrap()
        };
        let int8 = Int8::quantize(&weights, rows, width);
        let int8_want = widened(&|r, to| int8.widen_row(r, to));
        let (bytes, scales) = int8.parts();
        let bytes: Vec<u8> = bytes.iter().map(|&v| v as u8).collect();
        let bytes = Tensor::from_vec(bytes, (rows, width), &device).unwrap();
        let scales = Tensor::new(scales, &device).unwrap();
        let nested = Nf4::quantize(&weights, rows, width);
        let nested_want = widened(&|r, to| nested.widen_row(r, to));
        let blocks = (rows * width).div_ceil(nf4::BLOCK);
        let plain = randn(21, &[blocks]).to_vec1::<f32>().unwrap();
        let own = nf4::Scales::Plain(plain.clone());
        let own = Nf4::from_parts(nested.parts().0.to_vec(), own, rows, width).unwrap();
        let plain_want = widened(&|r, to| own.widen_row(r, to));
        let packed = Tensor::new(nested.parts().0, &device).unwrap();
        let plain = Tensor::new(&plain[..], &device).unwrap();
        let nf4::Scales::Nested { indices, code, nested, offset } = nested.parts().1 else {
            panic!("plain scales");
        };
        let on_device = (
            Tensor::new(&indices[..], &device).unwrap(),
            Tensor::new(&code[..], &device).unwrap(),
            Tensor::new(&nested[..], &device).unwrap(),
        );
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let name = format!("{rows} x {width} in {dtype:?}");
            let rounded = |t: &Tensor| t.to_dtype(dtype).unwrap();
            for bytes in [bytes.clone(), shifted(&bytes)] {
                let got = cuda::quant::int8(&bytes, &scales, dtype).unwrap();
                same(&format!("int8 {name}"), &got, &rounded(&int8_want));
            }
            for packed in [packed.clone(), shifted(&packed)] {
                let scales = cuda::quant::Nf4Scales::Plain(&plain);
                let got = cuda::quant::nf4(&packed, scales, rows, width, dtype).unwrap();
                same(&format!("plain nf4 {name}"), &got, &rounded(&plain_want));
                let (indices, code, nested) = (&on_device.0, &on_device.1, &on_device.2);
                let scales =
                    cuda::quant::Nf4Scales::Nested { indices, code, nested, offset: *offset };
                let got = cuda::quant::nf4(&packed, scales, rows, width, dtype).unwrap();
                same(&format!("nested nf4 {name}"), &got, &rounded(&nested_want));
            }
        }
    }
}

/// Probabilities, log-sum-exps and the scores' gradient by the definition, in f64.
fn attended(
    scores: &Tensor,
    dp: &Tensor,
    delta: &Tensor,
    spec: &cuda::softmax::Spec<'_>,
) -> [Tensor; 3] {
    let (batch, heads, queries, keys) = scores.dims4().unwrap();
    assert_eq!(delta.elem_count(), batch * heads * queries);
    let slopes = spec.slopes.map_or(vec![0.0; heads], values);
    let (s, g, delta) = (values(scores), values(dp), values(delta));
    let (mut p, mut ds) = (vec![0f64; s.len()], vec![0f64; s.len()]);
    let mut lse = Vec::new();
    for (row, delta) in delta.iter().enumerate() {
        let (position, head) = (spec.first_query + row % queries, row / queries % heads);
        let low = spec.window.map_or(0, |w| (position + 1).saturating_sub(w));
        let end = (position + 1).max(spec.prefix);
        let seen = |k: &usize| (low..end).contains(&(spec.first_key + k));
        let own = row * keys..(row + 1) * keys;
        let (s, g) = (&s[own.clone()], &g[own.clone()]);
        let (p, ds) = (&mut p[own.clone()], &mut ds[own]);
        let scale = f64::from(spec.scale);
        let at = |k: usize| {
            let (mut v, mut slope) = (s[k] * scale, 1.0);
            if let Some(cap) = spec.softcap.map(f64::from) {
                let part = (v / cap).tanh();
                (v, slope) = (cap * part, 1.0 - part * part);
            }
            let distance = (spec.first_key + k) as f64 - position as f64;
            (v + slopes[head] * distance, slope)
        };
        let max = (0..keys).filter(seen).map(|k| at(k).0).fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = (0..keys).filter(seen).map(|k| (at(k).0 - max).exp()).sum();
        lse.push(max + sum.ln());
        for k in (0..keys).filter(seen) {
            let (v, slope) = at(k);
            p[k] = (v - max - sum.ln()).exp();
            ds[k] = p[k] * (g[k] - delta) * scale * slope;
        }
    }
    let rows = Tensor::from_vec(lse, (batch, heads, queries), &Device::Cpu).unwrap();
    let all = |v| Tensor::from_vec(v, scores.shape(), &Device::Cpu).unwrap();
    [all(p), rows, all(ds)]
}

#[test]
fn softmaxes_are_those_of_the_definition() {
    let device = gpu!();
    // Sizes; first query and key; window, prefix, cap, slopes.
    type Case = ([usize; 4], (usize, usize), Option<usize>, usize, Option<f32>, bool);
    let cases: [Case; 13] = [
        ([1, 1, 1, 1], (0, 0), None, 0, None, false),
        ([2, 3, 33, 33], (0, 0), None, 0, None, true),
        ([2, 3, 40, 64], (24, 0), None, 0, Some(5.0), false),
        ([1, 2, 16, 61], (84, 39), Some(10), 0, None, true),
        // Keys from the middle.
        ([1, 2, 16, 30], (84, 39), None, 0, None, true),
        ([1, 2, 50, 50], (0, 0), None, 20, None, false),
        ([1, 2, 50, 50], (0, 0), Some(17), 20, Some(3.0), false),
        ([2, 40, 900, 7], (0, 0), None, 7, None, false),
        ([1, 2, 9, 1024], (1015, 0), None, 0, None, false),
        ([1, 2, 5, 1025], (1020, 0), None, 0, None, false),
        ([1, 2, 5, 2051], (2046, 0), Some(300), 0, None, true),
        ([1, 1, 3, 9001], (4000, 0), None, 0, Some(20.0), false),
        ([1, 2, 7, 32_768], (32_761, 0), None, 0, None, false),
    ];
    for (sizes, (first_query, first_key), window, prefix, softcap, alibi) in cases {
        let heads = sizes[1];
        let slopes: Vec<f32> = (0..heads).map(|h| attention::alibi_slope(h, heads)).collect();
        let slopes = Tensor::new(&slopes[..], &device).unwrap();
        let spec = cuda::softmax::Spec {
            scale: 0.3,
            softcap,
            first_query,
            first_key,
            window,
            prefix,
            slopes: alibi.then_some(&slopes),
        };
        let (scores, dp) = ((randn(22, &sizes) * 6.0).unwrap(), randn(23, &sizes));
        let delta = randn(24, &sizes[..3]);
        for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::BF16, 5e-3), (DType::F16, 1e-3)] {
            let name = format!("softmax {sizes:?} {dtype:?}");
            let (scores, dp) = (scores.to_dtype(dtype).unwrap(), dp.to_dtype(dtype).unwrap());
            let [p, lse, ds] = attended(&scores, &dp, &delta, &spec);
            let (scores, dp) = (to(&scores, &device), to(&dp, &device));
            let delta = to(&delta, &device);
            let plain = (scores.clone(), dp.clone());
            for (scores, dp) in [plain, (shifted(&scores), shifted(&dp)), (shifted(&scores), dp)] {
                let got = twice(&name, || {
                    let (p, lse) = cuda::softmax::forward(&scores, &spec).unwrap();
                    let (again, ds) =
                        cuda::softmax::backward(&scores, &dp, &lse, &delta, &spec).unwrap();
                    vec![p, lse, again, ds]
                });
                close(&format!("{name} p"), &got[0], &p, tolerance);
                close(&format!("{name} lse"), &got[1], &lse, 2e-6);
                close(&format!("{name} p again"), &got[2], &p, tolerance);
                close(&format!("{name} ds"), &got[3], &ds, tolerance);
                let own = scores.copy().unwrap();
                let (in_place, lse) = cuda::softmax::forward_in_place(own, &spec).unwrap();
                close(&format!("{name} in place"), &in_place, &got[0], tolerance);
                let (own, dp) = (scores.copy().unwrap(), dp.copy().unwrap());
                let (again, ds) =
                    cuda::softmax::backward_in_place(own, dp, &lse, &delta, &spec).unwrap();
                close(&format!("{name} p in place"), &again, &got[2], tolerance);
                close(&format!("{name} ds in place"), &ds, &got[3], tolerance);
            }
        }
    }
}

#[test]
fn attention_by_products_and_softmaxes_is_the_portable_one() {
    let device = gpu!();
    let (n, heads, head_dim) = (77, 4, 16);
    for (window, softcap, alibi, prefix) in [
        (None, None, false, 0),
        (Some(9), None, false, 0),
        (None, Some(2.0), false, 0),
        (None, None, true, 0),
        (Some(30), Some(2.0), false, 21),
    ] {
        let scale = 0.25;
        let config = attention::Config {
            num_heads: heads,
            num_kv_heads: heads,
            head_dim,
            scale,
            window,
            softcap,
            alibi,
        };
        let (bounds, contexts) = ([0, n], [prefix]);
        let sequences = Sequences { bounds: &bounds, prefix: &contexts };
        let inputs: Vec<Tensor> = (30..34).map(|s| randn(s, &[n, heads * head_dim])).collect();
        let wide: Vec<Tensor> = inputs.iter().map(f64s).collect();
        let (q, k, v, dout) = (&wide[0], &wide[1], &wide[2], &wide[3]);
        let (out, saved) = attention::forward(Exec::Portable, q, k, v, sequences, config).unwrap();
        let (dq, dk, dv) =
            attention::backward(Exec::Portable, dout, q, k, v, &out, &saved, sequences, config)
                .unwrap();
        let split = |t: &Tensor| {
            let t = to(t, &device).reshape((1, n, heads, head_dim)).unwrap();
            t.transpose(1, 2).unwrap().contiguous().unwrap()
        };
        let join = |t: &Tensor| {
            let t = t.transpose(1, 2).unwrap().contiguous().unwrap();
            t.reshape((n, heads * head_dim)).unwrap()
        };
        let turned = |t: &Tensor| t.transpose(2, 3).unwrap().contiguous().unwrap();
        let inputs: Vec<Tensor> = inputs.iter().map(split).collect();
        let (q, k, v, dout) = (&inputs[0], &inputs[1], &inputs[2], &inputs[3]);
        let slopes: Vec<f32> = (0..heads).map(|h| attention::alibi_slope(h, heads)).collect();
        let slopes = Tensor::new(&slopes[..], &device).unwrap();
        let spec = cuda::softmax::Spec {
            scale,
            softcap,
            first_query: 0,
            first_key: 0,
            window,
            prefix,
            slopes: alibi.then_some(&slopes),
        };
        let scores = q.matmul(&turned(k)).unwrap();
        let (p, lse) = cuda::softmax::forward(&scores, &spec).unwrap();
        let own = p.matmul(v).unwrap();
        close("attention", &join(&own), &out, 1e-5);
        close("attention's lse", &lse.flatten_all().unwrap(), &saved.lse, 1e-5);
        let dp = dout.matmul(&turned(v)).unwrap();
        let delta = (dout * &own).unwrap().sum(3).unwrap();
        let (p, ds) = cuda::softmax::backward_in_place(scores, dp, &lse, &delta, &spec).unwrap();
        close("attention's dq", &join(&ds.matmul(k).unwrap()), &dq, 2e-5);
        close("attention's dk", &join(&turned(&ds).matmul(q).unwrap()), &dk, 2e-5);
        close("attention's dv", &join(&turned(&p).matmul(dout).unwrap()), &dv, 2e-5);
    }
}
