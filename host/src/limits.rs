//! Every ceiling as a named constant, with its reason. Values grow only by configuration.

/// Largest JSONL line, bytes: longer ones are never one training example.
pub const JSONL_LINE_BYTES_MAX: usize = 16 << 20;
/// Deepest nesting of JSON from outside (serde_json's own stop is 128).
pub const JSON_DEPTH_MAX: usize = 64;
/// Largest `config.json` and other small model files, bytes.
pub const MODEL_CONFIG_BYTES_MAX: u64 = 1 << 20;
/// Largest `model.safetensors.index.json`, bytes (the biggest published ones are about 10 MiB).
pub const WEIGHT_INDEX_BYTES_MAX: u64 = 32 << 20;
/// Largest `tokenizer.json`, bytes (big multilingual ones are 30-35 MiB).
pub const TOKENIZER_BYTES_MAX: u64 = 64 << 20;
/// Largest chat template source, bytes.
pub const CHAT_TEMPLATE_BYTES_MAX: usize = 256 << 10;
/// Largest output of one chat template rendering, bytes.
pub const CHAT_TEMPLATE_OUTPUT_BYTES_MAX: usize = 16 << 20;
/// Instructions one chat template rendering may spend (minijinja fuel).
pub const CHAT_TEMPLATE_FUEL: u64 = 10_000_000;
/// Largest configuration file, bytes.
pub const RUN_CONFIG_BYTES_MAX: u64 = 1 << 20;
/// Rows handed to a plugin in one call (throughput is flat from 64, falls at 8,192).
pub const PLUGIN_BATCH_ROWS: usize = 512;
/// Linear memory one plugin instance may own, bytes.
pub const PLUGIN_MEMORY_BYTES_MAX: usize = 256 << 20;
