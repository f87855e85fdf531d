//! What happens to one block: read, format, lay out; every row accounted for.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::datatypes::SchemaRef;
use serde_json::{Map, Value};

use super::infer::Table;
use super::json_lines::JsonLines;
use super::mixture::Mixed;
use super::rows::Rows;
use super::shape::{Columns, Shape};
use super::take::Take;
use crate::data::error::shown;
use crate::data::source::{Block, ReadOptions};
use crate::data::{
    DataError, Example, Ledger, Provenance, ROW_COLUMN, Reject, RejectKind, SourceBatch,
};
use crate::error::Result;
use crate::plugin::{Plugin, Verdict};

/// Why rows of a mix are left out.
const NOT_DRAWN: &str = "not drawn: the mix ended before";

/// How rows become output.
pub enum Way {
    /// A formatter makes examples of them.
    Examples {
        /// The formatter.
        plugin: Box<Plugin>,
        /// What examples look like.
        shape: Shape,
        /// Whether as columns, and not as lines.
        columnar: bool,
    },
    /// Their own JSON text.
    Lines,
    /// Columns of the types found in all of them.
    Typed(Table),
    /// Their own columns, brought into this order.
    Columns(SchemaRef),
}

/// What a worker gets.
pub enum Portion {
    /// A part of a file.
    Block(Block),
    /// Rows of several files, in an order of their own.
    Mixed(Mixed),
    /// Rows that a mix ended without.
    Rest(SourceBatch),
}

impl Portion {
    /// Bytes of text in it; 0 where they are not known.
    pub fn bytes(&self) -> u64 {
        match self {
            Portion::Block(block) => block.bytes(),
            _ => 0,
        }
    }
}

/// What became of a block.
pub struct Done {
    /// Its rows.
    pub rows: Vec<Rows>,
    /// Their account.
    pub ledger: Ledger,
    /// The rejected ones, in order.
    pub rejects: Vec<Reject>,
    /// Bytes of text it held.
    pub bytes: u64,
}

/// The account of a block while it is worked on.
#[derive(Default)]
struct Account {
    ledger: Ledger,
    rejects: Vec<Reject>,
}

impl Account {
    fn read(&mut self, batch: &SourceBatch) {
        self.ledger.read(batch);
        self.rejects.extend(batch.rejects.iter().cloned());
    }

    fn reject(&mut self, at: &Provenance, kind: RejectKind, reason: String, excerpt: String) {
        let reject = Reject { file: at.file.clone(), row: at.row, kind, reason, excerpt };
        self.ledger.rejected(reject.clone());
        self.rejects.push(reject);
    }
}

/// Works on one portion.
///
/// # Errors
/// A file that can't be read on, a plugin that breaks its contract.
pub fn convert(way: &Way, portion: Portion, options: &ReadOptions, take: &Take) -> Result<Done> {
    let bytes = portion.bytes();
    let mut account = Account::default();
    let (mut batches, order) = match portion {
        Portion::Block(block) => (block.read(options)?, None),
        Portion::Mixed(mixed) => (mixed.batches, Some(mixed.order)),
        Portion::Rest(mut batch) => {
            let rows = std::mem::take(&mut batch.rows);
            account.read(&batch);
            account.ledger.left_out(&batch.file, &rows, NOT_DRAWN);
            let (ledger, rejects) = (account.ledger, account.rejects);
            return Ok(Done { rows: Vec::new(), ledger, rejects, bytes });
        }
    };
    if let Take::Selected(selection) = take {
        let chosen = batches.into_iter().map(|b| selection.apply(b, &mut account.ledger));
        batches = chosen.collect::<std::result::Result<_, _>>()?;
    }
    let mut rows = match way {
        Way::Examples { plugin, shape, columnar } => {
            let room = bytes as usize + bytes as usize / 8;
            vec![examples(plugin, *shape, *columnar, room, &batches, &mut account)?]
        }
        Way::Lines => vec![lines(&batches, &mut account)],
        Way::Typed(table) => vec![typed(table, &batches, &mut account)?],
        Way::Columns(schema) => {
            let mut rows = Vec::with_capacity(batches.len());
            for batch in &batches {
                account.read(batch);
                rows.push(Rows::Columns(arranged(schema, batch)?));
                used(&mut account, batch);
            }
            rows
        }
    };
    if let (Some(order), Some(first)) = (order, batches.first()) {
        // Without a formatter, which a mix has not, every row became one.
        let starts: Vec<usize> = batches
            .iter()
            .scan(0, |sum, batch| {
                let start = *sum;
                *sum += batch.rows.len();
                Some(start)
            })
            .collect();
        let places: Vec<usize> =
            order.iter().map(|(batch, row)| starts[*batch as usize] + *row as usize).collect();
        rows = vec![Rows::arranged(rows, &places).map_err(|e| broken(first, &e))?];
    }
    Ok(Done { rows, ledger: account.ledger, rejects: account.rejects, bytes })
}

fn used(account: &mut Account, batch: &SourceBatch) {
    for i in 0..batch.rows.len() {
        account.ledger.used(&batch.provenance(i), 1);
    }
}

fn broken(batch: &SourceBatch, problem: &dyn std::fmt::Display) -> DataError {
    DataError::Columnar {
        file: shown(&batch.file),
        format: "columns",
        problem: shown(&problem.to_string()),
    }
}

enum Builder {
    Lines(JsonLines),
    Columns(Box<Columns>),
}

