//! Data files looked at and taken apart before training: counted (`stats`), checked (`validate`),
//! shown (`head`), freed of duplicates (`dedup`), divided (`split`) and mixed (`mix`). Rows are
//! looked at as the text of JSON objects, whatever their file's format; what is written goes
//! through [`super::convert`] and keeps its own types.

pub mod dedup;
mod duplicates;
mod head;
mod histogram;
mod leaves;
mod listing;
mod minhash;
pub mod mix;
pub mod split;
mod stats;
mod validate;

use std::time::Instant;

pub use duplicates::{Compared, Duplicate, Method};
pub use head::{Head, head};
pub use histogram::{Bucket, Summary};
pub use stats::{ColumnStats, FileStats, Stats, StatsOptions, stats};
pub use validate::{Validation, validate};

use super::convert::{self, Progress};
use crate::data::source::{self, Block, Blocks, ReadOptions, SourceFile, Unit};
use crate::data::{Projection, SourceBatch};
use crate::error::{Error, Result};

/// What is looked at, and how.
#[derive(Clone, Debug)]
pub struct Input {
    /// Files, folders, patterns.
    pub inputs: Vec<String>,
    /// Plain text: a file is one document, and not every line.
    pub whole_file_text: bool,
    /// Workers.
    pub threads: usize,
}

/// What a command tells while it works, and asks.
pub struct Watch<'a> {
    /// Told now and then.
    pub progress: &'a mut dyn FnMut(&Progress),
    /// Whether to stop.
    pub interrupted: &'a dyn Fn() -> bool,
}

impl Input {
    /// How whole rows are read.
    fn options(&self) -> ReadOptions {
        ReadOptions {
            whole_file_text: self.whole_file_text,
            ..ReadOptions::new(Projection::Columns { needs: Vec::new(), whole_row: true })
        }
    }

    /// Looks at all rows of `files` on all cores: `work` at the batches of a block, `take` at what
    /// it found, in the order of the rows.
    fn scan<R: Send>(
        &self,
        files: Vec<SourceFile>,
        watch: &mut Watch<'_>,
        work: impl Fn(Vec<SourceBatch>) -> Result<R> + Send + Sync,
        mut take: impl FnMut(R) -> Result<u64>,
    ) -> Result<()> {
        let started = Instant::now();
        let options = self.options();
        let blocks = Blocks::new(files.into_iter().map(Unit::File), options.clone());
        let mut told = Progress::default();
        convert::scan(
            blocks,
            self.threads,
            |block: Block| {
                let bytes = block.bytes();
                Ok((bytes, work(block.read(&options)?)?))
            },
            |(bytes, found)| {
                if (watch.interrupted)() {
                    let again = "nothing was written; the same command starts again";
                    return Err(Error::Interrupted(again.into()));
                }
                told.bytes += bytes;
                told.rows += take(found)?;
                told.seconds = started.elapsed().as_secs_f64();
                (watch.progress)(&told);
                Ok(())
            },
        )
    }

    fn files(&self) -> Result<source::Discovered> {
        Ok(source::discover(&self.inputs)?)
    }
}
