//! Sandboxed WebAssembly components: formatters, templates and rewards.

/// A plugin that can't be loaded, failed, or returned something wrong.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// Placeholder until the host exists.
    #[error("{0}")]
    Other(String),
}
