//! A model ready to speak: decoder, tokenizer, template, and an adapter if there is one.

use std::path::Path;

use crate::adapter::{self, peft};
use crate::config::Precision;
use crate::data::Conversation;
use crate::device;
use crate::error::Result;
use crate::model::generate::{Generation, Request, SamplingOptions, StopReason};
use crate::model::{Decoder, HfConfig, ParamSet, Weights};
use crate::plugin::{Plugin, RenderOptions};
use crate::text::chat_template::ChatTemplate;
use crate::text::{TextError, TextTokenizer};

/// See the module.
pub struct Speaker {
    decoder: Decoder,
    params: ParamSet,
    tokenizer: TextTokenizer,
    template: Option<Plugin>,
    jinja: Option<ChatTemplate>,
    eos_ids: Vec<u32>,
}

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Its text, without what ended it.
    pub text: String,
    /// Tokens generated.
    pub num_tokens: usize,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Why it ended.
    pub stop_reason: StopReason,
}

/// Tokens that end an answer: those that the model and its tokenizer name, and known ends of turns.
pub fn stop_ids(config: &HfConfig, tokenizer: &TextTokenizer) -> Vec<u32> {
    let mut ids = config.eos_token_ids.clone();
    ids.extend(tokenizer.eos().map(|(_, id)| id));
    ids.extend(crate::text::train::TURN_ENDS.iter().filter_map(|t| tokenizer.id(t)));
    ids.sort_unstable();
    ids.dedup();
    ids
}

impl Speaker {
    /// Loads a model folder, with an adapter and a template plugin where given.
    ///
    /// # Errors
    /// Whatever is wrong with model, adapter or tokenizer.
    pub fn load(
        model: &Path,
        adapter_dir: Option<&Path>,
        template: Option<Plugin>,
        precision: Precision,
    ) -> Result<Self> {
        let mut config = HfConfig::read(model)?;
        let ids = [config.bos_token_id, config.eos_token_ids.first().copied(), config.pad_token_id];
        let adapter = adapter_dir.map(peft::read).transpose()?;
        let mut tokenizer_dir = model;
        if let (Some(adapter), Some(dir)) = (&adapter, adapter_dir) {
            if adapter.brings_tokens(&config.spec) {
                tokenizer_dir = dir;
            }
            config.grow(adapter.rows_needed(&config.spec));
        }
        let tokenizer = TextTokenizer::load(tokenizer_dir, ids)?;
        tokenizer.check_fits(config.spec.vocab_size)?;
        let device = device::open(precision.device)?;
        let (weights, _) = Weights::load(model, &config.spec, precision, &device)?;
        let positions = config.spec.max_position_embeddings;
        let mut decoder = Decoder::new(config.spec.clone(), weights, &device, positions)?;
        let params = match &adapter {
            Some(adapter) => adapter::attach_loaded(&mut decoder, adapter)?,
            None => ParamSet::default(),
        };
        let jinja = match ChatTemplate::load(&tokenizer) {
            Ok(template) => Some(template),
            Err(TextError::NoChatTemplate(_)) => None,
            Err(e) => return Err(e.into()),
        };
        let eos_ids = stop_ids(&config, &tokenizer);
        Ok(Self { decoder, params, tokenizer, template, jinja, eos_ids })
    }

    /// The prompt that invites an answer to `conversation`.
    ///
    /// # Errors
    /// When there is no template or it fails.
    pub fn render(&self, conversation: &Conversation) -> Result<String> {
        if let Some(plugin) = &self.template {
            let options = RenderOptions { add_generation_prompt: true, ..self.render_options() };
            let rendered = plugin.render(std::slice::from_ref(conversation), &options)?;
            let segments = rendered.into_iter().next().unwrap_or_else(|| Ok(Vec::new()));
            return match segments {
                Ok(segments) => Ok(segments.into_iter().map(|s| s.text).collect()),
                Err(reason) => Err(TextError::Encode(reason).into()),
            };
        }
        match &self.jinja {
            Some(template) => Ok(template.prompt(conversation)?),
            None => Err(TextError::NoChatTemplate(self.tokenizer.dir().into()).into()),
        }
    }

