//! From files to sequences: read, format, render, tokenize; every row accounted for.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::RecordBatch;
use rayon::prelude::*;
use serde_json::json;

use super::preprocessed::{self, FileNumber, Kept, tokenized};
use crate::config::run::OnBadRow;
use crate::config::{ConfigError, PreprocessingCache, RunConfig};
use crate::data::source::{self, ReadOptions, SourceFile};
use crate::data::{
    ColumnKind, ColumnNeed, Conversation, DataError, Example, Ledger, Projection, Provenance,
    Reject, RejectKind, SourceBatch, SourceReader, tokens,
};
use crate::error::Result;
use crate::plugin::{Kind, OnFault, Plugin, PluginLimits, Reads, RenderOptions, Verdict, World};
use crate::text::chat_template::ChatTemplate;
use crate::text::{Encoded, Encoder, Segment, TextError, TextTokenizer, TokenizedExample};

/// Plugins, template and tokenizer of a run.
pub struct Pipeline {
    formatter: Option<Plugin>,
    template: Option<Plugin>,
    rewards: Vec<Plugin>,
    jinja: std::result::Result<ChatTemplate, TextError>,
    tokenizer: Arc<TextTokenizer>,
    max_length: usize,
    /// Most tokens of what is rendered to be continued.
    max_prompt_length: usize,
    train_on_inputs: bool,
    on_bad_row: OnBadRow,
    cache: PreprocessingCache,
    /// Seed handed to plugins.
    seed: u64,
}

/// How a conversation is rendered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rendering {
    /// With its answers, to be learnt.
    Whole,
    /// Ending with what invites the assistant to speak.
    ToContinue,
}

/// A conversation and how it is to be rendered.
pub type ToRender = (Conversation, Rendering);

/// What a stage trains on: made of one or several encoded sequences of an example.
pub trait Item: Sized + Clone {
    /// The conversations of an example that are to be rendered and encoded, or why this stage
    /// can't use the example. Texts and tokens need no rendering.
    fn conversations(example: &Example) -> std::result::Result<Vec<ToRender>, String>;

    /// The row it came from.
    fn provenance(&self) -> &Provenance;

    /// Whether items can be kept for later runs.
    const KEPT: bool = false;

    /// Items as columns, where they can be kept; `file` numbers their files.
    fn to_columns(_items: &[Self], _file: FileNumber<'_>) -> Option<RecordBatch> {
        None
    }

    /// The items of such columns; `None` where they are none.
    fn from_columns(_batch: &RecordBatch, _files: &[Arc<str>]) -> Option<Vec<Self>> {
        None
    }

    /// The items of a row, from its examples and their sequences, or the reason why the row is
    /// skipped.
    fn collect(
        examples: &[Example],
        sequences: Vec<Encoded>,
    ) -> std::result::Result<Vec<Self>, &'static str>;
}

impl Item for TokenizedExample {
    const KEPT: bool = true;

    fn to_columns(items: &[Self], file: FileNumber<'_>) -> Option<RecordBatch> {
        tokenized::to_columns(items, file)
    }

    fn from_columns(batch: &RecordBatch, files: &[Arc<str>]) -> Option<Vec<Self>> {
        tokenized::from_columns(batch, files)
    }

    fn provenance(&self) -> &Provenance {
        &self.provenance
    }

    fn conversations(example: &Example) -> std::result::Result<Vec<ToRender>, String> {
        match example {
            Example::Conversation(conversation) => {
                Ok(vec![(conversation.clone(), Rendering::Whole)])
            }
            Example::Text(_) | Example::Tokens { .. } => Ok(Vec::new()),
            Example::Preference { .. } | Example::Prompt { .. } => Err(
                "became a preference or a prompt, which this stage does not train on; use another \
                 formatter, or `trainer dpo` for preferences"
                    .into(),
            ),
        }
    }

    fn collect(
        _: &[Example],
        sequences: Vec<Encoded>,
    ) -> std::result::Result<Vec<Self>, &'static str> {
        let cut = sequences.iter().any(|s| s.truncated_tokens > 0);
        let usable: Vec<Self> =
            sequences.into_iter().map(|s| s.example).filter(|e| e.loss_weight() > 0.0).collect();
        match (usable.is_empty(), cut) {
            (false, _) => Ok(usable),
            (true, true) => Err("no trained token within model_max_length"),
            (true, false) => Err("no trained token"),
        }
    }
}

