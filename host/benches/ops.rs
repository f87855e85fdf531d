//! Times every operation of a block at the shapes of SmolLM2-135M, forward and backward, beside what
//! bounds it: values moved or multiplied a second.
//!
//!     cargo run --release --example ops [-- TOKENS [DEVICE]]
#![allow(clippy::unwrap_used)]

use std::time::Instant;

use candle_core::{DType, Device, Result, Tensor};
use trainer::ops::activation::{self, Activation};
use trainer::ops::attention::{self, Sequences};
use trainer::ops::quant::{Matrix, Quantized, Scheme};
use trainer::ops::{Exec, head, linear, lora, rms_norm, rope};

const HIDDEN: usize = 576;
const INTERMEDIATE: usize = 1536;
const HEADS: usize = 9;
const KV_HEADS: usize = 3;
const HEAD_DIM: usize = 64;
const VOCAB: usize = 49_152;
const RANK: usize = 8;

struct Bench {
    device: Device,
    exec: Exec,
    tokens: usize,
}

impl Bench {
    fn random(&self, rows: usize, width: usize) -> Tensor {
        let value = |i: usize| ((i as f32 * 0.618_034).fract() - 0.5) * 0.2;
        let values: Vec<f32> = (0..rows * width).map(value).collect();
        Tensor::from_vec(values, (rows, width), &self.device).unwrap()
    }

    /// Prints the best of several runs: milliseconds, and `amount` a second in thousand millions.
    fn time(&self, name: &str, unit: &str, amount: usize, mut run: impl FnMut() -> Result<()>) {
        let mut best = f64::MAX;
        let mut spent = 0.0;
        while spent < 0.5 {
            let begun = Instant::now();
            run().unwrap();
            self.device.synchronize().unwrap();
            let seconds = begun.elapsed().as_secs_f64();
            best = best.min(seconds);
            spent += seconds;
        }
        let speed = amount as f64 / best / 1e9;
        println!("{name:<44} {:>9.3} ms {speed:>9.2} {unit}", best * 1e3);
    }

    fn products(&self, kind: &str, weight: &Matrix) {
        let x = self.random(self.tokens, HIDDEN);
        let dy = self.random(self.tokens, INTERMEDIATE);
        let flops = 2 * self.tokens * HIDDEN * INTERMEDIATE;
        self.time(&format!("linear, {kind}"), "GFLOP/s", flops, || {
            linear::forward(self.exec, &x, weight, None).map(drop)
        });
        self.time(&format!("linear, {kind}: input's gradient"), "GFLOP/s", flops, || {
            linear::backward_input(self.exec, &dy, weight).map(drop)
        });
    }

    fn linear(&self) -> Result<()> {
        let weight = self.random(INTERMEDIATE, HIDDEN);
        let on_cpu = weight.to_device(&Device::Cpu)?;
        self.products("float32", &Matrix::Dense(weight.clone()));
        self.products("bfloat16", &Matrix::Dense(weight.to_dtype(DType::BF16)?));
        for scheme in [Scheme::Int8, Scheme::Nf4] {
            let narrow = Quantized::from_tensor(scheme, &on_cpu)?;
            self.products(scheme.name(), &Matrix::placed(narrow, &self.device)?);
        }
        let (x, dy) = (self.random(self.tokens, HIDDEN), self.random(self.tokens, INTERMEDIATE));
        self.time(
            "linear: weight's gradient",
            "GFLOP/s",
            2 * self.tokens * HIDDEN * INTERMEDIATE,
            || linear::backward_weight(self.exec, &dy, &x).map(drop),
        );
        let (a, b) = (self.random(RANK, HIDDEN), self.random(INTERMEDIATE, RANK));
        let flops = 2 * self.tokens * RANK * (HIDDEN + INTERMEDIATE);
        self.time("LoRA pair", "GFLOP/s", flops, || {
            let y = dy.copy()?;
            lora::forward(self.exec, &x, y, &a, &b, 2.0, None).map(drop)
        });
        let saved = lora::forward(self.exec, &x, dy.copy()?, &a, &b, 2.0, None)?.1;
        self.time("LoRA pair: gradients", "GFLOP/s", 2 * flops, || {
            let dx = x.copy()?;
            lora::backward(self.exec, &dy, &x, &saved, &a, &b, 2.0, None, Some(dx)).map(drop)
        });
        Ok(())
    }

