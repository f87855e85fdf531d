//! Attention by products of whole matrices: sequences of about one length go together, padded; queries
//! go in stretches, so that the scores in memory are bounded. For GPUs, and as the reference.

use candle_core::{DType, Result, Tensor};

use super::scores::{self, Stretch};
use super::{Config, Saved, Sequences};
use crate::ops::{Exec, wide, widened};

/// Most scores in memory at a time.
const SCORES: usize = 1 << 27;

/// Sequences that are computed together, each padded to the longest.
struct Group {
    /// `(first token, tokens)` of each.
    spans: Vec<(usize, usize)>,
    /// Tokens of the longest.
    length: usize,
    /// Context of the only sequence, where there is one.
    prefix: usize,
}

impl Group {
    /// Tokens with the padding.
    fn padded(&self) -> usize {
        self.spans.len() * self.length
    }

    /// Queries that go together.
    fn stretch(&self, config: &Config) -> usize {
        let row = self.spans.len() * config.num_heads * self.length;
        (SCORES / row.max(1)).clamp(1, self.length)
    }

    /// Whether the tokens lie end to end without padding.
    fn is_plain(&self) -> bool {
        let first = self.spans[0].0;
        let at = |(i, &(start, n)): (usize, &(usize, usize))| {
            n == self.length && start == first + i * self.length
        };
        self.spans.iter().enumerate().all(at)
    }
}

/// Groups of sequences whose lengths differ by less than half. A padded position comes after all of
/// its sequence's, so that causality alone hides it; sequences with a context go alone.
fn groups(sequences: Sequences<'_>, config: &Config) -> Vec<Group> {
    let mut spans: Vec<_> = sequences.spans().filter(|s| s.1 > 0).collect();
    // Stable: equal lengths stay in order, and may lie end to end.
    spans.sort_by_key(|&(_, n, _)| std::cmp::Reverse(n));
    let mut groups: Vec<Group> = Vec::new();
    for (start, n, prefix) in spans {
        let joins = |group: &&mut Group| {
            let scores = (group.spans.len() + 1) * config.num_heads * group.length * group.length;
            prefix == 0 && group.prefix == 0 && 3 * n >= 2 * group.length && scores <= SCORES
        };
        match groups.last_mut().filter(joins) {
            Some(group) => group.spans.push((start, n)),
            None => groups.push(Group { spans: vec![(start, n)], length: n, prefix }),
        }
    }
    groups
}

/// `x [tokens, heads · head_dim]` of a group as `dtype`, `[sequences, heads, length, head_dim]`,
/// contiguous; rows of padding are zero.
fn gather(
    x: &Tensor,
    group: &Group,
    heads: usize,
    head_dim: usize,
    dtype: DType,
) -> Result<Tensor> {
    let rows = match group.is_plain() {
        true => x.narrow(0, group.spans[0].0, group.padded())?,
        false => {
            let tokens = x.dim(0)?;
            let mut index = Vec::with_capacity(group.padded());
            for &(start, n) in &group.spans {
                index.extend((start..start + n).map(|row| row as u32));
                index.resize(index.len() + group.length - n, tokens as u32);
            }
            let index = Tensor::from_vec(index, group.padded(), x.device())?;
            x.pad_with_zeros(0, 0, 1)?.index_select(&index, 0)?
        }
    };
    let shape = (group.spans.len(), group.length, heads, head_dim);
    rows.to_dtype(dtype)?.reshape(shape)?.transpose(1, 2)?.contiguous()
}

/// `[sequences, heads, length, head_dim]` → `[sequences · length, heads · head_dim]`.
fn rows(x: &Tensor) -> Result<Tensor> {
    let (sequences, heads, length, head_dim) = x.dims4()?;
    x.transpose(1, 2)?.contiguous()?.reshape((sequences * length, heads * head_dim))
}

/// The rows of all groups in the tokens' order, as `dtype`.
fn scatter(parts: &[Tensor], groups: &[Group], tokens: usize, dtype: DType) -> Result<Tensor> {
    let all = if parts.len() == 1 { parts[0].clone() } else { Tensor::cat(parts, 0)? };
    let plain = groups.len() == 1 && groups[0].is_plain();
    let all = match plain {
        true => all,
        false => {
            let mut index = vec![0u32; tokens];
            let mut first = 0;
            for group in groups {
                for &(start, n) in &group.spans {
                    (0..n).for_each(|i| index[start + i] = (first + i) as u32);
                    first += group.length;
                }
            }
            all.index_select(&Tensor::from_vec(index, tokens, all.device())?, 0)?
        }
    };
    all.to_dtype(dtype)
}

/// One stretch of queries of a group against the keys that they see.
struct Window {
    first_query: usize,
    queries: usize,
    first_key: usize,
    keys: usize,
}

