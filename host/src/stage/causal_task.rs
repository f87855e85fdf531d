//! The causal language-modelling task: what the training loop drives in `sft` and in the quick
//! start's pre-training.

use std::path::Path;

use crate::error::Result;
use crate::model::decoder::{Decoder, dropout_key};
use crate::model::memory::num_parameters;
use crate::model::scoring::CausalScores;
use crate::model::{GradSet, ParamSet, TokenBatch, Trained};
use crate::objective::{StepSums, causal};
use crate::run::task::name_rows;
use crate::run::{EvalSums, MicroStep, Task};
use crate::text::TokenizedExample;

/// How the micro-batches of an epoch are made.
pub type EpochPlanner = Box<dyn Fn(u64) -> Vec<Vec<u32>>>;

/// How the trained parameters are written into, and read back from, a folder.
pub trait Persist {
    /// Writes the model (adapter or full) and the tokenizer files.
    fn save(&self, decoder: &Decoder, params: &ParamSet, dir: &Path) -> Result<()>;

    /// Reads the parameters back to the bit.
    fn load(&self, params: &mut ParamSet, dir: &Path) -> Result<()>;
}

/// Sequences, a decoder and what of it is trained.
pub struct CausalTask {
    /// The decoder, its trained part attached.
    pub decoder: Decoder,
    /// The trained parameters.
    pub params: ParamSet,
    grads: GradSet,
    train: Vec<TokenizedExample>,
    /// Batches of the validation set.
    eval: Vec<Vec<TokenizedExample>>,
    planner: EpochPlanner,
    persist: Box<dyn Persist>,
    seed: u64,
}

impl CausalTask {
    /// A task over `train`; `eval` is cut into batches of `eval_batch_size`.
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        decoder: Decoder,
        params: ParamSet,
        train: Vec<TokenizedExample>,
        eval: Vec<TokenizedExample>,
        eval_batch_size: usize,
        planner: EpochPlanner,
        persist: Box<dyn Persist>,
        seed: u64,
    ) -> Self {
        let grads = GradSet::new(params.params.len());
        let eval = eval.chunks(eval_batch_size.max(1)).map(<[_]>::to_vec).collect();
        Self { decoder, params, grads, train, eval, planner, persist, seed }
    }

    /// The training sequences.
    pub fn examples(&self) -> &[TokenizedExample] {
        &self.train
    }

    fn batch(&self, indices: &[u32]) -> TokenBatch {
        TokenBatch::from_examples(indices.iter().map(|&i| &self.train[i as usize]))
    }
}

fn sums(scored: &CausalScores, num_tokens: usize) -> StepSums {
    causal::sums(&scored.scores, scored.targets.iter().map(|t| t.weight), num_tokens)
}

impl Task for CausalTask {
    fn plan_epoch(&self, epoch: u64) -> Vec<Vec<u32>> {
        (self.planner)(epoch)
    }

    fn loss_weight(&self, batch: &[u32]) -> f64 {
        let weights = batch.iter().map(|&i| self.train[i as usize].loss_weight());
        weights.sum()
    }

    fn flos_per_token(&self) -> f64 {
        // A product costs two operations per weight in the forward and two for the input's
        // gradient; the weight's own gradient, where it is trained, two more.
        let weights = num_parameters(&self.decoder.spec) as f64;
        match self.decoder.trained {
            Trained::Full(_) => 6.0 * weights,
            _ => 4.0 * weights,
        }
    }

    fn accumulate(&mut self, batch: &[u32], at: MicroStep) -> Result<StepSums> {
        let batch = self.batch(batch);
        let key = dropout_key(self.seed, at.global_step, at.micro_step);
        let scored = self.decoder.score_and_backward(
            &self.params,
            &batch,
            Some(key),
            |target| causal::dlogprob(target.weight, at.denominator),
            &mut self.grads,
        )?;
        Ok(sums(&scored, batch.len()))
    }

    fn params(&self) -> &ParamSet {
        &self.params
    }

    fn params_and_grads(&mut self) -> (&mut ParamSet, &mut GradSet) {
        (&mut self.params, &mut self.grads)
    }

    fn params_changed(&mut self) -> Result<()> {
        self.decoder.relink(&self.params);
        Ok(())
    }

    fn evaluate(&mut self, interrupted: &dyn Fn() -> bool) -> Result<Option<EvalSums>> {
        if self.eval.is_empty() {
            return Ok(None);
        }
        let mut total = EvalSums::default();
        for examples in &self.eval {
            if interrupted() {
                return Ok(None);
            }
            let batch = TokenBatch::from_examples(examples);
            let scored = self.decoder.score(&self.params, &batch)?;
            total.sums.add(&sums(&scored, batch.len()));
            total.num_examples += examples.len() as u64;
            total.num_batches += 1;
        }
        Ok(Some(total))
    }

    fn save(&self, dir: &Path) -> Result<()> {
        self.persist.save(&self.decoder, &self.params, dir)
    }

    fn load(&mut self, dir: &Path) -> Result<()> {
        self.persist.load(&mut self.params, dir)?;
        self.decoder.relink(&self.params);
        Ok(())
    }

    fn describe_batch(&self, batch: &[u32]) -> String {
        name_rows(batch.iter().map(|&i| &self.train[i as usize].provenance))
    }
}
