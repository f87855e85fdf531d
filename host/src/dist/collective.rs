//! Operations over all ranks, whatever carries them.

use super::DistError;

/// How values of several ranks become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduce {
    /// Their sum, in an order that depends on the number of ranks alone.
    Sum,
    /// The greatest.
    Max,
}

/// Operations over all ranks. Every rank calls the same ones in the same order; each ends within the
/// deadline the group was made with, by a result or an error. `what` names the data in messages.
///
/// After an error the group is of no more use.
pub trait Collective: Send + Sync {
    /// This process.
    fn rank(&self) -> usize;

    /// All processes.
    fn size(&self) -> usize;

    /// Reduces f32 values element by element; every rank gets the same bits.
    ///
    /// # Errors
    /// [`DistError::Collective`], as all of these.
    fn all_reduce(&self, values: &mut [f32], by: Reduce, what: &str) -> Result<(), DistError>;

    /// As [`Collective::all_reduce`], of f64 values.
    fn all_reduce_f64(&self, values: &mut [f64], by: Reduce, what: &str) -> Result<(), DistError>;

    /// Everybody's `own`, all of one length, in the order of the ranks: `all` is `size` times as long.
    fn all_gather(&self, own: &[u8], all: &mut [u8], what: &str) -> Result<(), DistError>;

    /// Sums f32 values element by element; afterwards the slice of this rank holds sums (`values` is
    /// cut into `size` slices of one length) and the others hold anything.
    fn reduce_scatter(&self, values: &mut [f32], what: &str) -> Result<(), DistError>;

    /// Everybody gets `root`'s bytes; all give the same length.
    fn broadcast(&self, bytes: &mut [u8], root: usize, what: &str) -> Result<(), DistError>;

    /// Returns when all ranks have come here.
    fn barrier(&self, what: &str) -> Result<(), DistError>;

    /// Tells the others why this rank ends, so that they need not guess.
    fn leave(&self, _why: &str) {}
}

/// A single process.
#[derive(Clone, Copy, Debug)]
pub struct Single;

impl Collective for Single {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn all_reduce(&self, _: &mut [f32], _: Reduce, _: &str) -> Result<(), DistError> {
        Ok(())
    }

    fn all_reduce_f64(&self, _: &mut [f64], _: Reduce, _: &str) -> Result<(), DistError> {
        Ok(())
    }

    fn all_gather(&self, own: &[u8], all: &mut [u8], _: &str) -> Result<(), DistError> {
        all.copy_from_slice(own);
        Ok(())
    }

    fn reduce_scatter(&self, _: &mut [f32], _: &str) -> Result<(), DistError> {
        Ok(())
    }

    fn broadcast(&self, _: &mut [u8], _: usize, _: &str) -> Result<(), DistError> {
        Ok(())
    }

    fn barrier(&self, _: &str) -> Result<(), DistError> {
        Ok(())
    }
}
