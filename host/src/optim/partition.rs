//! Who keeps the optimiser's state of which values: everybody of all of them, or, sharded (ZeRO), each
//! rank of its part. Parameters are seen as one row of values, in their fixed order, cut into parts
//! of one length.

use std::ops::Range;

use crate::model::ParamSet;

/// Parts of the row of all parameters' values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Where each parameter begins in the row; one more: its length.
    starts: Vec<usize>,
    /// Values of a part.
    part: usize,
    rank: usize,
    size: usize,
}

impl Partition {
    /// One part with everything.
    pub fn whole(params: &ParamSet) -> Self {
        Self::sharded(params, 0, 1)
    }

    /// A part for each of `size` ranks, seen by `rank`.
    pub fn sharded(params: &ParamSet, rank: usize, size: usize) -> Self {
        let mut starts = vec![0];
        for param in &params.params {
            starts.push(starts[starts.len() - 1] + param.tensor.elem_count());
        }
        let total = starts[starts.len() - 1];
        Self { starts, part: total.div_ceil(size).max(1), rank, size }
    }

    /// Whether there is more than one part.
    pub fn is_sharded(&self) -> bool {
        self.size > 1
    }

    /// Parts.
    pub fn size(&self) -> usize {
        self.size
    }

    /// All values.
    pub fn total(&self) -> usize {
        self.starts[self.starts.len() - 1]
    }

    /// Values of a parameter.
    pub fn len_of(&self, index: usize) -> usize {
        self.starts[index + 1] - self.starts[index]
    }

    /// Values of the longest part.
    pub fn part_len(&self) -> usize {
        self.part
    }

    /// Where a rank's part is in the row.
    pub fn part(&self, rank: usize) -> Range<usize> {
        let at = |rank: usize| (rank * self.part).min(self.total());
        at(rank)..at(rank + 1)
    }

    /// The values of parameter `index` that are in a rank's part, counted from the parameter's start.
    pub fn of(&self, index: usize, rank: usize) -> Range<usize> {
        let (part, start) = (self.part(rank), self.starts[index]);
        let clamp = |at: usize| at.clamp(start, self.starts[index + 1]) - start;
        clamp(part.start)..clamp(part.end)
    }

    /// As [`Partition::of`], in this rank's part.
    pub fn own(&self, index: usize) -> Range<usize> {
        self.of(index, self.rank)
    }

    /// The pieces of parameters that a stretch of the row is made of: index, and the values counted
    /// from that parameter's start.
    pub fn pieces(&self, stretch: Range<usize>) -> Vec<(usize, Range<usize>)> {
        let mut pieces = Vec::new();
        let first = self.starts.partition_point(|&s| s <= stretch.start).saturating_sub(1);
        for index in first..self.starts.len() - 1 {
            let (start, end) = (self.starts[index], self.starts[index + 1]);
            if start >= stretch.end {
                break;
            }
            let (from, to) = (stretch.start.max(start), stretch.end.min(end));
            if from < to {
                pieces.push((index, from - start..to - start));
            }
        }
        pieces
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::model::NamedTensor;
    use candle_core::{DType, Device, Tensor};

    fn params(sizes: &[usize]) -> ParamSet {
        let of = |&n: &usize| {
            NamedTensor::new(n.to_string(), Tensor::zeros(n, DType::F32, &Device::Cpu).unwrap())
        };
        ParamSet { params: sizes.iter().map(of).collect() }
    }

    #[test]
    fn parts_hold_every_value_once() {
        let sizes = [5, 1, 9, 3];
        let set = params(&sizes);
        for size in 1..=20 {
            let mut seen: Vec<Vec<u8>> = sizes.iter().map(|&n| vec![0; n]).collect();
            for rank in 0..size {
                let partition = Partition::sharded(&set, rank, size);
                let pieces = partition.pieces(partition.part(rank));
                for (index, n) in sizes.iter().enumerate() {
                    let own = partition.own(index);
                    assert!(own.end <= *n);
                    seen[index][own.clone()].iter_mut().for_each(|s| *s += 1);
                    let piece = pieces.iter().find(|(i, _)| *i == index).map(|(_, r)| r.clone());
                    assert_eq!(piece.unwrap_or(0..0).len(), own.len(), "{rank} of {size}");
                }
                assert!(partition.part(rank).len() <= partition.part_len());
            }
            assert!(seen.iter().flatten().all(|&s| s == 1), "{size}: {seen:?}");
        }
    }
}
