//! How fast a plugin is.

use std::time::{Duration, Instant};

use arrow::array::RecordBatch;

use super::super::component::World;
use super::super::error::PluginError;
use super::super::pool::Plugin;
use super::super::template::RenderOptions;
use super::items::Items;
use super::seeded;
use crate::data::Conversation;

/// Rounds on one thread, of which the fastest counts.
const ROUNDS: usize = 5;

/// What a benchmark runs on.
#[derive(Clone, Debug)]
pub struct Bench {
    /// The items.
    pub items: Items,
    /// Items of one call, at most [`PLUGIN_CALL_ROWS`](crate::limits::PLUGIN_CALL_ROWS).
    pub batch: usize,
}

/// What a benchmark found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timing {
    /// Rows of a round.
    pub rows: usize,
    /// Bytes of what the plugin reads of them.
    pub bytes: usize,
    /// One round on one thread.
    pub one_thread: Duration,
    /// The share of that spent outside of the plugin's own code: columns to arguments, copies in
    /// and out, checks.
    pub crossing: f64,
    /// One round on all threads.
    pub all_threads: Duration,
    /// How many those are.
    pub threads: usize,
    /// Most instructions one row took, wasmtime's fuel (a mean over its call).
    pub fuel_per_row: f64,
}

impl Bench {
    /// `len` made-up items.
    pub fn seeded(plugin: &Plugin, len: usize, batch: usize, seed: u64) -> Self {
        // Made once and repeated: making them takes longer than what is measured.
        let items = seeded::items(plugin.world(), plugin.reads(), len.min(2_000), seed);
        Self { items: items.cycled(len), batch }
    }

    /// Measures.
    ///
    /// # Errors
    /// What the plugin does wrong on these items.
    pub fn run(&self, plugin: &Plugin) -> Result<Timing, PluginError> {
        let one = rayon::ThreadPoolBuilder::new().num_threads(1).build();
        let one = one.map_err(|e| PluginError::Engine(e.to_string()))?;
        let work = Work::new(&self.items, self.batch);
        let round = || -> Result<Duration, PluginError> {
            let began = Instant::now();
            work.run(plugin)?;
            Ok(began.elapsed())
        };
        let fastest = || -> Result<Duration, PluginError> {
            // The first only warms up.
            round()?;
            let mut least = Duration::MAX;
            for _ in 0..ROUNDS {
                least = least.min(round()?);
            }
            Ok(least)
        };
        let one_thread = one.install(fastest)?;
        let all_threads = fastest()?;
        // Watching every step over the border costs a little on both sides of it.
        plugin.measure(true);
        let watched = one.install(|| {
            round()?;
            let before = plugin.usage().inside;
            let took = round()?;
            Ok::<_, PluginError>((took, plugin.usage().inside - before))
        });
        plugin.measure(false);
        let (took, inside) = watched?;
        let outside = took.saturating_sub(inside);
        Ok(Timing {
            rows: self.items.len(),
            bytes: self.items.bytes(plugin.reads()),
            one_thread,
            crossing: outside.as_secs_f64() / took.as_secs_f64().max(1e-9),
            all_threads,
            threads: rayon::current_num_threads(),
            fuel_per_row: plugin.usage().fuel_per_row,
        })
    }
}

/// Items as the plugin's calls take them, so that no time goes into arranging them.
enum Work {
    Rows(Vec<RecordBatch>),
    Conversations(Vec<Conversation>, RenderOptions),
}

impl Work {
    fn new(items: &Items, batch: usize) -> Self {
        match items {
            Items::Rows(rows) => {
                let starts = (0..rows.num_rows()).step_by(batch.max(1));
                let part = |at: usize| rows.slice(at, batch.min(rows.num_rows() - at));
                Work::Rows(starts.map(part).collect())
            }
            Items::Cases(cases) => {
                let options = cases.first().map(|case| case.options.clone()).unwrap_or_default();
                let all = cases.iter().map(|case| case.conversation.clone()).collect();
                Work::Conversations(all, options)
            }
        }
    }

    fn run(&self, plugin: &Plugin) -> Result<(), PluginError> {
        match self {
            Work::Rows(rows) if plugin.world() == World::Reward => plugin.score(rows).map(drop),
            Work::Rows(rows) => plugin.format(rows).map(drop),
            Work::Conversations(all, options) => plugin.render(all, options).map(drop),
        }
    }
}
