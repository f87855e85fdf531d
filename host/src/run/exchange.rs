//! What ranks tell each other after the micro-batches of an update: sums for the log, which
//! parameters have gradients, whether a signal came.

use serde::{Deserialize, Serialize};

use crate::dist::{DistError, World};
use crate::objective::StepSums;

/// Numbers travel as the bits of f64, so that nothing is lost.
#[derive(Serialize, Deserialize)]
struct Bits {
    loss_sum: u64,
    weight_sum: u64,
    num_correct: u64,
    num_targets: u64,
    entropy_sum: u64,
    num_tokens: u64,
    metrics: Vec<(String, u64, u64)>,
}

impl Bits {
    fn of(sums: &StepSums) -> Self {
        let metric = |(name, (sum, count)): (&String, &(f64, f64))| {
            (name.clone(), sum.to_bits(), count.to_bits())
        };
        Self {
            loss_sum: sums.loss_sum.to_bits(),
            weight_sum: sums.weight_sum.to_bits(),
            num_correct: sums.num_correct,
            num_targets: sums.num_targets,
            entropy_sum: sums.entropy_sum.to_bits(),
            num_tokens: sums.num_tokens,
            metrics: sums.metrics.iter().map(metric).collect(),
        }
    }

    fn sums(self) -> StepSums {
        let metric = |(name, sum, count)| (name, (f64::from_bits(sum), f64::from_bits(count)));
        StepSums {
            loss_sum: f64::from_bits(self.loss_sum),
            weight_sum: f64::from_bits(self.weight_sum),
            num_correct: self.num_correct,
            num_targets: self.num_targets,
            entropy_sum: f64::from_bits(self.entropy_sum),
            num_tokens: self.num_tokens,
            metrics: self.metrics.into_iter().map(metric).collect(),
        }
    }
}

/// One rank's part of an update.
#[derive(Serialize, Deserialize)]
struct Report {
    sums: Vec<Bits>,
    present: Vec<bool>,
    interrupted: bool,
}

/// What all ranks know of an update.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Agreed {
    /// Sums over all micro-batches, added in their order.
    pub sums: StepSums,
    /// Parameters that have a gradient at some rank.
    pub present: Vec<bool>,
    /// Whether a signal came to some rank.
    pub interrupted: bool,
}

/// Adds up everybody's `sums`, one for each micro-batch of theirs.
///
/// # Errors
/// A rank that is missing.
pub fn agree(
    world: &World,
    sums: &[StepSums],
    present: Vec<bool>,
    interrupted: bool,
) -> Result<Agreed, DistError> {
    let mut agreed = Agreed { present, interrupted, ..Agreed::default() };
    if world.is_single() {
        sums.iter().for_each(|s| agreed.sums.add(s));
        return Ok(agreed);
    }
    let present = agreed.present.clone();
    let own = Report { sums: sums.iter().map(Bits::of).collect(), present, interrupted };
    for report in world.gather(&own, "losses")? {
        for bits in report.sums {
            agreed.sums.add(&bits.sums());
        }
        for (all, own) in agreed.present.iter_mut().zip(report.present) {
            *all |= own;
        }
        agreed.interrupted |= report.interrupted;
    }
    Ok(agreed)
}

/// Sums of things in an order, of which each rank has made its own part.
///
/// # Errors
/// A rank that is missing.
pub fn gather_sums(world: &World, own: &[StepSums]) -> Result<Vec<StepSums>, DistError> {
    let own: Vec<Bits> = own.iter().map(Bits::of).collect();
    let all = world.gather(&own, "evaluations")?;
    Ok(all.into_iter().flatten().map(Bits::sums).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn sums_survive_the_way_to_the_bit() {
        let mut sums = StepSums {
            loss_sum: 0.1 + 0.2,
            weight_sum: 3.0,
            num_correct: 1,
            num_targets: 2,
            entropy_sum: f64::MIN_POSITIVE,
            num_tokens: 9,
            ..StepSums::default()
        };
        sums.metrics.insert("least".into(), (f64::INFINITY, 1.0));
        let text = serde_json::to_string(&Bits::of(&sums)).unwrap();
        assert_eq!(serde_json::from_str::<Bits>(&text).unwrap().sums(), sums);
    }
}
