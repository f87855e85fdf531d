//! Causal grouped-query attention over sequences laid end to end, O(tokens) memory
//! (recomputation from the log-sum-exp: Dao 2023, arXiv 2307.08691).

use candle_core::{Result, Tensor};

use super::Exec;

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
}

/// What the backward needs besides queries, keys, values and output.
#[derive(Debug, Clone)]
pub struct Saved {
    /// Log of the sum of exponentials of the scores, `[num_heads, tokens]`.
    pub lse: Tensor,
}

/// `q [tokens, num_heads · head_dim]`, `k`, `v [tokens, num_kv_heads · head_dim]` → output of
/// `q`'s shape. Sequence `s` is `bounds[s]..bounds[s + 1]`; no position sees another sequence.
pub fn forward(
    exec: Exec,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    bounds: &[usize],
    config: Config,
) -> Result<(Tensor, Saved)> {
    todo!()
}

/// `dout` of the output's shape → `(dq, dk, dv)`.
#[allow(clippy::too_many_arguments)]
pub fn backward(
    exec: Exec,
    dout: &Tensor,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    out: &Tensor,
    saved: &Saved,
    bounds: &[usize],
    config: Config,
) -> Result<(Tensor, Tensor, Tensor)> {
    todo!()
}

/// Generation: the last `n` positions of one sequence, `q [n, num_heads · head_dim]`, against all
/// its `m ≥ n` keys and values so far, `[m, num_kv_heads · head_dim]`. Query `i` is position
/// `m - n + i`.
pub fn forward_cached(
    exec: Exec,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    config: Config,
) -> Result<Tensor> {
    todo!()
}
