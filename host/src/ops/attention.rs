//! Grouped-query attention over sequences laid end to end, causal or with a context whose positions
//! all see each other; O(tokens) memory (recomputation from the log-sum-exp: Dao 2023, arXiv
//! 2307.08691).

use candle_core::{Result, Tensor};

use super::Exec;
use super::cpu::attention as fused;
use super::cpu::slices::{tensor, with_f32};

mod batched;
mod scores;

/// Shape and reach of an attention layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config {
    /// Query heads.
    pub num_heads: usize,
    /// Key and value heads; divides `num_heads`.
    pub num_kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Factor on the scores, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// Position `t` sees only positions `> t - window`.
    pub window: Option<usize>,
    /// `cap · tanh(score / cap)` on the scaled scores.
    pub softcap: Option<f32>,
    /// Whether [`alibi_slope`] times the distance is taken from the scores.
    pub alibi: bool,
}

/// The sequences of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Sequences<'a> {
    /// Sequence `s` is `bounds[s]..bounds[s + 1]`; no position sees another sequence.
    pub bounds: &'a [usize],
    /// Every position of sequence `s` sees its first `prefix[s]` positions too. Empty: none.
    pub prefix: &'a [usize],
}

impl<'a> Sequences<'a> {
    /// Causal ones.
    pub fn causal(bounds: &'a [usize]) -> Self {
        Self { bounds, prefix: &[] }
    }

    fn check(&self) -> Result<usize> {
        let bounds = self.bounds;
        if bounds.first() != Some(&0) || bounds.windows(2).any(|b| b[1] < b[0]) {
            candle_core::bail!("sequence bounds {bounds:?} must ascend from 0");
        }
        if !self.prefix.is_empty() && self.prefix.len() + 1 != bounds.len() {
            candle_core::bail!("{} contexts for bounds {bounds:?}", self.prefix.len());
        }
        Ok(bounds[bounds.len() - 1])
    }

    /// `(start, length, context)` of every sequence.
    pub(super) fn spans(&self) -> impl Iterator<Item = (usize, usize, usize)> + '_ {
        self.bounds.windows(2).enumerate().map(|(s, b)| {
            let n = b[1] - b[0];
            (b[0], n, self.prefix.get(s).map_or(0, |&p| p.min(n)))
        })
    }
}

/// The slope of a head (Press et al. 2021, arXiv 2108.12409): a geometric series for a power of two of
/// heads; heads beyond the greatest power take every other slope of the next.
pub fn alibi_slope(head: usize, num_heads: usize) -> f32 {
    let power = 1usize << num_heads.max(1).ilog2();
    let base = |heads: usize| (-8.0 / heads as f64).exp2();
    let slope = match head.checked_sub(power) {
        None => base(power).powi(head as i32 + 1),
        Some(beyond) => base(2 * power).powi(2 * beyond as i32 + 1),
    };
    slope as f32
}

/// What the backward needs besides queries, keys, values and output.
#[derive(Debug, Clone)]
pub struct Saved {
    /// Log of the sum of exponentials of the scores, `[num_heads, tokens]`; of the portable path and on
    /// GPUs a flat row in an order of its own.
    pub lse: Tensor,
}

impl Config {
    fn check(&self, q: &Tensor, k: &Tensor, v: &Tensor, queries: usize, keys: usize) -> Result<()> {
        let kv = self.num_kv_heads * self.head_dim;
        let fits = self.num_kv_heads > 0
            && self.num_heads.is_multiple_of(self.num_kv_heads)
            && self.window != Some(0)
            && !(self.alibi && self.softcap.is_some())
            && q.dims() == [queries, self.num_heads * self.head_dim]
            && k.dims() == [keys, kv]
            && v.dims() == [keys, kv];
        if !fits {
            candle_core::bail!(
                "queries {:?}, keys {:?} and values {:?} don't fit {self:?}",
                q.dims(),
                k.dims(),
                v.dims()
            );
        }
        Ok(())
    }
}

