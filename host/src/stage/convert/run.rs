//! The job itself.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::json;

use super::cut::{Cutter, Group, Limits, Position};
use super::infer::Table;
use super::mixture::{Drawn, Mixer};
use super::plan::{Job, Plan, plan};
use super::pool::{Job as Work, Pool};
use super::rows::Rows;
use super::scan::scan;
use super::sink::{Encoded, Encoder, OutputFormat, Sink, Written};
use super::state::{State, manifest_path, state_path};
use super::take::Take;
use super::worker::{self, Done, Portion, Way};
use crate::config::ConfigError;
use crate::data::source::{self, Blocks, ReadOptions, Unit};
use crate::data::{DataError, Ledger, Reject};
use crate::error::{Error, Result};
use crate::fs::io_error;
use crate::limits::{CONVERT_GROUP_BYTES, CONVERT_REJECTS_FROM_ROWS};
use crate::model::save::write_json;

/// How far a job is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// Rows read.
    pub rows: u64,
    /// Rows rejected.
    pub rejected: u64,
    /// Bytes of text worked on.
    pub bytes: u64,
    /// Finished shards.
    pub shards: usize,
    /// Whether only types are looked for yet.
    pub inferring: bool,
    /// Seconds since the start.
    pub seconds: f64,
}

/// A finished job.
#[derive(Debug)]
pub struct Report {
    /// The account of all rows.
    pub ledger: Ledger,
    /// The files written.
    pub shards: Vec<Written>,
    /// Where the account lies.
    pub manifest: PathBuf,
    /// Files of the inputs that are no data, with reasons.
    pub ignored: Vec<String>,
    /// Shards that an earlier attempt had finished.
    pub resumed: usize,
    /// Columns kept as JSON text, because their values are of different types.
    pub mixed: Vec<String>,
    /// Seconds.
    pub seconds: f64,
    /// Bytes of the inputs.
    pub input_bytes: u64,
}

/// Rejected rows as JSON lines, under another name until the job is done.
struct RejectFile {
    out: BufWriter<File>,
    aside: PathBuf,
    target: PathBuf,
    bytes: u64,
}

impl RejectFile {
    fn open(target: &Path, keep: u64) -> Result<Self> {
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let aside = target.with_file_name(format!(".{name}.part"));
        let failed = || io_error("write", &aside);
        let mut options = OpenOptions::new();
        let mut file =
            options.create(true).truncate(false).write(true).open(&aside).map_err(failed())?;
        file.set_len(keep).map_err(failed())?;
        file.seek(SeekFrom::End(0)).map_err(failed())?;
        Ok(Self { out: BufWriter::new(file), aside, target: target.to_path_buf(), bytes: keep })
    }