/// Items of some files, and where their rows went.
pub struct Part<T = TokenizedExample> {
    /// The items, in the order of the rows.
    pub examples: Vec<T>,
    /// The account of the rows.
    pub ledger: Ledger,
    /// The files.
    pub files: Vec<PathBuf>,
}

/// What a template plugin is told about the tokenizer.
pub fn render_options(tokenizer: &TextTokenizer) -> RenderOptions {
    let text = |token: Option<(&str, u32)>| token.map_or(String::new(), |(t, _)| t.to_string());
    RenderOptions {
        add_generation_prompt: false,
        continue_final_message: false,
        bos: text(tokenizer.bos()),
        eos: text(tokenizer.eos()),
    }
}

/// Loads a plugin by path or name, with the options given under its name or file stem.
///
/// # Errors
/// A plugin that can't be loaded or configured.
pub fn load_plugin(name: &str, options: &str, seed: u64) -> Result<Plugin> {
    Ok(Plugin::load(name, options, seed, PluginLimits::default())?)
}

/// Loads plugins by path or name, each with the options given under its file stem or its name.
///
/// # Errors
/// The faults of all plugins and their options together; options for a plugin that is not given.
pub fn load_plugins(
    names: &[String],
    mut options: std::collections::BTreeMap<String, String>,
    seed: u64,
) -> Result<Vec<Plugin>> {
    let stem = |name: &String| {
        std::path::Path::new(name)
            .file_stem()
            .map_or(name.clone(), |s| s.to_string_lossy().into_owned())
    };
    let own: Vec<String> = names
        .iter()
        .map(|name| options.remove(&stem(name)).or_else(|| options.remove(name)))
        .map(Option::unwrap_or_default)
        .collect();
    if let Some(name) = options.keys().next() {
        let near = names
            .iter()
            .map(stem)
            .min_by_key(|given| strsim::damerau_levenshtein(given, name))
            .filter(|given| strsim::damerau_levenshtein(given, name) <= 3)
            .map(|given| format!(", did you mean `{given}`?"))
            .unwrap_or_default();
        let fault = format!(
            "`--plugin_options` names `{name}`, but no such plugin is given with --plugin{near}"
        );
        return Err(ConfigError::one(fault).into());
    }
    let wanted: Vec<(&str, &str)> =
        names.iter().map(String::as_str).zip(own.iter().map(String::as_str)).collect();
    Ok(Plugin::load_all(&wanted, seed, &PluginLimits::default())?)
}

impl Pipeline {
    /// Loads the plugins and the template.
    ///
    /// # Errors
    /// A plugin that can't be loaded, two of one kind, a reward, options for no plugin.
    pub fn load(config: &RunConfig, tokenizer: &Arc<TextTokenizer>) -> Result<Self> {
        let (mut formatter, mut template, mut rewards) = (None, None, Vec::new());
        let on_fault = match config.on_bad_row {
            OnBadRow::Skip => OnFault::Reject,
            OnBadRow::Fail => OnFault::Fail,
        };
        let plugins =
            load_plugins(&config.plugin, config.plugin_options.clone(), config.training.seed)?;
        for (name, plugin) in config.plugin.iter().zip(plugins) {
            let slot = match plugin.world() {
                World::Formatter => &mut formatter,
                World::Template => &mut template,
                World::Reward if config.stage.samples() => {
                    rewards.push(plugin);
                    continue;
                }
                World::Reward => {
                    let fault = format!(
                        "plugin `{name}` is a reward; `trainer {}` takes formatters and templates",
                        config.stage.name()
                    );
                    return Err(ConfigError::one(fault).into());
                }
            };
            if slot.is_some() {
                let kind = plugin.world().name();
                let fault = format!("plugin `{name}` is a second {kind}; give one of each kind");
                return Err(ConfigError::one(fault).into());
            }
            *slot = Some(plugin.on_fault(on_fault));
        }
        Ok(Self {
            formatter,
            template,
            rewards,
            jinja: ChatTemplate::load(tokenizer),
            tokenizer: tokenizer.clone(),
            // Pre-training cuts its sequences later, and loses nothing.
            max_length: match &config.pretraining {
                Some(_) => usize::MAX,
                None => config.model_max_length,
            },
            max_prompt_length: config.sampling().map_or(usize::MAX, |s| s.max_prompt_length),
            train_on_inputs: config.train_on_inputs,
            on_bad_row: config.on_bad_row,
            cache: config.sources.preprocessing_cache,
            seed: config.training.seed,
        })
    }

