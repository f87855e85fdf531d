//! Typed access to a GGUF file's metadata.

use std::path::Path;

use candle_core::quantized::gguf_file::{Content, Value};

use crate::model::ModelError;
pub(super) use crate::text::conversion::gguf::number;

/// The metadata of a file, with errors that name it.
pub(super) struct Metadata<'a> {
    pub path: &'a Path,
    pub content: &'a Content,
    pub architecture: &'a str,
}

impl Metadata<'_> {
    pub fn fault(&self, reason: impl Into<String>) -> ModelError {
        ModelError::Gguf { path: self.path.into(), reason: reason.into() }
    }

    pub fn get(&self, key: &str) -> Option<&Value> {
        self.content.metadata.get(key)
    }

    /// A key of the architecture, `llama.block_count`.
    pub fn own(&self, key: &str) -> Option<&Value> {
        self.get(&format!("{}.{key}", self.architecture))
    }

    pub fn count(&self, key: &str) -> Result<u64, ModelError> {
        self.own(key).and_then(number).map(|n| n as u64).ok_or_else(|| {
            self.fault(format!(
                "its metadata lack `{}.{key}`; convert the model again",
                self.architecture
            ))
        })
    }

    pub fn id(&self, key: &str) -> Option<u64> {
        self.get(key).and_then(number).map(|n| n as u64)
    }
}