    fn write(&mut self, rejects: &[Reject]) -> Result<()> {
        for reject in rejects {
            let mut line = json!(reject).to_string();
            line.push('\n');
            self.out.write_all(line.as_bytes()).map_err(io_error("write", &self.aside))?;
            self.bytes += line.len() as u64;
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        let synced = self.out.flush().and_then(|()| self.out.get_ref().sync_all());
        Ok(synced.map_err(io_error("write", &self.aside))?)
    }

    fn finish(mut self) -> Result<()> {
        self.sync()?;
        Ok(std::fs::rename(&self.aside, &self.target).map_err(io_error("rename", &self.aside))?)
    }
}

/// Converts. `progress` is told now and then; when `interrupted` answers true the job ends and can
/// be started again.
///
/// # Errors
/// Files that can't be read or written, a plugin that fails, too many rejected rows.
pub fn run(
    mut job: Job,
    progress: &mut dyn FnMut(&Progress),
    interrupted: &dyn Fn() -> bool,
) -> Result<Report> {
    let started = Instant::now();
    let format = OutputFormat::by_name(&job.output)?;
    let mut found = source::discover(&job.inputs)?;
    found.files = job.take.files(&found.files);
    let output = job.own_output();
    refuse_own_files(&job, &found.files)?;
    claim(&job, &output)?;
    let (index, count) = job.machine;
    let units = source::units(found.files.clone(), index, count)?;
    let identity = job.identity(&found.files, &units);
    let mut plan = plan(&mut job, format, &found.files)?;
    let state = State::load(&output, &identity)?;
    let mut told = Progress::default();
    if plan.to_infer {
        let table = match state.as_ref().and_then(|s| s.table.clone()) {
            Some(table) => table,
            None => {
                // Machines that share the work must agree on the types.
                let files = found.files.iter().cloned().map(Unit::File).collect();
                infer(&job, &plan.options, files, &mut told, progress, interrupted, started)?
            }
        };
        plan.schema = Some(table.schema());
        plan.way = Way::Typed(table);
    }
    let resumed = state.as_ref().map_or(0, |s| s.shards.len());
    let state = state.unwrap_or(State {
        identity,
        shards: Vec::new(),
        block: 0,
        rows: 0,
        ledger: Ledger::default(),
        rejects_bytes: 0,
        table: match &plan.way {
            Way::Typed(table) => Some(table.clone()),
            _ => None,
        },
    });
    let encoder = Encoder::new(format, plan.schema.clone())?;
    told = Progress { shards: resumed, ..Progress::default() };
    let mut conversion = Conversion::new(&job, &encoder, &output, state)?;
    let finished = conversion.convert(&plan, units, &mut told, progress, interrupted, started)?;
    if !finished {
        let again = match conversion.state.shards.len() {
            0 => "nothing was finished; the same command starts again".to_string(),
            n => format!("{n} shards are finished; the same command goes on behind them"),
        };
        return Err(Error::Interrupted(again));
    }
    let mixed = match &conversion.state.table {
        Some(table) => table.mixed(),
        None => Vec::new(),
    };
    let (ledger, shards) = conversion.finish(&job, &plan, &found.files)?;
    Ok(Report {
        ledger,
        shards,
        manifest: manifest_path(&output),
        ignored: found.ignored_lines(),
        resumed,
        mixed,
        seconds: started.elapsed().as_secs_f64(),
        input_bytes: found.files.iter().map(|f| f.bytes).sum(),
    })
}

/// A folder that is converted into itself would be its own input the next time.
fn refuse_own_files(job: &Job, files: &[source::SourceFile]) -> Result<()> {
    for file in files {
        if job.is_own(&file.path) {
            return Err(ConfigError::one(format!(
                "`{}` is an input and named like the output; write to another folder",
                file.name
            ))
            .into());
        }
    }
    Ok(())
}

/// Makes the output's folder; refuses to replace a finished conversion unasked.
fn claim(job: &Job, output: &Path) -> Result<()> {
    if let Some(parent) = output.parent().filter(|p| !p.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent).map_err(io_error("create", parent))?;
    }
    let manifest = manifest_path(output);
    let sharded = job.shard_rows.is_some() || job.shard_bytes.is_some();
    let exists = manifest.is_file() || (!sharded && output.exists());
    if exists && !job.overwrite {
        return Err(ConfigError::one(format!(
            "{} is there already; choose another --output, or --overwrite True",
            if output.exists() { output } else { manifest.as_path() }.display()
        ))
        .into());
    }
    if exists {
        // Shards of the earlier conversion must not lie among those of this one.
        let old = std::fs::read(&manifest).ok();
        let old: serde_json::Value =
            old.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        let shards = old["outputs"].as_array().into_iter().flatten();
        let shards = shards.filter_map(|o| o["file"].as_str().map(PathBuf::from));
        for path in shards.chain([manifest, state_path(output)]) {
            if path.is_file() {
                std::fs::remove_file(&path).map_err(io_error("remove", &path))?;
            }
        }
    }
    Ok(())
}

/// Whether the very conversion that a job asks for is finished already.
///
/// # Errors
/// Files that can't be found.
pub fn is_done(job: &Job) -> Result<bool> {
    let manifest = manifest_path(&job.own_output());
    let Ok(bytes) = std::fs::read(&manifest) else { return Ok(false) };
    let manifest: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let found = source::discover(&job.inputs)?;
    let files = job.take.files(&found.files);
    let (index, count) = job.machine;
    let units = source::units(files.clone(), index, count)?;
    let there = |o: &serde_json::Value| {
        let size = o["file"].as_str().and_then(|f| std::fs::metadata(f).ok()).map(|m| m.len());
        size.is_some() && size == o["bytes"].as_u64()
    };
    let whole = manifest["outputs"].as_array().is_some_and(|o| o.iter().all(there));
    Ok(whole && manifest["identity"] == job.identity(&files, &units))
}

/// The columns of all rows.
fn infer(
    job: &Job,
    options: &ReadOptions,
    units: Vec<Unit>,
    told: &mut Progress,
    progress: &mut dyn FnMut(&Progress),
    interrupted: &dyn Fn() -> bool,
    started: Instant,
) -> Result<Table> {
    let mut table = Table::default();
    told.inferring = true;
    let blocks = Blocks::new(units, options.clone());
    scan(
        blocks,
        job.threads,
        |block| {
            let bytes = block.bytes();
            worker::table(block, options).map(|table| (table, bytes))
        },
        |(found, bytes)| {
            if interrupted() {
                let again = "only types were looked for yet; the same command starts again";
                return Err(Error::Interrupted(again.into()));
            }
            table.merge(found);
            told.bytes += bytes;
            told.seconds = started.elapsed().as_secs_f64();
            progress(told);
            Ok(())
        },
    )?;
    told.inferring = false;
    Ok(table.settled())
}