    /// The plugins in use.
    pub fn plugins(&self) -> impl Iterator<Item = &Plugin> {
        self.formatter.iter().chain(&self.template).chain(&self.rewards)
    }

    /// Takes the rewards out.
    pub fn take_rewards(&mut self) -> Vec<Plugin> {
        std::mem::take(&mut self.rewards)
    }

    /// The template plugin, if one is used.
    pub fn template(&self) -> Option<&Plugin> {
        self.template.as_ref()
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &TextTokenizer {
        &self.tokenizer
    }

    fn projection(&self, file: &SourceFile) -> Result<Projection> {
        if let Some(formatter) = &self.formatter {
            return Ok(projection(formatter.reads()));
        }
        if tokens::holds_tokens(file)? {
            return Ok(tokens::projection());
        }
        Err(ConfigError::one(format!(
            "`{}` has no `input_ids` and `labels`, and no formatter plugin is given; add one, such as \
             --plugin sharegpt, alpaca or text (pairs: preference)",
            file.name
        ))
        .into())
    }

    /// Reads `inputs`, at most `limit` usable rows of them.
    ///
    /// # Errors
    /// Files that can't be read, plugins that fail, and, unless bad rows are skipped, the first
    /// bad row.
    pub fn read<T: Item>(&self, inputs: &[String], limit: Option<usize>) -> Result<Part<T>> {
        self.read_found(source::discover(inputs)?, limit)
    }

    /// As [`Self::read`]; rows that an earlier run kept are taken from there, and kept for the next
    /// one.
    pub(super) fn read_kept<T: Item>(
        &self,
        inputs: &[String],
        limit: Option<usize>,
        notices: &mut Vec<String>,
    ) -> Result<Part<T>> {
        let found = source::discover(inputs)?;
        let Some(kept) = Kept::of::<T>(self.cache, &found, self, limit)? else {
            return self.read_found(found, limit);
        };
        let path = kept.path().display();
        if let Some(part) = kept.read(&found) {
            notices.push(format!("tokenized rows of an earlier run are used: {path}"));
            return Ok(part);
        }
        let part = self.read_found(found, limit)?;
        // A run goes on without what would only be quicker the next time.
        notices.push(match kept.write(&part) {
            Ok(()) => format!("tokenized rows are kept for later runs: {path}"),
            Err(e) => format!("tokenized rows could not be kept: {e}"),
        });
        Ok(part)
    }

    /// What decides how rows become items.
    pub(super) fn identity(&self) -> Result<serde_json::Value> {
        let plugins = self.formatter.iter().chain(&self.template);
        let plugins = plugins.map(|p| json!([p.sha256(), p.options()])).collect();
        let t = &self.tokenizer;
        let rest = json!({
            "special": [t.bos(), t.eos(), t.pad(), t.unk()],
            "max_length": self.max_length,
            "max_prompt_length": self.max_prompt_length,
            "train_on_inputs": self.train_on_inputs,
            "on_bad_row": self.on_bad_row,
            "seed": self.seed,
        });
        preprocessed::identity(plugins, t.dir(), rest)
    }

    fn read_found<T: Item>(
        &self,
        found: source::Discovered,
        limit: Option<usize>,
    ) -> Result<Part<T>> {
        let files = found.files.iter().map(|f| f.path.clone()).collect();
        let mut part = Part { examples: Vec::new(), ledger: Ledger::default(), files };
        let mut left = limit.unwrap_or(usize::MAX);
        for file in found.files {
            if left == 0 {
                break;
            }
            let options = ReadOptions::new(self.projection(&file)?);
            for batch in SourceReader::new([file], options) {
                self.batch(&batch?, &mut part, &mut left)?;
                if left == 0 {
                    break;
                }
            }
        }
        part.ledger.check()?;
        Ok(part)
    }

    fn batch<T: Item>(
        &self,
        batch: &SourceBatch,
        part: &mut Part<T>,
        left: &mut usize,
    ) -> Result<()> {
        part.ledger.read(batch);
        if let (OnBadRow::Fail, Some(reject)) = (self.on_bad_row, batch.rejects.first()) {
            return Err(DataError::from(reject.clone()).into());
        }
        // What each row became: its examples, or nothing with the reason entered already.
        let mut rows: Vec<(Provenance, Vec<Example>)> = Vec::new();
        if let Some(formatter) = &self.formatter {
            let outcomes = formatter
                .format(std::slice::from_ref(&batch.batch))
                .map_err(|e| e.placed(|row| batch.provenance(row).to_string()))?;
            for (index, outcome) in outcomes.into_iter().enumerate() {
                let at = batch.provenance(index);
                for note in &outcome.notes {
                    part.ledger.note(&at.file, note);
                }
                match outcome.verdict {
                    Verdict::Keep(examples) => rows.push((at, examples)),
                    Verdict::Skip(reason) => part.ledger.skipped(&at, &reason),
                    Verdict::Reject(reason) => {
                        self.reject(part, &at, RejectKind::Formatter, reason)?
                    }
                }
            }
        } else {
            let read = tokens::examples(batch)?;
            for reject in read.rejects {
                if self.on_bad_row == OnBadRow::Fail {
                    return Err(DataError::from(reject).into());
                }
                part.ledger.rejected(reject);
            }
            rows.extend(read.examples.into_iter().map(|(at, example)| (at, vec![example])));
        }
        self.encode(rows, part, left)
    }

    fn reject<T>(
        &self,
        part: &mut Part<T>,
        at: &Provenance,
        kind: RejectKind,
        reason: String,
    ) -> Result<()> {
        let reject =
            Reject { file: at.file.clone(), row: at.row, kind, reason, excerpt: String::new() };
        if self.on_bad_row == OnBadRow::Fail {
            return Err(DataError::from(reject).into());
        }
        part.ledger.rejected(reject);
        Ok(())
    }

    /// Renders and tokenizes rows on all cores, enters their fate in their order.
    fn encode<T: Item>(
        &self,
        mut rows: Vec<(Provenance, Vec<Example>)>,
        part: &mut Part<T>,
        left: &mut usize,
    ) -> Result<()> {
        let mut spare = Vec::new();
        if rows.len() > *left {
            spare = rows.split_off(*left);
        }
        let mut wanted = Vec::with_capacity(rows.len());
        let mut usable = Vec::with_capacity(rows.len());
        for (at, examples) in rows {
            let conversations: std::result::Result<Vec<Vec<ToRender>>, String> =
                examples.iter().map(T::conversations).collect();
            match conversations {
                Ok(conversations) => {
                    wanted.push(conversations.concat());
                    usable.push((at, examples));
                }
                Err(reason) => self.reject(part, &at, RejectKind::Other, reason)?,
            }
        }
        let rows = usable;
        let rendered = self.render(&wanted)?;
        let encoder = Encoder {
            tokenizer: &self.tokenizer,
            max_length: self.max_length,
            train_on_inputs: self.train_on_inputs,
        };
        let prompts = Encoder { max_length: self.max_prompt_length, ..encoder };
        let encoded: Vec<Result<Vec<std::result::Result<Encoded, String>>>> = rows
            .par_iter()
            .zip(&wanted)
            .zip(rendered)
            .map(|(((at, examples), ways), rendered)| {
                let given = examples.iter().filter_map(|example| match example {
                    Example::Text(text) => Some(row_fault(encoder.text(text, at.clone()))),
                    Example::Tokens { input_ids, labels } => {
                        Some(Ok(Ok(encoder.tokens(input_ids.clone(), labels.clone(), at.clone()))))
                    }
                    _ => None,
                });
                let rendered = rendered.into_iter().zip(ways).map(|(segments, (_, way))| {
                    let encoder = match way {
                        Rendering::Whole => &encoder,
                        Rendering::ToContinue => &prompts,
                    };
                    match segments {
                        Ok(segments) => row_fault(encoder.segments(&segments, at.clone())),
                        Err(reason) => Ok(Err(reason)),
                    }
                });
                given.chain(rendered).collect()
            })
            .collect();
        for ((at, examples), encoded) in rows.iter().zip(encoded) {
            let encoded: std::result::Result<Vec<Encoded>, String> = encoded?.into_iter().collect();
            match encoded {
                Ok(sequences) => {
                    if self.enter(at, examples, sequences, part) {
                        *left -= 1;
                    }
                }
                Err(reason) => self.reject(part, at, RejectKind::Other, reason)?,
            }
        }
        for (at, _) in spare {
            part.ledger.skipped(&at, "beyond the number of samples asked for");
        }
        Ok(())
    }

    /// Segments of every conversation of every row.
    #[allow(clippy::type_complexity)]
    fn render(
        &self,
        by_row: &[Vec<ToRender>],
    ) -> Result<Vec<Vec<std::result::Result<Vec<Segment>, String>>>> {
        if by_row.iter().all(Vec::is_empty) {
            return Ok(by_row.iter().map(|_| Vec::new()).collect());
        }
        if let Some(template) = &self.template {
            let mut rendered = self.render_by(template, &by_row.concat())?.into_iter();
            return Ok(by_row.iter().map(|c| rendered.by_ref().take(c.len()).collect()).collect());
        }
        let jinja = match &self.jinja {
            Ok(jinja) => jinja,
            Err(TextError::NoChatTemplate(path)) => {
                return Err(TextError::NoChatTemplate(path.clone()).into());
            }
            Err(e) => {
                let path = self.tokenizer.dir().to_path_buf();
                return Err(TextError::ChatTemplate { path, reason: e.to_string() }.into());
            }
        };
        by_row
            .par_iter()
            .map(|row| {
                row.iter()
                    .map(|c| match rendered_by(jinja, c) {
                        Ok(segments) => Ok(Ok(segments)),
                        // A template may refuse one conversation (roles that don't alternate).
                        Err(e @ TextError::ChatTemplate { .. }) => {
                            Ok(Err(format!("can't be rendered: {e}")))
                        }
                        Err(e) => Err(e.into()),
                    })
                    .collect()
            })
            .collect()
    }

    /// Segments of conversations by a template plugin, which is asked once for each way.
    #[allow(clippy::type_complexity)]
    fn render_by(
        &self,
        template: &Plugin,
        all: &[ToRender],
    ) -> Result<Vec<std::result::Result<Vec<Segment>, String>>> {
        let mut out = vec![Err(String::new()); all.len()];
        for way in [Rendering::Whole, Rendering::ToContinue] {
            let indices: Vec<usize> = (0..all.len()).filter(|&i| all[i].1 == way).collect();
            if indices.is_empty() {
                continue;
            }
            let own: Vec<Conversation> = indices.iter().map(|&i| all[i].0.clone()).collect();
            let options = RenderOptions {
                add_generation_prompt: way == Rendering::ToContinue,
                ..render_options(&self.tokenizer)
            };
            for (i, segments) in indices.into_iter().zip(template.render(&own, &options)?) {
                out[i] = segments.map(|segments| {
                    segments
                        .into_iter()
                        .map(|s| Segment { text: s.text, role: s.role, weight: s.weight })
                        .collect()
                });
            }
        }
        Ok(out)
    }

    /// Enters a row's sequences; answers whether it is used.
    fn enter<T: Item>(
        &self,
        at: &Provenance,
        examples: &[Example],
        sequences: Vec<Encoded>,
        part: &mut Part<T>,
    ) -> bool {
        let cut: usize = sequences.iter().map(|s| s.truncated_tokens).sum();
        match T::collect(examples, sequences) {
            Err(reason) => {
                part.ledger.skipped(at, reason);
                false
            }
            Ok(items) => {
                part.ledger.used(at, items.len() as u64);
                if cut > 0 {
                    part.ledger.truncated(at, cut as u64);
                }
                part.examples.extend(items);
                true
            }
        }
    }
}

fn rendered_by(
    jinja: &ChatTemplate,
    (conversation, way): &ToRender,
) -> std::result::Result<Vec<Segment>, TextError> {
    if *way == Rendering::Whole {
        return jinja.segments(conversation);
    }
    let text = jinja.prompt(conversation)?;
    Ok(vec![Segment { text, role: String::new(), weight: 0.0 }])
}

/// A text that the tokenizer can't encode is a fault of its row; anything else ends the run.
fn row_fault(
    result: std::result::Result<Encoded, TextError>,
) -> Result<std::result::Result<Encoded, String>> {
    match result {
        Ok(encoded) => Ok(Ok(encoded)),
        Err(TextError::Encode(reason)) => Ok(Err(format!("can't be tokenized: {reason}"))),
        Err(e) => Err(e.into()),
    }
}

/// The columns of a source that a plugin reads.
pub fn projection(reads: &Reads) -> Projection {
    let kind = |kind: Kind| match kind {
        Kind::Utf8 => ColumnKind::Utf8,
        Kind::Int64 => ColumnKind::Int64,
        Kind::Float64 => ColumnKind::Float64,
        Kind::Boolean => ColumnKind::Boolean,
        Kind::Binary => ColumnKind::Binary,
        Kind::Json => ColumnKind::Json,
    };
    if reads.whole_rows {
        return Projection::All;
    }
    let needs = reads
        .columns
        .iter()
        .map(|n| ColumnNeed { name: n.name.clone(), kind: kind(n.kind), optional: n.optional })
        .collect();
    Projection::columns(needs)
}
