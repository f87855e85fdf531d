//! LoRA adapters: which layers carry one, fresh or loaded; modules trained whole beside them; PEFT's
//! folders; merging into the base.

pub mod combine;
pub mod export;
pub mod merge;
pub mod peft;
pub mod svd;
pub mod targets;

use candle_core::{DType, Tensor};

use crate::model::adapted::trained_copy;
use crate::model::lora::{Decomposed, LoraPair, LoraTable};
use crate::model::projection::Projection;
use crate::model::slots::{Slot, projection_shape};
use crate::model::{Decoder, ModelError, NamedTensor, ParamSet, Trained};
use crate::ops::dora;
use crate::rng::{Purpose, Stream};
use peft::{Initialization, LoraConfig, PeftAdapter};

/// The name of a parameter in PEFT's files: `module` is `model.layers.0.self_attn.q_proj`.
pub fn peft_key(module: &str, matrix: char) -> String {
    format!("base_model.model.{module}.lora_{matrix}.weight")
}

/// Where the values of an adapter come from.
enum Source<'a> {
    Fresh { seed: u64 },
    Loaded(&'a PeftAdapter),
}

/// Puts fresh LoRA pairs on the layers that `config` names: A uniform in `±1/sqrt(in)` (Kaiming
/// with a = sqrt 5, as PEFT), B zero, magnitudes and modules as they are in the base, so that the
/// model is unchanged at first. Returns the trained parameters, f32: the pairs in the order of the
/// layers, then the modules.
///
/// # Errors
/// [`ModelError::NoTarget`] when the targets name no layer; a module or pattern that names nothing.
pub fn attach_fresh(
    decoder: &mut Decoder,
    config: &LoraConfig,
    seed: u64,
) -> Result<ParamSet, ModelError> {
    targets::check_patterns(&decoder.spec, config)?;
    attach(decoder, config, &Source::Fresh { seed })
}

/// Puts a loaded adapter's pairs on the decoder, to be used or trained further.
///
/// # Errors
/// When a tensor of the adapter is absent, of another shape, or belongs to no layer.
pub fn attach_loaded(decoder: &mut Decoder, adapter: &PeftAdapter) -> Result<ParamSet, ModelError> {
    if adapter.score.is_some() {
        return Err(
            adapter.fault("it is of a reward model; give an adapter of a language model here")
        );
    }
    attach_all(decoder, adapter)
}

/// As [`attach_loaded`] for an adapter of a reward model: its pairs, then its head, the last
/// parameter.
///
/// # Errors
/// As [`attach_loaded`]; and for an adapter without a head.
pub fn attach_reward(decoder: &mut Decoder, adapter: &PeftAdapter) -> Result<ParamSet, ModelError> {
    let Some(score) = &adapter.score else {
        return Err(adapter.fault(
            "it is of a language model; give an adapter of a reward model (task_type SEQ_CLS) here",
        ));
    };
    let hidden = decoder.spec.hidden_size;
    if score.dims() != [1, hidden] {
        return Err(adapter.fault(format!(
            "its score head has shape {:?}, the base needs [1, {hidden}]; it belongs to another model",
            score.dims()
        )));
    }
    let mut params = attach_all(decoder, adapter)?;
    let tensor = score.to_device(decoder.device())?.copy()?;
    params.params.push(NamedTensor::new(peft::SCORE_KEY, tensor));
    Ok(params)
}

/// Every tensor of the adapter must find its place.
fn attach_all(decoder: &mut Decoder, adapter: &PeftAdapter) -> Result<ParamSet, ModelError> {
    let params = attach(decoder, &adapter.config, &Source::Loaded(adapter))?;
    let known: std::collections::BTreeSet<&str> =
        params.params.iter().map(|p| p.name.as_str()).collect();
    let pairs = adapter.tensors.keys().map(|m| peft_key(m, 'A'));
    let modules = adapter.modules.keys().map(|name| format!("{}{name}", peft::PREFIX));
    let rows = adapter.token_rows.keys().map(|m| peft::token_rows_key(m));
    let homeless: Vec<String> =
        pairs.chain(modules).chain(rows).filter(|name| !known.contains(name.as_str())).collect();
    match homeless.first() {
        None => Ok(params),
        Some(first) => Err(adapter.fault(format!(
            "{} of its modules are not in the base, `{first}` among them; it belongs to another model",
            homeless.len()
        ))),
    }
}