/// A job under way.
struct Conversion<'a> {
    job: &'a Job,
    encoder: &'a Encoder,
    output: &'a Path,
    state: State,
    /// The account so far, ahead of the state's.
    ledger: Ledger,
    rejects: Option<RejectFile>,
    cutter: Cutter,
    sink: Option<Sink>,
    /// The block whose result comes next.
    block: u64,
    /// Groups with the workers: rows, and the state if they end a shard.
    groups: std::collections::VecDeque<(u64, Option<State>)>,
}

type Workers = Pool<Portion, Vec<Rows>, Result<Done>, Result<Encoded>>;
type Portions = Box<dyn Iterator<Item = std::result::Result<Portion, DataError>>>;

/// What the workers get, in order.
fn portions(take: &Take, units: Vec<Unit>, options: &ReadOptions) -> Portions {
    match take {
        Take::Mixed(mixture) => Box::new(Mixer::new(mixture, options).map(|drawn| {
            Ok(match drawn? {
                Drawn::Rows(mixed) => Portion::Mixed(mixed),
                Drawn::Rest(batch) => Portion::Rest(batch),
            })
        })),
        _ => Box::new(Blocks::new(units, options.clone()).map(|b| b.map(Portion::Block))),
    }
}

impl<'a> Conversion<'a> {
    fn new(job: &'a Job, encoder: &'a Encoder, output: &'a Path, state: State) -> Result<Self> {
        let rejects = match &job.rejects {
            Some(path) => Some(RejectFile::open(path, state.rejects_bytes)?),
            None => None,
        };
        let limits = Limits {
            group_rows: job.row_group_rows,
            group_bytes: CONVERT_GROUP_BYTES,
            shard_rows: job.shard_rows,
            shard_bytes: job.shard_bytes,
        };
        Ok(Self {
            job,
            encoder,
            output,
            ledger: state.ledger.clone(),
            block: state.block,
            state,
            rejects,
            cutter: Cutter::new(limits),
            sink: None,
            groups: Default::default(),
        })
    }

    /// Converts all blocks; false when interrupted.
    fn convert(
        &mut self,
        plan: &Plan,
        units: Vec<Unit>,
        told: &mut Progress,
        progress: &mut dyn FnMut(&Progress),
        interrupted: &dyn Fn() -> bool,
        started: Instant,
    ) -> Result<bool> {
        let (encoder, threads) = (self.encoder, self.job.threads.max(1) as u64);
        let take = &self.job.take;
        std::thread::scope(|scope| {
            let mut pool: Workers = Pool::start(scope, self.job.threads, |work| match work {
                Work::First(portion) => {
                    Work::First(worker::convert(&plan.way, portion, &plan.options, take))
                }
                Work::Second(parts) => Work::Second(encoder.encode(parts)),
            });
            let mut blocks = portions(take, units, &plan.options);
            for _ in 0..self.block {
                if blocks.next().transpose()?.is_none() {
                    break;
                }
            }
            let mut ended = false;
            loop {
                if interrupted() {
                    return Ok(false);
                }
                // Few groups are large: they are waited for before more blocks are begun.
                while !ended
                    && pool.first_on_the_way() < 3 * threads
                    && pool.second_on_the_way() <= threads
                {
                    match blocks.next() {
                        Some(block) => pool.submit(Work::First(block?)),
                        None => ended = true,
                    }
                }
                if ended && pool.first_on_the_way() == 0 {
                    let last = self.cutter.finish(self.block);
                    self.submit(last, &mut pool);
                    if pool.second_on_the_way() == 0 {
                        break;
                    }
                }
                if !pool.wait() {
                    break;
                }
                while let Some(done) = pool.take_first() {
                    self.take(done?, told, &mut pool)?;
                }
                while let Some(encoded) = pool.take_second() {
                    self.append(encoded?)?;
                    told.shards = self.state.shards.len();
                }
                told.seconds = started.elapsed().as_secs_f64();
                progress(told);
            }
            self.check_rejects(0)?;
            Ok(true)
        })
    }

