//! Attention on the CPU: blocks of queries against the keys they may see, scores in scratch.

use rayon::prelude::*;

use super::gemm::{Matrix, Output, matmul_serial};
use super::{PARALLEL_MIN, SharedMut, math, multiversion, softcap};
use crate::ops::attention::{Config, Sequences, alibi_slope};

/// Queries handled at a time: with heads of 64 a block's operands stay in the first-level cache.
const BLOCK: usize = 64;

/// One sequence within the rows: queries `first_query..end`, keys `first_key..end`; the last
/// query sits at the last key.
#[derive(Clone, Copy)]
struct Span {
    first_query: usize,
    num_queries: usize,
    first_key: usize,
    num_keys: usize,
    /// The first keys, which every query sees.
    prefix: usize,
}

/// A block of queries of one head: query rows `begin..end` of the span, and the keys they see.
#[derive(Clone, Copy)]
struct Block {
    span: Span,
    head: usize,
    begin: usize,
    end: usize,
}

impl Block {
    /// Position of query row `i` among the span's keys.
    fn position(&self, i: usize) -> usize {
        self.span.num_keys - self.span.num_queries + i
    }

    /// One beyond the last key that query row `i` sees.
    fn high(&self, i: usize) -> usize {
        (self.position(i) + 1).max(self.span.prefix)
    }

    /// First key that query row `i` sees.
    fn low(&self, i: usize, window: Option<usize>) -> usize {
        window.map_or(0, |w| (self.position(i) + 1).saturating_sub(w))
    }

    /// Keys that any of the block's queries sees.
    fn keys(&self, window: Option<usize>) -> (usize, usize) {
        (self.low(self.begin, window), self.high(self.end - 1))
    }
}

fn blocks(spans: &[Span], num_heads: usize) -> Vec<Block> {
    let mut all = Vec::new();
    for &span in spans {
        for head in 0..num_heads {
            for begin in (0..span.num_queries).step_by(BLOCK) {
                let end = (begin + BLOCK).min(span.num_queries);
                all.push(Block { span, head, begin, end });
            }
        }
    }
    all
}

fn spans(sequences: Sequences<'_>) -> Vec<Span> {
    let span = |(first, n, prefix)| Span {
        first_query: first,
        num_queries: n,
        first_key: first,
        num_keys: n,
        prefix,
    };
    sequences.spans().map(span).collect()
}

multiversion! {
    /// Softmax of the visible part `low..high` of a row of scores, zero elsewhere; the log of the
    /// sum of exponentials.
    fn softmax_row(row: &mut [f32], low: usize, high: usize) -> f32 {
        let n = row.len();
        row[..low].fill(0.0);
        row[high..n].fill(0.0);
        let seen = &mut row[low..high];
        let max = math::max_of(seen);
        for v in seen.iter_mut() {
            *v = math::exp(*v - max);
        }
        let sum = math::sum_by(seen.len(), |i| seen[i]);
        let scale = 1.0 / sum;
        for v in seen.iter_mut() {
            *v *= scale;
        }
        max + sum.ln()
    }
}

multiversion! {
    /// Probabilities again from scores and the saved log-sum-exp.
    fn probabilities_row(row: &mut [f32], low: usize, high: usize, lse: f32) {
        let n = row.len();
        row[..low].fill(0.0);
        row[high..n].fill(0.0);
        for v in row[low..high].iter_mut() {
            *v = math::exp(*v - lse);
        }
    }
}

multiversion! {
    /// `ds = p · (dp - delta) · scale`, in place of `dp`.
    fn score_gradient_row(dp: &mut [f32], p: &[f32], delta: f32, scale: f32) {
        for (d, &p) in dp.iter_mut().zip(p) {
            *d = p * (*d - delta) * scale;
        }
    }
}

multiversion! {
    /// `slope · (key - position)` added; the row begins at key `low`.
    fn add_distances(row: &mut [f32], slope: f32, low: usize, position: usize) {
        let first = low as f32 - position as f32;
        for (j, s) in row.iter_mut().enumerate() {
            *s += slope * (first + j as f32);
        }
    }
}

multiversion! {
    fn dot(a: &[f32], b: &[f32]) -> f32 {
        math::dot(a, b)
    }
}

