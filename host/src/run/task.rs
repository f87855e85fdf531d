//! What the loop asks of a stage.

use std::path::Path;

use crate::data::Provenance;
use crate::error::Result;
use crate::objective::StepSums;
use crate::run::learner::Learner;

/// Where in the run a micro-batch is: keys dropout.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MicroStep {
    /// Optimiser updates finished before this one.
    pub global_step: u64,
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

    /// The updates of one epoch: as many micro-batches each as gradients are accumulated over, by
    /// all ranks together.
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

    /// The parts of a micro-batch that can be trained apart without changing the loss: single examples,
    /// unless the loss looks at several of them at once.
    fn split(&self, batch: &[u32]) -> Vec<Vec<u32>> {
        batch.iter().map(|&example| vec![example]).collect()
    }

    /// Texts for the user that came up since the last call; `logged`: a log row was just written.
    fn take_notes(&mut self, _global_step: u64, _logged: bool) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// What a resumed run needs beside parameters and optimiser: the name of its file in a
    /// checkpoint, and the contents. All ranks have the same.
    ///
    /// # Errors
    /// When it can't be written down.
    fn save_state(&self) -> Result<Option<(&'static str, Vec<u8>)>> {
        Ok(None)
    }

    /// Name of the file that [`Task::save_state`] gives, if it does.
    fn state_file(&self) -> Option<&'static str> {
        None
    }

    /// Takes back what [`Task::save_state`] gave; `dir` is the checkpoint, for messages.
    ///
    /// # Errors
    /// When it is damaged.
    fn load_state(&mut self, _bytes: &[u8], _dir: &Path) -> Result<()> {
        Ok(())
    }

    /// Sum of the loss weights of one micro-batch.
    fn loss_weight(&self, batch: &[u32]) -> f64;

    /// Forwards of the size of the trained model's that are made beside its own, per token.
    fn extra_forwards(&self) -> f64 {
        0.0
    }

    /// Forward and backward of one micro-batch of this rank's; gradients are added to the learner's.
    fn accumulate(&mut self, batch: &[u32], at: MicroStep) -> Result<StepSums>;

    /// Evaluation over the whole validation set, shared out over the ranks; `None` when there is none. `interrupted` is
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
