#![allow(clippy::unwrap_used)]

mod bad_files;
mod columnar;
mod real_files;
mod text_formats;

use std::path::Path;

use arrow::array::Array;

use super::*;
use crate::data::column::{ColumnKind, ColumnNeed, JSON_METADATA_KEY};

/// What reading a file gave: its rows as text, and its rejects.
#[derive(Debug, Default, PartialEq)]
struct Read {
    rows: Vec<(u64, Vec<Option<String>>)>,
    rejects: Vec<String>,
    blank: u64,
}

fn write(dir: &Path, name: &str, bytes: impl AsRef<[u8]>) -> std::path::PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn read_path(path: &Path, options: ReadOptions) -> Result<Read, DataError> {
    let file = discover_file(path)?;
    let mut out = Read::default();
    for batch in SourceReader::new([file], options) {
        let batch = batch?;
        assert_eq!(batch.batch.num_rows(), batch.rows.len());
        for (i, row) in batch.rows.iter().enumerate() {
            let values = batch.batch.columns().iter().map(|c| shown_value(c.as_ref(), i));
            out.rows.push((*row, values.collect()));
        }
        out.rejects.extend(batch.rejects.iter().map(ToString::to_string));
        out.blank += batch.blank;
    }
    Ok(out)
}

fn shown_value(column: &dyn Array, row: usize) -> Option<String> {
    if column.is_null(row) {
        return None;
    }
    if let Some(bytes) = column.as_binary_opt::<i32>() {
        return Some(String::from_utf8_lossy(bytes.value(row)).into_owned());
    }
    Some(arrow::util::display::array_value_to_string(column, row).unwrap())
}

/// Reads bytes written under `name`.
fn read(name: &str, bytes: impl AsRef<[u8]>, options: ReadOptions) -> Result<Read, DataError> {
    let dir = tempfile::tempdir().unwrap();
    read_path(&write(dir.path(), name, bytes), options)
}

fn all() -> ReadOptions {
    ReadOptions::new(Projection::All)
}

fn needs(needs: &[(&str, ColumnKind)]) -> ReadOptions {
    let needs = needs.iter().map(|(name, kind)| ColumnNeed::required(*name, *kind)).collect();
    ReadOptions::new(Projection::columns(needs))
}

fn some(texts: &[&str]) -> Vec<Option<String>> {
    texts.iter().map(|t| Some((*t).to_string())).collect()
}
