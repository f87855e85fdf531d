//! A loaded plugin: described, configured, and a pool of its instances.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use wasmtime::Store;

use super::bindings::{formatter, reward, template, types};
use super::columns::Reads;
use super::component::{Compiled, Inspection, Linked, World, compile};
use super::engine::{Budget, Guest, arm, measure, new_store, stop_of, take_log};
use super::error::{PluginError, Who, shown};
use super::fault::OnFault;
use super::limits::PluginLimits;
use super::{options, source};
use crate::fs::sha256_hex;
use crate::limits as ceilings;

/// Lines of the log kept until they are taken.
const LOG_LINES_KEPT: usize = 1_000;
/// Columns a plugin may name.
const COLUMNS_MAX: usize = 4_096;

/// Weight of a line in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// For the plugin's author.
    Debug,
    /// Worth knowing.
    Info,
    /// Something looks wrong.
    Warn,
    /// Something is wrong.
    Error,
}

/// A line a plugin logged: cut to length, control characters escaped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// Its weight.
    pub level: LogLevel,
    /// Its text.
    pub text: String,
}

/// The most that calls of a plugin used.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Share of the call's fuel, 0 to 1.
    pub fuel_share: f64,
    /// Fuel per row, the mean over the call's rows.
    pub fuel_per_row: f64,
    /// Linear memory of one instance, bytes.
    pub memory_bytes: usize,
    /// Time inside of the plugin's own code, all calls together; only while that is measured.
    pub inside: Duration,
}

impl Usage {
    /// The larger of both, value by value.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            fuel_share: self.fuel_share.max(other.fuel_share),
            fuel_per_row: self.fuel_per_row.max(other.fuel_per_row),
            memory_bytes: self.memory_bytes.max(other.memory_bytes),
            inside: self.inside.max(other.inside),
        }
    }
}

/// One instance bound to its world.
pub(super) enum Bound {
    Formatter(formatter::Formatter),
    Template(template::Template),
    Reward(reward::Reward),
}

struct Instance {
    store: Store<Guest>,
    bound: Bound,
}

/// A plugin ready for calls, from any thread.
///
/// Instances are made as threads need them and used again; one that traps is thrown away. An
/// instance is configured once, with the same options and seed as every other.
pub struct Plugin {
    who: Arc<Who>,
    linked: Linked,
    limits: PluginLimits,
    options: String,
    seed: u64,
    reads: Reads,
    inspection: Inspection,
    on_fault: OnFault,
    idle: Mutex<Vec<Instance>>,
    log: Mutex<Vec<LogLine>>,
    usage: Mutex<Usage>,
    measured: AtomicBool,
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plugin").field("who", &self.who).field("reads", &self.reads).finish()
    }
}

