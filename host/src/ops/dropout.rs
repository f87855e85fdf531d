//! Inverted dropout whose mask is a pure function of a key and the element's position, so
//! that the backward recomputes it and nothing is stored.

use candle_core::{Result, Tensor};

use super::Exec;

/// A dropout mask: element `(row, column)` is kept iff a hash of `(key, row, column)` says so.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// Probability of dropping, in `(0, 1)`.
    pub p: f32,
    /// Key of the mask: from the seed, step, micro-step, layer and module.
    pub key: u64,
}

/// `x · mask / (1 - p)`, `[tokens, width]`. Its own backward.
pub fn apply(exec: Exec, x: &Tensor, dropout: Dropout) -> Result<Tensor> {
    todo!()
}