multiversion! {
    fn add(to: &mut [f32], from: &[f32]) {
        for (t, &f) in to.iter_mut().zip(from) {
            *t += f;
        }
    }
}

/// Rows `from..` of one head of `[rows, heads · head_dim]`.
fn head_of(data: &[f32], row: usize, heads: usize, head: usize, head_dim: usize) -> Matrix<'_> {
    let width = heads * head_dim;
    Matrix { data: &data[row * width + head * head_dim..], row_stride: width, col_stride: 1 }
}

/// Scaled scores of a block against the keys `low..high`, capped, `[rows, high - low]`; what the distance
/// takes from them is in too.
fn scores(
    block: &Block,
    q: &[f32],
    k: &[f32],
    config: &Config,
    low: usize,
    high: usize,
    into: &mut [f32],
) {
    let (rows, keys) = (block.end - block.begin, high - low);
    let kv_head = block.head * config.num_kv_heads / config.num_heads;
    let d = config.head_dim;
    let query = head_of(q, block.span.first_query + block.begin, config.num_heads, block.head, d);
    let key = head_of(k, block.span.first_key + low, config.num_kv_heads, kv_head, d);
    let out = Output { data: into, row_stride: keys, accumulate: false };
    matmul_serial(rows, keys, d, out, query, key.t(), config.scale);
    if let Some(cap) = config.softcap {
        softcap::cap(into, cap);
    }
    if config.alibi {
        let slope = alibi_slope(block.head, config.num_heads);
        for (r, row) in into.chunks_exact_mut(keys).enumerate() {
            add_distances(row, slope, low, block.position(block.begin + r));
        }
    }
}

/// Output `[queries, num_heads · head_dim]` and log-sum-exps `[num_heads, queries]`.
fn forward_spans(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    spans: &[Span],
    total_queries: usize,
    config: &Config,
) -> (Vec<f32>, Vec<f32>) {
    let d = config.head_dim;
    let width = config.num_heads * d;
    let mut out = vec![0f32; total_queries * width];
    let mut lse = vec![0f32; config.num_heads * total_queries];
    let (out_ptr, lse_ptr) = (SharedMut::new(&mut out), SharedMut::new(&mut lse));
    let out_len = out.len();
    let run = |scratch: &mut Vec<f32>, block: &Block| {
        let (low, high) = block.keys(config.window);
        let (rows, keys) = (block.end - block.begin, high - low);
        scratch.clear();
        scratch.resize(rows * keys, 0.0);
        scores(block, q, k, config, low, high, scratch);
        for (r, row) in scratch.chunks_exact_mut(keys).enumerate() {
            let i = block.begin + r;
            let first = block.low(i, config.window) - low;
            let value = softmax_row(row, first, block.high(i) - low);
            let at = block.head * total_queries + block.span.first_query + i;
            // SAFETY: (head, query) belongs to this block alone, and lies within `lse`.
            unsafe { *lse_ptr.add(at) = value };
        }
        let kv_head = block.head * config.num_kv_heads / config.num_heads;
        let value = head_of(v, block.span.first_key + low, config.num_kv_heads, kv_head, d);
        let at = (block.span.first_query + block.begin) * width + block.head * d;
        // SAFETY: only the columns of this block's head in this block's rows are written, and no
        // other block has them; the slice ends with the buffer.
        let data = unsafe { std::slice::from_raw_parts_mut(out_ptr.add(at), out_len - at) };
        let output = Output { data, row_stride: width, accumulate: false };
        matmul_serial(rows, d, keys, output, Matrix::rows(scratch, keys), value, 1.0);
    };
    let all = blocks(spans, config.num_heads);
    let work: usize = all.iter().map(|b| (b.end - b.begin) * b.span.num_keys * d).sum();
    if work < PARALLEL_MIN * 8 {
        let mut scratch = Vec::new();
        all.iter().for_each(|block| run(&mut scratch, block));
    } else {
        all.par_iter().for_each_init(Vec::new, |scratch, block| run(scratch, block));
    }
    (out, lse)
}

