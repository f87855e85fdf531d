//! What the export macros expand to calls of. Not for plugin authors.

use std::cell::RefCell;

use serde::de::DeserializeOwned;

use crate::bindings::formatter::trainer::plugin::types::Info;
use crate::{About, Error, Reads, logging};

/// The configured plugin of this instance.
pub struct State<P>(RefCell<Option<P>>);

impl<P> State<P> {
    /// Not configured yet.
    #[allow(clippy::new_without_default)]
    pub const fn new() -> Self {
        Self(RefCell::new(None))
    }

    /// Makes the plugin and keeps it.
    pub fn configure(
        &self,
        make: impl FnOnce() -> Result<P, String>,
        reads: impl FnOnce(&P) -> Reads,
    ) -> Result<Reads, Error> {
        logging::report_panics();
        let plugin = make().map_err(Error::InvalidOptions)?;
        let reads = reads(&plugin);
        *self.0.borrow_mut() = Some(plugin);
        Ok(reads)
    }

    /// Calls the configured plugin.
    pub fn with<T>(&self, call: impl FnOnce(&P) -> Result<T, Error>) -> Result<T, Error> {
        match &*self.0.borrow() {
            Some(plugin) => call(plugin),
            None => Err(Error::Failed("called before `configure`".into())),
        }
    }
}

/// The options' JSON text as the plugin's own type.
pub fn options<O: DeserializeOwned>(text: &str) -> Result<O, String> {
    serde_json::from_str(text).map_err(|e| e.to_string())
}

/// The description, with what is read under default options (nothing where options are required).
pub fn describe(about: About, reads: impl FnOnce() -> Result<Reads, String>) -> Info {
    logging::report_panics();
    Info {
        name: about.name.into(),
        version: about.version.into(),
        summary: about.summary.into(),
        reads: reads().unwrap_or_else(|_| Reads::columns([])),
        options_schema: about.options.into(),
        deterministic: about.deterministic,
    }
}
