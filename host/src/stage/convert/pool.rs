//! Workers: jobs in, results out in the order of the jobs, with a bounded number on the way.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

/// One stage's jobs that are with the workers, and results that wait for their turn.
struct Lane<R> {
    submitted: u64,
    taken: u64,
    waiting: BTreeMap<u64, R>,
}

impl<R> Default for Lane<R> {
    fn default() -> Self {
        Self { submitted: 0, taken: 0, waiting: BTreeMap::new() }
    }
}

impl<R> Lane<R> {
    fn next(&mut self) -> Option<R> {
        let result = self.waiting.remove(&self.taken)?;
        self.taken += 1;
        Some(result)
    }

    fn on_the_way(&self) -> u64 {
        self.submitted - self.taken
    }
}

/// A job of one of two kinds; results of each kind come in their own order.
pub enum Job<A, B> {
    /// Of the first kind.
    First(A),
    /// Of the second.
    Second(B),
}

type Numbered<A, B> = (u64, Job<A, B>);

/// See the module.
pub struct Pool<A, B, RA, RB> {
    jobs: Option<Sender<Numbered<A, B>>>,
    results: Receiver<Numbered<RA, RB>>,
    first: Lane<RA>,
    second: Lane<RB>,
}

impl<A: Send, B: Send, RA: Send, RB: Send> Pool<A, B, RA, RB> {
    /// Starts `threads` workers within `scope`; they end when the pool is dropped.
    pub fn start<'scope, 'env>(
        scope: &'scope std::thread::Scope<'scope, 'env>,
        threads: usize,
        work: impl Fn(Job<A, B>) -> Job<RA, RB> + Send + Sync + 'scope,
    ) -> Self
    where
        A: 'scope,
        B: 'scope,
        RA: 'scope,
        RB: 'scope,
    {
        let (jobs, inbox) = channel::<Numbered<A, B>>();
        let (outbox, results) = channel();
        let inbox = Arc::new(Mutex::new(inbox));
        let work = Arc::new(work);
        for _ in 0..threads.max(1) {
            let (inbox, outbox, work) = (inbox.clone(), outbox.clone(), work.clone());
            scope.spawn(move || {
                loop {
                    let next = inbox.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok((number, job)) = next else { break };
                    if outbox.send((number, work(job))).is_err() {
                        break;
                    }
                }
            });
        }
        Self { jobs: Some(jobs), results, first: Lane::default(), second: Lane::default() }
    }

    /// Hands a job to the workers.
    pub fn submit(&mut self, job: Job<A, B>) {
        let number = match &job {
            Job::First(_) => &mut self.first.submitted,
            Job::Second(_) => &mut self.second.submitted,
        };
        let own = *number;
        *number += 1;
        if let Some(jobs) = &self.jobs {
            // Workers outlive the pool, unless one panicked: then the scope ends with its panic.
            let _ = jobs.send((own, job));
        }
    }

    /// Jobs of the first kind whose results were not taken.
    pub fn first_on_the_way(&self) -> u64 {
        self.first.on_the_way()
    }

    /// Jobs of the second kind whose results were not taken.
    pub fn second_on_the_way(&self) -> u64 {
        self.second.on_the_way()
    }

    /// The next result of the first kind, if it is there.
    pub fn take_first(&mut self) -> Option<RA> {
        self.first.next()
    }

    /// The next result of the second kind, if it is there.
    pub fn take_second(&mut self) -> Option<RB> {
        self.second.next()
    }

    /// Waits for any result; false when no worker is left.
    pub fn wait(&mut self) -> bool {
        match self.results.recv() {
            Ok((number, Job::First(result))) => _ = self.first.waiting.insert(number, result),
            Ok((number, Job::Second(result))) => _ = self.second.waiting.insert(number, result),
            Err(_) => return false,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_the_order_of_the_jobs() {
        std::thread::scope(|scope| {
            let mut pool: Pool<u64, u64, u64, u64> = Pool::start(scope, 3, |job| match job {
                Job::First(n) => {
                    std::thread::sleep(std::time::Duration::from_micros(n * 7919 % 300));
                    Job::First(2 * n)
                }
                Job::Second(n) => Job::Second(3 * n),
            });
            (0..50).for_each(|n| pool.submit(Job::First(n)));
            (0..20).for_each(|n| pool.submit(Job::Second(n)));
            let (mut a, mut b) = (Vec::new(), Vec::new());
            while pool.first_on_the_way() + pool.second_on_the_way() > 0 {
                assert!(pool.wait());
                a.extend(std::iter::from_fn(|| pool.take_first()));
                b.extend(std::iter::from_fn(|| pool.take_second()));
            }
            assert_eq!(a, (0..50).map(|n| 2 * n).collect::<Vec<_>>());
            assert_eq!(b, (0..20).map(|n| 3 * n).collect::<Vec<_>>());
        });
    }
}
