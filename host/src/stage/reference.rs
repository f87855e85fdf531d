//! What a policy is held to: its own base, the adapter it began with, or another model.

use std::path::PathBuf;

use crate::config::{ConfigError, RunConfig};
use crate::device;
use crate::error::Result;
use crate::model::{CausalScores, Decoder, HfConfig, ParamSet, TokenBatch, Weights};
use crate::run::manifest::hash_files;

/// See the module.
pub enum Reference {
    /// The policy's base: its adapter switched off.
    AdapterOff,
    /// The policy's base under the adapter that training began with.
    Adapter(ParamSet),
    /// A model of its own.
    Model(Box<Decoder>),
}

impl Reference {
    /// The reference of a run: `named`, if given, else the policy as it is before training, whose
    /// parameters are `params`.
    ///
    /// # Errors
    /// A folder that can't be used, or a model with another vocabulary.
    pub fn of(
        config: &RunConfig,
        named: Option<&PathBuf>,
        policy: &HfConfig,
        params: &ParamSet,
    ) -> Result<Self> {
        if named.is_none() && config.use_peft {
            if config.peft_path.is_none() {
                return Ok(Reference::AdapterOff);
            }
            // The optimiser changes parameters in place: the reference keeps its own.
            let mut initial = params.clone();
            for param in &mut initial.params {
                param.tensor = param.tensor.copy()?;
            }
            return Ok(Reference::Adapter(initial));
        }
        let dir = named.unwrap_or(&config.model_name_or_path);
        let own = HfConfig::read(dir)?;
        if own.spec.vocab_size != policy.spec.vocab_size {
            return Err(ConfigError::one(format!(
                "the model in {} has {} tokens and the policy {}; they must share a tokenizer",
                dir.display(),
                own.spec.vocab_size,
                policy.spec.vocab_size
            ))
            .into());
        }
        let device = device::open(config.precision.device)?;
        let (weights, _) = Weights::load(dir, &own.spec, config.precision, &device)?;
        let decoder = Decoder::new(own.spec, weights, &device, config.model_max_length)?;
        Ok(Reference::Model(Box::new(decoder)))
    }

    /// Scores of `batch`'s targets; `policy` lends its base where that is the reference.
    ///
    /// # Errors
    /// A failing tensor operation.
    pub fn score(
        &self,
        policy: &mut Decoder,
        batch: &TokenBatch,
        temperature: f64,
    ) -> Result<CausalScores> {
        let none = ParamSet::default();
        Ok(match self {
            Reference::AdapterOff => {
                policy.with_adapter_off(|d| d.score_at(&none, batch, temperature))??
            }
            Reference::Adapter(initial) => {
                policy.with_adapter_of(initial, |d| d.score_at(initial, batch, temperature))??
            }
            Reference::Model(model) => model.score_at(&none, batch, temperature)?,
        })
    }

    /// Bytes of weights beside the policy's.
    pub fn bytes(&self) -> usize {
        match self {
            Reference::Model(model) => model.weights.bytes(&model.spec),
            Reference::AdapterOff => 0,
            Reference::Adapter(initial) => 4 * initial.num_values(),
        }
    }
}

/// Hashes of a model folder's files, for a run's identity.
///
/// # Errors
/// A file that can't be read.
pub fn fingerprint(dir: &std::path::Path) -> Result<serde_json::Value> {
    let files = hash_files(super::record::model_files(dir).iter().map(PathBuf::as_path))?;
    let hashes: Vec<&str> = files.iter().map(|f| f.sha256.as_str()).collect();
    Ok(serde_json::json!(hashes))
}
