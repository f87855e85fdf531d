//! A mixture of experts: a softmax over experts, the best few of each token, their outputs weighted.
//!
//! ```text
//! p = softmax(x Rᵀ)      w_e = p_e, or p_e / Σ p over the token's experts
//! y = Σ_e w_e · down_e(act(gate_e(x)) · up_e(x))
//! ```
//!
//! Tokens are gathered by expert and go through its matrices together. Which experts a token gets is not
//! differentiated; their weights are. Sums are taken in the order of the experts.

use candle_core::{Device, Result, Tensor};

use super::block::{BlockContext, BlockParams};
use super::params::GradSet;
use super::spec::MixtureSpec;
use super::weights::{Linear, Mixture};
use crate::ops::{activation, linear};

/// How tokens were dealt out, for the loss that balances the load.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Load {
    /// Tokens.
    pub tokens: usize,
    /// Tokens that chose each expert, `[experts]`.
    pub chosen: Vec<usize>,
    /// Sums of the experts' probabilities, `[experts]`.
    pub probability: Vec<f64>,
}

impl Load {
    /// Adds another layer's.
    pub fn add(&mut self, other: &Load) {
        self.tokens += other.tokens;
        self.chosen.resize(other.chosen.len(), 0);
        self.probability.resize(other.probability.len(), 0.0);
        self.chosen.iter_mut().zip(&other.chosen).for_each(|(a, b)| *a += b);
        self.probability.iter_mut().zip(&other.probability).for_each(|(a, b)| *a += b);
    }

    /// `experts · Σ_e (share of the tokens that chose e) · (mean probability of e)`, over all layers
    /// (Fedus et al. 2021, arXiv 2101.03961, eq. 4, as transformers computes it).
    pub fn loss(&self) -> f64 {
        let n = (self.tokens as f64).max(1.0);
        let products = self.chosen.iter().zip(&self.probability);
        let sum: f64 = products.map(|(&c, p)| c as f64 / n * (p / n)).sum();
        self.chosen.len() as f64 * sum
    }

    /// Its derivative by one token's probability of each expert.
    pub fn slopes(&self) -> Vec<f64> {
        let n = (self.tokens as f64).max(1.0);
        let experts = self.chosen.len() as f64;
        self.chosen.iter().map(|&c| experts * c as f64 / (n * n)).collect()
    }
}

/// A token's share in an expert.
#[derive(Clone, Copy, Debug)]
struct Place {
    token: u32,
    weight: f32,
}

/// What an expert keeps.
struct Kept {
    rows: Tensor,
    gate: Tensor,
    up: Tensor,
    /// The expert's output, `[its tokens, hidden]`, not yet weighted.
    out: Tensor,
}

/// What the backward needs besides the input.
pub struct Saved {
    /// Probabilities, `[tokens · experts]`.
    probabilities: Vec<f32>,
    /// Tokens of each expert, ascending.
    places: Vec<Vec<Place>>,
    /// `None` for an expert without tokens.
    experts: Vec<Option<Kept>>,
    load: Load,
}

impl Saved {
    /// How tokens were dealt out.
    pub fn load(&self) -> &Load {
        &self.load
    }
}

/// The best `k` of `values`, best first; of equals the first.
fn best(values: &[f32], k: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]).then(a.cmp(&b)));
    order.truncate(k);
    order
}

fn softmax(row: &mut [f32]) {
    let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    row.iter_mut().for_each(|v| *v = (*v - top).exp());
    let sum: f32 = row.iter().sum();
    row.iter_mut().for_each(|v| *v /= sum);
}

fn weights_column(places: &[Place], device: &Device) -> Result<Tensor> {
    let weights: Vec<f32> = places.iter().map(|p| p.weight).collect();
    Tensor::from_vec(weights, (places.len(), 1), device)
}

/// Of `x [tokens, hidden]`.
///
/// # Errors
/// When shapes don't fit or a device fails.
pub fn forward(
    b: &BlockContext<'_>,
    spec: &MixtureSpec,
    weights: &Mixture,
    x: &Tensor,
) -> Result<(Tensor, Saved)> {
    let (exec, device) = (b.cx.exec, x.device());
    let logits = linear::forward(exec, x, &weights.router, None)?;
    let mut probabilities: Vec<f32> = logits.flatten_all()?.to_vec1()?;
    let mut places = vec![Vec::new(); spec.num_experts];
    let mut load = Load {
        tokens: x.dim(0)?,
        chosen: vec![0; spec.num_experts],
        probability: vec![0.0; spec.num_experts],
    };
    for (token, row) in probabilities.chunks_exact_mut(spec.num_experts).enumerate() {
        softmax(row);
        let chosen = best(row, spec.experts_per_token);
        let sum: f32 = match spec.normalized {
            true => chosen.iter().map(|&e| row[e]).sum(),
            false => 1.0,
        };
        for &e in &chosen {
            places[e].push(Place { token: token as u32, weight: row[e] / sum });
            load.chosen[e] += 1;
        }
        load.probability.iter_mut().zip(&*row).for_each(|(sum, &p)| *sum += f64::from(p));
    }
    let mut y = x.zeros_like()?;
    let mut experts = Vec::with_capacity(spec.num_experts);
    for ([gate, up, down], places) in weights.experts.iter().zip(&places) {
        if places.is_empty() {
            experts.push(None);
            continue;
        }
        let rows: Vec<u32> = places.iter().map(|p| p.token).collect();
        let rows = Tensor::from_vec(rows, places.len(), device)?;
        let input = x.index_select(&rows, 0)?;
        let made = |l: &Linear, x: &Tensor| linear::forward(exec, x, &l.weight, None);
        let (gate, up) = (made(gate, &input)?, made(up, &input)?);
        let act = activation::forward(exec, b.spec.activation, &gate, Some(&up))?;
        let out = made(down, &act)?;
        let weighted = out.broadcast_mul(&weights_column(places, device)?)?;
        y = y.index_add(&rows, &weighted, 0)?;
        experts.push(Some(Kept { rows, gate, up, out }));
    }
    Ok((y, Saved { probabilities, places, experts, load }))
}

