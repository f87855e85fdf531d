//! Several processes as one: who they are ([`environment`]), how they talk ([`Collective`]: NCCL on GPUs,
//! Gloo on CPUs, or a single process that talks to nobody), where they meet ([`store`]), and the [`World`] that the
//! rest of the program sees.
//!
//! Knows neither tensors nor training. Every operation has a deadline; after an error the group is
//! of no more use: the process ends, and its launcher starts all ranks again from the last
//! checkpoint.

use std::time::Duration;

pub mod collective;
pub mod environment;
#[cfg(feature = "gloo")]
pub mod gloo;
#[cfg(feature = "nccl")]
pub mod nccl;
pub mod slurm;
pub mod store;
#[cfg(any(feature = "gloo", feature = "nccl"))]
pub mod watch;
pub mod world;

pub use collective::{Collective, Reduce, Single};
pub use environment::Environment;
pub use world::World;

/// Exit code of a process that lost the others (`EX_TEMPFAIL`): starting all again may help.
pub const EXIT_LOST: u8 = 75;

/// Ranks that can't work together.
#[derive(Debug, thiserror::Error)]
pub enum DistError {
    /// Variables of a launcher that make no sense; all faults at once.
    #[error("{}", .0.join("\n       "))]
    Environment(Vec<String>),
    /// More than one process, and no engine for them in this build.
    #[error(
        "{launcher} started {size} processes, but this build has no collectives; build it with `--features gloo` (needs libgloo-dev)"
    )]
    NotBuilt {
        /// Who started them.
        launcher: &'static str,
        /// How many.
        size: usize,
    },
    /// The place where ranks meet.
    #[error(
        "rank {rank}: the store at {address} {reason}; check MASTER_ADDR, MASTER_PORT and the firewall, and that all ranks were started"
    )]
    Store {
        /// This process.
        rank: usize,
        /// Where.
        address: String,
        /// What happened.
        reason: String,
    },
    /// An operation over all ranks that did not come to its end.
    #[error(
        "rank {rank} of {size}: {operation} failed: {reason}{suspects}; all ranks must start again, with --resume_from_checkpoint True to go on from the newest checkpoint"
    )]
    Collective {
        /// This process.
        rank: usize,
        /// Processes in all.
        size: usize,
        /// `all_reduce (gradients)` …
        operation: String,
        /// What the engine said.
        reason: String,
        /// Who did not answer, if that is known.
        suspects: String,
    },
    /// Ranks that were started with different things.
    #[error("rank {rank} differs from rank 0 in {}; start every rank with the same command on the same files", what.join(", "))]
    Differs {
        /// The other one.
        rank: usize,
        /// In what.
        what: Vec<String>,
    },
    /// A message of another rank that can't be read.
    #[error(
        "rank {rank} sent {operation} that can't be read ({reason}); do all ranks run the same version?"
    )]
    Message {
        /// The sender.
        rank: usize,
        /// What was sent.
        operation: String,
        /// Why.
        reason: String,
    },
}

impl DistError {
    /// 2: a wrong setting; 75: the others are gone.
    pub fn exit_code(&self) -> u8 {
        match self {
            DistError::Environment(_) | DistError::NotBuilt { .. } | DistError::Differs { .. } => 2,
            DistError::Store { .. } | DistError::Collective { .. } | DistError::Message { .. } => {
                EXIT_LOST
            }
        }
    }
}

/// A time as people write it.
pub(crate) fn seconds(d: Duration) -> String {
    match d.as_secs_f64() {
        s if s >= 10.0 => format!("{s:.0} s"),
        s => format!("{s:.1} s"),
    }
}
