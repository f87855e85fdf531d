//! Calls of rewards: completions and their columns in, scores out.

use arrow::array::RecordBatch;

use super::columns;
use super::component::World;
use super::error::{PluginError, shown};
use super::formatter::{Piece, over_pieces};
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

    fn score_piece(&self, piece: &Piece<'_>) -> Result<Vec<Score>, PluginError> {
        let batch = piece.batch.slice(piece.offset, piece.rows);
        let mut rows = columns::convert(self.who(), self.reads(), &batch)?;
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
        while let Some(call) = rows.next_call(ceilings::PLUGIN_BATCH_BYTES) {
            let answer = self.call_rows("score", &call, piece.first, |bound, store, batch| {
                let Bound::Reward(r) = bound else { return Ok(Ok(Vec::new())) };
                r.trainer_plugin_rewards().call_score(store, batch)
            })?;
            for (score, position) in answer.into_iter().zip(&call.positions) {
                let row = piece.first + position;
                let values = score.value.iter().chain(score.parts.iter().map(|p| &p.value));
                if let Some(bad) = values.into_iter().find(|v| !v.is_finite()) {
                    let what = format!("the value {bad}, which is not finite");
                    return Err(self.returned("score", row..row + 1, what));
                }
                if score.parts.len() > PARTS_MAX {
                    let what = format!("{} parts, more than {PARTS_MAX}", score.parts.len());
                    return Err(self.returned("score", row..row + 1, what));
                }
                let part = |p: super::bindings::rewards::Part| Part {
                    name: shown(&p.name),
                    value: p.value,
                };
                scores.push(Score {
                    value: score.value,
                    parts: score.parts.into_iter().map(part).collect(),
                });
            }
        }
        Ok(scores)
    }
}
