//! Calls of formatters: record batches in, one outcome per row out, in order.

use std::ops::Range;

use arrow::array::RecordBatch;
use rayon::prelude::*;
use wasmtime::Store;

use super::bindings::{formatting, types};
use super::check;
use super::columns::{self, Table};
use super::component::World;
use super::engine::Guest;
use super::error::PluginError;
use super::pool::{Bound, Plugin};
use crate::data::example::Example;
use crate::limits as ceilings;

/// What became of a row.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Its examples, at least one.
    Keep(Vec<Example>),
    /// Sound, but not wanted; the reason.
    Skip(String),
    /// Broken; the reason, naming the field.
    Reject(String),
}

/// The verdict on a row, and what the plugin repaired.
#[derive(Clone, Debug, PartialEq)]
pub struct RowOutcome {
    /// What became of it.
    pub verdict: Verdict,
    /// Repairs, to be counted by their text.
    pub notes: Vec<String>,
}

/// At most this many rows of one record batch, starting at `offset`; `first` is the number of
/// its first row among all rows of the input.
pub(super) struct Piece<'a> {
    pub batch: &'a RecordBatch,
    pub offset: usize,
    pub rows: usize,
    pub first: usize,
}

/// The pieces of `batches`, in order: a function of their row counts alone.
pub(super) fn pieces(batches: &[RecordBatch]) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut first = 0;
    for batch in batches {
        for offset in (0..batch.num_rows()).step_by(ceilings::PLUGIN_CALL_ROWS) {
            let rows = (batch.num_rows() - offset).min(ceilings::PLUGIN_CALL_ROWS);
            pieces.push(Piece { batch, offset, rows, first: first + offset });
        }
        first += batch.num_rows();
    }
    pieces
}

