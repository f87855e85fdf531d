//! A reward model at rest: scores conversations by the head at their end.

use std::path::{Path, PathBuf};

use crate::adapter::{self, peft};
use crate::config::Precision;
use crate::data::Conversation;
use crate::device;
use crate::error::Result;
use crate::model::{
    Decoder, HfConfig, ModelError, NamedTensor, ParamSet, TokenBatch, Weights, score_head,
};
use crate::plugin::Plugin;
use crate::stage::dataset::render_options;
use crate::stage::rm::{read_head, scored_positions};
use crate::text::chat_template::ChatTemplate;
use crate::text::{TextError, TextTokenizer};

/// Tokens scored at a time.
const BATCH_TOKENS: usize = 4096;

/// See the module.
pub struct RewardModel {
    decoder: Decoder,
    /// LoRA pairs, if any, then the head.
    params: ParamSet,
    tokenizer: TextTokenizer,
    jinja: Option<ChatTemplate>,
    pad: Option<u32>,
    /// Judge conversations one by one, so that none depends on its neighbours.
    pub alone: bool,
}

/// The folder of an adapter's base: as the adapter names it, or beside the adapter.
fn base_of(adapter_dir: &Path, named: &str) -> Result<PathBuf> {
    let own = Path::new(named);
    let beside = adapter_dir.join(named);
    [own.to_path_buf(), beside].into_iter().find(|p| p.join("config.json").is_file()).ok_or_else(
        || {
            let reason = format!(
                "its base `{}` is not a folder here; merge it first (`trainer merge`), or put the \
                 base there",
                crate::error::excerpt(named)
            );
            ModelError::Adapter { path: adapter_dir.into(), reason }.into()
        },
    )
}

impl RewardModel {
    /// Loads the folder of a reward model, or of an adapter whose base is where it says.
    ///
    /// # Errors
    /// Whatever is wrong with model, adapter or tokenizer.
    pub fn load(dir: &Path, precision: Precision) -> Result<Self> {
        let adapter = match dir.join("adapter_config.json").is_file() {
            true => Some(peft::read(dir)?),
            false => None,
        };
        let base = match &adapter {
            Some(adapter) => base_of(dir, &adapter.config.base_model_name_or_path)?,
            None => dir.to_path_buf(),
        };
        let config = HfConfig::read_any(&base)?;
        let spec = config.spec.body();
        let ids = [config.bos_token_id, config.eos_token_ids.first().copied(), config.pad_token_id];
        let own = if dir.join("tokenizer.json").is_file() { dir } else { base.as_path() };
        let tokenizer = TextTokenizer::load(own, ids)?;
        tokenizer.check_fits(spec.vocab_size)?;
        let device = device::open(precision.device)?;
        let (weights, _) = Weights::load(&base, &spec, precision, &device)?;
        let positions = spec.max_position_embeddings;
        let mut decoder = Decoder::new(spec, weights, &device, positions)?;
        let params = match &adapter {
            Some(adapter) => adapter::attach_reward(&mut decoder, adapter)?,
            None => {
                let tensor = read_head(dir, decoder.spec.hidden_size)?.to_device(&device)?;
                let name = score_head::SCORE.to_string();
                ParamSet { params: vec![NamedTensor::new(name, tensor)] }
            }
        };
        let jinja = match ChatTemplate::load(&tokenizer) {
            Ok(template) => Some(template),
            Err(TextError::NoChatTemplate(_)) => None,
            Err(e) => return Err(e.into()),
        };
        let pad = config.as_reward_model().pad_token_id;
        Ok(Self { decoder, params, tokenizer, jinja, pad, alone: false })
    }

    /// Bytes of its weights.
    pub fn bytes(&self) -> usize {
        self.decoder.weights.bytes(&self.decoder.spec)
    }

    fn texts(
        &self,
        conversations: &[Conversation],
        template: Option<&Plugin>,
    ) -> Result<Vec<std::result::Result<String, String>>> {
        if let Some(plugin) = template {
            let options = render_options(&self.tokenizer);
            let rendered = plugin.render(conversations, &options)?;
            let joined = |r: crate::plugin::Rendering| {
                r.map(|segments| segments.into_iter().map(|s| s.text).collect())
            };
            return Ok(rendered.into_iter().map(joined).collect());
        }
        let Some(jinja) = &self.jinja else {
            return Err(TextError::NoChatTemplate(self.tokenizer.dir().into()).into());
        };
        Ok(conversations.iter().map(|c| jinja.text(c).map_err(|e| e.to_string())).collect())
    }

    /// The reward of each conversation, rendered by `template` or the model's own; or why it
    /// can't be judged.
    ///
    /// # Errors
    /// Without a template, or when a tensor operation fails.
    pub fn score(
        &self,
        conversations: &[Conversation],
        template: Option<&Plugin>,
    ) -> Result<Vec<std::result::Result<f64, String>>> {
        let mut out: Vec<std::result::Result<f64, String>> =
            Vec::with_capacity(conversations.len());
        let mut waiting: Vec<(usize, Vec<u32>)> = Vec::new();
        let mut tokens = 0;
        for (i, text) in self.texts(conversations, template)?.into_iter().enumerate() {
            let ids = text.and_then(|t| {
                self.tokenizer.encode(&t, false).map(|e| e.ids).map_err(|e| e.to_string())
            });
            let reach = self.decoder.max_positions();
            match ids {
                Ok(ids) if ids.is_empty() => out.push(Err("it has no token".into())),
                Ok(ids) if ids.len() > reach => {
                    let n = ids.len();
                    out.push(Err(format!("its {n} tokens are beyond the model's {reach}")));
                }
                Ok(ids) => {
                    if self.alone || tokens + ids.len() > BATCH_TOKENS {
                        self.flush(&mut waiting, &mut out)?;
                        tokens = 0;
                    }
                    tokens += ids.len();
                    waiting.push((i, ids));
                    out.push(Ok(0.0));
                }
                Err(reason) => out.push(Err(reason)),
            }
        }
        self.flush(&mut waiting, &mut out)?;
        Ok(out)
    }

    fn flush(
        &self,
        waiting: &mut Vec<(usize, Vec<u32>)>,
        out: &mut [std::result::Result<f64, String>],
    ) -> Result<()> {
        if waiting.is_empty() {
            return Ok(());
        }
        let sequences: Vec<&[u32]> = waiting.iter().map(|(_, ids)| ids.as_slice()).collect();
        let batch = TokenBatch::from_ids(&sequences);
        let normed =
            self.decoder.hidden_at(&self.params, &batch, scored_positions(&batch, self.pad))?;
        let head = &self.params.params[self.params.params.len() - 1].tensor;
        let rewards = score_head::forward(self.decoder.exec(), head, &normed)?;
        for ((i, _), reward) in waiting.drain(..).zip(rewards) {
            out[i] = Ok(f64::from(reward));
        }
        Ok(())
    }
}
