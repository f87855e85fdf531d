//! Where the rows of a run come from: data sets of the hub become files before a stage reads them;
//! several sources are mixed; validation rows are read, or held out of the training rows.

use super::dataset::{Item, Part, Pipeline};
use crate::config::{Mixing, RunConfig, SaveStrategy};
use crate::data::hub::{HubDataset, HubOptions, Opened};
use crate::data::{DataError, Ledger, Split, mix};
use crate::error::Result;
use crate::text::TokenizedExample;

/// The data of a run.
pub struct Dataset<T = TokenizedExample> {
    /// To train on.
    pub train: Part<T>,
    /// To validate on.
    pub eval: Option<Part<T>>,
    /// Where the validation rows come from, in words.
    pub validation: String,
    /// What the user should know.
    pub notices: Vec<String>,
}

/// The split that validates where a data set has one and nothing else is given.
const VALIDATION: &str = "validation";
const TRAIN: &str = "train";

/// The same configuration with the files of its data sets on the hub, fetched into the cache.
/// `told` is told of what is fetched and what the user should know.
///
/// # Errors
/// What the hub refuses, or how it fails.
pub fn fetched(
    config: &RunConfig,
    options: &HubOptions,
    told: &mut dyn FnMut(&str),
) -> Result<RunConfig> {
    let mut config = config.clone();
    let evaluates = config.training.eval_strategy != SaveStrategy::No;
    let split = config.sources.dataset_split.clone();
    // Files that are named as validation data come before a split that is only there.
    let validates = evaluates && config.validation_file_dir.is_empty() && split == TRAIN;
    for name in config.sources.dataset_name.clone() {
        let dataset = HubDataset {
            name: name.clone(),
            config: config.sources.dataset_config_name.clone(),
            revision: config.sources.dataset_revision.clone(),
        };
        let opened = dataset.open(options).map_err(DataError::from)?;
        config.sources.fetched.push(files(&opened, &split, told)?);
        if validates && opened.has_split(VALIDATION) {
            told(&format!("{name} has a split `{VALIDATION}`, which validates"));
            config.validation_file_dir.extend(files(&opened, VALIDATION, told)?);
        }
    }
    Ok(config)
}

fn files(opened: &Opened, split: &str, told: &mut dyn FnMut(&str)) -> Result<Vec<String>> {
    let commit = opened.commit().to_string();
    let found = opened
        .fetch(split, &mut |path| told(&format!("fetching {path} of commit {commit}")))
        .map_err(DataError::from)?;
    found.notices.iter().for_each(|notice| told(notice));
    Ok(found.files.iter().map(|f| f.to_string_lossy().into_owned()).collect())
}

/// Loads training and validation data as the configuration says.
///
/// # Errors
/// As [`Pipeline::read`].
pub fn load<T: Item>(config: &RunConfig, pipeline: &Pipeline) -> Result<Dataset<T>> {
    let evaluates = config.training.eval_strategy != SaveStrategy::No;
    let percentage = config.validation_split_percentage;
    let held_back = evaluates && config.validation_file_dir.is_empty() && percentage > 0.0;
    let mut notices = Vec::new();
    // As many rows as leave the number asked for after the split.
    let limit = config.max_train_samples.map(|n| match held_back {
        true => (n..)
            .find(|&rows| held_out(rows, percentage).is_some_and(|h| rows - h >= n))
            .unwrap_or(n),
        false => n,
    });
    let sources = config.train_sources();
    let (mut train, source_of_row) = match &config.sources.mixing {
        None => (pipeline.read_kept::<T>(&sources.concat(), limit, &mut notices)?, Vec::new()),
        // Which rows are used is known when they are mixed.
        Some(_) => read_apart(pipeline, &sources, &mut notices)?,
    };
    let mut eval = None;
    let mut validation = "none".to_string();
    let mut rows_kept: Vec<usize> = Vec::new();
    if held_back {
        // Whole rows are held out: what came from one row must not be on both sides.
        let row_of = row_numbers(&train.examples);
        let rows = row_of.last().map_or(0, |last| last + 1);
        let split = Split::new(rows, percentage, config.training.seed)?;
        let mut held = vec![false; rows];
        split.validation.iter().for_each(|&i| held[i as usize] = true);
        rows_kept = (0..rows).filter(|&row| !held[row]).collect();
        let (mut out, mut kept) = (Vec::new(), Vec::new());
        for (example, row) in std::mem::take(&mut train.examples).into_iter().zip(row_of) {
            if held[row] { &mut out } else { &mut kept }.push(example);
        }
        train.examples = kept;
        let drawn = out.len();
        out.truncate(config.max_eval_samples.unwrap_or(usize::MAX));
        validation = match (drawn, out.len()) {
            (0, _) => "none (too few rows to hold any out)".to_string(),
            (drawn, used) if used < drawn => {
                format!(
                    "{used} of {drawn} sequences held out of the training rows ({percentage} %)"
                )
            }
            (drawn, _) => {
                format!("{drawn} sequences held out of the training rows ({percentage} %)")
            }
        };
        let part = Part { examples: out, ledger: Ledger::default(), files: Vec::new() };
        eval = Some(part).filter(|e| !e.examples.is_empty());
    } else if evaluates && !config.validation_file_dir.is_empty() {
        let (inputs, limit) = (&config.validation_file_dir, config.max_eval_samples);
        let part = pipeline.read_kept(inputs, limit, &mut notices)?;
        validation = part.ledger.lines().join("; ");
        eval = Some(part);
    }
    if let Some(mixing) = &config.sources.mixing {
        let source_of_row = match rows_kept.is_empty() {
            true => source_of_row,
            false => rows_kept.iter().map(|&row| source_of_row[row]).collect(),
        };
        let names: Vec<String> =
            config.train_file_dir.iter().chain(&config.sources.dataset_name).cloned().collect();
        let seed = config.training.seed;
        notices.push(mixed(
            &mut train,
            &source_of_row,
            &names,
            mixing,
            seed,
            config.max_train_samples,
        ));
    }
    Ok(Dataset { train, eval, validation, notices })
}

