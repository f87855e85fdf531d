//! What every stage trains: a decoder with its trained part, the gradients, the plan of
//! micro-batches, and how all of it becomes files.

use std::path::Path;

use super::exchange::gather_sums;
use crate::dist::World;
use crate::error::Result;
use crate::model::decoder::{Decoder, dropout_key};
use crate::model::memory::num_parameters;
use crate::model::{GradSet, ModelError, ParamSet, TokenBatch, Trained};
use crate::objective::StepSums;
use crate::ops::head::Scores;
use crate::run::{EvalSums, MicroStep};

/// How the micro-batches of an epoch are made: lists of example indices, a pure function of the
/// seed and the epoch.
pub type EpochPlanner = Box<dyn Fn(u64) -> Vec<Vec<u32>>>;

/// How the trained parameters are written into, and read back from, a folder.
pub trait Persist {
    /// Writes the model (adapter or full) and the tokenizer files.
    fn save(&self, decoder: &Decoder, params: &ParamSet, dir: &Path) -> Result<()>;

    /// Reads the parameters back to the bit.
    fn load(&self, params: &mut ParamSet, dir: &Path) -> Result<()>;
}

/// What a batch's trained positions predict.
#[derive(Debug, Default)]
pub struct Predicted {
    /// Scores of the targets.
    pub scores: Scores,
    /// Means over the vocabulary of the logits, `[targets]`.
    pub mean_logits: Vec<f32>,
}

/// See the module.
pub struct Learner {
    /// The decoder, its trained part attached.
    pub decoder: Decoder,
    /// The parameters being trained.
    pub params: ParamSet,
    /// Their gradients, summed over an update.
    pub grads: GradSet,
    planner: EpochPlanner,
    persist: Box<dyn Persist>,
    seed: u64,
    world: World,
}

impl Learner {
    /// A learner without gradients. `seed` is of everything random; the ranks of `world` train it
    /// together.
    pub fn new(
        decoder: Decoder,
        params: ParamSet,
        planner: EpochPlanner,
        persist: Box<dyn Persist>,
        seed: u64,
        world: World,
    ) -> Self {
        let grads = GradSet::new(params.params.len());
        Self { decoder, params, grads, planner, persist, seed, world }
    }

    /// The micro-batches of an epoch.
    pub fn plan(&self, epoch: u64) -> Vec<Vec<u32>> {
        (self.planner)(epoch)
    }

    /// The run's seed.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The ranks that train it.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// The key of a micro-batch's dropout.
    pub fn dropout_key(&self, at: MicroStep) -> Option<u64> {
        Some(dropout_key(self.seed, at.global_step))
    }

    /// Makes the decoder use the parameters as they are now.
    ///
    /// # Errors
    /// A failing tensor operation.
    pub fn relink(&mut self) -> Result<()> {
        Ok(self.decoder.relink(&self.params).map_err(ModelError::from)?)
    }

    /// Writes the model (adapter or full) and tokenizer files into `dir`.
    ///
    /// # Errors
    /// A full disk and the like.
    pub fn save(&self, dir: &Path) -> Result<()> {
        self.persist.save(&self.decoder, &self.params, dir)
    }

    /// Reads the trained parameters back, to the bit, from what [`Learner::save`] wrote.
    ///
    /// # Errors
    /// Files that are absent or of another shape.
    pub fn load(&mut self, dir: &Path) -> Result<()> {
        self.persist.load(&mut self.params, dir)?;
        self.relink()
    }

    /// Floating-point operations of one token's forward and backward, estimated: a product costs
    /// two per weight in the forward and two for the input's gradient; the weight's own gradient,
    /// where it is trained, two more. `extra_forwards` are made beside.
    pub fn flos_per_token(&self, extra_forwards: f64) -> f64 {
        let passes = match self.decoder.trained {
            Trained::Full(_) => 6.0,
            _ => 4.0,
        };
        (passes + 2.0 * extra_forwards) * num_parameters(&self.decoder.spec) as f64
    }

    /// Scores of a batch's trained positions, without a backward.
    ///
    /// # Errors
    /// A failing tensor operation.
    pub fn score(&self, batch: &TokenBatch) -> Result<Predicted> {
        let scored = self.decoder.score_with_states(&self.params, batch, 1.0)?;
        let Some((scored, normed)) = scored else { return Ok(Predicted::default()) };
        let mean_logits = self.decoder.mean_logits(&normed)?;
        Ok(Predicted { scores: scored.scores, mean_logits })
    }

    /// Forward, the derivatives that `judge` finds by the log-probabilities, and backward of a
    /// micro-batch.
    ///
    /// # Errors
    /// A failing tensor operation.
    pub fn accumulate_scored<S: Default>(
        &mut self,
        batch: &TokenBatch,
        at: MicroStep,
        judge: impl FnOnce(&Predicted) -> (S, Vec<f64>),
    ) -> Result<S> {
        let key = self.dropout_key(at);
        let forward = self.decoder.forward_scored(&self.params, batch, key, 1.0)?;
        let Some((scores, scored)) = forward else { return Ok(S::default()) };
        let mean_logits = self.decoder.mean_logits(scored.normed())?;
        let (sums, derivatives) = judge(&Predicted { scores, mean_logits });
        let dlogprobs: Vec<f32> = derivatives.iter().map(|d| (d / at.denominator) as f32).collect();
        let (params, grads) = (&self.params, &mut self.grads);
        self.decoder.backward_scored(params, batch, scored, &dlogprobs, None, grads)?;
        Ok(sums)
    }
}

/// Sums over batches of a validation set, which the ranks share; `None` when there are none, or
/// `interrupted` said so.
///
/// # Errors
/// Those of `score`, and a rank that is missing.
pub fn evaluate_batches<T>(
    world: &World,
    batches: &[Vec<T>],
    interrupted: &dyn Fn() -> bool,
    mut score: impl FnMut(&[T]) -> Result<StepSums>,
) -> Result<Option<EvalSums>> {
    let mut own = Vec::new();
    for batch in &batches[world.share(batches.len())] {
        if interrupted() {
            return Ok(None);
        }
        own.push(score(batch)?);
    }
    let mut total = EvalSums {
        num_examples: batches.iter().map(|b| b.len() as u64).sum(),
        num_batches: batches.len() as u64,
        ..EvalSums::default()
    };
    let all = if world.is_single() { own } else { gather_sums(world, &own)? };
    all.iter().for_each(|sums| total.sums.add(sums));
    Ok((total.num_batches > 0).then_some(total))
}
