//! Adapters in other programs' formats.

pub mod gguf;
pub mod mlx;

use candle_core::Tensor;

use super::peft::PeftAdapter;
use crate::model::projection::Projection;
use crate::model::slots::{projection_shape, projections};
use crate::model::{DecoderSpec, ModelError};

/// One pair of an adapter and where it belongs.
pub(super) struct Placed<'a> {
    pub layer: usize,
    pub projection: Projection,
    /// Path of its module.
    pub module: &'a str,
    /// `[rank, in]`.
    pub a: &'a Tensor,
    /// `[out, rank]`.
    pub b: &'a Tensor,
    /// Factor on their product.
    pub scale: f64,
}

/// The pairs of `adapter` in the order of the layers of a decoder `spec`.
pub(super) fn placed<'a>(
    spec: &DecoderSpec,
    adapter: &'a PeftAdapter,
) -> Result<Vec<Placed<'a>>, ModelError> {
    let mut all = Vec::new();
    for layer in 0..spec.num_layers {
        for projection in projections(spec, layer) {
            let path = spec.names.module_path(layer, projection);
            let Some((module, (a, b))) = adapter.tensors.get_key_value(&path) else { continue };
            let (rank, scale) = adapter.config.rank_and_scale(module);
            let (width_out, width_in) = projection_shape(spec, projection);
            if a.dims() != [rank, width_in] || b.dims() != [width_out, rank] {
                return Err(adapter.fault(format!(
                    "`{module}` has A {:?} and B {:?}, the base needs [{rank}, {width_in}] and \
                     [{width_out}, {rank}]; it belongs to another model",
                    a.dims(),
                    b.dims()
                )));
            }
            all.push(Placed { layer, projection, module, a, b, scale });
        }
    }
    if all.len() != adapter.tensors.len() {
        return Err(adapter.fault(format!(
            "{} of its {} modules are not in the base; it belongs to another model",
            adapter.tensors.len() - all.len(),
            adapter.tensors.len()
        )));
    }
    Ok(all)
}

/// Refuses what no other format holds beside pairs.
pub(super) fn only_pairs(adapter: &PeftAdapter, format: &str) -> Result<(), ModelError> {
    let what = match (adapter.modules.keys().next(), &adapter.score) {
        (Some(name), _) => format!("the trained module `{name}`"),
        (_, Some(_)) => "a head of scores".into(),
        _ if !adapter.token_rows.is_empty() => "trained tokens".into(),
        (None, None) => return Ok(()),
    };
    Err(adapter.fault(format!(
        "it holds {what}, which {format} adapters can't; merge it (`trainer merge`) and export the model"
    )))
}
