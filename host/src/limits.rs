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
/// Rows of one record batch, as sources are read.
pub const PLUGIN_BATCH_ROWS: usize = 512;
/// Rows handed to a plugin in one call (throughput is flat from 64, falls at 8,192): fewer than a
/// record batch has, so that several cores share it.
pub const PLUGIN_CALL_ROWS: usize = 128;
/// Linear memory one plugin instance may own, bytes.
pub const PLUGIN_MEMORY_BYTES_MAX: usize = 256 << 20;
/// Instructions (wasmtime fuel) one call of a plugin may spend whatever its input.
pub const PLUGIN_FUEL_BASE: u64 = 200_000_000;
/// Instructions more for every row of the call.
pub const PLUGIN_FUEL_PER_ROW: u64 = 2_000_000;
/// Instructions more for every byte of input, so that one long row is not starved (an interpreted
/// language spends a thousand or two on a character).
pub const PLUGIN_FUEL_PER_INPUT_BYTE: u64 = 5_000;
/// Wall-clock time after which a call is interrupted, milliseconds: the backstop behind the fuel.
pub const PLUGIN_DEADLINE_MS: u64 = 30_000;
/// Input of one call, bytes, from which on no further row joins it.
pub const PLUGIN_BATCH_BYTES: usize = 4 << 20;
/// Stack of a plugin's code, bytes (wasmtime's own default).
pub const PLUGIN_STACK_BYTES_MAX: usize = 512 << 10;
/// Elements of all tables of one instance together.
pub const PLUGIN_TABLE_ELEMENTS_MAX: usize = 100_000;
/// Core instances, memories and tables of one component (language runtimes that are linked from
/// parts have about 40).
pub const PLUGIN_CORE_INSTANCES_MAX: usize = 64;
/// Largest component file, bytes (a Python interpreter with its library has 18 MB).
pub const PLUGIN_FILE_BYTES_MAX: u64 = 64 << 20;
/// All compiled plugins in the user's cache together, bytes; those used longest ago are evicted.
pub const PLUGIN_CACHE_BYTES_MAX: u64 = 1 << 30;
/// Rows of one call on which a plugin may be at fault where such rows are rejected: with more it is
/// the plugin that is broken.
pub const PLUGIN_FAULTY_ROWS_PER_CALL_MAX: usize = 32;
/// Output of one call, bytes: this and 16 times the input, at most the next.
pub const PLUGIN_OUTPUT_BYTES_BASE: usize = 1 << 20;
/// Output of one call, bytes, whatever the input.
pub const PLUGIN_OUTPUT_BYTES_MAX: usize = 64 << 20;
/// Examples one row may become.
pub const PLUGIN_EXAMPLES_PER_ROW_MAX: usize = 10_000;
/// Notes one row may carry.
pub const PLUGIN_NOTES_PER_ROW_MAX: usize = 1_000;
/// Log lines kept of one call; further ones are counted.
pub const PLUGIN_LOG_LINES_MAX: usize = 50;
/// Log calls in one call after which the plugin is stopped.
pub const PLUGIN_LOG_CALLS_MAX: u64 = 100_000;
/// Bytes handed to the log in one call after which the plugin is stopped.
pub const PLUGIN_LOG_BYTES_MAX: usize = 16 << 20;
/// Longest log line kept, characters.
pub const PLUGIN_LOG_LINE_CHARS_MAX: usize = 1_000;
/// Largest options text, bytes.
pub const PLUGIN_OPTIONS_BYTES_MAX: usize = 1 << 20;
/// Text handed to a worker at a time, bytes; a longer line makes a longer block.
pub const DATA_BLOCK_TEXT_BYTES: usize = 1 << 20;
/// Bytes of a text file that several machines deal out as one part.
pub const DATA_RANGE_BYTES: u64 = 64 << 20;
/// Rows gathered for one row group of a converted file, bytes before compression.
pub const CONVERT_GROUP_BYTES: usize = 16 << 20;
/// Rows after which a conversion judges the share of rejected rows for the first time.
pub const CONVERT_REJECTS_FROM_ROWS: u64 = 1000;
/// Raw bytes of rows that a data reader gathers before it hands a batch over, however few they are.
pub const DATA_BATCH_BYTES: usize = 16 << 20;
/// Largest size of one decompressed `.gz` or `.zst` data file, bytes.
pub const DATA_DECOMPRESSED_BYTES_MAX: u64 = 1 << 40;
/// Decompressed bytes per compressed byte of a data file; real text stays below 30.
pub const DATA_RATIO_MAX: u64 = 200;
/// Decompressed bytes that are always allowed, whatever the ratio: a short file of blanks is no bomb.
pub const DATA_RATIO_FREE_BYTES: u64 = 16 << 20;
/// Most columns of a data file.
pub const DATA_COLUMNS_MAX: usize = 4096;
/// Largest Parquet row group or Arrow message, uncompressed bytes of the columns that are read.
pub const DATA_BLOCK_BYTES_MAX: u64 = 1 << 30;
/// Largest listing of a data set on the hub, bytes (100,000 files take about 10 MB).
pub const HUB_ANSWER_BYTES_MAX: u64 = 64 << 20;
/// Attempts at a request that fails for reasons that may pass.
pub const HUB_ATTEMPTS: u32 = 5;
/// Redirects that are followed.
pub const HUB_REDIRECTS_MAX: u32 = 8;
/// Longest wait that the hub may ask for, seconds.
pub const HUB_WAIT_SECONDS_MAX: u64 = 120;
/// Size of the sources, bytes, from which on their tokenized rows are kept for later runs.
pub const PREPROCESSED_FROM_BYTES: u64 = 64 << 20;
/// Deepest folder below one that is searched for data files.
pub const DATA_FOLDER_DEPTH_MAX: usize = 32;
