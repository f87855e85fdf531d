//! Merging: the changes of one or several adapters into the base, tensor by tensor. A pair changes its
//! matrix by `scale · B A`; a decomposed one also brings its rows to their magnitudes; a module trained
//! whole takes the base's place.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Tensor};
use serde::Serialize;

use super::peft::{self, PeftAdapter};
use crate::fs;
use crate::model::reader::WeightFiles;
use crate::model::save::{Entry, SHARD_BYTES, config_for, write_json, write_weights};
use crate::model::score_head::SCORE;
use crate::model::slots::Slot;
use crate::model::weights::with_mean_rows;
use crate::model::{HfConfig, ModelError, bitsandbytes};

/// Files of a tokenizer, copied as they stand.
pub const TOKENIZER_FILES: [&str; 13] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "ice_text.model",
    "qwen.tiktoken",
];

/// What a merge did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MergeReport {
    /// Matrices that were changed by pairs.
    pub merged_modules: usize,
    /// Tensors that were trained whole.
    pub replaced_tensors: usize,
    /// Largest absolute change of a weight.
    pub largest_change: f64,
    /// Type of the written weights.
    pub dtype: String,
    /// Tensors copied unchanged.
    pub copied_tensors: usize,
    /// Whether the head, which was the embedding, is a matrix of its own now.
    pub untied: bool,
}

/// What the adapters do to a base.
struct Changes<'a> {
    adapters: &'a [(PeftAdapter, f64)],
    transposed: bool,
    largest: Cell<f64>,
    /// Rows of the embedding and of the head.
    vocab_rows: usize,
}

impl Changes<'_> {
    /// The base's matrix of `module`, f32 as in the file, changed by every adapter's pair.
    fn of_pairs(&self, module: &str, base: Tensor) -> Result<Tensor, ModelError> {
        let base = base.to_dtype(DType::F32)?;
        let turned = |t: Tensor| match self.transposed {
            true => t.t()?.contiguous(),
            false => Ok(t),
        };
        let mut sum = base.clone();
        for (adapter, weight) in self.adapters {
            let Some((a, b)) = adapter.tensors.get(module) else { continue };
            let scale = adapter.config.rank_and_scale(module).1 * weight;
            let delta = turned((b.matmul(a)? * scale)?)?;
            if delta.dims() != base.dims() {
                return Err(adapter.fault(format!(
                    "`{module}` makes a change of {:?} for a weight of {:?}; it belongs to \
                     another model",
                    delta.dims(),
                    base.dims()
                )));
            }
            sum = (sum + delta)?;
            if let Some(magnitude) = adapter.magnitudes.get(module) {
                // Rows in memory are columns of a transposed file.
                let axis = usize::from(!self.transposed);
                let length = sum.sqr()?.sum_keepdim(axis)?.sqrt()?;
                let factor = magnitude.reshape(length.shape())?.div(&length)?;
                sum = sum.broadcast_mul(&factor)?;
            }
            self.note(adapter, module, &base, &sum)?;
        }
        Ok(sum)
    }

    /// The tensor `name` of a module trained whole; `base` is what it began as.
    fn of_module(&self, name: &str, base: Tensor) -> Result<Tensor, ModelError> {
        let base = base.to_dtype(DType::F32)?;
        let mut sum: Option<Tensor> = None;
        for (adapter, weight) in self.adapters {
            let Some(own) = adapter.modules.get(name) else { continue };
            let own = own.to_dtype(DType::F32)?;
            if own.dims() != base.dims() {
                return Err(adapter.fault(format!(
                    "`{name}` has shape {:?}, the base has {:?}; it belongs to another model",
                    own.dims(),
                    base.dims()
                )));
            }
            let next = match (sum.take(), *weight == 1.0) {
                (None, true) => own,
                (sum, _) => (sum.unwrap_or(base.clone()) + ((own - &base)? * *weight)?)?,
            };
            self.note(adapter, name, &base, &next)?;
            sum = Some(next);
        }
        Ok(sum.unwrap_or(base))
    }

    /// A table of one row a token, f32: as long as the adapters need it, with the rows of `module` that
    /// they train.
    fn of_table(&self, module: &str, base: Tensor) -> Result<Tensor, ModelError> {
        let base = base.to_dtype(DType::F32)?;
        let more = self.vocab_rows.saturating_sub(base.dim(0)?);
        let base = if more > 0 { with_mean_rows(&base, more)? } else { base };
        let mut sum = base.copy()?;
        for (adapter, weight) in self.adapters {
            let Some(rows) = adapter.token_rows.get(module) else { continue };
            let ids = adapter.config.token_ids(module);
            if rows.dims() != [ids.len(), base.dim(1)?] {
                return Err(adapter.fault(format!(
                    "its trained tokens of `{module}` have shape {:?}, expected [{}, {}]",
                    rows.dims(),
                    ids.len(),
                    base.dim(1)?
                )));
            }
            let at = Tensor::new(ids, base.device())?;
            let before = base.index_select(&at, 0)?;
            sum = sum.index_add(&at, &((rows - before)? * *weight)?, 0)?;
            self.note(adapter, module, &base, &sum)?;
        }
        Ok(sum)
    }

    fn note(
        &self,
        adapter: &PeftAdapter,
        name: &str,
        base: &Tensor,
        now: &Tensor,
    ) -> Result<(), ModelError> {
        let change = (now - base)?.abs()?.max_all()?.to_scalar::<f32>()?;
        if !change.is_finite() {
            return Err(adapter.fault(format!("`{name}` holds values that are not finite")));
        }
        self.largest.set(self.largest.get().max(f64::from(change)));
        Ok(())
    }
}