fn windows(group: &Group, config: &Config) -> Vec<Window> {
    let stretch = group.stretch(config);
    let window = |first_query: usize| {
        let end = (first_query + stretch).min(group.length);
        let low = |w: usize| (first_query + 1).saturating_sub(w);
        let first_key = config.window.map_or(0, low);
        let keys = end.max(group.prefix).min(group.length) - first_key;
        Window { first_query, queries: end - first_query, first_key, keys }
    };
    (0..group.length).step_by(stretch).map(window).collect()
}

impl Window {
    fn at(&self, group: &Group) -> Stretch {
        Stretch { first_query: self.first_query, first_key: self.first_key, prefix: group.prefix }
    }

    /// The stretch's queries of `x [sequences, heads, length, head_dim]`, those of the heads that share
    /// keys together: `[sequences · kv heads, group · queries, head_dim]`.
    fn queries(&self, x: &Tensor, config: &Config) -> Result<Tensor> {
        let (sequences, heads, _, head_dim) = x.dims4()?;
        let shape =
            (sequences * config.num_kv_heads, heads / config.num_kv_heads * self.queries, head_dim);
        x.narrow(2, self.first_query, self.queries)?.contiguous()?.reshape(shape)
    }

    /// The keys or values that the stretch sees, `[sequences · kv heads, keys, head_dim]`.
    fn keys(&self, x: &Tensor) -> Result<Tensor> {
        let (sequences, heads, _, head_dim) = x.dims4()?;
        let shape = (sequences * heads, self.keys, head_dim);
        x.narrow(2, self.first_key, self.keys)?.contiguous()?.reshape(shape)
    }

    /// Products of queries and keys by head, `[sequences, heads, queries, keys]`.
    fn by_head(&self, products: Tensor, sequences: usize, config: &Config) -> Result<Tensor> {
        products.reshape((sequences, config.num_heads, self.queries, self.keys))
    }

    /// The shape of [`Window::queries`] · [`Window::keys`].
    fn by_kv_head(&self, x: &Tensor, config: &Config) -> Result<Tensor> {
        let (sequences, heads, queries, keys) = x.dims4()?;
        let group = heads / config.num_kv_heads;
        x.reshape((sequences * config.num_kv_heads, group * queries, keys))
    }
}

pub(super) fn forward(
    exec: Exec,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    sequences: Sequences<'_>,
    config: Config,
) -> Result<(Tensor, Saved)> {
    let Config { num_heads, num_kv_heads, head_dim, .. } = config;
    let dtype = exec.product_type(q);
    let groups = groups(sequences, &config);
    let (mut outs, mut lses) = (Vec::new(), Vec::new());
    for group in &groups {
        let q = gather(q, group, num_heads, head_dim, dtype)?;
        let k = gather(k, group, num_kv_heads, head_dim, dtype)?;
        let v = gather(v, group, num_kv_heads, head_dim, dtype)?;
        let count = group.spans.len();
        let mut stretches = Vec::new();
        for window in windows(group, &config) {
            let products = window.queries(&q, &config)?.matmul(&window.keys(&k)?.t()?)?;
            let products = window.by_head(products, count, &config)?;
            let (p, lse) = scores::probabilities(exec, products, window.at(group), &config)?;
            let out = window.by_kv_head(&p, &config)?.matmul(&window.keys(&v)?)?;
            stretches.push(out.reshape((count, num_heads, window.queries, head_dim))?);
            lses.push(lse.flatten_all()?);
        }
        let out =
            if stretches.len() == 1 { stretches.remove(0) } else { Tensor::cat(&stretches, 2)? };
        outs.push(rows(&out)?);
    }
    if outs.is_empty() {
        return Ok((q.clone(), Saved { lse: Tensor::zeros(0, DType::F32, q.device())? }));
    }
    let lse = if lses.len() == 1 { lses.remove(0) } else { Tensor::cat(&lses, 0)? };
    Ok((scatter(&outs, &groups, q.dim(0)?, wide(q.dtype()))?, Saved { lse }))
}

/// What the backward reads.
pub(super) struct Backward<'a> {
    pub dout: &'a Tensor,
    pub q: &'a Tensor,
    pub k: &'a Tensor,
    pub v: &'a Tensor,
    pub out: &'a Tensor,
    pub lse: &'a Tensor,
}

