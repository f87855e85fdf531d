//! Rows of several sources in one, drawn by weights.

use std::sync::Arc;

use super::Watch;
use crate::config::sources::weights;
use crate::config::{ConfigError, MixStrategy};
use crate::data::source;
use crate::error::Result;
use crate::stage::convert::{self, Job, Mixture, Take};

/// What a run of `mix` does.
pub struct Mix {
    /// The weights as they were typed; none: equal ones.
    pub weights: Vec<String>,
    /// What happens when a source is used up.
    pub strategy: MixStrategy,
    /// Rows with which the mix ends at the latest.
    pub rows: Option<u64>,
    /// Seed of the draws.
    pub seed: u64,
    /// How the rows are written; each of its inputs is a source.
    pub job: Job,
}

/// Writes the mix.
///
/// # Errors
/// Weights that do not fit the sources; those of [`convert::run`].
pub fn mix(of: Mix, watch: &mut Watch<'_>) -> Result<convert::Report> {
    let Mix { weights: given, strategy, rows, seed, mut job } = of;
    let weights = weights(&given, job.inputs.len())
        .map_err(|fault| ConfigError::one(format!("`--weights`: {fault}")))?;
    let mut sources = Vec::new();
    for input in &job.inputs {
        sources.push(source::discover(std::slice::from_ref(input))?.files);
    }
    let names = job.inputs.clone();
    job.take = Take::Mixed(Arc::new(Mixture { sources, names, weights, strategy, rows, seed }));
    convert::run(job, watch.progress, watch.interrupted)
}