/// `dy [tokens, hidden]` → the input's gradient. `x`: the input, where something is trained here.
///
/// # Errors
/// As [`forward`].
#[allow(clippy::too_many_arguments)]
pub fn backward(
    b: &BlockContext<'_>,
    spec: &MixtureSpec,
    weights: &Mixture,
    trained: &BlockParams,
    saved: Saved,
    dy: &Tensor,
    x: Option<&Tensor>,
    grads: &mut GradSet,
) -> Result<Tensor> {
    let Saved { probabilities, places, experts, .. } = saved;
    let (exec, act, device) = (b.cx.exec, b.spec.activation, dy.device());
    let missing =
        || candle_core::Error::Msg("a mixture's backward was called without its input".into());
    let mut dx = dy.zeros_like()?;
    // By the weights of the tokens' experts; 0 where a token did not go.
    let mut dweights = vec![0f32; probabilities.len()];
    let n = spec.num_experts;
    for (e, (kept, places)) in experts.into_iter().zip(&places).enumerate() {
        let Some(Kept { rows, gate, up, out }) = kept else { continue };
        let dy = dy.index_select(&rows, 0)?;
        let products: Vec<f32> = (&dy * &out)?.sum(1)?.to_vec1()?;
        for (place, product) in places.iter().zip(products) {
            dweights[place.token as usize * n + e] = product;
        }
        drop(out);
        let dy = dy.broadcast_mul(&weights_column(places, device)?)?;
        let [g, u, d] = &weights.experts[e];
        let dact = linear::backward_input(exec, &dy, &d.weight)?;
        let (dgate, dup) = activation::backward(exec, act, &dact, &gate, Some(&up))?;
        let dup = dup.ok_or_else(missing)?;
        if let Some(&[of_gate, of_up, of_down]) = trained.experts.get(3 * e..3 * e + 3) {
            let input = x.ok_or_else(missing)?.index_select(&rows, 0)?;
            let activated = activation::forward(exec, act, &gate, Some(&up))?;
            grads.add(of_gate, linear::backward_weight(exec, &dgate, &input)?)?;
            grads.add(of_up, linear::backward_weight(exec, &dup, &input)?)?;
            grads.add(of_down, linear::backward_weight(exec, &dy, &activated)?)?;
        }
        let dinput = linear::backward_input(exec, &dgate, &g.weight)?;
        let dinput = linear::backward_input_add(exec, &dup, &u.weight, dinput)?;
        dx = dx.index_add(&rows, &dinput, 0)?;
    }
    let balance = b.balance.map(|balance| balance.slopes.as_slice()).unwrap_or_default();
    let dlogits = through_router(spec, &probabilities, &places, &dweights, balance);
    let dlogits = Tensor::from_vec(dlogits, (probabilities.len() / n, n), device)?;
    if let Some(index) = trained.router {
        grads.add(index, linear::backward_weight(exec, &dlogits, x.ok_or_else(missing)?)?)?;
    }
    linear::backward_input_add(exec, &dlogits, &weights.router, dx)
}

/// From the gradient by the weights, and by all probabilities (`balance`, empty for none), to the one by
/// the router's logits.
fn through_router(
    spec: &MixtureSpec,
    probabilities: &[f32],
    places: &[Vec<Place>],
    dweights: &[f32],
    balance: &[f64],
) -> Vec<f32> {
    let n = spec.num_experts;
    let mut chosen = vec![false; probabilities.len()];
    for (e, places) in places.iter().enumerate() {
        places.iter().for_each(|p| chosen[p.token as usize * n + e] = true);
    }
    let mut out = vec![0f32; probabilities.len()];
    for (token, row) in probabilities.chunks_exact(n).enumerate() {
        let at = token * n..(token + 1) * n;
        let (dw, chosen) = (&dweights[at.clone()], &chosen[at.clone()]);
        let picked = || (0..n).filter(|&e| chosen[e]);
        // d w_e / d p_j = (δ_ej - w_e) / Σ p, where the weights are brought to a sum of 1.
        let (sum, mean) = match spec.normalized {
            true => {
                let sum: f32 = picked().map(|e| row[e]).sum();
                (sum, picked().map(|e| dw[e] * row[e] / sum).sum())
            }
            false => (1.0, 0f32),
        };
        let dp: Vec<f32> = (0..n)
            .map(|e| {
                let own = if chosen[e] { (dw[e] - mean) / sum } else { 0.0 };
                own + balance.get(e).map_or(0.0, |&slope| slope as f32)
            })
            .collect();
        let inner: f32 = dp.iter().zip(row).map(|(d, p)| d * p).sum();
        let to = &mut out[at];
        to.iter_mut().zip(row).zip(dp).for_each(|((to, p), d)| *to = p * (d - inner));
    }
    out
}
