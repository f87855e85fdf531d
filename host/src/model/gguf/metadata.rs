//! Typed access to a GGUF file's metadata.

use std::path::Path;

use candle_core::quantized::gguf_file::{Content, Value};

use crate::model::ModelError;

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

    pub fn text(&self, key: &str) -> Option<&str> {
        self.get(key)?.to_string().ok().map(String::as_str)
    }

    pub fn id(&self, key: &str) -> Option<u64> {
        self.get(key).and_then(number).map(|n| n as u64)
    }
}

/// The number of a value of any numeric type.
pub(super) fn number(value: &Value) -> Option<f64> {
    Some(match value {
        Value::U8(n) => f64::from(*n),
        Value::I8(n) => f64::from(*n),
        Value::U16(n) => f64::from(*n),
        Value::I16(n) => f64::from(*n),
        Value::U32(n) => f64::from(*n),
        Value::I32(n) => f64::from(*n),
        Value::U64(n) => *n as f64,
        Value::I64(n) => *n as f64,
        Value::F32(n) => f64::from(*n),
        Value::F64(n) => *n,
        _ => return None,
    })
}
