//! How the weights of a base are kept in memory, and how much they take.

use std::collections::BTreeMap;

use candle_core::DType;

use super::bitsandbytes;
use super::memory::num_parameters;
use super::reader::WeightFiles;
use super::slots::Slot;
use super::spec::DecoderSpec;
use crate::config::Precision;
use crate::ops::quant::Scheme;

/// How the matrices of a base are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Storage {
    /// Type of the embedding, the head, and of linear layers without a scheme: f32 or bf16.
    pub dtype: DType,
    /// What linear layers are made narrower by.
    pub scheme: Option<Scheme>,
    /// Whether linear layers that the files hold narrower stay so.
    pub keep_narrow: bool,
}

impl Storage {
    /// Every matrix as `dtype`, also those that the files hold narrower.
    pub fn whole(dtype: DType) -> Self {
        Self { dtype, scheme: None, keep_narrow: false }
    }

    /// What the decoder's weights will take.
    pub fn footprint(self, files: &WeightFiles, spec: &DecoderSpec) -> Footprint {
        let mut bytes = 0;
        let mut kinds = BTreeMap::<String, usize>::new();
        for slot in Slot::all(spec) {
            let values: usize = slot.shape(spec).iter().product();
            if !slot.is_linear() {
                bytes += values * if slot.is_matrix() { self.dtype.size_in_bytes() } else { 4 };
                continue;
            }
            let name = slot.name_in(spec, files);
            let stored = match self.keep_narrow {
                true => stored_narrow(files, &name),
                false => None,
            };
            let shape = slot.shape(spec);
            let scheme = self.scheme.map(|s| (s.bytes(shape[0], shape[1]), s.name().to_string()));
            match stored.or(scheme) {
                None => bytes += values * self.dtype.size_in_bytes(),
                Some((size, kind)) => {
                    bytes += size;
                    *kinds.entry(kind).or_default() += 1;
                }
            }
        }
        Footprint { bytes, narrow: !kinds.is_empty(), name: self.name(&kinds) }
    }

    /// What fresh weights of `spec` take.
    pub fn fresh(self, spec: &DecoderSpec) -> Footprint {
        let bytes = num_parameters(spec) * self.dtype.size_in_bytes();
        Footprint { bytes, narrow: false, name: self.name(&BTreeMap::new()) }
    }

    fn name(self, kinds: &BTreeMap<String, usize>) -> String {
        let dtype = if self.dtype == DType::BF16 { "bfloat16" } else { "float32" };
        match kinds.is_empty() {
            true => dtype.into(),
            false => {
                let kinds: Vec<&str> = kinds.keys().map(String::as_str).collect();
                format!("{}, the rest {dtype}", kinds.join(" and "))
            }
        }
    }
}

fn stored_narrow(files: &WeightFiles, name: &str) -> Option<(usize, String)> {
    if let Some((bytes, scheme)) = bitsandbytes::stored(files, name) {
        return Some((bytes, scheme.name().into()));
    }
    files.blocks(name).map(|blocks| (files.stored_bytes(name), format!("{blocks:?}")))
}

impl From<DType> for Storage {
    fn from(dtype: DType) -> Self {
        Self { dtype, scheme: None, keep_narrow: true }
    }
}

impl From<Precision> for Storage {
    fn from(precision: Precision) -> Self {
        let scheme = match precision {
            Precision { load_in_4bit: true, .. } => Some(Scheme::Nf4),
            Precision { load_in_8bit: true, .. } => Some(Scheme::Int8),
            _ => None,
        };
        let dtype = if precision.bfloat16 { DType::BF16 } else { DType::F32 };
        Self { dtype, scheme, keep_narrow: true }
    }
}

/// What weights take in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Bytes.
    pub bytes: usize,
    /// Whether linear layers are in 8 bits or fewer.
    pub narrow: bool,
    /// Types, for the first screen.
    pub name: String,
}
