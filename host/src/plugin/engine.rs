//! The process's one wasmtime engine, its clock, and what an instance is held to.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use wasmtime::{Config, Engine, ResourceLimiter, Store};

use super::bindings::host;
use super::error::{PluginError, Stop, shown_chars};
use super::limits::PluginLimits;
use super::pool::{LogLevel, LogLine};
use crate::limits as ceilings;

/// Resolution of the wall-clock backstop.
const TICK: Duration = Duration::from_millis(100);

/// The engine: same bytes in, same bits out (NaN canonical, no relaxed SIMD, no threads).
pub(super) fn engine() -> Result<&'static Engine, PluginError> {
    static ENGINE: OnceLock<Result<Engine, String>> = OnceLock::new();
    let made = ENGINE.get_or_init(|| {
        let mut config = Config::new();
        config
            .consume_fuel(true)
            .epoch_interruption(true)
            .cranelift_nan_canonicalization(true)
            .wasm_relaxed_simd(false)
            .wasm_memory64(false)
            .max_wasm_stack(ceilings::PLUGIN_STACK_BYTES_MAX);
        let engine = Engine::new(&config).map_err(|e| format!("{e:#}"))?;
        start_clock(&engine).map_err(|e| format!("no thread for its clock: {e}"))?;
        Ok(engine)
    });
    made.as_ref().map_err(|why| PluginError::Engine(why.clone()))
}

/// Advances the epoch every [`TICK`] as long as the engine lives.
fn start_clock(engine: &Engine) -> std::io::Result<()> {
    let engine = engine.weak();
    let run = move || {
        while let Some(engine) = engine.upgrade() {
            engine.increment_epoch();
            drop(engine);
            std::thread::sleep(TICK);
        }
    };
    std::thread::Builder::new().name("plugin-clock".into()).spawn(run).map(|_| ())
}

/// What the store of one instance holds: its memory account and the log of the current call.
pub(super) struct Guest {
    memory_limit: usize,
    memory_used: usize,
    table_used: usize,
    /// The first refusal; a trap does not carry it.
    refused: Option<Stop>,
    log: Vec<LogLine>,
    log_calls: u64,
    log_bytes: usize,
    /// When the guest's code was last entered, and how long it has run since it was asked.
    entered: Option<Instant>,
    inside: Duration,
}

impl Guest {
    /// Linear memory of the instance, bytes.
    pub(super) fn memory_used(&self) -> usize {
        self.memory_used
    }

    /// Takes the time inside of the guest's code; zero unless it is measured.
    pub(super) fn take_inside(&mut self) -> Duration {
        std::mem::take(&mut self.inside)
    }
}

/// Measures the time inside of the guest's code.
pub(super) fn measure(store: &mut Store<Guest>) {
    store.call_hook(|mut store, hook| {
        let guest = store.data_mut();
        if hook.entering_host() {
            let ran = guest.entered.take().map(|at| at.elapsed());
            guest.inside += ran.unwrap_or_default();
        } else {
            guest.entered = Some(Instant::now());
        }
        Ok(())
    });
}

/// A store with nothing used yet.
pub(super) fn new_store(limits: &PluginLimits) -> Result<Store<Guest>, PluginError> {
    let guest = Guest {
        memory_limit: limits.memory_bytes,
        memory_used: 0,
        table_used: 0,
        refused: None,
        log: Vec::new(),
        log_calls: 0,
        log_bytes: 0,
        entered: None,
        inside: Duration::ZERO,
    };
    let mut store = Store::new(engine()?, guest);
    store.limiter(|guest| guest);
    store.epoch_deadline_trap();
    Ok(store)
}

/// Budget of the next call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    pub fuel: u64,
    pub output_bytes: usize,
    pub deadline: Duration,
}

/// Fills the store for one call and clears its log.
pub(super) fn arm(store: &mut Store<Guest>, budget: Budget) -> wasmtime::Result<()> {
    store.set_fuel(budget.fuel)?;
    let ticks = budget.deadline.as_millis().div_ceil(TICK.as_millis()).max(1);
    // One more: the current tick has already begun.
    store.set_epoch_deadline(u64::try_from(ticks).unwrap_or(u64::MAX - 1).saturating_add(1));
    store.set_hostcall_fuel(budget.output_bytes);
    let guest = store.data_mut();
    guest.refused = None;
    guest.log.clear();
    guest.log_calls = 0;
    guest.log_bytes = 0;
    Ok(())
}

