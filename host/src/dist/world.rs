//! The group of ranks as the rest of the program sees it: shares of a work, and what all know.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::DistError;
use super::collective::{Collective, Reduce, Single};
use super::environment::Environment;

/// All ranks of this job; a handle that is cheap to copy.
#[derive(Clone)]
pub struct World {
    collective: Arc<dyn Collective>,
    local_rank: usize,
    local_size: usize,
    deadline: Duration,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "rank {} of {}", self.rank(), self.size())
    }
}

impl Default for World {
    fn default() -> Self {
        Self::of(Single)
    }
}

impl World {
    /// A group over an engine.
    pub fn of(collective: impl Collective + 'static) -> Self {
        Self {
            collective: Arc::new(collective),
            local_rank: 0,
            local_size: 1,
            deadline: Duration::MAX,
        }
    }

    /// Meets the other ranks that the launcher started; alone, without one. Every operation ends
    /// within `deadline`. `gpu` says which GPU the process of a number on its machine will use, if any:
    /// then NCCL connects the ranks where the build has it, and Gloo otherwise.
    ///
    /// # Errors
    /// Variables that make no sense, ranks that don't come.
    pub fn join(
        deadline: Duration,
        gpu: impl FnOnce(usize) -> Option<usize>,
    ) -> Result<Self, DistError> {
        let environment = Environment::detect()?;
        if environment.size == 1 {
            return Ok(Self::default());
        }
        // A launcher that is killed takes its ranks with it; where that can't be had, they end when
        // they miss each other.
        let _ =
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
        let gpu = gpu(environment.local_rank);
        Self::connect(&environment, gpu, deadline)
    }

    #[cfg(not(any(feature = "gloo", feature = "nccl")))]
    fn connect(
        environment: &Environment,
        _: Option<usize>,
        _: Duration,
    ) -> Result<Self, DistError> {
        Err(DistError::NotBuilt { launcher: environment.launcher.name(), size: environment.size })
    }

    #[cfg(any(feature = "gloo", feature = "nccl"))]
    fn connect(
        environment: &Environment,
        gpu: Option<usize>,
        deadline: Duration,
    ) -> Result<Self, DistError> {
        use super::store::{Client, Server};
        let rank = environment.rank;
        let (host, port) = (environment.master.0.as_str(), environment.master.1);
        let lost = |reason: String| {
            let address = format!("{host}:{port}");
            DistError::Store { rank, address, reason }
        };
        if rank == 0 && !environment.agent_store {
            Server::start(port).map_err(|e| {
                lost(format!("can't be served by rank 0: {e} (choose another MASTER_PORT)"))
            })?;
        }
        let client = Client::connect(host, port, deadline).map_err(|e| lost(e.to_string()))?;
        // What another attempt left in the launcher's store is not read.
        let prefix =
            format!("/trainer/{}/{}/{}", environment.job, environment.attempt, environment.size);
        let collective = Self::engine(environment, client, &prefix, gpu, deadline)?;
        let local_size = environment.local_size.max(1);
        let local_rank = environment.local_rank;
        Ok(Self { collective, local_rank, local_size, deadline })
    }

    /// The engine for ranks with or without GPUs, as far as the build has it.
    #[cfg(any(feature = "gloo", feature = "nccl"))]
    fn engine(
        environment: &Environment,
        client: super::store::Client,
        prefix: &str,
        gpu: Option<usize>,
        deadline: Duration,
    ) -> Result<Arc<dyn Collective>, DistError> {
        #[cfg(feature = "nccl")]
        if let Some(gpu) = gpu.filter(|_| super::nccl::is_present()) {
            let nccl = super::nccl::Nccl::connect(environment, client, prefix, gpu, deadline)?;
            return Ok(Arc::new(nccl));
        }
        #[cfg(feature = "gloo")]
        {
            let _ = gpu;
            let gloo = super::gloo::Gloo::connect(environment, client, prefix, deadline)?;
            Ok(Arc::new(gloo))
        }
        #[cfg(not(feature = "gloo"))]
        {
            let _ = (client, prefix, gpu, deadline);
            let launcher = environment.launcher.name();
            Err(DistError::NotBuilt { launcher, size: environment.size })
        }
    }

    /// This process.
    pub fn rank(&self) -> usize {
        self.collective.rank()
    }

    /// All processes.
    pub fn size(&self) -> usize {
        self.collective.size()
    }

    /// This process's number on its machine.
    pub fn local_rank(&self) -> usize {
        self.local_rank
    }

    /// Processes on this machine.
    pub fn local_size(&self) -> usize {
        self.local_size
    }

    /// The longest that an operation takes.
    pub fn deadline(&self) -> Duration {
        self.deadline
    }

    /// Whether this process is the only one.
    pub fn is_single(&self) -> bool {
        self.size() == 1
    }

    /// Whether this is the rank that prints and writes.
    pub fn is_main(&self) -> bool {
        self.rank() == 0
    }

    /// The engine.
    pub fn collective(&self) -> &dyn Collective {
        &*self.collective
    }

    /// This rank's part of `n` things in their order: parts follow each other by rank, differ by one
    /// at most, and rank 0 has none only if nobody has.
    pub fn share(&self, n: usize) -> Range<usize> {
        share(n, self.rank(), self.size())
    }

