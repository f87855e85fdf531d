//! From scores to probabilities and back, for a stretch of queries against a stretch of keys.

use candle_core::{D, Device, Result, Tensor};

use super::{Config, alibi_slope};
use crate::ops::{Exec, widened};

/// Which queries and keys of a sequence the scores are of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stretch {
    /// Position of the first query.
    pub first_query: usize,
    /// Position of the first key.
    pub first_key: usize,
    /// Positions that all queries see.
    pub prefix: usize,
}

/// 0 where a query sees a key, -inf elsewhere, minus the distance's part for each head:
/// `[heads or 1, queries, keys]`.
fn mask(
    queries: usize,
    keys: usize,
    at: Stretch,
    config: &Config,
    device: &Device,
) -> Result<Tensor> {
    let heads = if config.alibi { config.num_heads } else { 1 };
    let mut values = Vec::with_capacity(heads * queries * keys);
    for head in 0..heads {
        let slope = if config.alibi { alibi_slope(head, config.num_heads) } else { 0.0 };
        for position in at.first_query..at.first_query + queries {
            let low = config.window.map_or(0, |w| (position + 1).saturating_sub(w));
            let end = (position + 1).max(at.prefix);
            values.extend((at.first_key..at.first_key + keys).map(|j| match j >= low && j < end {
                true => slope * (j as f32 - position as f32),
                false => f32::NEG_INFINITY,
            }));
        }
    }
    Tensor::from_vec(values, (heads, queries, keys), device)
}

/// Scaled, capped, masked scores; with a cap also its slope.
fn masked(products: &Tensor, at: Stretch, config: &Config) -> Result<(Tensor, Option<Tensor>)> {
    let (_, _, queries, keys) = products.dims4()?;
    let mut scores = (widened(products)? * f64::from(config.scale))?;
    let mut slope = None;
    if let Some(cap) = config.softcap.map(f64::from) {
        let part = (scores / cap)?.tanh()?;
        slope = Some((1.0 - part.sqr()?)?);
        scores = (part * cap)?;
    }
    let mask = mask(queries, keys, at, config, products.device())?.to_dtype(scores.dtype())?;
    Ok((scores.broadcast_add(&mask)?, slope))
}

#[cfg(feature = "cuda")]
fn spec<'a>(
    at: Stretch,
    config: &Config,
    slopes: Option<&'a Tensor>,
) -> crate::ops::cuda::softmax::Spec<'a> {
    crate::ops::cuda::softmax::Spec {
        scale: config.scale,
        softcap: config.softcap,
        first_query: at.first_query,
        first_key: at.first_key,
        window: config.window,
        prefix: at.prefix,
        slopes,
    }
}

/// The slopes of all heads, where distance counts, `[heads]`.
#[cfg(feature = "cuda")]
fn slopes(config: &Config, device: &Device) -> Result<Option<Tensor>> {
    let slopes = || (0..config.num_heads).map(|h| alibi_slope(h, config.num_heads));
    config.alibi.then(|| Tensor::from_iter(slopes(), device)).transpose()
}

/// `q · k` as `products [sequences, heads, queries, keys]` → probabilities of the same shape and type,
/// and log-sum-exps `[sequences, heads, queries]`. The products may be overwritten: the caller holds no
/// other handle on them.
pub(super) fn probabilities(
    exec: Exec,
    products: Tensor,
    at: Stretch,
    config: &Config,
) -> Result<(Tensor, Tensor)> {
    #[cfg(feature = "cuda")]
    if exec.on_cuda(&products) {
        let slopes = slopes(config, products.device())?;
        let spec = spec(at, config, slopes.as_ref());
        return crate::ops::cuda::softmax::forward_in_place(products, &spec);
    }
    let _ = exec;
    let (scores, _) = masked(&products, at, config)?;
    let max = scores.max_keepdim(D::Minus1)?;
    let exps = scores.broadcast_sub(&max)?.exp()?;
    let sum = exps.sum_keepdim(D::Minus1)?;
    let lse = (max + sum.log()?)?.squeeze(D::Minus1)?;
    Ok((exps.broadcast_div(&sum)?.to_dtype(products.dtype())?, lse))
}

/// The probabilities again, and the gradient of the products: from `dp`, the gradient of the
/// probabilities, and `delta = Σ dp · p`, `[sequences, heads, queries]`. Products and `dp` may be
/// overwritten.
pub(super) fn backward(
    exec: Exec,
    products: Tensor,
    dp: Tensor,
    lse: &Tensor,
    delta: &Tensor,
    at: Stretch,
    config: &Config,
) -> Result<(Tensor, Tensor)> {
    #[cfg(feature = "cuda")]
    if exec.on_cuda(&products) {
        let slopes = slopes(config, products.device())?;
        let spec = spec(at, config, slopes.as_ref());
        return crate::ops::cuda::softmax::backward_in_place(products, dp, lse, delta, &spec);
    }
    let _ = exec;
    let (scores, slope) = masked(&products, at, config)?;
    let p = scores.broadcast_sub(&lse.unsqueeze(D::Minus1)?)?.exp()?;
    let dp = dp.to_dtype(p.dtype())?.broadcast_sub(&delta.unsqueeze(D::Minus1)?)?;
    let mut ds = ((&p * dp)? * f64::from(config.scale))?;
    if let Some(slope) = slope {
        ds = (ds * slope)?;
    }
    Ok((p.to_dtype(products.dtype())?, ds.to_dtype(products.dtype())?))
}
