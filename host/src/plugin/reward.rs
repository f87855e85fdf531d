//! Calls of rewards: completions and their columns in, scores out.

use std::ops::Range;

use arrow::array::RecordBatch;

use super::bindings::rewards;
use super::columns::{self, Table};
use super::component::World;
use super::error::{PluginError, shown};
use super::formatter::{Piece, over_pieces, pieces};
use super::pool::{Bound, Plugin};
use crate::limits as ceilings;

/// Named shares of one score.
const PARTS_MAX: usize = 64;

/// A named share of a score, for the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// Its name.
    pub name: String,
    /// Finite.
    pub value: f64,
}

/// The score of one row.
#[derive(Clone, Debug, PartialEq)]
pub struct Score {
    /// Finite; `None`: this reward has no opinion on the row.
    pub value: Option<f64>,
    /// Its shares.
    pub parts: Vec<Part>,
}

impl Plugin {
    /// The scores of all rows of `batches`, in order.
    ///
    /// # Errors
    /// As [`Plugin::format`]; and [`PluginError::Failed`] for a value that is not of the kind the
    /// plugin asked for, since a score can't be left out like a row of a dataset.
    pub fn score(&self, batches: &[RecordBatch]) -> Result<Vec<Score>, PluginError> {
        self.expect(World::Reward)?;
        over_pieces(batches, |piece| self.score_piece(piece))
    }

    /// As [`Plugin::score`], of one batch and on this thread alone.
    ///
    /// # Errors
    /// As [`Plugin::score`].
    pub fn score_here(&self, batch: &RecordBatch) -> Result<Vec<Score>, PluginError> {
        self.expect(World::Reward)?;
        let mut scores = Vec::with_capacity(batch.num_rows());
        for piece in pieces(std::slice::from_ref(batch)) {
            scores.extend(self.score_piece(&piece)?);
        }
        Ok(scores)
    }

    fn score_piece(&self, piece: &Piece<'_>) -> Result<Vec<Score>, PluginError> {
        let batch = piece.batch.slice(piece.offset, piece.rows);
        let rows = columns::convert(self.who(), self.reads(), &batch)?;
        if let Some((position, why)) = rows.faults.first() {
            let row = piece.first + position;
            return Err(PluginError::Failed {
                who: self.who().clone(),
                function: "score",
                rows: row..row + 1,
                message: why.clone(),
            });
        }
        let mut scores = Vec::with_capacity(piece.rows);
        let table = rows.table();
        for call in table.calls(ceilings::PLUGIN_BATCH_BYTES) {
            let once = |part: Range<usize>| {
                let rows = call.start + part.start..call.start + part.end;
                self.score_once(&table, &call, &rows, piece.first)
            };
            let none = |_| Score { value: None, parts: Vec::new() };
            scores.extend(self.over_rows(call.len(), once, none)?);
        }
        Ok(scores)
    }

    fn score_once(
        &self,
        table: &Table<'_>,
        call: &Range<usize>,
        rows: &Range<usize>,
        first: usize,
    ) -> Result<Vec<Score>, PluginError> {
        let answer = self.call_rows("score", table, call, rows, first, |bound, store, batch| {
            let Bound::Reward(r) = bound else { return Ok(Ok(Vec::new())) };
            r.trainer_plugin_rewards().call_score(store, batch)
        })?;
        let scores = answer.into_iter().zip(table.positions(rows)).map(|(score, at)| {
            let row = first + at;
            checked(score).map_err(|what| self.returned("score", row..row + 1, what))
        });
        scores.collect()
    }
}

fn checked(score: rewards::RowScore) -> Result<Score, String> {
    let values = score.value.iter().chain(score.parts.iter().map(|p| &p.value));
    if let Some(bad) = values.into_iter().find(|v| !v.is_finite()) {
        return Err(format!("the value {bad}, which is not finite"));
    }
    if score.parts.len() > PARTS_MAX {
        return Err(format!("{} parts, more than {PARTS_MAX}", score.parts.len()));
    }
    let part = |p: rewards::Part| Part { name: shown(&p.name), value: p.value };
    Ok(Score { value: score.value, parts: score.parts.into_iter().map(part).collect() })
}