fn examples(
    plugin: &Plugin,
    shape: Shape,
    columnar: bool,
    room: usize,
    batches: &[SourceBatch],
    account: &mut Account,
) -> Result<Rows> {
    let mut builder = match columnar {
        true => Builder::Columns(Box::new(Columns::new(shape))),
        false => Builder::Lines(JsonLines::new(shape, room)),
    };
    for batch in batches {
        account.read(batch);
        let outcomes = plugin
            .format_here(&batch.batch)
            .map_err(|e| e.placed(|row| batch.provenance(row).to_string()))?;
        for (i, outcome) in outcomes.into_iter().enumerate() {
            let at = batch.provenance(i);
            for note in &outcome.notes {
                account.ledger.note(&at.file, note);
            }
            let examples: Vec<Example> = match outcome.verdict {
                Verdict::Keep(examples) => examples,
                Verdict::Skip(reason) => {
                    account.ledger.skipped(&at, &reason);
                    continue;
                }
                Verdict::Reject(reason) => {
                    account.reject(&at, RejectKind::Formatter, reason, excerpt(batch, i));
                    continue;
                }
            };
            // A row goes in as a whole or not at all.
            if let Some(why) = examples.iter().find_map(|e| shape.unfit(e)) {
                account.reject(&at, RejectKind::Other, why, excerpt(batch, i));
                continue;
            }
            let added = examples.iter().try_for_each(|example| match &mut builder {
                Builder::Lines(lines) => lines.push(example),
                Builder::Columns(columns) => columns.push(example),
            });
            added.map_err(|why| broken(batch, &why))?;
            for note in examples.iter().filter_map(|e| shape.left_out(e)) {
                account.ledger.note(&at.file, note);
            }
            account.ledger.used(&at, examples.len() as u64);
        }
    }
    match builder {
        Builder::Lines(JsonLines { text, ends, .. }) => Ok(Rows::Lines { text, ends }),
        Builder::Columns(columns) => match columns.finish() {
            Ok(batch) => Ok(Rows::Columns(batch)),
            Err(e) => Err(batches
                .first()
                .map_or_else(
                    || DataError::NoRows { file: String::new(), detail: "" },
                    |batch| broken(batch, &e),
                )
                .into()),
        },
    }
}

/// The beginning of a row's first text column, for people who look at rejects.
fn excerpt(batch: &SourceBatch, row: usize) -> String {
    let texts = batch.batch.columns().iter().filter_map(|c| c.as_string_opt::<i32>());
    let found = texts.map(|c| c.value(row)).find(|text| !text.is_empty());
    found.map(shown).unwrap_or_default()
}

fn lines(batches: &[SourceBatch], account: &mut Account) -> Rows {
    let (mut text, mut ends) = (Vec::new(), Vec::new());
    let own = |batch: &SourceBatch| {
        batch.batch.column_by_name(ROW_COLUMN).map_or(0, |c| c.get_buffer_memory_size())
    };
    text.reserve(batches.iter().map(own).sum());
    for batch in batches {
        account.read(batch);
        for row in batch.whole_rows() {
            let start = text.len();
            text.extend_from_slice(row.as_bytes());
            // Outside of strings, where alone they can be, line feeds are blanks.
            if memchr::memchr2(b'\n', b'\r', &text[start..]).is_some() {
                for byte in &mut text[start..] {
                    if *byte == b'\n' || *byte == b'\r' {
                        *byte = b' ';
                    }
                }
            }
            text.push(b'\n');
            ends.push(text.len());
        }
        used(account, batch);
    }
    Rows::Lines { text, ends }
}

fn parsed(batch: &SourceBatch) -> Result<Vec<Map<String, Value>>> {
    let each = batch.whole_rows().map(serde_json::from_str);
    let rows: std::result::Result<_, _> = each.collect();
    Ok(rows.map_err(|e| broken(batch, &e))?)
}

/// The columns and types of a block's rows.
///
/// # Errors
/// A file that can't be read on.
pub fn table(block: Block, options: &ReadOptions) -> Result<Table> {
    let mut table = Table::default();
    for batch in block.read(options)? {
        parsed(&batch)?.iter().for_each(|row| table.take(row));
    }
    Ok(table)
}

fn typed(table: &Table, batches: &[SourceBatch], account: &mut Account) -> Result<Rows> {
    let mut rows = Vec::new();
    for batch in batches {
        account.read(batch);
        rows.extend(parsed(batch)?);
        used(account, batch);
    }
    let own: Vec<&str> = batches.iter().flat_map(SourceBatch::whole_rows).collect();
    match (table.batch(&rows, &own), batches.first()) {
        (Ok(batch), _) => Ok(Rows::Columns(batch)),
        (Err(e), Some(batch)) => Err(broken(batch, &e).into()),
        (Err(_), None) => Ok(Rows::Columns(RecordBatch::new_empty(table.schema()))),
    }
}

/// A batch's columns in the order of the output, those it lacks null.
fn arranged(schema: &SchemaRef, batch: &SourceBatch) -> Result<RecordBatch> {
    let rows = batch.batch.num_rows();
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(schema.fields().len());
    for field in schema.fields() {
        columns.push(match batch.batch.column_by_name(field.name()) {
            Some(column) if column.data_type() == field.data_type() => column.clone(),
            Some(column) => {
                return Err(DataError::ColumnsDiffer {
                    file: shown(&batch.file),
                    column: shown(field.name()),
                    got: column.data_type().to_string(),
                    expected: field.data_type().to_string(),
                }
                .into());
            }
            None => new_null_array(field.data_type(), rows),
        });
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
        .map_err(|e| broken(batch, &e).into())
}