/// Runs `work` on every piece, on all cores; results in order. The first error by row wins,
/// whichever came first by the clock.
pub(super) fn over_pieces<T: Send>(
    batches: &[RecordBatch],
    work: impl Fn(&Piece<'_>) -> Result<Vec<T>, PluginError> + Sync + Send,
) -> Result<Vec<T>, PluginError> {
    let done: Vec<Result<Vec<T>, PluginError>> = pieces(batches).par_iter().map(work).collect();
    let mut all = Vec::new();
    for piece in done {
        all.extend(piece?);
    }
    Ok(all)
}

impl Plugin {
    /// The outcomes of all rows of `batches`, in order. Columns that [`Plugin::reads`] does not
    /// name are ignored; rows with a value of the wrong type are rejected without asking the
    /// plugin. Rows on which the plugin itself is at fault are an error or rejected, as
    /// [`Plugin::on_fault`] has it.
    ///
    /// # Errors
    /// [`PluginError::WrongWorld`], errors about columns, and [`PluginError::Stopped`],
    /// [`PluginError::Failed`] and [`PluginError::Returned`] with rows counted over all batches.
    pub fn format(&self, batches: &[RecordBatch]) -> Result<Vec<RowOutcome>, PluginError> {
        self.expect(World::Formatter)?;
        over_pieces(batches, |piece| self.format_piece(piece))
    }

    /// As [`Plugin::format`], of one batch and on this thread alone.
    ///
    /// # Errors
    /// As [`Plugin::format`].
    pub fn format_here(&self, batch: &RecordBatch) -> Result<Vec<RowOutcome>, PluginError> {
        self.expect(World::Formatter)?;
        let mut outcomes = Vec::with_capacity(batch.num_rows());
        for piece in pieces(std::slice::from_ref(batch)) {
            outcomes.extend(self.format_piece(&piece)?);
        }
        Ok(outcomes)
    }

    fn format_piece(&self, piece: &Piece<'_>) -> Result<Vec<RowOutcome>, PluginError> {
        let batch = piece.batch.slice(piece.offset, piece.rows);
        let mut rows = columns::convert(self.who(), self.reads(), &batch)?;
        let mut outcomes: Vec<Option<RowOutcome>> = vec![None; piece.rows];
        for (position, reason) in std::mem::take(&mut rows.faults) {
            let outcome = RowOutcome { verdict: Verdict::Reject(reason), notes: Vec::new() };
            outcomes[position] = Some(outcome);
        }
        let table = rows.table();
        for call in table.calls(ceilings::PLUGIN_BATCH_BYTES) {
            let answer = self.format_call(&table, &call, piece.first)?;
            for (position, outcome) in table.positions(&call).iter().zip(answer) {
                outcomes[*position] = Some(outcome);
            }
        }
        outcomes
            .into_iter()
            .enumerate()
            .map(|(i, outcome)| {
                let row = piece.first + i;
                outcome.ok_or_else(|| self.returned("format", row..row + 1, "no outcome".into()))
            })
            .collect()
    }

    fn format_call(
        &self,
        table: &Table<'_>,
        call: &Range<usize>,
        first: usize,
    ) -> Result<Vec<RowOutcome>, PluginError> {
        let once = |part: Range<usize>| -> Result<Vec<RowOutcome>, PluginError> {
            let rows = call.start + part.start..call.start + part.end;
            let answer =
                self.call_rows("format", table, call, &rows, first, |bound, store, batch| {
                    let Bound::Formatter(f) = bound else { return Ok(Ok(Vec::new())) };
                    f.trainer_plugin_formatting().call_format(store, batch)
                })?;
            let outcomes = answer.into_iter().zip(table.positions(&rows)).map(|(outcome, at)| {
                let row = first + at;
                checked(outcome).map_err(|what| self.returned("format", row..row + 1, what))
            });
            outcomes.collect()
        };
        let rejected = |why| RowOutcome { verdict: Verdict::Reject(why), notes: Vec::new() };
        self.over_rows(call.len(), once, rejected)
    }

    /// A call over `rows` of the rows of `call`, which answers with one item per row; `first` is the
    /// number of the record batch's first row among all rows.
    pub(super) fn call_rows<T>(
        &self,
        function: &'static str,
        table: &Table<'_>,
        call: &Range<usize>,
        rows: &Range<usize>,
        first: usize,
        run: impl FnOnce(
            &Bound,
            &mut Store<Guest>,
            types::Batch<'_>,
        ) -> wasmtime::Result<Result<Vec<T>, types::Error>>,
    ) -> Result<Vec<T>, PluginError> {
        let of_input = match table.positions(rows) {
            [from, .., to] => first + from..first + to + 1,
            [only] => first + only..first + only + 1,
            [] => 0..0,
        };
        // A part of a call has the bytes of the whole for its budget: it may only be given more fuel
        // than in the call, never less.
        let (count, bytes) = (rows.len(), table.bytes(call));
        let answer = table.with(rows, |batch| {
            self.call(function, of_input.clone(), count, bytes, |bound, store| {
                run(bound, store, batch)
            })
        })?;
        if answer.len() != count {
            let what = format!("{} answers for {count} rows", answer.len());
            return Err(self.returned(function, of_input, what));
        }
        Ok(answer)
    }
}

fn checked(outcome: formatting::Outcome) -> Result<RowOutcome, String> {
    let verdict = match outcome.verdict {
        formatting::Verdict::Keep(examples) if examples.is_empty() => {
            Verdict::Skip("no example".into())
        }
        formatting::Verdict::Keep(examples) => {
            if examples.len() > ceilings::PLUGIN_EXAMPLES_PER_ROW_MAX {
                return Err(format!("{} examples of one row", examples.len()));
            }
            Verdict::Keep(examples.into_iter().map(check::example).collect::<Result<_, _>>()?)
        }
        formatting::Verdict::Skip(reason) => Verdict::Skip(check::words(&reason)?),
        formatting::Verdict::Reject(reason) => Verdict::Reject(check::words(&reason)?),
    };
    Ok(RowOutcome { verdict, notes: check::notes(outcome.notes)? })
}
