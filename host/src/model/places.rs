//! Where the tokens of a batch stand: rows of the rotation tables, and contexts.

use candle_core::{Device, Result};

use super::batch::TokenBatch;
use super::rope_freq::{Frequencies, frequencies, threshold};
use super::spec::{DecoderSpec, Position, PrefixSpec, RopeLayout, RopeSpec};
use crate::ops::attention::Sequences;
use crate::ops::rope::{Rows, Table};

/// The part of a GLM sequence whose tokens all see each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Context {
    /// Tokens before the answer's first.
    len: usize,
    /// Where among them the answer belongs.
    mask: usize,
}

impl Context {
    /// Of a sequence. Without a token that begins an answer, all of it is answer.
    pub fn of(ids: &[u32], prefix: &PrefixSpec) -> Self {
        let find = |wanted: u32| ids.iter().position(|&id| id == wanted);
        match find(prefix.start) {
            None => Self::default(),
            Some(len) => {
                let mask = find(prefix.gmask).or_else(|| find(prefix.mask));
                Self { len, mask: mask.unwrap_or(len.saturating_sub(1)) }
            }
        }
    }

    /// Position in the context and in the answer of the token at `index` of its sequence.
    fn positions(self, index: usize) -> (usize, usize) {
        if index < self.len { (index, 0) } else { (self.mask, index - self.len + 1) }
    }
}

/// Rotations of one kind of layer.
#[derive(Debug)]
pub struct Rotations {
    /// Cosines and sines.
    pub table: Table,
    /// Each token's row of them.
    pub rows: Rows,
}

/// Where the tokens of a batch stand.
#[derive(Debug)]
pub struct Places {
    full: Option<Rotations>,
    sliding: Option<Rotations>,
    bounds: Vec<usize>,
    prefix: Vec<usize>,
}

impl Places {
    /// Rotations of a layer, if it rotates.
    pub fn rotations(&self, spec: &DecoderSpec, layer: usize) -> Option<&Rotations> {
        let windowed = spec.window(layer).is_some();
        self.sliding.as_ref().filter(|_| windowed).or(self.full.as_ref())
    }

    /// The sequences, for attention.
    pub fn sequences(&self) -> Sequences<'_> {
        Sequences { bounds: &self.bounds, prefix: &self.prefix }
    }
}

/// Rotations by position, made once.
#[derive(Debug)]
pub struct Tables {
    full: Option<Table>,
    sliding: Option<Table>,
    device: Device,
}

fn angles(positions: impl Iterator<Item = usize>, inverse: &[f64]) -> Vec<f32> {
    // Products in f32, as transformers computes them.
    positions.flat_map(|p| inverse.iter().map(move |&f| p as f32 * f as f32)).collect()
}

impl Tables {
    /// For sequences of up to `max_positions` tokens.
    ///
    /// # Errors
    /// When a table can't be made on `device`.
    pub fn new(spec: &DecoderSpec, max_positions: usize, device: &Device) -> Result<Self> {
        let table = |rope: &RopeSpec| {
            let f = frequencies(rope, 0);
            let angles = angles(0..max_positions, &f.inverse);
            Table::new(&angles, f.inverse.len(), f.factor, rope.layout, device).map(Some)
        };
        let (full, sliding) = match &spec.position {
            Position::Rope(rope) if rope.layout == RopeLayout::TwoHalves => (None, None),
            Position::Rope(rope) => (table(rope)?, None),
            Position::RopeByReach { full, sliding } => (table(full)?, table(sliding)?),
            Position::Alibi | Position::Learned => (None, None),
        };
        Ok(Self { full, sliding, device: device.clone() })
    }