/// Merges the adapter of `adapter_dir` into `base_dir` and writes a model folder. Sums are taken
/// in f32 and stored in `dtype`, or in each tensor's own type; matrices that the base holds in 8 or 4
/// bits are widened to f32. Never more than one tensor is in
/// memory. The folder appears whole or not at all.
///
/// # Errors
/// When the adapter does not fit the base, a file is damaged, or the disk is full.
pub fn merge(
    base_dir: &Path,
    adapter_dir: &Path,
    output_dir: &Path,
    dtype: Option<DType>,
) -> Result<MergeReport, ModelError> {
    let options = Options { dtype, ..Options::default() };
    merge_all(base_dir, &[(adapter_dir, 1.0)], output_dir, options)
}

/// How a merged folder is written.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Type of the weights; `None`: each tensor's own.
    pub dtype: Option<DType>,
    /// Most bytes of a file.
    pub shard_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { dtype: None, shard_bytes: SHARD_BYTES }
    }
}

/// As [`merge`] with the changes of several adapters, each by its weight:
/// `W + Σ weight · scale · B A`; with none, the base as it is. Folder of the tokenizer: the first adapter that has one.
///
/// # Errors
/// As [`merge`]; and for several adapters where one is of a reward model or has magnitudes, whose
/// changes are no sums.
pub fn merge_all(
    base_dir: &Path,
    adapter_dirs: &[(&Path, f64)],
    output_dir: &Path,
    options: Options,
) -> Result<MergeReport, ModelError> {
    let Options { dtype, shard_bytes } = options;
    let mut config = HfConfig::read_any(base_dir)?;
    let adapters: Vec<(PeftAdapter, f64)> = adapter_dirs
        .iter()
        .map(|(dir, weight)| Ok((peft::read(dir)?, *weight)))
        .collect::<Result<_, ModelError>>()?;
    let plain = |(a, w): &(PeftAdapter, f64)| {
        a.score.is_none() && a.magnitudes.is_empty() || adapters.len() == 1 && *w == 1.0
    };
    if let Some((adapter, _)) = adapters.iter().find(|a| !plain(a)) {
        return Err(adapter.fault(
            "adapters with magnitudes (DoRA) and of reward models can't be weighted; merge it alone",
        ));
    }
    let files = WeightFiles::open(base_dir)?;
    // Older files leave out what stands before every name of the body.
    let base = config.spec.names.base;
    let in_file = |name: &str| match name.strip_prefix(base) {
        Some(short) if !files.contains(name) && files.contains(short) => short.to_string(),
        _ => name.to_string(),
    };
    let (tied, transposed) = (config.spec.tie_word_embeddings, config.spec.transposed);
    let head = Slot::LmHead.name(&config.spec);
    let embed = Slot::Embed.name(&config.spec);
    let module_of = |name: &str| name.strip_suffix(".weight").unwrap_or(name).to_string();
    let (embed_module, head_module) = (module_of(&embed), module_of(&head));
    let (mut pairs, mut modules) = (BTreeMap::new(), BTreeMap::new());
    let absent = |adapter: &PeftAdapter, name: &str| {
        adapter.fault(format!(
            "`{name}` is not in {}; the adapter belongs to another model",
            base_dir.display()
        ))
    };
    for (adapter, _) in &adapters {
        for module in adapter.tensors.keys() {
            let name = in_file(&format!("{module}.weight"));
            if !files.contains(&name) {
                return Err(absent(adapter, module));
            }
            pairs.insert(name, module.clone());
        }
        for module in adapter.token_rows.keys() {
            let name = format!("{module}.weight");
            if !files.contains(&in_file(&name)) {
                return Err(absent(adapter, module));
            }
        }
        for name in adapter.modules.keys() {
            let known = files.contains(&in_file(name)) || (tied && *name == head);
            if !known {
                return Err(absent(adapter, name));
            }
            modules.insert(in_file(name), name.clone());
        }
    }
    // A reward model has its own head in place of the one with words.
    let score = adapters.iter().find_map(|(a, _)| Some((a, a.score.as_ref()?)));
    if let Some((adapter, score)) = score {
        if score.dims()[1] != config.spec.hidden_size {
            return Err(adapter.fault(format!(
                "its score head is made for a width of {}, the base has {}; it belongs to another model",
                score.dims()[1],
                config.spec.hidden_size
            )));
        }
        config = config.as_reward_model();
    } else if let (true, Some((adapter, _))) = (config.is_reward_model(), adapters.first()) {
        return Err(adapter.fault(
            "it adapts a language model, and the base is a reward model; give its own base",
        ));
    }
    let needed = adapters.iter().map(|(a, _)| a.rows_needed(&config.spec)).max().unwrap_or(0);
    config.grow(needed);
    let vocab_rows = config.spec.vocab_size;
    let changes = Changes { adapters: &adapters, transposed, largest: Cell::new(0.0), vocab_rows };
    let tables = [in_file(&embed), in_file(&head)];
    let by_rows = adapters.iter().any(|(a, _)| !a.token_rows.is_empty());
    let (grown, tables_change) =
        (config.spec.added_rows > 0, config.spec.added_rows > 0 || by_rows);
    let of_head = modules.contains_key(&head);
    let untied = tied && score.is_none() && (of_head || modules.contains_key(&in_file(&embed)));
    let mut entries = Vec::new();
    let mut stored = None;
    let names: Vec<String> = files.names().map(str::to_string).collect();
    let replaced = |n: &str| {
        (tied && n == head) || (score.is_some() && n == SCORE) || bitsandbytes::is_part(n)
    };
    for name in names.into_iter().filter(|n| !replaced(n)) {
        // Types and shapes are needed before the values; reading twice keeps memory at one tensor.
        let probe = bitsandbytes::read_dense(&files, base_dir, &name)?;
        let own = dtype.filter(|_| probe.dtype().is_float()).unwrap_or(probe.dtype());
        stored = stored.or(Some(own));
        let (pair, module) = (pairs.get(&name), modules.get(&name));
        let table = (tables_change && tables.contains(&name)).then(|| match name == tables[0] {
            true => embed_module.clone(),
            false => head_module.clone(),
        });
        let (files, changes, read_name) = (&files, &changes, name.clone());
        let tensor = move || -> Result<Tensor, ModelError> {
            let mut base = bitsandbytes::read_dense(files, base_dir, &read_name)?;
            if let Some(table) = table {
                base = changes.of_table(&table, base)?;
            }
            match (pair, module) {
                (Some(pair), _) => changes.of_pairs(pair, base),
                (None, Some(module)) => changes.of_module(module, base),
                (None, None) => Ok(base),
            }
        };
        let mut shape = probe.dims().to_vec();
        if grown && tables.contains(&name) {
            shape[0] = vocab_rows;
        }
        entries.push(Entry::later(name, own, shape, tensor));
    }
    let replaced_tensors = modules.keys().filter(|n| files.contains(n)).count();
    let copied_tensors = entries.len().saturating_sub(pairs.len() + replaced_tensors);
    if untied {
        let probe = files.read(&in_file(&embed))?;
        let own = dtype.filter(|_| probe.dtype().is_float()).unwrap_or(probe.dtype());
        let (files, changes, embed, name) = (&files, &changes, in_file(&embed), head.clone());
        let table = embed_module.clone();
        let tensor =
            move || changes.of_module(&name, changes.of_table(&table, files.read(&embed)?)?);
        let mut shape = probe.dims().to_vec();
        shape[0] = vocab_rows;
        let name = head.clone();
        entries.push(Entry::later(name, own, shape, tensor));
    }
    if let Some((_, score)) = score {
        let dtype = stored.unwrap_or(DType::F32);
        let (shape, score) = (score.dims().to_vec(), score.clone());
        entries.push(Entry::later(SCORE, dtype, shape, || Ok(score)));
    }
    let out = fs::AtomicDir::create(output_dir)?;
    write_weights(out.path(), entries, shard_bytes)?;
    let stored = stored.unwrap_or(DType::F32);
    if untied {
        config.raw.insert("tie_word_embeddings".into(), false.into());
    }
    let value = config_for(&config.raw, stored, config.spec.vocab_size);
    write_json(&out.path().join("config.json"), &value, 2)?;
    copy_if_there(base_dir, out.path(), &["generation_config.json"])?;
    let with_tokenizer =
        adapters.iter().map(|(a, _)| a.path.as_path()).find(|p| p.join("tokenizer.json").is_file());
    copy_if_there(with_tokenizer.unwrap_or(base_dir), out.path(), &TOKENIZER_FILES)?;
    out.commit()?;
    Ok(MergeReport {
        merged_modules: pairs.len(),
        replaced_tensors: modules.len(),
        largest_change: changes.largest.get(),
        dtype: stored.as_str().to_string(),
        copied_tensors,
        untied,
    })
}

/// Copies those of `names` that are in `from`.
///
/// # Errors
/// A file operation.
pub fn copy_if_there(from: &Path, to: &Path, names: &[&str]) -> Result<(), ModelError> {
    for name in names {
        let source = from.join(name);
        if source.is_file() {
            std::fs::copy(&source, to.join(name)).map_err(fs::io_error("copy", &source))?;
        }
    }
    Ok(())
}
