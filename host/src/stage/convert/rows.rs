//! Converted rows on their way to a file: columns, or lines of JSON.

use arrow::array::{RecordBatch, UInt64Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::error::ArrowError;

/// Some rows.
#[derive(Clone, Debug)]
pub enum Rows {
    /// Columns of the output's schema.
    Columns(RecordBatch),
    /// JSON objects, each ending with a line feed.
    Lines {
        /// The text.
        text: Vec<u8>,
        /// Where each row ends in it.
        ends: Vec<usize>,
    },
}

impl Rows {
    /// Number of rows.
    pub fn len(&self) -> usize {
        match self {
            Rows::Columns(batch) => batch.num_rows(),
            Rows::Lines { ends, .. } => ends.len(),
        }
    }

    /// Size before compression, bytes: a function of the rows alone.
    pub fn bytes(&self) -> usize {
        match self {
            Rows::Columns(batch) => {
                let data = batch.columns().iter().map(|c| {
                    // Buffers of slices are counted as a whole elsewhere; here only what is used.
                    c.to_data()
                        .get_slice_memory_size()
                        .unwrap_or_else(|_| c.get_array_memory_size())
                });
                data.sum()
            }
            Rows::Lines { text, .. } => text.len(),
        }
    }

    /// Rows `from..to`.
    pub fn slice(&self, from: usize, to: usize) -> Rows {
        match self {
            Rows::Columns(batch) => Rows::Columns(batch.slice(from, to - from)),
            Rows::Lines { text, ends } => {
                let end = |rows: usize| if rows == 0 { 0 } else { ends[rows - 1] };
                let start = end(from);
                Rows::Lines {
                    text: text[start..end(to)].to_vec(),
                    ends: ends[from..to].iter().map(|e| e - start).collect(),
                }
            }
        }
    }
}

impl Rows {
    /// The rows at these places of all parts, in this order.
    ///
    /// # Errors
    /// Columns of different schemas, which a conversion never makes.
    pub fn arranged(parts: Vec<Rows>, places: &[usize]) -> Result<Rows, ArrowError> {
        if let Some(Rows::Lines { .. }) = parts.first() {
            let lines: Vec<&[u8]> = parts
                .iter()
                .flat_map(|part| match part {
                    Rows::Lines { text, ends } => {
                        let starts = std::iter::once(&0).chain(ends);
                        starts.zip(ends).map(|(&from, &to)| &text[from..to]).collect::<Vec<_>>()
                    }
                    Rows::Columns(_) => Vec::new(),
                })
                .collect();
            let (mut text, mut ends) = (Vec::new(), Vec::with_capacity(places.len()));
            for &place in places {
                text.extend_from_slice(lines[place]);
                ends.push(text.len());
            }
            return Ok(Rows::Lines { text, ends });
        }
        let Some(all) = joined_columns(parts)? else {
            return Ok(Rows::Lines { text: Vec::new(), ends: Vec::new() });
        };
        let places: UInt64Array = places.iter().map(|&p| p as u64).collect();
        take_record_batch(&all, &places).map(Rows::Columns)
    }
}

/// Columns in order, joined.
///
/// # Errors
/// Columns of different schemas, which a conversion never makes.
pub fn joined_columns(parts: Vec<Rows>) -> Result<Option<RecordBatch>, ArrowError> {
    let batches: Vec<RecordBatch> = parts
        .into_iter()
        .filter_map(|part| match part {
            Rows::Columns(batch) => Some(batch),
            Rows::Lines { .. } => None,
        })
        .collect();
    let Some(first) = batches.first() else { return Ok(None) };
    concat_batches(&first.schema(), &batches).map(Some)
}

/// Texts of lines in order.
pub fn texts(parts: Vec<Rows>) -> Vec<Vec<u8>> {
    let texts = parts.into_iter().filter_map(|part| match part {
        Rows::Lines { text, .. } => Some(text),
        Rows::Columns(_) => None,
    });
    texts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut() {
        let rows = Rows::Lines { text: b"a\nbb\nccc\n".to_vec(), ends: vec![2, 5, 9] };
        let (head, tail) = (rows.slice(0, 1), rows.slice(1, 3));
        let Rows::Lines { text, ends } = &tail else { panic!() };
        assert_eq!(
            (text.as_slice(), ends.as_slice()),
            (b"bb\nccc\n".as_slice(), [3, 7].as_slice())
        );
        let Ok(Rows::Lines { text, ends }) =
            Rows::arranged(vec![head.clone(), tail.clone()], &[2, 0, 2])
        else {
            panic!()
        };
        assert_eq!((text.as_slice(), ends), (b"ccc\na\nccc\n".as_slice(), vec![4, 6, 10]));
        assert_eq!(texts(vec![head, tail]), [b"a\n".to_vec(), b"bb\nccc\n".to_vec()]);
    }
}
