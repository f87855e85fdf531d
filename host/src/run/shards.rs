//! Gradients of which each rank keeps its part only (ZeRO stage 2): as soon as a block's backward is
//! done its gradients are summed over the ranks, and what belongs to others is dropped.

use std::cell::RefCell;
use std::rc::Rc;

use candle_core::{DType, Tensor};

use crate::dist::{DistError, Reduce, World};
use crate::error::{Error, Result};
use crate::model::params::GradSink;
use crate::model::{Decoder, GradSet, ParamSet};
use crate::ops::transfer::{change, with_values};
use crate::optim::Partition;

struct State {
    world: World,
    partition: Partition,
    bucket: usize,
    /// A row of this rank's values for each parameter.
    shards: Vec<Tensor>,
    /// Parameters that had a gradient at this rank.
    seen: Vec<bool>,
    /// What the sink can't return through the decoder.
    failed: Option<DistError>,
}

/// This rank's part of the gradients of an update.
pub struct Shards {
    state: Rc<RefCell<State>>,
    /// Parameters by block, then those outside of blocks.
    groups: Vec<Vec<usize>>,
    /// Lowest block that the backward enters.
    lowest: usize,
}

impl Shards {
    /// Empty shards, to which the gradients of `grads` go from now on.
    ///
    /// # Errors
    /// When the memory can't be had.
    pub fn attach(
        world: &World,
        decoder: &Decoder,
        params: &ParamSet,
        partition: &Partition,
        bucket: usize,
        grads: &mut GradSet,
    ) -> Result<Self> {
        let row = |(i, p): (usize, &crate::model::NamedTensor)| {
            Tensor::zeros(partition.own(i).len(), DType::F32, p.tensor.device())
        };
        let shards =
            params.params.iter().enumerate().map(row).collect::<candle_core::Result<_>>()?;
        let mut groups = decoder.trained_by_block();
        let lowest = groups.iter().position(|g| !g.is_empty()).unwrap_or(groups.len());
        let in_blocks: std::collections::BTreeSet<usize> =
            groups.iter().flatten().copied().collect();
        groups.push((0..params.params.len()).filter(|i| !in_blocks.contains(i)).collect());
        let state = Rc::new(RefCell::new(State {
            world: world.clone(),
            partition: partition.clone(),
            bucket,
            shards,
            seen: vec![false; params.params.len()],
            failed: None,
        }));
        let (theirs, by_block) = (state.clone(), groups.clone());
        let sink = move |grads: &mut [Option<Tensor>], layer: usize| {
            let group = by_block.get(layer).map_or(&[][..], Vec::as_slice);
            let reduced = theirs.borrow_mut().reduce(grads, group);
            reduced.map_err(|e| match e {
                Error::Tensor(e) => e,
                other => {
                    let text = other.to_string();
                    if let Error::Dist(e) = other {
                        theirs.borrow_mut().failed = Some(e);
                    }
                    candle_core::Error::Msg(text)
                }
            })
        };
        grads.sink = Some(GradSink::new(sink));
        Ok(Self { state, groups, lowest })
    }

    /// The error of another rank's that came up within a backward.
    pub fn failure(&self) -> Option<Error> {
        self.state.borrow_mut().failed.take().map(Error::from)
    }

    /// Ends a micro-batch: sums what its backward left, at a rank that had none too.
    ///
    /// # Errors
    /// A rank that is missing.
    pub fn finish_micro_batch(&self, grads: &mut GradSet) -> Result<()> {
        let done = grads.take_done();
        let outside = self.groups.len() - 1;
        let left = (self.lowest..outside).rev().filter(|layer| !done.contains(layer));
        for layer in left.chain([outside]) {
            self.state.borrow_mut().reduce(&mut grads.grads, &self.groups[layer])?;
        }
        Ok(())
    }

    /// Parameters that had a gradient at this rank.
    pub fn seen(&self) -> Vec<bool> {
        self.state.borrow().seen.clone()
    }

    /// Moves the shards into `grads`, detached; only parameters that are `present` at some rank have
    /// one.
    pub fn into_grads(self, present: &[bool], grads: &mut GradSet) {
        grads.sink = None;
        let mut state = self.state.borrow_mut();
        let shards = std::mem::take(&mut state.shards);
        grads.grads = shards.into_iter().zip(present).map(|(s, &p)| p.then_some(s)).collect();
    }
}

impl State {
    /// Sums the gradients of `group` over all ranks and adds this rank's part to its shards.
    fn reduce(&mut self, grads: &mut [Option<Tensor>], group: &[usize]) -> Result<()> {
        for piece in self.pieces(group) {
            let mut values: Vec<f32> = Vec::new();
            for (index, range) in &piece {
                match &grads[*index] {
                    Some(grad) => with_values(grad, |g| {
                        values.extend_from_slice(&g[range.clone()]);
                        Ok(())
                    })?,
                    None => values.resize(values.len() + range.len(), 0.0),
                }
            }
            self.world.collective().all_reduce(&mut values, Reduce::Sum, "gradients")?;
            let mut at = 0;
            for (index, range) in piece {
                let own = self.partition.own(index);
                let (from, to) = (own.start.max(range.start), own.end.min(range.end));
                if from < to {
                    let sums = &values[at + from - range.start..at + to - range.start];
                    change(self.shards[index].clone(), |shard| {
                        let into = &mut shard[from - own.start..to - own.start];
                        into.iter_mut().zip(sums).for_each(|(a, b)| *a += b);
                    })?;
                }
                at += range.len();
            }
        }
        for &index in group {
            self.seen[index] |= grads[index].take().is_some();
        }
        Ok(())
    }

    /// The group's values in pieces of at most a bucket.
    fn pieces(&self, group: &[usize]) -> Vec<Vec<(usize, std::ops::Range<usize>)>> {
        let mut pieces = Vec::new();
        let mut piece = Vec::new();
        let mut room = self.bucket.max(1);
        for &index in group {
            let n = self.partition.len_of(index);
            let mut at = 0;
            while at < n {
                let take = room.min(n - at);
                piece.push((index, at..at + take));
                (at, room) = (at + take, room - take);
                if room == 0 {
                    pieces.push(std::mem::take(&mut piece));
                    room = self.bucket.max(1);
                }
            }
        }
        if !piece.is_empty() {
            pieces.push(piece);
        }
        pieces
    }
}
