//! stub
use candle_core::Tensor;
/// l
#[derive(Clone, Debug)]
pub struct Linear {
    /// w
    pub weight: Tensor,
    /// b
    pub bias: Option<Tensor>,
}
/// l
#[derive(Clone, Debug)]
pub struct LayerWeights {
    #[allow(missing_docs)]
    pub input_norm: Tensor,
    #[allow(missing_docs)]
    pub post_norm: Tensor,
    #[allow(missing_docs)]
    pub q: Linear,
    #[allow(missing_docs)]
    pub k: Linear,
    #[allow(missing_docs)]
    pub v: Linear,
    #[allow(missing_docs)]
    pub o: Linear,
    #[allow(missing_docs)]
    pub gate: Linear,
    #[allow(missing_docs)]
    pub up: Linear,
    #[allow(missing_docs)]
    pub down: Linear,
    #[allow(missing_docs)]
    pub q_norm: Option<Tensor>,
    #[allow(missing_docs)]
    pub k_norm: Option<Tensor>,
}
/// w
#[derive(Clone, Debug)]
pub struct Weights {
    #[allow(missing_docs)]
    pub embed: Tensor,
    #[allow(missing_docs)]
    pub layers: Vec<LayerWeights>,
    #[allow(missing_docs)]
    pub final_norm: Tensor,
    #[allow(missing_docs)]
    pub lm_head: Option<Tensor>,
}