    fn render_options(&self) -> RenderOptions {
        super::dataset::render_options(&self.tokenizer)
    }

    /// Texts at which an answer ends, as the template plugin names them.
    ///
    /// # Errors
    /// When the plugin fails.
    pub fn stop_strings(&self) -> Result<Vec<String>> {
        match &self.template {
            Some(plugin) => Ok(plugin.stop_strings(&self.render_options())?),
            None => Ok(Vec::new()),
        }
    }

    /// Continues many prompts (whose templates wrote all special tokens), up to `slots` at a time;
    /// prompt `i` is row `i`. A stop string ends an answer's text. `None` when interrupted.
    ///
    /// # Errors
    /// As [`Speaker::answer`].
    pub fn answer_all(
        &self,
        prompts: &[String],
        options: &SamplingOptions,
        stop: &[String],
        slots: usize,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<Option<Vec<Answer>>> {
        let encode = |p: &String| Ok(self.tokenizer.encode(p, false)?.ids);
        let ids: Vec<Vec<u32>> = prompts.iter().map(encode).collect::<Result<_>>()?;
        let mut options = options.clone();
        options.stop_ids.extend(&self.eos_ids);
        let requests: Vec<Request<'_>> =
            ids.iter().zip(0..).map(|(prompt, row)| Request { prompt, row }).collect();
        let done = self.decoder.generate_batch(
            &self.params,
            &requests,
            &options,
            slots,
            |_, _| true,
            interrupted,
        )?;
        let Some(done) = done else { return Ok(None) };
        let mut answers = Vec::with_capacity(done.len());
        for (generation, prompt) in done.into_iter().zip(&ids) {
            let mut text = self.tokenizer.decode(&generation.ids, true)?;
            let mut stop_reason = generation.stop_reason;
            if let Some(at) = stop.iter().filter_map(|s| text.find(s.as_str())).min() {
                text.truncate(at);
                stop_reason = StopReason::StopToken;
            }
            let (num_tokens, prompt_tokens) = (generation.ids.len(), prompt.len());
            answers.push(Answer { text, num_tokens, prompt_tokens, stop_reason });
        }
        Ok(Some(answers))
    }

    /// Continues `prompt`. With `raw` the tokenizer adds its special tokens to it; otherwise the
    /// template wrote them. Text is handed to `on_text` as it comes; a stop string ends the answer
    /// and is not part of it.
    ///
    /// # Errors
    /// A prompt that is empty or too long, a failing tensor operation.
    pub fn answer(
        &self,
        prompt: &str,
        raw: bool,
        options: &SamplingOptions,
        stop: &[String],
        row: u64,
        mut on_text: impl FnMut(&str),
    ) -> Result<Answer> {
        let ids = self.tokenizer.encode(prompt, raw)?.ids;
        let mut options = options.clone();
        options.stop_ids.extend(&self.eos_ids);
        let mut stream = self.tokenizer.stream(true);
        let mut text = String::new();
        let mut shown = 0;
        let mut failed = None;
        let mut stopped = false;
        // What might be the beginning of a stop string is held back.
        let held = stop.iter().map(String::len).max().unwrap_or(0);
        let on_token = |id| match stream.push(id) {
            Err(e) => {
                failed = Some(e);
                false
            }
            Ok(piece) => {
                text.push_str(&piece);
                if let Some(at) = stop.iter().filter_map(|s| text.find(s.as_str())).min() {
                    text.truncate(at);
                    stopped = true;
                    return false;
                }
                let mut safe = text.len().saturating_sub(held);
                while !text.is_char_boundary(safe) {
                    safe -= 1;
                }
                if safe > shown {
                    on_text(&text[shown..safe]);
                    shown = safe;
                }
                true
            }
        };
        let Generation { ids: new, stop_reason, .. } =
            self.decoder.generate(&self.params, &ids, &options, row, on_token)?;
        if let Some(e) = failed {
            return Err(e.into());
        }
        if text.len() > shown {
            on_text(&text[shown..]);
        }
        let stop_reason = if stopped { StopReason::StopToken } else { stop_reason };
        Ok(Answer { text, num_tokens: new.len(), prompt_tokens: ids.len(), stop_reason })
    }
}
