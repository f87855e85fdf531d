//! The causal language-modelling task: what the training loop drives in `sft` and in the quick
//! start's pre-training.

use crate::error::Result;
use crate::model::TokenBatch;
use crate::model::scoring::CausalScores;
use crate::objective::{StepSums, causal};
use crate::run::learner::evaluate_batches;
use crate::run::task::name_rows;
use crate::run::{EvalSums, Learner, MicroStep, Task};
use crate::text::TokenizedExample;

/// Sequences, and what is trained on them.
pub struct CausalTask {
    learner: Learner,
    train: Vec<TokenizedExample>,
    /// Batches of the validation set.
    eval: Vec<Vec<TokenizedExample>>,
}

impl CausalTask {
    /// A task over `train`; `eval` is cut into batches of `eval_batch_size`.
    pub fn new(
        learner: Learner,
        train: Vec<TokenizedExample>,
        eval: Vec<TokenizedExample>,
        eval_batch_size: usize,
    ) -> Self {
        let eval = eval.chunks(eval_batch_size.max(1)).map(<[_]>::to_vec).collect();
        Self { learner, train, eval }
    }

    fn batch(&self, indices: &[u32]) -> TokenBatch {
        TokenBatch::from_examples(indices.iter().map(|&i| &self.train[i as usize]))
            .named(indices.iter().map(|&i| i.into()))
    }
}

fn sums(scored: &CausalScores, num_tokens: usize) -> StepSums {
    causal::sums(&scored.scores, scored.targets.iter().map(|t| t.weight), num_tokens)
}

impl Task for CausalTask {
    fn learner(&self) -> &Learner {
        &self.learner
    }

    fn learner_mut(&mut self) -> &mut Learner {
        &mut self.learner
    }

    fn loss_weight(&self, batch: &[u32]) -> f64 {
        let weights = batch.iter().map(|&i| self.train[i as usize].loss_weight());
        weights.sum()
    }

    fn split(&self, batch: &[u32]) -> Vec<Vec<u32>> {
        let spec = &self.learner.decoder.spec;
        match spec.mixture.as_ref().and_then(|m| m.balance) {
            // The load of experts is that of a whole micro-batch.
            Some(_) => vec![batch.to_vec()],
            None => batch.iter().map(|&i| vec![i]).collect(),
        }
    }

    fn accumulate(&mut self, batch: &[u32], at: MicroStep) -> Result<StepSums> {
        let batch = self.batch(batch);
        let key = self.learner.dropout_key(at);
        let Learner { decoder, params, grads, .. } = &mut self.learner;
        let scored = decoder.score_and_backward(
            params,
            &batch,
            key,
            |target| causal::dlogprob(target.weight, at.denominator),
            grads,
        )?;
        let mut sums = sums(&scored, batch.len());
        if let Some(balance) = scored.balance {
            sums.metric("aux_loss", balance);
        }
        Ok(sums)
    }

    fn evaluate(&mut self, interrupted: &dyn Fn() -> bool) -> Result<Option<EvalSums>> {
        let world = self.learner.world();
        let Learner { decoder, params, .. } = &self.learner;
        evaluate_batches(world, &self.eval, interrupted, |examples| {
            let batch = TokenBatch::from_examples(examples);
            Ok(sums(&decoder.score(params, &batch)?, batch.len()))
        })
    }

    fn describe_batch(&self, batch: &[u32]) -> String {
        name_rows(batch.iter().map(|&i| &self.train[i as usize].provenance))
    }
}