    /// The places of `batch`. `contexts`: of each sequence, where the decoder has them.
    ///
    /// # Errors
    /// When a table can't be made.
    pub fn places(
        &self,
        spec: &DecoderSpec,
        batch: &TokenBatch,
        contexts: &[Context],
    ) -> Result<Places> {
        let of = |rope: &RopeSpec, table: Option<&Table>| match table {
            _ if rope.layout == RopeLayout::TwoHalves => {
                self.by_two_positions(rope, batch, contexts)
            }
            Some(table) if !exceeds(rope, batch) => {
                let rows = Rows::new(batch.position_ids.clone(), &self.device)?;
                Ok(Rotations { table: table.clone(), rows })
            }
            _ => self.by_length(rope, batch),
        };
        let (full, sliding) = match &spec.position {
            Position::Rope(rope) => (Some(of(rope, self.full.as_ref())?), None),
            Position::RopeByReach { full, sliding } => {
                (Some(of(full, self.full.as_ref())?), Some(of(sliding, self.sliding.as_ref())?))
            }
            Position::Alibi | Position::Learned => (None, None),
        };
        let prefix = contexts.iter().map(|c| c.len).collect();
        Ok(Places { full, sliding, bounds: batch.bounds.clone(), prefix })
    }

    /// One row a token, its frequencies those of its sequence's length.
    fn by_length(&self, rope: &RopeSpec, batch: &TokenBatch) -> Result<Rotations> {
        let mut all = Vec::new();
        // The factor does not depend on the length.
        let Frequencies { factor, inverse } = frequencies(rope, 0);
        for b in batch.bounds.windows(2) {
            let positions = &batch.position_ids[b[0]..b[1]];
            let length = positions.last().map_or(0, |&p| p as usize + 1);
            let inverse = frequencies(rope, length).inverse;
            all.extend(angles(positions.iter().map(|&p| p as usize), &inverse));
        }
        self.row_a_token(rope, &all, inverse.len(), factor, batch)
    }

    fn by_two_positions(
        &self,
        rope: &RopeSpec,
        batch: &TokenBatch,
        contexts: &[Context],
    ) -> Result<Rotations> {
        let Frequencies { factor, inverse } = frequencies(rope, 0);
        let mut all = Vec::new();
        for (s, b) in batch.bounds.windows(2).enumerate() {
            let context = contexts.get(s).copied().unwrap_or_default();
            for &position in &batch.position_ids[b[0]..b[1]] {
                let (first, second) = context.positions(position as usize);
                all.extend(angles([first, second].into_iter(), &inverse));
            }
        }
        self.row_a_token(rope, &all, 2 * inverse.len(), factor, batch)
    }

    fn row_a_token(
        &self,
        rope: &RopeSpec,
        angles: &[f32],
        pairs: usize,
        factor: f64,
        batch: &TokenBatch,
    ) -> Result<Rotations> {
        let table = Table::new(angles, pairs, factor, rope.layout, &self.device)?;
        let rows = Rows::new((0..batch.len() as u32).collect(), &self.device)?;
        Ok(Rotations { table, rows })
    }
}

/// Whether a sequence is so long that its frequencies are its own.
fn exceeds(rope: &RopeSpec, batch: &TokenBatch) -> bool {
    threshold(rope).is_some_and(|most| batch.position_ids.iter().any(|&p| p as usize + 1 > most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_ends_where_the_answer_begins() {
        let prefix = PrefixSpec { gmask: 90, mask: 91, start: 92 };
        let context = Context::of(&[5, 6, 7, 90, 92, 8, 9], &prefix);
        let positions: Vec<_> = (0..7).map(|i| context.positions(i)).collect();
        assert_eq!(positions, [(0, 0), (1, 0), (2, 0), (3, 0), (3, 1), (3, 2), (3, 3)]);
        // A mask within the context is where the answer belongs.
        let context = Context::of(&[5, 91, 7, 9, 92, 8], &prefix);
        assert_eq!(context.positions(4), (1, 1));
        // Text alone is an answer to nothing.
        assert_eq!(Context::of(&[5, 6], &prefix).positions(1), (0, 2));
    }
}
