//! `config.json` from a GGUF file's metadata.

use serde_json::{Map, json};

use super::metadata::{Metadata, number};
use crate::model::{ModelError, families};

/// Families whose GGUF files this importer reads: those that differ from LLaMA in biases and norms alone.
const IMPORTED: [&str; 4] = ["llama", "mistral", "qwen2", "qwen3"];

/// An f32 as people write it: 0.00001 rather than 9.999999747378752e-6.
fn short(value: f64) -> f64 {
    (value as f32).to_string().parse().unwrap_or(value)
}

/// `config.json` from the metadata.
pub(super) fn configuration(
    m: &Metadata<'_>,
) -> Result<Map<String, serde_json::Value>, ModelError> {
    let found = families::find(m.architecture).filter(|f| IMPORTED.contains(&f.model_type));
    let family = found.ok_or_else(|| {
        let name = crate::error::excerpt(m.architecture);
        m.fault(format!(
            "architecture `{name}` is not supported; this version knows {}",
            IMPORTED.join(", ")
        ))
    })?;
    let hidden = m.count("embedding_length")?;
    let heads = m.count("attention.head_count")?;
    let head_dim = match m.own("attention.key_length").and_then(number) {
        Some(n) => n as u64,
        None => hidden.checked_div(heads).unwrap_or(0),
    };
    let tokens = m.get("tokenizer.ggml.tokens").and_then(|v| v.to_vec().ok()).map_or(0, Vec::len);
    let has = |name: &str| m.content.tensor_infos.contains_key(name);
    if m.own("rope.scaling.type").is_some_and(|v| v.to_string().is_ok_and(|t| t != "none"))
        || has("rope_freqs.weight")
    {
        return Err(m.fault("it rescales its rotary positions, which this importer does not read; use the model's Hugging Face folder"));
    }
    let raw = json!({
        "architectures": [family.architecture],
        "attention_bias": has("blk.0.attn_q.bias"),
        "attention_dropout": 0.0,
        "bos_token_id": m.id("tokenizer.ggml.bos_token_id"),
        "eos_token_id": m.id("tokenizer.ggml.eos_token_id"),
        "head_dim": head_dim,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "initializer_range": 0.02,
        "intermediate_size": m.count("feed_forward_length")?,
        "max_position_embeddings": m.count("context_length")?,
        "mlp_bias": false,
        "model_type": family.model_type,
        "num_attention_heads": heads,
        "num_hidden_layers": m.count("block_count")?,
        "num_key_value_heads": m.count("attention.head_count_kv").unwrap_or(heads),
        "pad_token_id": m.id("tokenizer.ggml.padding_token_id"),
        "rms_norm_eps": m.own("attention.layer_norm_rms_epsilon").and_then(number).map_or(1e-6, short),
        "rope_scaling": null,
        "rope_theta": m.own("rope.freq_base").and_then(number).map_or(10_000.0, short),
        "tie_word_embeddings": !has("output.weight"),
        "torch_dtype": "float32",
        "use_cache": true,
        "vocab_size": tokens,
    });
    match raw {
        serde_json::Value::Object(map) => Ok(map),
        _ => Ok(Map::new()),
    }
}
