//! Parquet files: only the wanted columns are read, row group by row group.

use std::fs::File;

use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::file::metadata::ParquetMetaData;

use super::columnar::{convert, fence, wanted};
use super::{FileReader, ReadOptions, SourceBatch, SourceFile};
use crate::data::column::Projection;
use crate::data::error::{DataError, shown};
use crate::fs::io_error;
use crate::limits::{
    DATA_BATCH_BYTES, DATA_BLOCK_BYTES_MAX, DATA_RATIO_FREE_BYTES, DATA_RATIO_MAX,
};

const FORMAT: &str = "Parquet";

/// Reads a Parquet file.
pub(super) struct ParquetReader {
    file: SourceFile,
    projection: Projection,
    reader: ParquetRecordBatchReader,
    next_row: u64,
}

/// Rows of each row group of a file.
pub(super) fn row_groups(file: &SourceFile) -> Result<Vec<u64>, DataError> {
    let handle = File::open(&file.path).map_err(io_error("read", &file.path))?;
    let builder = fence(&file.name, FORMAT, || ParquetRecordBatchReaderBuilder::try_new(handle))?;
    let groups = builder.metadata().row_groups().iter();
    Ok(groups.map(|g| u64::try_from(g.num_rows()).unwrap_or(0)).collect())
}

impl ParquetReader {
    pub fn open(file: &SourceFile, options: &ReadOptions) -> Result<Self, DataError> {
        Self::of(file, options, None)
    }

    /// Reads one row group, which begins behind `before` rows.
    pub fn group(
        file: &SourceFile,
        options: &ReadOptions,
        group: usize,
        before: u64,
    ) -> Result<Self, DataError> {
        Self::of(file, options, Some((group, before)))
    }

    fn of(
        file: &SourceFile,
        options: &ReadOptions,
        only: Option<(usize, u64)>,
    ) -> Result<Self, DataError> {
        let handle = File::open(&file.path).map_err(io_error("read", &file.path))?;
        let builder =
            fence(&file.name, FORMAT, || ParquetRecordBatchReaderBuilder::try_new(handle))?;
        let indices = wanted(&file.name, builder.schema(), &options.projection)?;
        let mask = ProjectionMask::roots(builder.parquet_schema(), indices);
        let row_bytes = row_bytes(&file.name, builder.metadata(), &mask)?;
        let rows = (DATA_BATCH_BYTES as u64 / row_bytes.max(1)).max(1);
        let rows = rows.min(options.batch_rows.max(1) as u64) as usize;
        let reader = fence(&file.name, FORMAT, || {
            let builder = builder.with_projection(mask).with_batch_size(rows);
            match only {
                Some((group, _)) => builder.with_row_groups(vec![group]).build(),
                None => builder.build(),
            }
        })?;
        let next_row = only.map_or(0, |(_, before)| before) + 1;
        Ok(Self { file: file.clone(), projection: options.projection.clone(), reader, next_row })
    }
}

/// Uncompressed bytes of a row of the wanted columns, in the row group where it is longest.
///
/// # Errors
/// A row group that is too large, or that unpacks to far more than it is.
fn row_bytes(
    file: &str,
    metadata: &ParquetMetaData,
    mask: &ProjectionMask,
) -> Result<u64, DataError> {
    let mut longest = 1;
    for group in metadata.row_groups() {
        let (mut packed, mut unpacked) = (0u64, 0u64);
        for (leaf, column) in group.columns().iter().enumerate() {
            if mask.leaf_included(leaf) {
                packed = packed
                    .saturating_add(u64::try_from(column.compressed_size()).unwrap_or(u64::MAX));
                unpacked = unpacked
                    .saturating_add(u64::try_from(column.uncompressed_size()).unwrap_or(u64::MAX));
            }
        }
        let by_ratio = packed.saturating_mul(DATA_RATIO_MAX).max(DATA_RATIO_FREE_BYTES);
        let limit = by_ratio.min(DATA_BLOCK_BYTES_MAX);
        if unpacked > limit {
            return Err(DataError::TooLarge {
                file: shown(file),
                what: "a row group",
                got: unpacked,
                limit,
                remedy: "write it with smaller row groups",
            });
        }
        longest = longest.max(unpacked / u64::try_from(group.num_rows()).unwrap_or(1).max(1));
    }
    Ok(longest)
}

impl FileReader for ParquetReader {
    fn next_batch(&mut self) -> Result<Option<SourceBatch>, DataError> {
        let reader = &mut self.reader;
        let Some(batch) = fence(&self.file.name, FORMAT, || reader.next().transpose())? else {
            return Ok(None);
        };
        let first = self.next_row;
        self.next_row += batch.num_rows() as u64;
        convert(&self.file.name, &batch, first, &self.projection).map(Some)
    }
}
