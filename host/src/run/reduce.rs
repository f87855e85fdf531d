//! Gradients and parameters over all ranks: small tensors travel together, in stretches of the row
//! that [`Partition`] sees.

use candle_core::Tensor;

use crate::dist::{Reduce, World};
use crate::error::Result;
use crate::model::{GradSet, ParamSet};
use crate::ops::transfer::{change, with_values};
use crate::optim::Partition;

/// Values that travel together, unless a configuration says otherwise.
pub const BUCKET: usize = 1 << 24;

/// Copies pieces of tensors into a row; absent tensors count as zeros.
fn collect<'a>(
    pieces: &[(usize, std::ops::Range<usize>)],
    tensor: impl Fn(usize) -> Option<&'a Tensor>,
    row: &mut Vec<f32>,
) -> Result<()> {
    row.clear();
    for (index, range) in pieces {
        match tensor(*index) {
            Some(tensor) => with_values(tensor, |values| {
                row.extend_from_slice(&values[range.clone()]);
                Ok(())
            })?,
            None => row.resize(row.len() + range.len(), 0.0),
        }
    }
    Ok(())
}

/// Stretches of at most `bucket` values that cover the row.
fn stretches(total: usize, bucket: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    let bucket = bucket.max(1);
    (0..total).step_by(bucket).map(move |at| at..(at + bucket).min(total))
}

/// Makes the gradients sums over all ranks. `present` says which parameters have one somewhere; the
/// others stay without. Afterwards every rank has the same bits.
///
/// # Errors
/// A rank that is missing.
pub fn sum_gradients(
    world: &World,
    params: &ParamSet,
    grads: &mut GradSet,
    present: &[bool],
    bucket: usize,
) -> Result<()> {
    if world.is_single() {
        return Ok(());
    }
    for (i, grad) in grads.grads.iter_mut().enumerate() {
        if present[i] && grad.is_none() {
            *grad = Some(params.params[i].tensor.zeros_like()?);
        }
    }
    let row = Partition::whole(params);
    let mut values = Vec::new();
    for stretch in stretches(row.total(), bucket) {
        let mut pieces = row.pieces(stretch);
        pieces.retain(|(index, _)| present[*index]);
        collect(&pieces, |i| grads.grads[i].as_ref(), &mut values)?;
        world.collective().all_reduce(&mut values, Reduce::Sum, "gradients")?;
        let mut at = 0;
        for (index, range) in pieces {
            let own = at..at + range.len();
            at = own.end;
            if let Some(grad) = grads.grads[index].take() {
                let changed = change(grad, |g| g[range].copy_from_slice(&values[own]))?;
                grads.grads[index] = Some(changed);
            }
        }
    }
    Ok(())
}

/// After each rank changed its part of the parameters: gives all the whole.
///
/// # Errors
/// A rank that is missing.
pub fn gather_parameters(
    world: &World,
    params: &mut ParamSet,
    partition: &Partition,
    bucket: usize,
) -> Result<()> {
    if world.is_single() {
        return Ok(());
    }
    let bucket = (bucket / world.size()).max(1);
    let mut own = Vec::new();
    for stretch in stretches(partition.part_len(), bucket) {
        // The same stretch of every rank's part.
        let of = |rank: usize| {
            let part = partition.part(rank);
            let at = |offset: usize| (part.start + offset).min(part.end);
            at(stretch.start)..at(stretch.end)
        };
        let pieces = partition.pieces(of(world.rank()));
        collect(&pieces, |i| Some(&params.params[i].tensor), &mut own)?;
        own.resize(stretch.len(), 0.0);
        let mut all = vec![0f32; own.len() * world.size()];
        let theirs = bytes_mut(&mut all);
        world.collective().all_gather(bytes(&own), theirs, "parameters")?;
        for rank in (0..world.size()).filter(|&r| r != world.rank()) {
            let mut at = rank * stretch.len();
            for (index, range) in partition.pieces(of(rank)) {
                let theirs = at..at + range.len();
                at = theirs.end;
                let tensor = params.params[index].tensor.clone();
                change(tensor, |p| p[range].copy_from_slice(&all[theirs]))?;
            }
        }
    }
    Ok(())
}

/// The whole of a tensor of which each rank has its part of parameter `index`; at every rank.
///
/// # Errors
/// A rank that is missing.
pub fn gather_whole(
    world: &World,
    partition: &Partition,
    index: usize,
    own: &Tensor,
    like: &Tensor,
) -> Result<Tensor> {
    let ranges: Vec<_> = (0..partition.size()).map(|rank| partition.of(index, rank)).collect();
    let longest = ranges.iter().map(|r| r.len()).max().unwrap_or(0);
    let mut padded = with_values(own, |values| Ok(values.to_vec()))?;
    padded.resize(longest, 0.0);
    let mut all = vec![0f32; longest * partition.size()];
    world.collective().all_gather(bytes(&padded), bytes_mut(&mut all), "optimiser state")?;
    let parts = all.chunks(longest.max(1)).zip(ranges);
    let whole: Vec<f32> = parts.flat_map(|(part, range)| part[..range.len()].to_vec()).collect();
    Ok(Tensor::from_vec(whole, like.shape(), like.device())?)
}

/// Rank 0's values of an f32 tensor, at every rank, in place.
///
/// # Errors
/// A rank that is missing.
pub fn from_main(world: &World, tensor: &Tensor, what: &str) -> Result<()> {
    if world.is_single() {
        return Ok(());
    }
    let mut done = Ok(());
    change(tensor.clone(), |values| {
        done = world.collective().broadcast(bytes_mut(values), 0, what);
    })?;
    Ok(done?)
}

/// f32 values as their bytes.
fn bytes(values: &[f32]) -> &[u8] {
    // SAFETY: every byte of an f32 is initialised, and u8 needs no alignment.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), std::mem::size_of_val(values)) }
}

fn bytes_mut(values: &mut [f32]) -> &mut [u8] {
    let length = std::mem::size_of_val(values);
    // SAFETY: as above, and any bytes are an f32.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), length) }
}
