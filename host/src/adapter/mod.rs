//! LoRA adapters: which layers carry one, fresh or loaded; PEFT's folders; merging into the base.

pub mod merge;
pub mod peft;
pub mod targets;

use candle_core::{DType, Device, Tensor};

use crate::model::lora::{LoraPair, LoraTable};
use crate::model::slots::projection_shape;
use crate::model::{Decoder, ModelError, NamedTensor, ParamSet, Trained};
use crate::rng::{Purpose, Stream};
use peft::{LoraConfig, PeftAdapter};

/// The name of a parameter in PEFT's files: `module` is `model.layers.0.self_attn.q_proj`.
pub fn peft_key(module: &str, matrix: char) -> String {
    format!("base_model.model.{module}.lora_{matrix}.weight")
}

/// Puts fresh LoRA pairs on the layers that `config` names: A uniform in `±1/sqrt(in)` (Kaiming
/// with a = sqrt 5, as PEFT), B zero, so that the model is unchanged at first. Returns the
/// trained parameters, f32, in the order of the layers.
///
/// # Errors
/// [`ModelError::NoTarget`] when the targets name no layer.
pub fn attach_fresh(
    decoder: &mut Decoder,
    config: &LoraConfig,
    seed: u64,
) -> Result<ParamSet, ModelError> {
    let mut index = 0;
    attach(decoder, config, |_, rank, width_in, width_out, device| {
        let stream = Stream::new(seed, Purpose::Init, (1 << 32) + index);
        index += 1;
        let bound = 1.0 / (width_in as f64).sqrt();
        let values: Vec<f32> = (0..(rank * width_in) as u64)
            .map(|i| ((2.0 * stream.uniform(i) - 1.0) * bound) as f32)
            .collect();
        let a = Tensor::from_vec(values, (rank, width_in), device)?;
        Ok((a, Tensor::zeros((width_out, rank), DType::F32, device)?))
    })
}

/// Puts a loaded adapter's pairs on the decoder, to be used or trained further.
///
/// # Errors
/// When a tensor of the adapter is absent, of another shape, or belongs to no layer.
pub fn attach_loaded(decoder: &mut Decoder, adapter: &PeftAdapter) -> Result<ParamSet, ModelError> {
    let fault = |reason: String| ModelError::Adapter { path: adapter.path.clone(), reason };
    if adapter.score.is_some() {
        return Err(fault(
            "it is of a reward model; give an adapter of a language model here".into(),
        ));
    }
    attach_pairs(decoder, adapter)
}

/// As [`attach_loaded`] for an adapter of a reward model: its pairs, then its head, the last
/// parameter.
///
/// # Errors
/// As [`attach_loaded`]; and for an adapter without a head.
pub fn attach_reward(decoder: &mut Decoder, adapter: &PeftAdapter) -> Result<ParamSet, ModelError> {
    let fault = |reason: String| ModelError::Adapter { path: adapter.path.clone(), reason };
    let Some(score) = &adapter.score else {
        return Err(fault(
            "it is of a language model; give an adapter of a reward model (task_type SEQ_CLS) here"
                .into(),
        ));
    };
    let hidden = decoder.spec.hidden_size;
    if score.dims() != [1, hidden] {
        return Err(fault(format!(
            "its score head has shape {:?}, the base needs [1, {hidden}]; it belongs to another model",
            score.dims()
        )));
    }
    let mut params = attach_pairs(decoder, adapter)?;
    let tensor = score.to_device(decoder.device())?.copy()?;
    params.params.push(NamedTensor {
        name: peft::SCORE_KEY.into(),
        tensor,
        decay: true,
        transposed: false,
    });
    Ok(params)
}

fn attach_pairs(decoder: &mut Decoder, adapter: &PeftAdapter) -> Result<ParamSet, ModelError> {
    let fault = |reason: String| ModelError::Adapter { path: adapter.path.clone(), reason };
    let mut used = 0;
    let params = attach(decoder, &adapter.config, |module, rank, width_in, width_out, device| {
        let (a, b) = adapter.tensors.get(module).ok_or_else(|| {
            fault(format!("it has no tensors for `{module}`; it belongs to another model"))
        })?;
        if a.dims() != [rank, width_in] || b.dims() != [width_out, rank] {
            return Err(fault(format!(
                "`{module}` has A {:?} and B {:?}, the base needs [{rank}, {width_in}] and \
                 [{width_out}, {rank}]; it belongs to another model",
                a.dims(),
                b.dims()
            )));
        }
        used += 1;
        let own = |t: &Tensor| t.to_dtype(DType::F32)?.to_device(device)?.copy();
        Ok((own(a)?, own(b)?))
    })?;
    if used != adapter.tensors.len() {
        return Err(fault(format!(
            "{} of its {} modules are not in the base; it belongs to another model",
            adapter.tensors.len() - used,
            adapter.tensors.len()
        )));
    }
    Ok(params)
}

fn attach(
    decoder: &mut Decoder,
    config: &LoraConfig,
    mut pair: impl FnMut(&str, usize, usize, usize, &Device) -> Result<(Tensor, Tensor), ModelError>,
) -> Result<ParamSet, ModelError> {
    let mut params = ParamSet::default();
    let mut table = LoraTable::new(config.lora_dropout as f32);
    let device = decoder.device().clone();
    for (layer, projection) in targets::matching(&decoder.spec, config)? {
        let module = decoder.spec.names.module_path(layer, projection);
        let (width_out, width_in) = projection_shape(&decoder.spec, projection);
        let (rank, scale) = config.rank_and_scale(&module);
        let (a, b) = pair(&module, rank, width_in, width_out, &device)?;
        let first = params.params.len();
        for (matrix, tensor) in [('A', a), ('B', b)] {
            let name = peft_key(&module, matrix);
            params.params.push(NamedTensor { name, tensor, decay: true, transposed: false });
        }
        table.insert(layer, projection, LoraPair { a: first, b: first + 1, scale: scale as f32 });
    }
    decoder.trained = Trained::Lora(table);
    Ok(params)
}
