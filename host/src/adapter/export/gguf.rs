//! LoRA adapters as llama.cpp reads them: A and B by the base's tensor, one alpha for all.

use std::path::Path;

use super::{only_pairs, placed};
use crate::adapter::peft::PeftAdapter;
use crate::model::ModelError;
use crate::model::export::gguf_file::{self, Entry, Metadata, Storage, Value};
use crate::model::export::gguf_model::{architecture, permuted};
use crate::model::gguf::gguf_name;
use crate::model::{DecoderSpec, slots::Slot};

/// Writes `adapter`, of a base `spec` called `base`, to the file `output`. llama.cpp scales by
/// `alpha / rank`: where that is not a pair's scale (rsLoRA, patterns), the rest goes into B.
///
/// # Errors
/// An adapter that the format can't hold or that belongs to another base; a full disk.
pub fn export(
    adapter: &PeftAdapter,
    spec: &DecoderSpec,
    base: &str,
    output: &Path,
) -> Result<usize, ModelError> {
    only_pairs(adapter, "GGUF")?;
    if !adapter.magnitudes.is_empty() {
        return Err(adapter.fault(
            "GGUF adapters hold no magnitudes (DoRA); merge it (`trainer merge`) and export the model",
        ));
    }
    let arch = architecture(spec).map_err(|reason| adapter.fault(reason))?;
    let pairs = placed(spec, adapter)?;
    let alpha = pairs.first().map_or(1.0, |p| p.scale * p.a.dims()[0] as f64);
    let metadata: Metadata = vec![
        ("general.type".into(), "adapter".into()),
        ("general.architecture".into(), arch.into()),
        ("general.base_model.count".into(), Value::U32(1)),
        ("general.base_model.0.name".into(), base.into()),
        ("adapter.type".into(), "lora".into()),
        ("adapter.lora.alpha".into(), Value::F32(alpha as f32)),
    ];
    let mut entries = Vec::new();
    for pair in &pairs {
        let name = gguf_name(Slot::Weight(pair.layer, pair.projection));
        let factor = pair.scale * pair.a.dims()[0] as f64 / alpha;
        let mut b = permuted(spec, pair.projection, pair.b.clone())?;
        if factor != 1.0 {
            b = (b * factor)?;
        }
        for (suffix, tensor) in [("lora_a", pair.a.clone()), ("lora_b", b)] {
            entries.push(Entry {
                name: format!("{name}.{suffix}"),
                shape: tensor.dims().to_vec(),
                storage: Storage::F32,
                tensor: Box::new(move || Ok(tensor)),
            });
        }
    }
    gguf_file::write(output, &metadata, entries)?;
    Ok(pairs.len())
}
