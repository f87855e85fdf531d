//! What the loop asks of a stage.

use std::path::Path;

use crate::data::Provenance;
use crate::error::Result;
use crate::objective::StepSums;
use crate::run::learner::Learner;

/// Where in the run a micro-batch is: keys dropout and logs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MicroStep {
    /// Optimiser updates finished before this one.
    pub global_step: u64,
    /// Index of the micro-batch within the update.
    pub micro_step: u32,
    /// Sum of the loss weights of the whole update (all micro-batches, all ranks): the loss
    /// is divided by it once.
    pub denominator: f64,
}

/// The same sums over an evaluation set, and how much it was.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EvalSums {
    /// The sums.
    pub sums: StepSums,
    /// Examples evaluated.
    pub num_examples: u64,
    /// Batches evaluated.
    pub num_batches: u64,
}

/// Micro-batches of one update, each a list of example indices.
pub type Update = Vec<Vec<u32>>;

/// A stage, as the loop sees it. Everything it does is a pure function of its data, its
/// trainable parameters and the arguments, so that the loop alone holds the state to save; a stage
/// that keeps more (sampled completions) says so with [`Task::save_state`].
pub trait Task {
    /// What is trained.
    fn learner(&self) -> &Learner;

    /// The same, to be changed.
    fn learner_mut(&mut self) -> &mut Learner;

    /// The updates of one epoch: as many micro-batches each as gradients are accumulated over.
    fn plan_updates(&self, epoch: u64, accumulation: usize) -> Vec<Update> {
        let plan = self.learner().plan(epoch);
        plan.chunks(accumulation.max(1)).map(<[_]>::to_vec).collect()
    }

    /// Called before an update, for stages that make their own data. Answering false, after
    /// `interrupted` did true, leaves the update unmade and everything as it was.
    fn before_update(
        &mut self,
        _update: &[Vec<u32>],
        _global_step: u64,
        _interrupted: &dyn Fn() -> bool,
    ) -> Result<bool> {
        Ok(true)
    }

    /// Texts for the user that came up since the last call; `logged`: a log row was just written.
    fn take_notes(&mut self, _global_step: u64, _logged: bool) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// Writes what a resumed run needs beside parameters and optimiser into a checkpoint.
    fn save_state(&self, _dir: &Path) -> Result<()> {
        Ok(())
    }

    /// Reads what [`Task::save_state`] wrote.
    fn load_state(&mut self, _dir: &Path) -> Result<()> {
        Ok(())
    }

    /// Sum of the loss weights of one micro-batch.
    fn loss_weight(&self, batch: &[u32]) -> f64;

    /// Forwards of the size of the trained model's that are made beside its own, per token.
    fn extra_forwards(&self) -> f64 {
        0.0
    }

    /// Forward and backward of one micro-batch; gradients are added to the learner's.
    fn accumulate(&mut self, batch: &[u32], at: MicroStep) -> Result<StepSums>;

    /// Evaluation over the whole validation set; `None` when there is none. `interrupted` is
    /// polled between batches: when it answers true the evaluation is abandoned with `None`.
    fn evaluate(&mut self, interrupted: &dyn Fn() -> bool) -> Result<Option<EvalSums>>;

    /// Where the examples of a batch came from, for messages: `file:row`.
    fn describe_batch(&self, batch: &[u32]) -> String;
}

/// Names of the first few rows of a batch, and how many more there are.
pub fn name_rows<'a>(rows: impl ExactSizeIterator<Item = &'a Provenance>) -> String {
    const SHOWN: usize = 4;
    let more = rows.len().saturating_sub(SHOWN);
    let mut names: Vec<String> = rows.take(SHOWN).map(Provenance::to_string).collect();
    if more > 0 {
        names.push(format!("and {more} more"));
    }
    names.join(", ")
}