/// A panic elsewhere can't leave these lists half-changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Plugin {
    /// Loads a plugin from a file or, where there is no such file, by the name of a shipped one
    /// (`sharegpt` or `sharegpt.wasm`), checks `options` (the text of a JSON object; empty counts
    /// as `{}`) and configures it.
    ///
    /// # Errors
    /// Every variant of [`PluginError`] but those about rows.
    pub fn load(
        name_or_path: &str,
        options: &str,
        seed: u64,
        limits: PluginLimits,
    ) -> Result<Self, PluginError> {
        let mut plugin = Self::describe(name_or_path, limits)?;
        let options = if options.trim().is_empty() { "{}" } else { options };
        let faults = |faults| PluginError::Options { who: plugin.who.clone(), faults };
        if options.len() > ceilings::PLUGIN_OPTIONS_BYTES_MAX {
            return Err(faults(vec![format!("they have {} bytes, too many", options.len())]));
        }
        options::check(&plugin.inspection.options_schema, options).map_err(faults)?;
        plugin.options = options.to_string();
        plugin.seed = seed;
        let (instance, reads) = plugin.new_instance()?;
        plugin.check_reads(&reads)?;
        plugin.reads = reads;
        lock(&plugin.idle).push(instance);
        Ok(plugin)
    }

    /// As [`Plugin::load`], of several, each by its name and its options.
    ///
    /// # Errors
    /// The faults of all of them together: [`PluginError::Several`].
    pub fn load_all(
        wanted: &[(&str, &str)],
        seed: u64,
        limits: &PluginLimits,
    ) -> Result<Vec<Self>, PluginError> {
        let mut plugins = Vec::with_capacity(wanted.len());
        let mut errors = Vec::new();
        for (name, options) in wanted {
            match Self::load(name, options, seed, limits.clone()) {
                Ok(plugin) => plugins.push(plugin),
                Err(error) => errors.push(error),
            }
        }
        match errors.len() {
            0 => Ok(plugins),
            1 => Err(errors.remove(0)),
            _ => Err(PluginError::Several(errors)),
        }
    }

    /// What a plugin file is and what it wants, without configuring it.
    ///
    /// # Errors
    /// As [`Plugin::load`], options aside.
    pub fn inspect(name_or_path: &str, limits: PluginLimits) -> Result<Inspection, PluginError> {
        Ok(Self::describe(name_or_path, limits)?.inspection)
    }

    fn describe(name_or_path: &str, limits: PluginLimits) -> Result<Self, PluginError> {
        let began = Instant::now();
        let bytes = source::read(name_or_path, limits.file_bytes)?;
        let sha256 = sha256_hex(&bytes);
        let Compiled { world, contract, core_module, imports, exports, linked, cached } =
            compile(name_or_path, &bytes, &sha256)?;
        let inspection = Inspection {
            file: name_or_path.to_string(),
            bytes: bytes.len(),
            sha256,
            world,
            contract,
            core_module,
            imports,
            exports,
            name: String::new(),
            version: String::new(),
            summary: String::new(),
            reads: Reads::default(),
            options_schema: String::new(),
            deterministic: false,
            cached,
            start: Duration::ZERO,
        };
        let mut plugin = Self {
            who: Arc::new(Who { name: shown(name_or_path), version: String::new() }),
            linked,
            limits,
            options: "{}".into(),
            seed: 0,
            reads: Reads::default(),
            inspection,
            on_fault: OnFault::default(),
            idle: Mutex::default(),
            log: Mutex::default(),
            usage: Mutex::default(),
            measured: AtomicBool::new(false),
        };
        let mut instance = plugin.instantiate()?;
        plugin.inspection.start = began.elapsed();
        let info =
            plugin.run(&mut instance, "describe", 0..0, 0, 0, |bound, store| match bound {
                Bound::Formatter(f) => f.trainer_plugin_formatting().call_describe(store).map(Ok),
                Bound::Template(t) => t.trainer_plugin_templating().call_describe(store).map(Ok),
                Bound::Reward(r) => r.trainer_plugin_rewards().call_describe(store).map(Ok),
            })?;
        plugin.take_info(info)?;
        Ok(plugin)
    }

    /// Checks and keeps a description.
    fn take_info(&mut self, info: types::Info) -> Result<(), PluginError> {
        let wrong = |what: String| self.returned("describe", 0..0, what);
        let sound_name = !info.name.is_empty()
            && info.name.len() <= 64
            && info.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !sound_name {
            return Err(wrong(format!(
                "the name `{}` is not 1 to 64 lower-case letters, digits and dashes",
                shown(&info.name)
            )));
        }
        let sound_version = !info.version.is_empty()
            && info.version.len() <= 64
            && info.version.bytes().all(|b| b.is_ascii_graphic());
        if !sound_version {
            return Err(wrong(format!("the version `{}` is no version", shown(&info.version))));
        }
        let reads = Reads::from(info.reads);
        self.check_reads(&reads)?;
        self.who = Arc::new(Who { name: info.name.clone(), version: info.version.clone() });
        self.inspection.name = info.name;
        self.inspection.version = info.version;
        self.inspection.summary = shown(&info.summary);
        self.inspection.reads = reads;
        self.inspection.options_schema = info.options_schema;
        self.inspection.deterministic = info.deterministic;
        Ok(())
    }

    fn check_reads(&self, reads: &Reads) -> Result<(), PluginError> {
        let wrong = |what: String| Err(self.returned("configure", 0..0, what));
        if reads.columns.len() > COLUMNS_MAX {
            return wrong(format!("{} columns, more than {COLUMNS_MAX}", reads.columns.len()));
        }
        let mut names: Vec<&str> = reads.columns.iter().map(|n| n.name.as_str()).collect();
        names.sort_unstable();
        if names.first() == Some(&"") {
            return wrong("a column without a name".into());
        }
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(twice) => wrong(format!("the column `{}` twice", shown(twice[0]))),
            None => Ok(()),
        }
    }

    fn instantiate(&self) -> Result<Instance, PluginError> {
        let mut store = new_store(&self.limits)?;
        if self.measured.load(Ordering::Relaxed) {
            measure(&mut store);
        }
        let budget = self.budget(0, 0);
        let made = arm(&mut store, budget).and_then(|()| match &self.linked {
            Linked::Formatter(pre) => pre.instance_pre().instantiate(&mut store),
            Linked::Template(pre) => pre.instance_pre().instantiate(&mut store),
            Linked::Reward(pre) => pre.instance_pre().instantiate(&mut store),
        });
        let instance = made.map_err(|error| PluginError::Stopped {
            who: self.who.clone(),
            function: "start",
            rows: 0..0,
            stop: stop_of(&store, &error, budget),
            said: take_log(&mut store).1,
        })?;
        // The types of the exports are compared with the contract's.
        let bound = match &self.linked {
            Linked::Formatter(_) => {
                formatter::Formatter::new(&mut store, &instance).map(Bound::Formatter)
            }
            Linked::Template(_) => {
                template::Template::new(&mut store, &instance).map(Bound::Template)
            }
            Linked::Reward(_) => reward::Reward::new(&mut store, &instance).map(Bound::Reward),
        };
        let bound = bound.map_err(|error| PluginError::NotAPlugin {
            file: shown(&self.inspection.file),
            why: format!(
                "its {} does not fit the contract: {}",
                self.world(),
                shown(&format!("{error:#}"))
            ),
        })?;
        Ok(Instance { store, bound })
    }

    fn new_instance(&self) -> Result<(Instance, Reads), PluginError> {
        let mut instance = self.instantiate()?;
        let (options, seed) = (self.options.as_str(), self.seed);
        let bytes = options.len();
        let reads =
            self.run(&mut instance, "configure", 0..0, 0, bytes, |bound, store| match bound {
                Bound::Formatter(f) => {
                    f.trainer_plugin_formatting().call_configure(store, options, seed)
                }
                Bound::Template(t) => {
                    t.trainer_plugin_templating().call_configure(store, options, seed)
                }
                Bound::Reward(r) => r.trainer_plugin_rewards().call_configure(store, options, seed),
            })?;
        Ok((instance, reads.into()))
    }

    fn budget(&self, rows: usize, bytes: usize) -> Budget {
        Budget {
            fuel: self.limits.fuel(rows, bytes),
            output_bytes: self.limits.output(bytes),
            deadline: self.limits.deadline,
        }
    }

    /// One call on one instance: armed, run, its log kept.
    fn run<T>(
        &self,
        instance: &mut Instance,
        function: &'static str,
        rows: Range<usize>,
        num_rows: usize,
        bytes: usize,
        call: impl FnOnce(&Bound, &mut Store<Guest>) -> wasmtime::Result<Result<T, types::Error>>,
    ) -> Result<T, PluginError> {
        let budget = self.budget(num_rows, bytes);
        let answer = arm(&mut instance.store, budget)
            .and_then(|()| call(&instance.bound, &mut instance.store));
        let (lines, said) = take_log(&mut instance.store);
        self.account(&mut instance.store, budget, num_rows);
        {
            let mut log = lock(&self.log);
            let room = LOG_LINES_KEPT.saturating_sub(log.len());
            log.extend(lines.into_iter().take(room));
        }
        match answer {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(types::Error::InvalidOptions(why))) => {
                Err(PluginError::Options { who: self.who.clone(), faults: vec![shown(&why)] })
            }
            Ok(Err(types::Error::BadColumn(message) | types::Error::Failed(message))) => {
                Err(PluginError::Failed {
                    who: self.who.clone(),
                    function,
                    rows,
                    message: shown(&message),
                })
            }
            Err(error) => Err(PluginError::Stopped {
                who: self.who.clone(),
                function,
                rows,
                stop: stop_of(&instance.store, &error, budget),
                said,
            }),
        }
    }

    fn account(&self, store: &mut Store<Guest>, budget: Budget, num_rows: usize) {
        let spent = budget.fuel.saturating_sub(store.get_fuel().unwrap_or(0)) as f64;
        let guest = store.data_mut();
        let call = Usage {
            fuel_share: spent / budget.fuel.max(1) as f64,
            fuel_per_row: if num_rows > 0 { spent / num_rows as f64 } else { 0.0 },
            memory_bytes: guest.memory_used(),
            inside: Duration::ZERO,
        };
        let mut usage = lock(&self.usage);
        let inside = usage.inside + guest.take_inside();
        *usage = Usage { inside, ..usage.max(call) };
    }

    /// The most that any call used so far.
    pub fn usage(&self) -> Usage {
        *lock(&self.usage)
    }

    /// From now on measures (or no longer) the time inside of the plugin's own code.
    pub(super) fn measure(&self, yes: bool) {
        self.measured.store(yes, Ordering::Relaxed);
        // The next calls get instances of the new kind.
        lock(&self.idle).clear();
    }

    /// One call on an idle instance, or on a new one. The instance is kept unless it was stopped.
    pub(super) fn call<T>(
        &self,
        function: &'static str,
        rows: Range<usize>,
        num_rows: usize,
        bytes: usize,
        call: impl FnOnce(&Bound, &mut Store<Guest>) -> wasmtime::Result<Result<T, types::Error>>,
    ) -> Result<T, PluginError> {
        let idle = lock(&self.idle).pop();
        let mut instance = match idle {
            Some(instance) => instance,
            None => {
                let (instance, reads) = self.new_instance()?;
                if reads != self.reads {
                    let what = "other columns than before under the same options".to_string();
                    return Err(self.returned("configure", 0..0, what));
                }
                instance
            }
        };
        let answer = self.run(&mut instance, function, rows, num_rows, bytes, call);
        if !matches!(answer, Err(PluginError::Stopped { .. })) {
            lock(&self.idle).push(instance);
        }
        answer
    }

    pub(super) fn returned(
        &self,
        function: &'static str,
        rows: Range<usize>,
        what: String,
    ) -> PluginError {
        PluginError::Returned { who: self.who.clone(), function, rows, what }
    }

    /// Sets what becomes of rows on which the plugin is at fault. Of a reward such rows have no
    /// score under [`OnFault::Reject`].
    #[must_use]
    pub fn on_fault(mut self, policy: OnFault) -> Self {
        self.on_fault = policy;
        self
    }

    pub(super) fn fault_policy(&self) -> OnFault {
        self.on_fault
    }

    /// Refuses a plugin of another world.
    ///
    /// # Errors
    /// [`PluginError::WrongWorld`].
    pub fn expect(&self, world: World) -> Result<(), PluginError> {
        if self.world() == world {
            return Ok(());
        }
        Err(PluginError::WrongWorld {
            who: self.who.clone(),
            got: self.world().name(),
            expected: world.name(),
        })
    }

    /// What it is for.
    pub fn world(&self) -> World {
        self.inspection.world
    }

    /// Its name, from its description.
    pub fn name(&self) -> &str {
        &self.who.name
    }

    /// Its version, from its description.
    pub fn version(&self) -> &str {
        &self.who.version
    }

    pub(super) fn who(&self) -> &Arc<Who> {
        &self.who
    }

    /// sha256 of its file: what a run's manifest names it by.
    pub fn sha256(&self) -> &str {
        &self.inspection.sha256
    }

    /// The options it was configured with, JSON text.
    pub fn options(&self) -> &str {
        &self.options
    }

    /// What it reads of a row under its options: the projection for the data reader.
    pub fn reads(&self) -> &Reads {
        &self.reads
    }

    /// All about its file.
    pub fn inspection(&self) -> &Inspection {
        &self.inspection
    }

    /// Takes the lines logged since the last time, at most 1,000. Lines of one call are in order;
    /// calls that ran at the same time may interleave.
    pub fn take_log(&self) -> Vec<LogLine> {
        std::mem::take(&mut *lock(&self.log))
    }
}