    fn elementwise(&self) -> Result<()> {
        let (x, dy) = (self.random(self.tokens, HIDDEN), self.random(self.tokens, HIDDEN));
        let weight = self.random(1, HIDDEN).flatten_all()?;
        let bytes = 4 * self.tokens * HIDDEN;
        self.time("RMS norm", "GB/s", 2 * bytes, || {
            rms_norm::forward(self.exec, &x, &weight, 1e-5).map(drop)
        });
        let saved = rms_norm::forward(self.exec, &x, &weight, 1e-5)?.1;
        self.time("RMS norm: gradient", "GB/s", 3 * bytes, || {
            rms_norm::backward(self.exec, &dy, &x, &weight, &saved, false).map(drop)
        });
        let (gate, up) =
            (self.random(self.tokens, INTERMEDIATE), self.random(self.tokens, INTERMEDIATE));
        let bytes = 4 * self.tokens * INTERMEDIATE;
        self.time("SwiGLU", "GB/s", 3 * bytes, || {
            activation::forward(self.exec, Activation::Silu, &gate, Some(&up)).map(drop)
        });
        self.time("SwiGLU: gradients", "GB/s", 5 * bytes, || {
            activation::backward(self.exec, Activation::Silu, &up, &gate, Some(&up)).map(drop)
        });
        let pairs = HEAD_DIM / 2;
        let angles: Vec<f32> = (0..self.tokens * pairs).map(|i| i as f32 * 0.01).collect();
        let table = rope::Table::new(&angles, pairs, 1.0, rope::Layout::Halves, &self.device)?;
        let rows = rope::Rows::new((0..self.tokens as u32).collect(), &self.device)?;
        self.time("rotation of queries", "GB/s", 2 * 4 * self.tokens * HIDDEN, || {
            rope::apply(self.exec, &x, &table, HEAD_DIM, &rows, false).map(drop)
        });
        Ok(())
    }

    fn attention(&self) -> Result<()> {
        let config = attention::Config {
            num_heads: HEADS,
            num_kv_heads: KV_HEADS,
            head_dim: HEAD_DIM,
            scale: 0.125,
            window: None,
            softcap: None,
            alibi: false,
        };
        let kv = KV_HEADS * HEAD_DIM;
        let (q, dout) = (self.random(self.tokens, HIDDEN), self.random(self.tokens, HIDDEN));
        let (k, v) = (self.random(self.tokens, kv), self.random(self.tokens, kv));
        let bounds = [0, self.tokens];
        // Half of the scores are seen.
        let flops = 2 * self.tokens * self.tokens * HEADS * HEAD_DIM;
        self.time("attention", "GFLOP/s", flops, || {
            attention::forward(self.exec, &q, &k, &v, Sequences::causal(&bounds), config).map(drop)
        });
        let (out, saved) =
            attention::forward(self.exec, &q, &k, &v, Sequences::causal(&bounds), config)?;
        self.time("attention: gradients", "GFLOP/s", 5 * flops / 2, || {
            let sequences = Sequences::causal(&bounds);
            let (exec, saved) = (self.exec, &saved);
            attention::backward(exec, &dout, &q, &k, &v, &out, saved, sequences, config).map(drop)
        });
        Ok(())
    }

    fn head(&self) {
        let (x, weight) = (self.random(self.tokens, HIDDEN), self.random(VOCAB, HIDDEN));
        let targets: Vec<u32> = (0..self.tokens as u32).map(|i| i * 31 % VOCAB as u32).collect();
        let derivatives = vec![-1.0 / self.tokens as f32; self.tokens];
        let flops = 4 * self.tokens * HIDDEN * VOCAB;
        self.time("head: scores and the states' gradient", "GFLOP/s", flops, || {
            let head = (&weight).into();
            head::score_and_backward(self.exec, &x, head, &targets, &derivatives, false).map(drop)
        });
    }
}

fn main() {
    let mut args = std::env::args().skip(1);
    let tokens = args.next().map_or(256, |n| n.parse().expect("a number of tokens"));
    let choice = args.next().unwrap_or_else(|| "cpu".into());
    let device = trainer::device::open(choice.parse().expect("a device")).expect("the device");
    let exec = Exec::for_device(&device);
    println!(
        "{tokens} tokens, {}, {} threads, best of half a second",
        trainer::device::describe(&device),
        rayon::current_num_threads()
    );
    let bench = Bench { device, exec, tokens };
    bench.linear().unwrap();
    bench.elementwise().unwrap();
    bench.attention().unwrap();
    bench.head();
}
