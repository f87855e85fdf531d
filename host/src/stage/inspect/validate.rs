//! Whether every row of every file can be read, and a formatter can use it. A file that can't be
//! read on is noted, and the next one looked at.

use serde::Serialize;

use super::{Input, Watch};
use crate::data::source::{self, Block, Blocks, Discovered, ReadOptions, SourceFile, Unit};
use crate::data::{Ledger, Reject, RejectKind, Totals};
use crate::error::{Error, Result};
use crate::plugin::{Plugin, Verdict};
use crate::stage::convert::{self, Progress};
use crate::stage::dataset::projection;

/// A file that can't be read on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BrokenFile {
    /// As the user named it.
    pub file: String,
    /// Why.
    pub problem: String,
}

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct Validation {
    /// Rows read, usable, skipped and rejected.
    pub totals: Totals,
    /// Files that can't be read on.
    pub broken: Vec<BrokenFile>,
    /// The first rejected rows.
    pub rejects: Vec<Reject>,
    /// The account.
    pub rows: Ledger,
}

impl Validation {
    /// Whether all is well.
    pub fn is_clean(&self) -> bool {
        self.broken.is_empty() && self.totals.rejected == 0
    }
}

/// Reads everything, through a formatter if there is one; keeps the first `rejects_kept` rejected
/// rows in detail.
///
/// # Errors
/// Inputs that can't be found; a plugin that fails.
pub fn validate(
    input: &Input,
    formatter: Option<&Plugin>,
    rejects_kept: usize,
    watch: &mut Watch<'_>,
) -> Result<Validation> {
    let (found, mut broken) = found(input)?;
    let mut ledger = Ledger::keeping(rejects_kept);
    let mut told = Progress::default();
    let started = std::time::Instant::now();
    let options = match formatter {
        None => input.options(),
        Some(plugin) => ReadOptions {
            whole_file_text: input.whole_file_text,
            ..ReadOptions::new(projection(plugin.reads()))
        },
    };
    for file in found.files {
        let name = file.name.to_string();
        let blocks = Blocks::new([Unit::File(file)], options.clone());
        let read = convert::scan(
            blocks,
            input.threads,
            |block: Block| {
                let bytes = block.bytes();
                // What a formatter refuses is counted by block, so all rejects of one are kept.
                let mut ledger = Ledger::keeping(rejects_kept);
                for batch in block.read(&options)? {
                    ledger.read(&batch);
                    let Some(plugin) = formatter else {
                        (0..batch.rows.len()).for_each(|i| ledger.used(&batch.provenance(i), 1));
                        continue;
                    };
                    for (i, outcome) in plugin.format_here(&batch.batch)?.into_iter().enumerate() {
                        let at = batch.provenance(i);
                        outcome.notes.iter().for_each(|note| ledger.note(&at.file, note));
                        match outcome.verdict {
                            Verdict::Keep(examples) => ledger.used(&at, examples.len() as u64),
                            Verdict::Skip(reason) => ledger.skipped(&at, &reason),
                            Verdict::Reject(reason) => ledger.rejected(Reject {
                                file: at.file.clone(),
                                row: at.row,
                                kind: RejectKind::Formatter,
                                reason,
                                excerpt: String::new(),
                            }),
                        }
                    }
                }
                Ok((ledger, bytes))
            },
            |(part, bytes)| {
                if (watch.interrupted)() {
                    return Err(Error::Interrupted("the same command starts again".into()));
                }
                ledger.merge(&part);
                let totals = ledger.totals();
                (told.rows, told.rejected) = (totals.rows, totals.rejected);
                told.bytes += bytes;
                told.seconds = started.elapsed().as_secs_f64();
                (watch.progress)(&told);
                Ok(())
            },
        );
        match read {
            Ok(()) => {}
            Err(Error::Data(problem)) => {
                broken.push(BrokenFile { file: name, problem: problem.to_string() });
            }
            Err(other) => return Err(other),
        }
    }
    ledger.check()?;
    let (totals, rejects) = (ledger.totals(), ledger.first_rejects.clone());
    Ok(Validation { totals, broken, rejects, rows: ledger })
}

/// The files of all inputs, and those that are not what their names say.
fn found(input: &Input) -> Result<(Discovered, Vec<BrokenFile>)> {
    let problem = match input.files() {
        Ok(found) => return Ok((found, Vec::new())),
        Err(Error::Data(problem)) => problem,
        Err(other) => return Err(other),
    };
    // One by one, so that a bad file does not hide the others.
    let (mut all, mut broken) = (Discovered::default(), Vec::new());
    for name in &input.inputs {
        for path in source::listed(name)? {
            match source::discover(&[path.to_string_lossy()]) {
                Ok(mut one) => {
                    let known = |f: &SourceFile| all.files.iter().any(|g| g.path == f.path);
                    one.files.retain(|f| !known(f));
                    all.files.extend(one.files);
                    all.ignored.extend(one.ignored);
                }
                Err(problem) => broken.push(BrokenFile {
                    file: path.to_string_lossy().into_owned(),
                    problem: problem.to_string(),
                }),
            }
        }
    }
    if all.files.is_empty() && broken.is_empty() {
        return Err(problem.into());
    }
    Ok((all, broken))
}
