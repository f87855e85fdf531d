//! Reads all blocks on all cores, the results in their order, and writes nothing.

use super::pool::{Job as Work, Pool};
use crate::data::DataError;
use crate::error::Result;

/// Hands `blocks` to `threads` workers and the results, in the order of the blocks, to `take`. Few
/// are on the way at a time, so that memory is bounded by a few blocks.
///
/// # Errors
/// The first error of the blocks, of `work` or of `take`.
pub fn scan<B: Send, R: Send>(
    mut blocks: impl Iterator<Item = std::result::Result<B, DataError>>,
    threads: usize,
    work: impl Fn(B) -> Result<R> + Send + Sync,
    mut take: impl FnMut(R) -> Result<()>,
) -> Result<()> {
    let threads = threads.max(1);
    std::thread::scope(|scope| {
        let mut pool: Pool<B, (), Result<R>, ()> = Pool::start(scope, threads, |job| match job {
            Work::First(block) => Work::First(work(block)),
            Work::Second(()) => Work::Second(()),
        });
        let window = 3 * threads as u64;
        let mut ended = false;
        loop {
            while !ended && pool.first_on_the_way() < window {
                match blocks.next() {
                    Some(block) => pool.submit(Work::First(block?)),
                    None => ended = true,
                }
            }
            if pool.first_on_the_way() == 0 || !pool.wait() {
                return Ok(());
            }
            while let Some(found) = pool.take_first() {
                take(found?)?;
            }
        }
    })
}
