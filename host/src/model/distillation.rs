//! A student's predictions against a teacher's, over the whole vocabulary.

use candle_core::{Result, Tensor};

use super::batch::TokenBatch;
use super::decoder::Decoder;
use super::params::{GradSet, ParamSet};
use super::scoring::{cooled, positions_of};
use crate::ops::divergence::{Divergences, Predictor, compare};
use crate::ops::head::Head;

/// What a student is compared with, and how.
pub struct Teacher {
    /// The teacher; its width may be another than the student's.
    pub decoder: Decoder,
    /// Where between `KL(teacher, student)` (0) and `KL(student, teacher)` (1).
    pub beta: f64,
    /// What both logits are divided by.
    pub temperature: f64,
}

impl Decoder {
    /// The rows of the head that student and teacher both have. Tables are often padded beyond
    /// their tokenizer, and to different sizes.
    fn common_head(&self, teacher: &Teacher) -> Result<(Tensor, Tensor)> {
        let (own, theirs) = (self.head().weight, teacher.decoder.head().weight);
        let common = own.dim(0)?.min(theirs.dim(0)?);
        Ok((own.narrow(0, 0, common)?, theirs.narrow(0, 0, common)?))
    }

    /// This decoder's head with other rows.
    fn over<'a>(&self, weight: &'a Tensor) -> Head<'a> {
        Head { weight, softcap: self.spec.final_softcap, rows: None }
    }

    /// Divergences at every trained position of `batch`, without a backward.
    ///
    /// # Errors
    /// A failing tensor operation.
    pub fn compare(
        &self,
        params: &ParamSet,
        batch: &TokenBatch,
        teacher: &Teacher,
    ) -> Result<Divergences> {
        let targets = batch.targets();
        if targets.is_empty() {
            return Ok(Divergences::default());
        }
        let (own, theirs) = self.common_head(teacher)?;
        let states = |decoder: &Decoder, params: &ParamSet| {
            cooled(&decoder.hidden_at(params, batch, positions_of(&targets))?, teacher.temperature)
        };
        let (hidden, teacher_hidden) =
            (states(self, params)?, states(&teacher.decoder, &ParamSet::default())?);
        let student = Predictor { hidden: &hidden, head: self.over(&own) };
        let against = Predictor { hidden: &teacher_hidden, head: teacher.decoder.over(&theirs) };
        Ok(compare(self.exec(), student, against, teacher.beta, None, false)?.0)
    }

    /// Forward and backward of `coefficient` times the sum of the divergences at the trained
    /// positions of `batch`.
    ///
    /// # Errors
    /// A failing tensor operation.
    pub fn compare_and_backward(
        &self,
        params: &ParamSet,
        batch: &TokenBatch,
        dropout_key: Option<u64>,
        teacher: &Teacher,
        coefficient: f32,
        grads: &mut GradSet,
    ) -> Result<Divergences> {
        let targets = batch.targets();
        if targets.is_empty() {
            return Ok(Divergences::default());
        }
        let positions = positions_of(&targets);
        let none = ParamSet::default();
        let teacher_hidden = teacher.decoder.hidden_at(&none, batch, positions.clone())?;
        let teacher_hidden = cooled(&teacher_hidden, teacher.temperature)?;
        let kept = self.forward_at(params, batch, positions, dropout_key)?;
        let hidden = cooled(&kept.normed, teacher.temperature)?;
        let (own, theirs) = self.common_head(teacher)?;
        let head_index = self.head_index();
        let (found, head_grads) = compare(
            self.exec(),
            Predictor { hidden: &hidden, head: self.over(&own) },
            Predictor { hidden: &teacher_hidden, head: teacher.decoder.over(&theirs) },
            teacher.beta,
            Some(&vec![coefficient; targets.len()]),
            head_index.is_some(),
        )?;
        let Some(head_grads) = head_grads else { return Ok(found) };
        let beyond = self.head_weight().dim(0)? - own.dim(0)?;
        let dweight = match head_grads.weight {
            Some(dweight) if beyond > 0 => Some(dweight.pad_with_zeros(0, 0, beyond)?),
            dweight => dweight,
        };
        self.add_head_gradient(grads, dweight)?;
        let dnormed = cooled(&head_grads.hidden, teacher.temperature)?;
        self.backward_at(params, batch, kept, &dnormed, grads)?;
        Ok(found)
    }
}