/// See [`crate::ops::attention::forward`].
pub fn forward(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    sequences: Sequences<'_>,
    config: &Config,
) -> (Vec<f32>, Vec<f32>) {
    let total = sequences.bounds.last().copied().unwrap_or(0);
    forward_spans(q, k, v, &spans(sequences), total, config)
}

multiversion! {
    /// One query of one head against `keys` keys and values, rows of `stride` values.
    #[allow(clippy::too_many_arguments)]
    fn decode_head(
        q: &[f32],
        k: &[f32],
        v: &[f32],
        stride: usize,
        keys: usize,
        config: &Config,
        head: usize,
        p: &mut Vec<f32>,
        out: &mut [f32],
    ) {
        let (d, scale) = (q.len(), config.scale);
        p.clear();
        p.extend((0..keys).map(|j| math::dot(q, &k[j * stride..j * stride + d]) * scale));
        if let Some(cap) = config.softcap {
            softcap::cap(p, cap);
        }
        if config.alibi {
            add_distances(p, alibi_slope(head, config.num_heads), 0, keys - 1);
        }
        let max = math::max_of(p);
        let mut sum = 0.0;
        for value in p.iter_mut() {
            *value = math::exp(*value - max);
            sum += *value;
        }
        out.fill(0.0);
        for (j, &p) in p.iter().enumerate() {
            for (o, &v) in out.iter_mut().zip(&v[j * stride..j * stride + d]) {
                *o += p * v;
            }
        }
        let scale = 1.0 / sum;
        for o in out.iter_mut() {
            *o *= scale;
        }
    }
}

/// See [`crate::ops::attention::decode`].
pub fn decode(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    spans: &[(usize, usize)],
    config: &Config,
) -> Vec<f32> {
    let d = config.head_dim;
    let (width, stride) = (config.num_heads * d, config.num_kv_heads * d);
    let mut out = vec![0f32; spans.len() * width];
    let run = |scratch: &mut Vec<f32>, i: usize, out: &mut [f32]| {
        let (first, keys) = spans[i / config.num_heads];
        let head = i % config.num_heads;
        let low = config.window.map_or(0, |w| keys.saturating_sub(w));
        let at = (first + low) * stride + head * config.num_kv_heads / config.num_heads * d;
        let q = &q[i * d..(i + 1) * d];
        decode_head(q, &k[at..], &v[at..], stride, keys - low, config, head, scratch, out);
    };
    let work: usize = spans.iter().map(|(_, keys)| keys * width).sum();
    if work < PARALLEL_MIN * 8 {
        let mut scratch = Vec::new();
        out.chunks_exact_mut(d).enumerate().for_each(|(i, out)| run(&mut scratch, i, out));
    } else {
        out.par_chunks_exact_mut(d)
            .enumerate()
            .for_each_init(Vec::new, |scratch, (i, out)| run(scratch, i, out));
    }
    out
}

/// A task's working memory: probabilities, gradients of scores, capped scores.
#[derive(Default)]
struct Scratch {
    p: Vec<f32>,
    ds: Vec<f32>,
    capped: Vec<f32>,
}

/// Gradients of keys and values of one head of one sequence, `[keys, head_dim]` each.
struct HeadGrads {
    dk: Vec<f32>,
    dv: Vec<f32>,
}

/// What the backward reads.
pub struct Backward<'a> {
    /// Gradient of the output, `[tokens, num_heads · head_dim]`.
    pub dout: &'a [f32],
    /// Queries, of the same shape.
    pub q: &'a [f32],
    /// Keys, `[tokens, num_kv_heads · head_dim]`.
    pub k: &'a [f32],
    /// Values, of the same shape.
    pub v: &'a [f32],
    /// Output.
    pub out: &'a [f32],
    /// Log-sum-exps, `[num_heads, tokens]`.
    pub lse: &'a [f32],
}