fn attach(
    decoder: &mut Decoder,
    config: &LoraConfig,
    source: &Source<'_>,
) -> Result<ParamSet, ModelError> {
    let mut params = ParamSet::default();
    let mut table = LoraTable::new(config.lora_dropout as f32);
    let pairs = targets::matching(&decoder.spec, config)?;
    let modules = targets::modules_to_save(&decoder.spec, config)?;
    for (number, (layer, projection)) in pairs.into_iter().enumerate() {
        let module = decoder.spec.names.module_path(layer, projection);
        let (rank, scale) = config.rank_and_scale(&module);
        let (a, b) = match source {
            Source::Fresh { seed } => match config.initialization {
                Initialization::Random => fresh(decoder, projection, rank, *seed, number as u64)?,
                Initialization::Pissa => principal(decoder, layer, projection, rank, scale, *seed)?,
            },
            Source::Loaded(adapter) => loaded(decoder, adapter, &module, projection, rank)?,
        };
        let first = params.params.len();
        let pair = LoraPair { a: first, b: first + 1, scale: scale as f32 };
        table.insert(layer, projection, pair);
        if config.use_dora {
            let weight = &decoder.weights.layers[layer].linear(projection)?.weight;
            let squares = dora::row_squares(weight.into())?;
            let norm = dora::weight_norm(decoder.exec(), weight, &squares, &a, &b, pair.scale)?;
            let magnitude = match source {
                Source::Fresh { .. } => norm.copy()?,
                Source::Loaded(adapter) => magnitude(decoder, adapter, &module, norm.dim(0)?)?,
            };
            params.params.push(NamedTensor::new(peft_key(&module, 'A'), a));
            params.params.push(NamedTensor::new(peft_key(&module, 'B'), b));
            params.params.push(NamedTensor::new(peft::magnitude_key(&module), magnitude));
            table.decompose(layer, projection, Decomposed { magnitude: first + 2, squares, norm });
        } else {
            params.params.push(NamedTensor::new(peft_key(&module, 'A'), a));
            params.params.push(NamedTensor::new(peft_key(&module, 'B'), b));
        }
    }
    decoder.trained = Trained::Lora(table);
    for slot in modules {
        let name = slot.name(&decoder.spec);
        let missing = || candle_core::Error::Msg(format!("the decoder has no `{name}`"));
        let base = decoder.module(slot).ok_or_else(missing)?;
        let tensor = match source {
            Source::Fresh { .. } => trained_copy(base)?,
            Source::Loaded(adapter) => {
                let tensor = adapter.modules.get(&name).ok_or_else(|| {
                    adapter.fault(format!(
                        "its configuration names `{name}` as a saved module, and its weights lack it; save it again"
                    ))
                })?;
                if tensor.dims() != base.dims() {
                    return Err(adapter.fault(format!(
                        "`{name}` has shape {:?}, the base has {:?}; it belongs to another model",
                        tensor.dims(),
                        base.dims()
                    )));
                }
                trained_copy(&tensor.to_device(decoder.device())?)?
            }
        };
        decoder.train_module(slot, params.params.len())?;
        params.params.push(NamedTensor {
            decay: slot.is_matrix(),
            ..NamedTensor::new(format!("{}{name}", peft::PREFIX), tensor)
        });
    }
    for (slot, ids) in targets::token_rows(&decoder.spec, config)? {
        let name = slot.name(&decoder.spec);
        let module = name.strip_suffix(".weight").unwrap_or(&name);
        let missing = || candle_core::Error::Msg(format!("the decoder has no `{name}`"));
        let table = decoder.weights.get(slot).ok_or_else(missing)?;
        let tensor = match source {
            Source::Fresh { .. } => {
                let rows = Tensor::new(ids.as_slice(), table.device())?;
                trained_copy(&table.index_select(&rows, 0)?)?
            }
            Source::Loaded(adapter) => {
                let rows = adapter.token_rows.get(module).ok_or_else(|| {
                    adapter
                        .fault(format!("it lacks the trained tokens of `{module}`; save it again"))
                })?;
                if rows.dims() != [ids.len(), decoder.spec.hidden_size] {
                    return Err(adapter.fault(format!(
                        "its trained tokens have shape {:?}, expected [{}, {}]; it belongs to another model",
                        rows.dims(),
                        ids.len(),
                        decoder.spec.hidden_size
                    )));
                }
                trained_copy(&rows.to_device(decoder.device())?)?
            }
        };
        decoder.train_rows(slot, ids, params.params.len())?;
        params.params.push(NamedTensor::new(peft::token_rows_key(module), tensor));
    }
    decoder.relink_adapter(&params)?;
    Ok(params)
}

