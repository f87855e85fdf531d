//! The second half of a block: an MLP, or a mixture of experts.

use candle_core::{Result, Tensor};

use super::block::{BlockContext, BlockParams};
use super::mixture::{self, Load};
use super::mlp;
use super::params::GradSet;
use super::weights::LayerWeights;

/// What the backward needs besides the input.
pub enum Saved {
    /// Of an MLP.
    Mlp(mlp::Saved),
    /// Of experts.
    Mixture(mixture::Saved),
}

impl Saved {
    /// How a mixture dealt out the tokens.
    pub fn load(&self) -> Option<&Load> {
        match self {
            Saved::Mlp(_) => None,
            Saved::Mixture(saved) => Some(saved.load()),
        }
    }
}

/// Whether the backward reads the input.
pub fn needs_input(b: &BlockContext<'_>, w: &LayerWeights, trained: &BlockParams) -> bool {
    match w.mixture {
        Some(_) => trained.router.is_some() || !trained.experts.is_empty(),
        None => mlp::needs_input(b, trained),
    }
}

/// Of `n2 [tokens, hidden]`.
///
/// # Errors
/// When shapes don't fit or a device fails.
pub fn forward(b: &BlockContext<'_>, w: &LayerWeights, n2: &Tensor) -> Result<(Tensor, Saved)> {
    Ok(match (&w.mixture, b.spec.mixture(b.layer)) {
        (Some(weights), Some(spec)) => {
            let (y, saved) = mixture::forward(b, spec, weights, n2)?;
            (y, Saved::Mixture(saved))
        }
        _ => {
            let (y, saved) = mlp::forward(b, w, n2)?;
            (y, Saved::Mlp(saved))
        }
    })
}

/// `dy [tokens, hidden]` → the input's gradient. `n2`: the input, where [`needs_input`] asks for it.
///
/// # Errors
/// As [`forward`].
pub fn backward(
    b: &BlockContext<'_>,
    w: &LayerWeights,
    trained: &BlockParams,
    saved: Saved,
    dy: &Tensor,
    n2: Option<&Tensor>,
    grads: &mut GradSet,
) -> Result<Tensor> {
    match (saved, &w.mixture, b.spec.mixture(b.layer)) {
        (Saved::Mlp(saved), ..) => mlp::backward(b, w, trained, saved, dy, n2, grads),
        (Saved::Mixture(saved), Some(weights), Some(spec)) => {
            mixture::backward(b, spec, weights, trained, saved, dy, n2, grads)
        }
        _ => candle_core::bail!("a block has no experts to go back through"),
    }
}