    /// Everybody's bytes, by rank.
    ///
    /// # Errors
    /// A rank that is missing.
    pub fn gather_bytes(&self, own: &[u8], what: &str) -> Result<Vec<Vec<u8>>, DistError> {
        if self.is_single() {
            return Ok(vec![own.to_vec()]);
        }
        let mut lengths = vec![0; 8 * self.size()];
        self.collective.all_gather(&(own.len() as u64).to_le_bytes(), &mut lengths, what)?;
        let length = |bytes: &[u8]| bytes.iter().rev().fold(0, |n, &b| n << 8 | usize::from(b));
        let lengths: Vec<usize> = lengths.chunks(8).map(length).collect();
        let longest = lengths.iter().max().copied().unwrap_or(0);
        if longest == 0 {
            return Ok(vec![Vec::new(); self.size()]);
        }
        let mut padded = own.to_vec();
        padded.resize(longest, 0);
        let mut all = vec![0; longest * self.size()];
        self.collective.all_gather(&padded, &mut all, what)?;
        let of = |(bytes, n): (&[u8], usize)| bytes[..n].to_vec();
        Ok(all.chunks(longest).zip(lengths).map(of).collect())
    }

    /// Everybody's value, by rank. Numbers that are not finite do not survive.
    ///
    /// # Errors
    /// A rank that is missing, or is of another version.
    pub fn gather<T: Serialize + DeserializeOwned>(
        &self,
        own: &T,
        what: &str,
    ) -> Result<Vec<T>, DistError> {
        let message = |rank, e: serde_json::Error| {
            let (operation, reason) = (what.to_string(), e.to_string());
            DistError::Message { rank, operation, reason }
        };
        let own = serde_json::to_vec(own).map_err(|e| message(self.rank(), e))?;
        let all = self.gather_bytes(&own, what)?;
        let read = |(rank, bytes): (usize, Vec<u8>)| {
            serde_json::from_slice(&bytes).map_err(|e| message(rank, e))
        };
        all.into_iter().enumerate().map(read).collect()
    }

    /// `f` over this rank's part of `items`, and everybody's results in the items' order. `f` gives
    /// one for each item.
    ///
    /// # Errors
    /// `f`'s, and those of [`World::gather`].
    pub fn map<T, R, E>(
        &self,
        items: &[T],
        what: &str,
        f: impl FnOnce(&[T]) -> Result<Vec<R>, E>,
    ) -> Result<Vec<R>, E>
    where
        R: Serialize + DeserializeOwned,
        E: From<DistError>,
    {
        if self.is_single() {
            return f(items);
        }
        let own = f(&items[self.share(items.len())])?;
        Ok(self.gather(&own, what)?.into_iter().flatten().collect())
    }

    /// Rank 0's bytes, at every rank.
    ///
    /// # Errors
    /// A rank that is missing.
    pub fn of_main(&self, own: Vec<u8>, what: &str) -> Result<Vec<u8>, DistError> {
        if self.is_single() {
            return Ok(own);
        }
        let mut length = (own.len() as u64).to_le_bytes();
        self.collective.broadcast(&mut length, 0, what)?;
        let mut bytes = own;
        bytes.resize(u64::from_le_bytes(length) as usize, 0);
        self.collective.broadcast(&mut bytes, 0, what)?;
        Ok(bytes)
    }

    /// Whether any rank says so.
    ///
    /// # Errors
    /// A rank that is missing.
    pub fn any(&self, own: bool, what: &str) -> Result<bool, DistError> {
        let mut value = [f64::from(u8::from(own))];
        self.collective.all_reduce_f64(&mut value, Reduce::Max, what)?;
        Ok(value[0] > 0.0)
    }

    /// Checks that all ranks were given the same things.
    ///
    /// # Errors
    /// [`DistError::Differs`], the same at every rank.
    pub fn check_same(&self, own: &BTreeMap<String, Value>) -> Result<(), DistError> {
        if self.is_single() {
            return Ok(());
        }
        let all = self.gather(own, "settings")?;
        for (rank, theirs) in all.iter().enumerate().skip(1) {
            let mut names: Vec<&String> = all[0].keys().chain(theirs.keys()).collect();
            names.sort();
            names.dedup();
            let differs = |name: &&String| all[0].get(*name) != theirs.get(*name);
            let what: Vec<String> = names.into_iter().filter(differs).cloned().collect();
            if !what.is_empty() {
                return Err(DistError::Differs { rank, what });
            }
        }
        Ok(())
    }

    /// Tells the others why this rank ends.
    pub fn leave(&self, why: &str) {
        self.collective.leave(why);
    }
}

/// As [`World::share`], of any rank.
pub fn share(n: usize, rank: usize, size: usize) -> Range<usize> {
    let at = |rank: usize| (rank * n).div_ceil(size);
    at(rank)..at(rank + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_cover_everything_once_in_order() {
        for n in 0..20 {
            for size in 1..6 {
                let parts: Vec<Range<usize>> = (0..size).map(|r| share(n, r, size)).collect();
                let all: Vec<usize> = parts.iter().cloned().flatten().collect();
                assert_eq!(all, (0..n).collect::<Vec<_>>(), "{n} over {size}");
                let lengths: Vec<usize> = parts.iter().map(|p| p.len()).collect();
                let (least, most) = (lengths.iter().min(), lengths.iter().max());
                assert!(most.zip(least).is_some_and(|(m, l)| m - l <= 1), "{lengths:?}");
                assert!(n == 0 || lengths[0] > 0);
            }
        }
    }
}
