//! How trained parameters become files, and files parameters again.

use std::path::{Path, PathBuf};

use candle_core::DType;
use serde_json::json;

use crate::adapter::merge::copy_if_there;
use crate::adapter::peft::{self, LoraConfig};
use crate::error::Result;
use crate::model::reader::SafetensorsFile;
use crate::model::save::{Entry, config_for, write_json, write_weights};
use crate::model::{Decoder, HfConfig, ModelError, NamedTensor, ParamSet};
use crate::run::{Persist, RunError};
use crate::text::TextTokenizer;

/// Saves a LoRA adapter as PEFT does, with the tokenizer.
pub struct AdapterFiles {
    /// The adapter's configuration.
    pub config: LoraConfig,
    /// What pairs that began as parts of the base began as (PiSSA).
    pub initial: Option<ParamSet>,
    /// The tokenizer beside it.
    pub tokenizer: std::sync::Arc<TextTokenizer>,
}

/// Saves a whole model, with the tokenizer.
pub struct ModelFiles {
    /// The base's configuration.
    pub config: HfConfig,
    /// Where the base came from, for `generation_config.json`; absent for models from scratch.
    pub base_dir: Option<PathBuf>,
    /// The tokenizer beside it.
    pub tokenizer: std::sync::Arc<TextTokenizer>,
}

impl AdapterFiles {
    /// Files of an adapter; `initial` are its parameters as they began, where those are parts of the
    /// base.
    pub fn new(
        config: LoraConfig,
        tokenizer: std::sync::Arc<TextTokenizer>,
        initial: Option<&ParamSet>,
    ) -> Result<Self> {
        let mut initial = initial.cloned();
        // The optimiser changes the values in place.
        for param in initial.iter_mut().flat_map(|set| &mut set.params) {
            param.tensor = param.tensor.copy().map_err(ModelError::from)?;
        }
        Ok(Self { config, initial, tokenizer })
    }
}

impl Persist for AdapterFiles {
    fn save(&self, _decoder: &Decoder, params: &ParamSet, dir: &Path) -> Result<()> {
        match &self.initial {
            None => peft::write(dir, &self.config, params)?,
            Some(initial) => {
                let (config, params) = peft::from_initial(&self.config, params, initial)?;
                peft::write(dir, &config, &params)?;
            }
        }
        Ok(self.tokenizer.save(dir)?)
    }

    fn load(&self, params: &mut ParamSet, dir: &Path) -> Result<()> {
        let file = SafetensorsFile::open(&dir.join("adapter_model.safetensors"))?;
        let Some(initial) = &self.initial else { return restore(params, &file, dir) };
        for (param, before) in params.params.iter_mut().zip(&initial.params) {
            let stored = file.read(&param.name)?;
            let tensor = peft::since_initial(&param.name, &stored, &before.tensor)?;
            let tensor = tensor.ok_or_else(|| RunError::Checkpoint {
                path: dir.into(),
                reason: format!("`{}` did not begin as the base's singular vectors", param.name),
            })?;
            param.tensor = tensor.to_device(param.tensor.device()).map_err(ModelError::from)?;
        }
        Ok(())
    }
}

impl Persist for ModelFiles {
    fn save(&self, decoder: &Decoder, params: &ParamSet, dir: &Path) -> Result<()> {
        let entry = |p: &NamedTensor| Ok(Entry::of(p.name.clone(), p.file_tensor()?));
        let entries: Vec<_> = params.params.iter().map(entry).collect::<Result<_, ModelError>>()?;
        // A checkpoint is read back tensor by tensor from one file.
        write_weights(dir, entries, usize::MAX)?;
        let value = config_for(&self.config.raw, DType::F32, decoder.spec.vocab_size);
        write_json(&dir.join("config.json"), &value, 2)?;
        match &self.base_dir {
            Some(base) => copy_if_there(base, dir, &["generation_config.json"])?,
            None => {
                let generation = json!({
                    "_from_model_config": true,
                    "eos_token_id": self.config.eos_token_ids,
                    "pad_token_id": self.config.pad_token_id,
                });
                write_json(&dir.join("generation_config.json"), &generation, 2)?;
            }
        }
        Ok(self.tokenizer.save(dir)?)
    }

    fn load(&self, params: &mut ParamSet, dir: &Path) -> Result<()> {
        restore(params, &SafetensorsFile::open(&dir.join("model.safetensors"))?, dir)
    }
}

fn restore(params: &mut ParamSet, file: &SafetensorsFile, dir: &Path) -> Result<()> {
    for param in &mut params.params {
        let tensor = param.turned(file.read(&param.name)?).map_err(ModelError::from)?;
        if tensor.dims() != param.tensor.dims() || tensor.dtype() != param.tensor.dtype() {
            let reason = format!(
                "`{}` has shape {:?}, expected {:?}",
                param.name,
                tensor.dims(),
                param.tensor.dims()
            );
            return Err(RunError::Checkpoint { path: dir.into(), reason }.into());
        }
        param.tensor = tensor.to_device(param.tensor.device())?;
    }
    Ok(())
}