    /// A block's rows and account.
    fn take(&mut self, done: Done, told: &mut Progress, pool: &mut Workers) -> Result<()> {
        let block = self.block;
        self.block += 1;
        told.bytes += done.bytes;
        // Some rows of the block may be in a finished shard: then it is in the account already.
        let mut skipped = 0;
        if block == self.state.block && self.state.rows > 0 {
            skipped = self.state.rows;
        } else {
            self.ledger.merge(&done.ledger);
            if let Some(rejects) = &mut self.rejects {
                rejects.write(&done.rejects)?;
            }
        }
        let totals = self.ledger.totals();
        (told.rows, told.rejected) = (totals.rows, totals.rejected);
        self.check_rejects(CONVERT_REJECTS_FROM_ROWS)?;
        let mut first = 0;
        for rows in done.rows {
            let n = rows.len();
            let passed = skipped.saturating_sub(first).min(n);
            if passed < n {
                let rest = if passed == 0 { rows } else { rows.slice(passed, n) };
                for group in self.cutter.push(rest, block, first + passed) {
                    self.submit(Some(group), pool);
                }
            }
            first += n;
        }
        Ok(())
    }

    fn submit(&mut self, group: Option<Group>, pool: &mut Workers) {
        let Some(group) = group else { return };
        let rows_of_group = group.len() as u64;
        let Group { parts, shard_end } = group;
        let state = shard_end.map(|Position { block, rows }| State {
            block,
            rows,
            ledger: self.ledger.clone(),
            rejects_bytes: self.rejects.as_ref().map_or(0, |r| r.bytes),
            // Shards are added when they are finished.
            ..self.state.clone()
        });
        self.groups.push_back((rows_of_group, state));
        pool.submit(Work::Second(parts));
    }

    fn append(&mut self, encoded: Encoded) -> Result<()> {
        let Some((rows, end)) = self.groups.pop_front() else { return Ok(()) };
        let target = self.job.shard(self.state.shards.len());
        let sink = match &mut self.sink {
            Some(sink) => sink,
            none => none.insert(Sink::create(&target, self.encoder)?),
        };
        sink.append(encoded, rows)?;
        match (end, self.sink.take()) {
            (Some(end), Some(sink)) => self.end_shard(sink, end),
            (_, sink) => {
                self.sink = sink;
                Ok(())
            }
        }
    }

    fn end_shard(&mut self, sink: Sink, end: State) -> Result<()> {
        if let Some(rejects) = &mut self.rejects {
            rejects.sync()?;
        }
        let mut shards = std::mem::take(&mut self.state.shards);
        shards.push(sink.finish()?);
        self.state = State { shards, ..end };
        if self.job.shard_rows.is_some() || self.job.shard_bytes.is_some() {
            self.state.save(self.output)?;
        }
        Ok(())
    }

    /// Stops a job whose rows are mostly wrong.
    fn check_rejects(&self, from: u64) -> Result<()> {
        let totals = self.ledger.totals();
        let share = totals.rejected as f64 / totals.rows.max(1) as f64;
        if totals.rows < from || share <= self.job.max_reject_rate {
            return Ok(());
        }
        let first = self.ledger.first_rejects.first();
        Err(DataError::TooManyRejects {
            rejected: totals.rejected,
            rows: totals.rows,
            limit: self.job.max_reject_rate,
            first: first.map_or(String::new(), Reject::to_string),
            listed: self.rejects.as_ref().map_or(String::new(), |rejects| {
                format!("; all so far are listed in {}", rejects.aside.display())
            }),
        }
        .into())
    }

    /// Writes the account, and removes what was only there to go on.
    fn finish(
        mut self,
        job: &Job,
        plan: &Plan,
        files: &[source::SourceFile],
    ) -> Result<(Ledger, Vec<Written>)> {
        if let Some(sink) = self.sink.take() {
            // The last group filled up with the last row.
            self.state.shards.push(sink.finish()?);
        }
        if self.state.shards.is_empty() {
            // No row came out; the file says so.
            let sink = Sink::create(&job.shard(0), self.encoder)?;
            self.state.shards.push(sink.finish()?);
        }
        self.ledger.check()?;
        if let Some(rejects) = self.rejects.take() {
            rejects.finish()?;
        }
        let plugin = match &plan.way {
            Way::Examples { plugin, shape, .. } => json!({
                "name": plugin.name(),
                "version": plugin.version(),
                "sha256": plugin.sha256(),
                "options": plugin.options(),
                "output_schema": shape.name(),
            }),
            _ => json!(null),
        };
        let inputs = files.iter().map(|f| json!({"path": f.name, "bytes": f.bytes}));
        let manifest = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "identity": self.state.identity,
            "machine": {"index": job.machine.0, "count": job.machine.1},
            "plugin": plugin,
            "take": job.take.describe(),
            "inputs": inputs.collect::<Vec<_>>(),
            "outputs": self.state.shards,
            "totals": self.ledger.totals(),
            "rows": self.ledger,
        });
        write_json(&manifest_path(self.output), &manifest, 2)?;
        super::state::remove(self.output)?;
        Ok((self.ledger, self.state.shards))
    }
}