/// Reads sources one by one; answers the rows of all of them, and the source of each row that gave
/// items.
fn read_apart<T: Item>(
    pipeline: &Pipeline,
    sources: &[Vec<String>],
    notices: &mut Vec<String>,
) -> Result<(Part<T>, Vec<usize>)> {
    let mut all = Part { examples: Vec::new(), ledger: Ledger::default(), files: Vec::new() };
    let mut source_of_row = Vec::new();
    for (source, inputs) in sources.iter().enumerate() {
        let part = pipeline.read_kept::<T>(inputs, None, notices)?;
        let rows = row_numbers(&part.examples).last().map_or(0, |last| last + 1);
        source_of_row.extend(std::iter::repeat_n(source, rows));
        all.examples.extend(part.examples);
        all.ledger.merge(&part.ledger);
        all.files.extend(part.files);
    }
    Ok((all, source_of_row))
}

/// Mixes the rows of several sources; what it came to, in words.
fn mixed<T: Item>(
    part: &mut Part<T>,
    source_of_row: &[usize],
    names: &[String],
    mixing: &Mixing,
    seed: u64,
    limit: Option<usize>,
) -> String {
    let mut rows: Vec<Vec<T>> = Vec::with_capacity(source_of_row.len());
    let numbers = row_numbers(&part.examples);
    for (item, number) in std::mem::take(&mut part.examples).into_iter().zip(numbers) {
        if rows.len() <= number {
            rows.push(Vec::new());
        }
        rows[number].push(item);
    }
    let mut of_source: Vec<Vec<usize>> = vec![Vec::new(); names.len()];
    for (row, source) in source_of_row.iter().enumerate().take(rows.len()) {
        of_source[*source].push(row);
    }
    let lengths: Vec<usize> = of_source.iter().map(Vec::len).collect();
    let mut order = mix::order(&lengths, &mixing.weights, mixing.strategy, seed);
    order.truncate(limit.unwrap_or(usize::MAX));
    let mut drawn = vec![0usize; rows.len()];
    for (source, row) in &order {
        let row = of_source[*source][*row];
        drawn[row] += 1;
        part.examples.extend(rows[row].iter().cloned());
    }
    for (row, times) in rows.iter().zip(&drawn) {
        let Some(at) = row.first().map(Item::provenance) else { continue };
        match times {
            0 => part.ledger.unused(at, row.len() as u64, "not drawn into the mix"),
            1 => {}
            _ => part.ledger.note(&at.file, "row drawn more than once into the mix"),
        }
    }
    let counts = names.iter().enumerate().map(|(source, name)| {
        let draws = order.iter().filter(|(s, _)| *s == source).count();
        format!("{draws} draws of {} rows of {name}", lengths[source])
    });
    format!("mix ({}): {}", mixing.strategy.name(), counts.collect::<Vec<_>>().join(", "))
}

/// For each item the number of its row among the rows that gave items.
fn row_numbers<T: Item>(items: &[T]) -> Vec<usize> {
    let mut row = 0;
    let mut numbers = Vec::with_capacity(items.len());
    for (i, item) in items.iter().enumerate() {
        row += usize::from(i > 0 && item.provenance() != items[i - 1].provenance());
        numbers.push(row);
    }
    numbers
}

fn held_out(rows: usize, percentage: f64) -> Option<usize> {
    Split::new(rows, percentage, 0).ok().map(|s| s.validation.len())
}
