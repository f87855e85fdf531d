//! What one call of a plugin may use.

use std::time::Duration;

use crate::limits as ceilings;

/// Limits of a plugin. The defaults are the constants of [`crate::limits`].
#[derive(Clone, Debug, PartialEq)]
pub struct PluginLimits {
    /// Linear memory of one instance, bytes.
    pub memory_bytes: usize,
    /// Fuel of a call, whatever its input.
    pub fuel_base: u64,
    /// Fuel more per row.
    pub fuel_per_row: u64,
    /// Fuel more per byte of input.
    pub fuel_per_input_byte: u64,
    /// Wall-clock time of a call; rounded up to tenths of a second.
    pub deadline: Duration,
    /// Bytes a call may return.
    pub output_bytes: usize,
    /// Size of the file, bytes.
    pub file_bytes: u64,
}

impl Default for PluginLimits {
    fn default() -> Self {
        Self {
            memory_bytes: ceilings::PLUGIN_MEMORY_BYTES_MAX,
            fuel_base: ceilings::PLUGIN_FUEL_BASE,
            fuel_per_row: ceilings::PLUGIN_FUEL_PER_ROW,
            fuel_per_input_byte: ceilings::PLUGIN_FUEL_PER_INPUT_BYTE,
            deadline: Duration::from_millis(ceilings::PLUGIN_DEADLINE_MS),
            output_bytes: ceilings::PLUGIN_OUTPUT_BYTES_MAX,
            file_bytes: ceilings::PLUGIN_FILE_BYTES_MAX,
        }
    }
}

impl PluginLimits {
    /// Fuel of a call over `rows` rows of `input_bytes` in all.
    pub(super) fn fuel(&self, rows: usize, input_bytes: usize) -> u64 {
        self.fuel_base
            .saturating_add(self.fuel_per_row.saturating_mul(rows as u64))
            .saturating_add(self.fuel_per_input_byte.saturating_mul(input_bytes as u64))
    }

    /// Bytes a call over `input_bytes` may return.
    pub(super) fn output(&self, input_bytes: usize) -> usize {
        input_bytes
            .saturating_mul(16)
            .saturating_add(ceilings::PLUGIN_OUTPUT_BYTES_BASE)
            .min(self.output_bytes)
    }
}
