//! The gradients of an update: this rank's share of its micro-batches, and sums over all ranks.

use super::Trainer;
use crate::config::Reproducible;
use crate::dist::world::share;
use crate::error::Result;
use crate::objective::StepSums;
use crate::run::shards::Shards;
use crate::run::tree::Tree;
use crate::run::{Learner, MicroStep, Task, exchange, reduce};

impl<T: Task> Trainer<'_, T> {
    /// Values of gradients, and of parameters, that travel together.
    pub(super) fn buckets(&self) -> (usize, usize) {
        let Some(deepspeed) = &self.args.deepspeed else { return (reduce::BUCKET, reduce::BUCKET) };
        let square = self.task.learner().decoder.spec.hidden_size.pow(2);
        let gradients = deepspeed.reduce_bucket_size.unwrap_or(square);
        // Larger ones would only take memory.
        let most = |n: usize| n.clamp(1, reduce::BUCKET);
        (most(gradients), most(deepspeed.allgather_bucket_size))
    }

    /// Forward and backward of this rank's share of an update's micro-batches, and the sums over all
    /// ranks: of losses, and, in the learner, of gradients (sharded, this rank's part of them).
    pub(super) fn gradients(&mut self, batches: &[Vec<u32>], denominator: f64) -> Result<StepSums> {
        self.task.learner_mut().grads.clear();
        let agreed = match self.shards_gradients() {
            true => self.sharded_gradients(batches, denominator)?,
            false => self.whole_gradients(batches, denominator)?,
        };
        self.agreed_to_stop = agreed.interrupted;
        Ok(agreed.sums)
    }

    /// Whether each rank keeps its part of the gradients only.
    pub(super) fn shards_gradients(&self) -> bool {
        self.args.zero_stage > 1 && !self.world.is_single()
    }

    /// The derivatives, and with them all gradients, are scaled as the loss is.
    fn micro_step(&self, denominator: f64) -> MicroStep {
        let scale = self.resume.loss_scale.map_or(1.0, |s| s.scale);
        MicroStep { global_step: self.resume.global_step, denominator: denominator / scale }
    }

    /// Whether a signal came that all ranks should know of.
    fn asked_to_stop(&self) -> bool {
        !self.world.is_single() && (self.interrupted)()
    }

    fn accumulate(&mut self, batch: &[u32], at: MicroStep) -> Result<StepSums> {
        let part = self.task.accumulate(batch, at)?;
        let rows = [batch.to_vec()];
        self.check_finite("loss", part.loss_sum, self.resume.global_step, &rows)?;
        Ok(part)
    }

    fn whole_gradients(
        &mut self,
        batches: &[Vec<u32>],
        denominator: f64,
    ) -> Result<exchange::Agreed> {
        let own = self.world.share(batches.len());
        let strict = self.args.reproducible == Reproducible::Strict;
        let mut tree = strict.then(|| Tree::new(own.start));
        let mut sums = Vec::with_capacity(own.len());
        if denominator > 0.0 {
            let at = self.micro_step(denominator);
            for batch in &batches[own] {
                sums.push(self.accumulate(batch, at)?);
                if let Some(tree) = &mut tree {
                    tree.push(&mut self.task.learner_mut().grads)?;
                }
            }
        }
        let (world, stop, bucket) = (self.world.clone(), self.asked_to_stop(), self.buckets().0);
        let Learner { params, grads, .. } = self.task.learner_mut();
        let present = grads.grads.iter().map(Option::is_some).collect();
        let agreed = exchange::agree(&world, &sums, present, stop)?;
        match tree {
            Some(tree) => tree.sum(&world, params, grads)?,
            None => reduce::sum_gradients(&world, params, grads, &agreed.present, bucket)?,
        }
        Ok(agreed)
    }

    fn sharded_gradients(
        &mut self,
        batches: &[Vec<u32>],
        denominator: f64,
    ) -> Result<exchange::Agreed> {
        let (world, bucket) = (self.world.clone(), self.buckets().0);
        let partition = self.optimizer.partition().clone();
        let Learner { decoder, params, grads, .. } = self.task.learner_mut();
        let shards = Shards::attach(&world, decoder, params, &partition, bucket, grads)?;
        let mut sums = Vec::new();
        if denominator > 0.0 {
            let at = self.micro_step(denominator);
            let own = &batches[world.share(batches.len())];
            // Rank 0 has most; the others take part in its sums.
            for i in 0..share(batches.len(), 0, world.size()).len() {
                if let Some(batch) = own.get(i) {
                    let part = self.accumulate(batch, at);
                    sums.push(part.map_err(|e| shards.failure().unwrap_or(e))?);
                }
                shards.finish_micro_batch(&mut self.task.learner_mut().grads)?;
            }
        }
        let agreed = exchange::agree(&world, &sums, shards.seen(), self.asked_to_stop())?;
        shards.into_grads(&agreed.present, &mut self.task.learner_mut().grads);
        Ok(agreed)
    }
}
