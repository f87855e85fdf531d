//! Several sources as one stream of rows, drawn by weights.

use std::collections::VecDeque;

use serde_json::{Value, json};

use crate::config::MixStrategy;
use crate::data::mix::{Draws, is_done};
use crate::data::source::{ReadOptions, SourceFile};
use crate::data::{DataError, SourceBatch, SourceReader};

/// Rows of a portion.
const PORTION_ROWS: usize = 2048;
/// Bytes of the batches behind a portion with which it ends, however few rows it has.
const PORTION_BYTES: usize = 16 << 20;

/// What is mixed, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Mixture {
    /// The files of each source.
    pub sources: Vec<Vec<SourceFile>>,
    /// The sources as the user named them.
    pub names: Vec<String>,
    /// Their weights.
    pub weights: Vec<f64>,
    /// What happens when one is used up.
    pub strategy: MixStrategy,
    /// Rows with which the mix ends at the latest.
    pub rows: Option<u64>,
    /// Seed of the draws.
    pub seed: u64,
}

impl Mixture {
    /// For the account.
    pub fn describe(&self) -> Value {
        json!({
            "mix": self.names,
            "weights": self.weights,
            "strategy": self.strategy.name(),
            "num_rows": self.rows,
            "seed": self.seed,
        })
    }
}

/// Rows of several batches in the order of the mix.
pub struct Mixed {
    /// The batches they are in.
    pub batches: Vec<SourceBatch>,
    /// For each row of the mix, its batch and its row there.
    pub order: Vec<(u32, u32)>,
}

/// What the mix gives next.
pub enum Drawn {
    /// Rows to take.
    Rows(Mixed),
    /// Rows that were never drawn, because the mix ended before.
    Rest(SourceBatch),
}

/// A source that is read from front to back, and again if need be.
struct Source {
    files: Vec<SourceFile>,
    options: ReadOptions,
    reader: SourceReader,
    /// The batch at hand, and how many of its rows were drawn.
    batch: Option<SourceBatch>,
    drawn: usize,
    /// Batches without a row that are still to be accounted for.
    behind: Vec<SourceBatch>,
    /// Whether it has any row.
    has_rows: bool,
    /// Whether it began again: then its rejects and blank lines are in the account already.
    again: bool,
}

impl Source {
    fn new(files: Vec<SourceFile>, options: ReadOptions) -> Self {
        let reader = SourceReader::new(files.clone(), options.clone());
        let (behind, has_rows, again) = (Vec::new(), false, false);
        Self { files, options, reader, batch: None, drawn: 0, behind, has_rows, again }
    }

    fn begin_again(&mut self) {
        self.again = true;
        self.reader = SourceReader::new(self.files.clone(), self.options.clone());
    }

    /// Makes sure that a row is at hand; false at the end.
    fn ready(&mut self) -> Result<bool, DataError> {
        while self.batch.is_none() {
            let Some(mut batch) = self.reader.next().transpose()? else { return Ok(false) };
            if self.again {
                batch.rejects.clear();
                batch.blank = 0;
            }
            match batch.rows.is_empty() {
                true => self.behind.push(batch),
                false => (self.batch, self.drawn) = (Some(batch), 0),
            }
        }
        self.has_rows = true;
        Ok(true)
    }
}

/// The rows of a mixture, in portions.
pub struct Mixer {
    sources: Vec<Source>,
    draws: Draws,
    strategy: MixStrategy,
    exhausted: Vec<bool>,
    left: u64,
    ended: bool,
    rest: VecDeque<usize>,
}

impl Mixer {
    /// Begins at the first row.
    pub fn new(mixture: &Mixture, options: &ReadOptions) -> Self {
        let sources: Vec<Source> =
            mixture.sources.iter().map(|f| Source::new(f.clone(), options.clone())).collect();
        Self {
            exhausted: vec![false; sources.len()],
            rest: (0..sources.len()).collect(),
            sources,
            draws: Draws::new(&mixture.weights, mixture.seed),
            strategy: mixture.strategy,
            left: mixture.rows.unwrap_or(u64::MAX),
            ended: false,
        }
    }

    /// The source of the next row, which is at hand there; `None` at the end of the mix.
    fn draw(&mut self) -> Result<Option<usize>, DataError> {
        if self.left == 0 || is_done(self.strategy, &self.exhausted) {
            return Ok(None);
        }
        let source = match self.strategy {
            MixStrategy::Concat => self.exhausted.iter().position(|e| !e),
            MixStrategy::AllExhausted => {
                let open: Vec<bool> = self.sources.iter().map(|s| s.has_rows).collect();
                self.draws.draw(&open)
            }
            _ => {
                let open: Vec<bool> = self.exhausted.iter().map(|e| !e).collect();
                self.draws.draw(&open)
            }
        };
        Ok(source)
    }

