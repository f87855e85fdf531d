//! How and where frozen weights are kept.

use serde::Serialize;

use super::values::Values;
use crate::device::DeviceChoice;

/// Types and widths of frozen weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize)]
pub struct Precision {
    /// Matrices in bfloat16 instead of float32.
    pub bfloat16: bool,
    /// Linear layers in 8 bits, one scale a row.
    pub load_in_8bit: bool,
    /// Linear layers in 4-bit NormalFloat.
    pub load_in_4bit: bool,
    /// Where everything is computed.
    pub device: DeviceChoice,
}

impl Precision {
    /// From `torch_dtype`, `load_in_8bit`, `load_in_4bit` and `device`; faults go into the values.
    pub fn resolve(v: &mut Values) -> Self {
        let precision = Self {
            bfloat16: v.choice("torch_dtype") == "bfloat16",
            load_in_8bit: v.bool("load_in_8bit"),
            load_in_4bit: v.bool("load_in_4bit"),
            device: v.text("device").unwrap_or_default().parse().unwrap_or_else(|fault| {
                v.faults.push(format!("`--device`: {fault}"));
                DeviceChoice::Cpu
            }),
        };
        if precision.load_in_8bit && precision.load_in_4bit {
            v.faults.push("`--load_in_8bit` and `--load_in_4bit` exclude each other".into());
        }
        precision
    }

    /// Whether linear layers are narrower than their type.
    pub fn is_narrow(&self) -> bool {
        self.load_in_8bit || self.load_in_4bit
    }
}