pub(super) fn backward(
    exec: Exec,
    inputs: Backward<'_>,
    sequences: Sequences<'_>,
    config: Config,
) -> Result<(Tensor, Tensor, Tensor)> {
    let Config { num_heads, num_kv_heads, head_dim, .. } = config;
    let dtype = exec.product_type(inputs.q);
    let Backward { dout, q, k, v, out, lse } = &inputs;
    let (tokens, groups) = (q.dim(0)?, groups(sequences, &config));
    if groups.is_empty() {
        return Ok((q.zeros_like()?, k.zeros_like()?, v.zeros_like()?));
    }
    // Σ dout · out by head, `[tokens, heads]`.
    let delta = (widened(dout)? * widened(out)?)?.reshape((tokens, num_heads, head_dim))?.sum(2)?;
    let (mut dqs, mut dks, mut dvs) = (Vec::new(), Vec::new(), Vec::new());
    let mut first = 0;
    for group in &groups {
        let q = gather(q, group, num_heads, head_dim, dtype)?;
        let k = gather(k, group, num_kv_heads, head_dim, dtype)?;
        let v = gather(v, group, num_kv_heads, head_dim, dtype)?;
        let dout = gather(dout, group, num_heads, head_dim, dtype)?;
        let delta = gather(&delta, group, num_heads, 1, delta.dtype())?;
        let count = group.spans.len();
        let mut dq = Vec::new();
        let mut sums: Option<(Tensor, Tensor)> = None;
        for window in windows(group, &config) {
            let n = count * num_heads * window.queries;
            let shape = (count, num_heads, window.queries);
            let lse = lse.narrow(0, first, n)?.reshape(shape)?;
            first += n;
            let delta = delta.narrow(2, window.first_query, window.queries)?;
            let delta = delta.contiguous()?.reshape(shape)?;
            let (queries, keys) = (window.queries(&q, &config)?, window.keys(&k)?);
            let douts = window.queries(&dout, &config)?;
            let products = queries.matmul(&keys.t()?)?;
            let products = window.by_head(products, count, &config)?;
            let dp = douts.matmul(&window.keys(&v)?.t()?)?;
            let dp = window.by_head(dp, count, &config)?;
            let at = window.at(group);
            let (p, ds) = scores::backward(exec, products, dp, &lse, &delta, at, &config)?;
            let (p, ds) = (window.by_kv_head(&p, &config)?, window.by_kv_head(&ds, &config)?);
            dq.push(ds.matmul(&keys)?.reshape((count, num_heads, window.queries, head_dim))?);
            let shape = (count, num_kv_heads, window.keys, head_dim);
            let dk = ds.transpose(1, 2)?.matmul(&queries)?.reshape(shape)?;
            let dv = p.transpose(1, 2)?.matmul(&douts)?.reshape(shape)?;
            if window.queries == group.length {
                sums = Some((dk, dv));
                continue;
            }
            let wide = |d: &Tensor| {
                let after = group.length - window.first_key - window.keys;
                d.to_dtype(wide(d.dtype()))?.pad_with_zeros(2, window.first_key, after)
            };
            let (dk, dv) = (wide(&dk)?, wide(&dv)?);
            sums = Some(match sums {
                None => (dk, dv),
                Some((k, v)) => ((k + dk)?, (v + dv)?),
            });
        }
        let Some((dk, dv)) = sums else { continue };
        let dq = if dq.len() == 1 { dq.remove(0) } else { Tensor::cat(&dq, 2)? };
        dqs.push(rows(&dq)?);
        dks.push(rows(&dk)?);
        dvs.push(rows(&dv)?);
    }
    let whole = |parts: &[Tensor]| scatter(parts, &groups, tokens, wide(inputs.q.dtype()));
    Ok((whole(&dqs)?, whole(&dks)?, whole(&dvs)?))
}

/// One query of each sequence against caches; `spans` as in [`super::decode`].
pub(super) fn decode(
    exec: Exec,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    spans: &[(usize, usize)],
    config: Config,
) -> Result<Tensor> {
    let Config { num_heads, num_kv_heads, head_dim, .. } = config;
    let dtype = exec.product_type(q);
    let mut outs = Vec::with_capacity(spans.len());
    for (i, &(first, keys)) in spans.iter().enumerate() {
        let one = Group { spans: vec![(i, 1)], length: 1, prefix: 0 };
        let q = gather(q, &one, num_heads, head_dim, dtype)?;
        let cache = Group { spans: vec![(first, keys)], length: keys, prefix: 0 };
        let k = gather(k, &cache, num_kv_heads, head_dim, dtype)?;
        let v = gather(v, &cache, num_kv_heads, head_dim, dtype)?;
        let low = config.window.map_or(0, |w| keys.saturating_sub(w));
        let window = Window { first_query: 0, queries: 1, first_key: low, keys: keys - low };
        let products = window.queries(&q, &config)?.matmul(&window.keys(&k)?.t()?)?;
        let products = window.by_head(products, 1, &config)?;
        let at = Stretch { first_query: keys - 1, first_key: low, prefix: 0 };
        let (p, _) = scores::probabilities(exec, products, at, &config)?;
        let out = window.by_kv_head(&p, &config)?.matmul(&window.keys(&v)?)?;
        outs.push(out.reshape((1, num_heads * head_dim))?);
    }
    Tensor::cat(&outs, 0)?.to_dtype(wide(q.dtype()))
}