/// `q [tokens, num_heads · head_dim]`, `k`, `v [tokens, num_kv_heads · head_dim]` → output of
/// `q`'s shape.
///
/// # Errors
/// When shapes or bounds don't fit or a device fails.
pub fn forward(
    exec: Exec,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    sequences: Sequences<'_>,
    config: Config,
) -> Result<(Tensor, Saved)> {
    let tokens = sequences.check()?;
    config.check(q, k, v, tokens, tokens)?;
    if !exec.on_cpu(q) {
        return batched::forward(exec, q, k, v, sequences, config);
    }
    let (out, lse) = with_f32(q, |q| {
        with_f32(k, |k| with_f32(v, |v| Ok(fused::forward(q, k, v, sequences, &config))))
    })?;
    Ok((tensor(out, q.shape())?, Saved { lse: tensor(lse, (config.num_heads, tokens))? }))
}

/// `dout` of the output's shape → `(dq, dk, dv)`.
///
/// # Errors
/// As [`forward`].
#[allow(clippy::too_many_arguments)]
pub fn backward(
    exec: Exec,
    dout: &Tensor,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    out: &Tensor,
    saved: &Saved,
    sequences: Sequences<'_>,
    config: Config,
) -> Result<(Tensor, Tensor, Tensor)> {
    let tokens = sequences.check()?;
    config.check(q, k, v, tokens, tokens)?;
    if !exec.on_cpu(q) {
        let inputs = batched::Backward { dout, q, k, v, out, lse: &saved.lse };
        return batched::backward(exec, inputs, sequences, config);
    }
    let (dq, dk, dv) = with_f32(dout, |dout| {
        with_f32(q, |q| {
            with_f32(k, |k| {
                with_f32(v, |v| {
                    with_f32(out, |out| {
                        with_f32(&saved.lse, |lse| {
                            let inputs = fused::Backward { dout, q, k, v, out, lse };
                            Ok(fused::backward(&inputs, sequences, &config))
                        })
                    })
                })
            })
        })
    })?;
    Ok((tensor(dq, q.shape())?, tensor(dk, k.shape())?, tensor(dv, v.shape())?))
}

/// One query per sequence against keys and values in caches: query `i` of `q [sequences, num_heads ·
/// head_dim]` sees rows `first..first + keys` of `k`, `v [rows, num_kv_heads · head_dim]`, where
/// `(first, keys) = spans[i]` and the last of them is its own position.
///
/// # Errors
/// When shapes or spans don't fit or a device fails.
pub fn decode(
    exec: Exec,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    spans: &[(usize, usize)],
    config: Config,
) -> Result<Tensor> {
    let rows = k.dim(0)?;
    config.check(q, k, v, spans.len(), rows)?;
    if spans.iter().any(|&(first, keys)| keys == 0 || first + keys > rows) {
        candle_core::bail!("spans {spans:?} don't fit caches of {rows} rows");
    }
    if !exec.on_cpu(q) {
        return batched::decode(exec, q, k, v, spans, config);
    }
    let out = with_f32(q, |q| {
        with_f32(k, |k| with_f32(v, |v| Ok(fused::decode(q, k, v, spans, &config))))
    })?;
    tensor(out, q.shape())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_are_the_published_ones() {
        let slopes = |n: usize| -> Vec<f32> { (0..n).map(|h| alibi_slope(h, n)).collect() };
        assert_eq!(slopes(8)[..3], [0.5, 0.25, 0.125]);
        // Twelve heads: eight as above, then every other slope of sixteen heads.
        let twelve = slopes(12);
        assert_eq!(twelve[..8], slopes(8)[..]);
        let sixteen = slopes(16);
        assert_eq!(twelve[8..], [sixteen[0], sixteen[2], sixteen[4], sixteen[6]]);
    }
}