/// Why the call ended in `error`.
pub(super) fn stop_of(store: &Store<Guest>, error: &wasmtime::Error, budget: Budget) -> Stop {
    use wasmtime::Trap;
    if let Some(refused) = &store.data().refused {
        return refused.clone();
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => Stop::Fuel { limit: budget.fuel },
        Some(Trap::Interrupt) => Stop::Deadline { limit_ms: budget.deadline.as_millis() },
        Some(Trap::StackOverflow) => Stop::Stack,
        Some(trap) => Stop::Trap(trap.to_string()),
        // wasmtime's type for this is private; its words are all there is.
        None if error.root_cause().to_string().contains("hostcall") => {
            Stop::Output { limit: budget.output_bytes }
        }
        None => Stop::Trap(shown_chars(&error.root_cause().to_string(), 300)),
    }
}

/// The lines the call logged, and its last word at error level.
pub(super) fn take_log(store: &mut Store<Guest>) -> (Vec<LogLine>, Option<String>) {
    let guest = store.data_mut();
    let mut lines = std::mem::take(&mut guest.log);
    let said = lines.iter().rev().find(|l| l.level == LogLevel::Error).map(|l| l.text.clone());
    let dropped = guest.log_calls.saturating_sub(lines.len() as u64);
    if dropped > 0 {
        let text = format!("{dropped} further lines of this call are not shown");
        lines.push(LogLine { level: LogLevel::Info, text });
    }
    (lines, said)
}

impl ResourceLimiter for Guest {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        // All memories of the instance together: a component may hold several.
        let wanted = self.memory_used.saturating_add(desired.saturating_sub(current));
        if wanted > self.memory_limit {
            let stop = Stop::Memory { limit: self.memory_limit, wanted };
            let words = stop.to_string();
            self.refused.get_or_insert(stop);
            return Err(wasmtime::Error::msg(words));
        }
        self.memory_used = wanted;
        Ok(true)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let limit = ceilings::PLUGIN_TABLE_ELEMENTS_MAX;
        let wanted = self.table_used.saturating_add(desired.saturating_sub(current));
        if wanted > limit {
            let stop = Stop::Table { limit };
            let words = stop.to_string();
            self.refused.get_or_insert(stop);
            return Err(wasmtime::Error::msg(words));
        }
        self.table_used = wanted;
        Ok(true)
    }

    fn instances(&self) -> usize {
        ceilings::PLUGIN_CORE_INSTANCES_MAX
    }

    fn tables(&self) -> usize {
        ceilings::PLUGIN_CORE_INSTANCES_MAX
    }

    fn memories(&self) -> usize {
        ceilings::PLUGIN_CORE_INSTANCES_MAX
    }
}

impl host::Host for Guest {
    fn log(&mut self, level: host::Level, message: String) -> wasmtime::Result<()> {
        self.log_calls += 1;
        self.log_bytes = self.log_bytes.saturating_add(message.len());
        if self.log_calls > ceilings::PLUGIN_LOG_CALLS_MAX
            || self.log_bytes > ceilings::PLUGIN_LOG_BYTES_MAX
        {
            let stop = Stop::LogFlood { lines: self.log_calls };
            let words = stop.to_string();
            self.refused.get_or_insert(stop);
            return Err(wasmtime::Error::msg(words));
        }
        if self.log.len() < ceilings::PLUGIN_LOG_LINES_MAX {
            let text = shown_chars(&message, ceilings::PLUGIN_LOG_LINE_CHARS_MAX);
            let level = match level {
                host::Level::Debug => LogLevel::Debug,
                host::Level::Info => LogLevel::Info,
                host::Level::Warn => LogLevel::Warn,
                host::Level::Error => LogLevel::Error,
            };
            self.log.push(LogLine { level, text });
        }
        Ok(())
    }
}
