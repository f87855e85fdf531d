//! What only distillation knows: the teacher, the divergence, and whose answers are compared.

use std::path::PathBuf;

use serde::Serialize;

use super::sampling::Sampling;
use super::stage::Stage;
use super::values::Values;

/// See the module.
#[derive(Clone, Debug, Serialize)]
pub struct Distillation {
    /// Folder of the teacher.
    pub teacher: PathBuf,
    /// Where between `KL(teacher, student)` (0) and `KL(student, teacher)` (1).
    pub beta: f64,
    /// What the logits of both are divided by.
    pub temperature: f64,
    /// Share of the updates made with the student's own answers.
    pub on_policy: f64,
    /// Whether the teacher answers in the other updates, and not the data.
    pub teacher_answers: bool,
    /// How answers are sampled.
    pub sampling: Sampling,
}

impl Distillation {
    pub(super) fn resolve(stage: Stage, v: &mut Values) -> Option<Self> {
        if stage != Stage::Distill {
            return None;
        }
        let teacher = v.text("teacher_model_name_or_path").unwrap_or_else(|| {
            let fault = "`--teacher_model_name_or_path` is missing: give the teacher's folder";
            v.faults.push(fault.into());
            String::new()
        });
        Some(Self {
            teacher: teacher.into(),
            beta: v.float("beta"),
            temperature: v.float("distill_temperature"),
            on_policy: v.float("lmbda"),
            teacher_answers: v.bool("seq_kd"),
            sampling: Sampling::resolve(v),
        })
    }

    /// Whether some updates use the answers of the data.
    pub fn needs_answers(&self) -> bool {
        self.on_policy < 1.0 && !self.teacher_answers
    }
}
