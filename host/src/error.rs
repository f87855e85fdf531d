//! The one error type that leaves the library, and what the process exits with.
//!
//! Each module owns a typed enum; this one only gathers them. A message says what failed,
//! where (file, row, field, tensor, plugin), what was got and expected, and ends with the
//! remedy; it is lower-case and has no final period.

use crate::device::DeviceError;
use crate::model::ModelError;
use crate::{config::ConfigError, data::DataError, dist::DistError, fs::FsError};
use crate::{plugin::PluginError, run::RunError, text::TextError};

/// `Result` with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can end a command.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A flag, a configuration file or a combination of settings.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A source file or a row of it.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A plugin: loading, calling, or what it returned.
    #[error(transparent)]
    Plugin(#[from] PluginError),
    /// A tokenizer or a chat template.
    #[error(transparent)]
    Text(#[from] TextError),
    /// A model folder, its weights or an adapter.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A GPU that can't be had.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Ranks that can't work together.
    #[error(transparent)]
    Dist(#[from] DistError),
    /// The training loop: divergence, checkpoints, resume.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The file system.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// A tensor operation failed: a fault of ours, or memory.
    #[error("tensor operation failed: {0}")]
    Tensor(#[from] candle_core::Error),
    /// Interrupted by a signal, after a clean checkpoint.
    #[error("interrupted; {0}")]
    Interrupted(String),
}

impl Error {
    /// The process's exit code: 1 internal, 2 usage, 3 data and model files, 4 plugin,
    /// 5 diverged, 6 storage, 75 another rank is lost, 130 interrupted before any checkpoint could be written.
    pub fn exit_code(&self) -> u8 {
        if let Some(fs) = self.file_operation() {
            return if fs.is_write() { 6 } else { 3 };
        }
        match self {
            Error::Tensor(_) => 1,
            Error::Config(_) | Error::Device(_) => 2,
            Error::Data(_) | Error::Text(_) | Error::Model(_) | Error::Fs(_) => 3,
            Error::Plugin(_) => 4,
            Error::Run(e) => e.exit_code(),
            Error::Dist(e) => e.exit_code(),
            Error::Interrupted(_) => 130,
        }
    }

    /// The file operation at the bottom, if that is what failed.
    fn file_operation(&self) -> Option<&FsError> {
        match self {
            Error::Fs(e)
            | Error::Model(ModelError::Fs(e))
            | Error::Text(TextError::Fs(e))
            | Error::Data(DataError::Fs(e)) => Some(e),
            _ => None,
        }
    }
}

/// At most 200 characters of a text from a file, control characters escaped.
pub fn excerpt(text: &str) -> String {
    let mut out: String = text
        .chars()
        .take(200)
        .flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] })
        .collect();
    if text.chars().nth(200).is_some() {
        out.push('…');
    }
    out
}