/// See [`crate::ops::attention::backward`]: `(dq, dk, dv)`.
pub fn backward(
    b: &Backward<'_>,
    sequences: Sequences<'_>,
    config: &Config,
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let d = config.head_dim;
    let (width, kv_width) = (config.num_heads * d, config.num_kv_heads * d);
    let total = sequences.bounds.last().copied().unwrap_or(0);
    let mut dq = vec![0f32; total * width];
    let mut dk = vec![0f32; total * kv_width];
    let mut dv = vec![0f32; total * kv_width];
    let dq_len = dq.len();
    let dq_ptr = SharedMut::new(&mut dq);
    let spans = spans(sequences);
    let tasks: Vec<(Span, usize)> =
        spans.iter().flat_map(|&s| (0..config.num_heads).map(move |h| (s, h))).collect();
    let run = |scratch: &mut Scratch, &(span, head): &(Span, usize)| -> HeadGrads {
        let Scratch { p, ds, capped } = scratch;
        let kv_head = head * config.num_kv_heads / config.num_heads;
        let mut grads =
            HeadGrads { dk: vec![0.0; span.num_keys * d], dv: vec![0.0; span.num_keys * d] };
        for block in blocks(&[span], 1) {
            let block = Block { head, ..block };
            let (low, high) = block.keys(config.window);
            let (rows, keys) = (block.end - block.begin, high - low);
            let row0 = span.first_query + block.begin;
            p.clear();
            p.resize(rows * keys, 0.0);
            ds.clear();
            ds.resize(rows * keys, 0.0);
            scores(&block, b.q, b.k, config, low, high, p);
            if config.softcap.is_some() {
                capped.clone_from(p);
            }
            let dout = head_of(b.dout, row0, config.num_heads, head, d);
            let value = head_of(b.v, span.first_key + low, config.num_kv_heads, kv_head, d);
            let into = Output { data: ds, row_stride: keys, accumulate: false };
            matmul_serial(rows, keys, d, into, dout, value.t(), 1.0);
            for r in 0..rows {
                let i = block.begin + r;
                let first = block.low(i, config.window) - low;
                let lse = b.lse[head * total + span.first_query + i];
                let p_row = &mut p[r * keys..(r + 1) * keys];
                probabilities_row(p_row, first, block.high(i) - low, lse);
                let at = (row0 + r) * width + head * d;
                let delta = dot(&b.dout[at..at + d], &b.out[at..at + d]);
                let ds_row = &mut ds[r * keys..(r + 1) * keys];
                score_gradient_row(ds_row, p_row, delta, config.scale);
                if let Some(cap) = config.softcap {
                    softcap::cap_gradient(ds_row, &capped[r * keys..(r + 1) * keys], cap);
                }
            }
            let at = row0 * width + head * d;
            // SAFETY: only this head's columns of this sequence's rows are written, and this task
            // alone has them; the slice ends with the buffer.
            let data = unsafe { std::slice::from_raw_parts_mut(dq_ptr.add(at), dq_len - at) };
            let into = Output { data, row_stride: width, accumulate: false };
            let key = head_of(b.k, span.first_key + low, config.num_kv_heads, kv_head, d);
            matmul_serial(rows, d, keys, into, Matrix::rows(ds, keys), key, 1.0);
            let query = head_of(b.q, row0, config.num_heads, head, d);
            let into = Output { data: &mut grads.dk[low * d..], row_stride: d, accumulate: true };
            matmul_serial(keys, d, rows, into, Matrix::rows(ds, keys).t(), query, 1.0);
            let into = Output { data: &mut grads.dv[low * d..], row_stride: d, accumulate: true };
            matmul_serial(keys, d, rows, into, Matrix::rows(p, keys).t(), dout, 1.0);
        }
        grads
    };
    let work: usize = spans.iter().map(|s| s.num_keys * s.num_keys * width).sum();
    let heads: Vec<HeadGrads> = if work < PARALLEL_MIN * 8 {
        let mut scratch = Scratch::default();
        tasks.iter().map(|task| run(&mut scratch, task)).collect()
    } else {
        tasks.par_iter().map_init(Scratch::default, run).collect()
    };
    // Query heads of a group are added in their order, whoever computed them.
    for ((span, head), grads) in tasks.iter().zip(&heads) {
        let kv_head = head * config.num_kv_heads / config.num_heads;
        for t in 0..span.num_keys {
            let at = (span.first_key + t) * kv_width + kv_head * d;
            add(&mut dk[at..at + d], &grads.dk[t * d..(t + 1) * d]);
            add(&mut dv[at..at + d], &grads.dv[t * d..(t + 1) * d]);
        }
    }
    (dq, dk, dv)
}