fn fresh(
    decoder: &Decoder,
    projection: Projection,
    rank: usize,
    seed: u64,
    number: u64,
) -> Result<(Tensor, Tensor), ModelError> {
    let (width_out, width_in) = projection_shape(&decoder.spec, projection);
    let stream = Stream::new(seed, Purpose::Init, (1 << 32) + number);
    let bound = 1.0 / (width_in as f64).sqrt();
    let values: Vec<f32> = (0..(rank * width_in) as u64)
        .map(|i| ((2.0 * stream.uniform(i) - 1.0) * bound) as f32)
        .collect();
    let a = Tensor::from_vec(values, (rank, width_in), decoder.device())?;
    Ok((a, Tensor::zeros((width_out, rank), DType::F32, decoder.device())?))
}

/// The largest singular values of a frozen matrix as a pair, `sqrt(S / scale)` on both sides; the
/// matrix keeps the rest.
fn principal(
    decoder: &mut Decoder,
    layer: usize,
    projection: Projection,
    rank: usize,
    scale: f64,
    seed: u64,
) -> Result<(Tensor, Tensor), ModelError> {
    let slot = Slot::Weight(layer, projection);
    let narrow = || {
        ModelError::Target("init_lora_weights pissa needs a base that is not in 8 or 4 bits".into())
    };
    let weight = decoder.weights.get_mut(slot).ok_or_else(narrow)?;
    let wide = weight.to_dtype(DType::F32)?;
    let found = svd::largest(&wide, rank, seed)?;
    let roots: Vec<f64> = found.s.iter().map(|s| (s / scale).sqrt()).collect();
    // A matrix smaller than the rank has no more values.
    let missing = rank - roots.len();
    let roots = Tensor::new(roots.as_slice(), wide.device())?;
    let b = found.u.broadcast_mul(&roots)?.to_dtype(DType::F32)?;
    let a = found.vt.broadcast_mul(&roots.unsqueeze(1)?)?.to_dtype(DType::F32)?;
    let a = a.pad_with_zeros(0, 0, missing)?.contiguous()?;
    let b = b.pad_with_zeros(1, 0, missing)?.contiguous()?;
    *weight = (wide - (b.matmul(&a)? * scale)?)?.to_dtype(weight.dtype())?;
    Ok((a, b))
}

fn loaded(
    decoder: &Decoder,
    adapter: &PeftAdapter,
    module: &str,
    projection: Projection,
    rank: usize,
) -> Result<(Tensor, Tensor), ModelError> {
    let (width_out, width_in) = projection_shape(&decoder.spec, projection);
    let (a, b) = adapter.tensors.get(module).ok_or_else(|| {
        adapter.fault(format!("it has no tensors for `{module}`; it belongs to another model"))
    })?;
    if a.dims() != [rank, width_in] || b.dims() != [width_out, rank] {
        return Err(adapter.fault(format!(
            "`{module}` has A {:?} and B {:?}, the base needs [{rank}, {width_in}] and \
             [{width_out}, {rank}]; it belongs to another model",
            a.dims(),
            b.dims()
        )));
    }
    let own = |t: &Tensor| t.to_dtype(DType::F32)?.to_device(decoder.device())?.copy();
    Ok((own(a)?, own(b)?))
}

fn magnitude(
    decoder: &Decoder,
    adapter: &PeftAdapter,
    module: &str,
    width_out: usize,
) -> Result<Tensor, ModelError> {
    match adapter.magnitudes.get(module) {
        Some(m) if m.dims() == [width_out] => Ok(trained_copy(&m.to_device(decoder.device())?)?),
        Some(m) => Err(adapter.fault(format!(
            "`{module}` has {:?} magnitudes, the base needs {width_out}; it belongs to another model",
            m.dims()
        ))),
        None => Err(adapter.fault(format!("`{module}` has no magnitudes; save it again"))),
    }
}
