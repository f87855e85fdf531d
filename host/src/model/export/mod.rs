//! Models in other programs' formats.

pub mod gguf_file;
pub mod gguf_model;
pub mod gguf_tokenizer;