    fn portion(&mut self) -> Result<Option<Mixed>, DataError> {
        // Whether a source has a row at all is known before anything is drawn from it.
        for (i, source) in self.sources.iter_mut().enumerate() {
            if !self.exhausted[i] && !source.ready()? {
                self.exhausted[i] = true;
            }
        }
        let mut order: Vec<(usize, u32)> = Vec::new();
        let mut closed: Vec<(usize, SourceBatch)> = Vec::new();
        // Of each source: where its batch at hand will lie, and its rows drawn into this portion.
        let mut places: Vec<Option<usize>> = vec![None; self.sources.len()];
        let mut slots = 0;
        let mut bytes = 0;
        while order.len() < PORTION_ROWS && bytes < PORTION_BYTES {
            let Some(i) = self.draw()? else {
                self.ended = true;
                break;
            };
            let source = &mut self.sources[i];
            if !source.ready()? {
                // Drawn again after its end.
                source.begin_again();
                source.ready()?;
            }
            let Some(batch) = &source.batch else { break };
            let place = match places[i] {
                Some(place) => place,
                None => {
                    let place = slots;
                    slots += 1;
                    bytes += batch.batch.get_array_memory_size();
                    places[i] = Some(place);
                    place
                }
            };
            order.push((place, source.drawn as u32));
            source.drawn += 1;
            self.left -= 1;
            if source.drawn == batch.rows.len() {
                closed.extend(source.batch.take().map(|b| (place, b)));
                places[i] = None;
                if !source.ready()? {
                    self.exhausted[i] = true;
                }
            }
        }
        // What was drawn of batches that go on in the next portion.
        for (i, source) in self.sources.iter_mut().enumerate() {
            if let (Some(place), Some(batch)) = (places[i], source.batch.take()) {
                let (head, tail) = cut(batch, source.drawn);
                closed.push((place, head));
                (source.batch, source.drawn) = (Some(tail), 0);
            }
        }
        closed.sort_by_key(|(place, _)| *place);
        let mut batches: Vec<SourceBatch> = closed.into_iter().map(|(_, b)| b).collect();
        // Batches without a row stand behind, where no row points to them.
        batches.extend(self.sources.iter_mut().flat_map(|s| s.behind.drain(..)));
        if batches.is_empty() {
            return Ok(None);
        }
        let order = order.into_iter().map(|(place, row)| (place as u32, row)).collect();
        Ok(Some(Mixed { batches, order }))
    }

    /// Rows that nobody drew. Of a source that began again they were all drawn before.
    fn rest(&mut self) -> Result<Option<SourceBatch>, DataError> {
        while let Some(&i) = self.rest.front() {
            let source = &mut self.sources[i];
            let again = self.strategy == MixStrategy::AllExhausted && self.exhausted[i];
            if !again {
                if let Some(batch) = source.behind.pop() {
                    return Ok(Some(batch));
                }
                if source.ready()? {
                    if let Some(batch) = source.batch.take() {
                        return Ok(Some(batch));
                    }
                } else if let Some(batch) = source.behind.pop() {
                    return Ok(Some(batch));
                }
            }
            self.rest.pop_front();
        }
        Ok(None)
    }

    fn advance(&mut self) -> Result<Option<Drawn>, DataError> {
        if !self.ended
            && let Some(mixed) = self.portion()?
        {
            return Ok(Some(Drawn::Rows(mixed)));
        }
        self.ended = true;
        Ok(self.rest()?.map(Drawn::Rest))
    }
}

impl Iterator for Mixer {
    type Item = Result<Drawn, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.advance();
        if next.is_err() {
            self.ended = true;
            self.rest.clear();
        }
        next.transpose()
    }
}

/// A batch's first rows, with its rejects and blank lines, and the others.
fn cut(batch: SourceBatch, at: usize) -> (SourceBatch, SourceBatch) {
    let tail = SourceBatch {
        batch: batch.batch.slice(at, batch.rows.len() - at),
        file: batch.file.clone(),
        rows: batch.rows[at..].to_vec(),
        rejects: Vec::new(),
        blank: 0,
    };
    let head =
        SourceBatch { batch: batch.batch.slice(0, at), rows: batch.rows[..at].to_vec(), ..batch };
    (head, tail)
}
