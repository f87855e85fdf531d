//! What only pre-training needs: documents cut into blocks without losing a token, and models
//! that begin from scratch.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::config::{ConfigError, Packing, Pretraining, RunConfig};
use crate::error::Result;
use crate::fs::read_limited;
use crate::limits::MODEL_CONFIG_BYTES_MAX;
use crate::model::{HfConfig, ModelError};
use crate::text::{TextTokenizer, TokenizedExample};

/// Sequences of at most `block_size` tokens that hold every token of `documents` once, in order.
/// A block is named after the document its first token came from.
pub fn blocks(
    documents: Vec<TokenizedExample>,
    block_size: usize,
    packing: Packing,
) -> Vec<TokenizedExample> {
    if packing != Packing::Concat {
        return documents.into_iter().flat_map(|d| pieces(d, block_size)).collect();
    }
    let mut blocks: Vec<TokenizedExample> = Vec::new();
    for document in documents {
        let (mut from, length) = (0, document.input_ids.len());
        while from < length {
            let room = blocks.last().map_or(0, |b| block_size - b.input_ids.len());
            let to = length.min(from + if room == 0 { block_size } else { room });
            let piece = cut(&document, from, to);
            match blocks.last_mut() {
                Some(block) if room > 0 => append(block, piece),
                _ => blocks.push(piece),
            }
            from = to;
        }
    }
    blocks
}

/// A document in pieces of `block_size` tokens, the last one shorter.
fn pieces(document: TokenizedExample, block_size: usize) -> Vec<TokenizedExample> {
    let length = document.input_ids.len();
    if length <= block_size {
        return vec![document];
    }
    let starts = (0..length).step_by(block_size);
    starts.map(|from| cut(&document, from, length.min(from + block_size))).collect()
}

fn cut(document: &TokenizedExample, from: usize, to: usize) -> TokenizedExample {
    TokenizedExample {
        input_ids: document.input_ids[from..to].to_vec(),
        labels: document.labels[from..to].to_vec(),
        loss_weights: document.loss_weights.as_ref().map(|w| w[from..to].to_vec()),
        provenance: document.provenance.clone(),
    }
}

fn append(block: &mut TokenizedExample, piece: TokenizedExample) {
    if block.loss_weights.is_some() || piece.loss_weights.is_some() {
        let ones = |n: usize| vec![1.0; n];
        let own = block.loss_weights.get_or_insert_with(|| ones(block.input_ids.len()));
        own.extend(piece.loss_weights.unwrap_or_else(|| ones(piece.input_ids.len())));
    }
    block.input_ids.extend(piece.input_ids);
    block.labels.extend(piece.labels);
}

/// Configuration and tokenizer of a model from scratch: `config_name` where given, sizes on top,
/// the tokenizer's special tokens, and its vocabulary where the file names no size.
///
/// # Errors
/// A tokenizer or configuration that can't be used; every fault of the configuration at once.
pub fn fresh(config: &RunConfig, scratch: &Pretraining) -> Result<(HfConfig, TextTokenizer)> {
    let dir = config.tokenizer_name_or_path.as_deref().unwrap_or(Path::new(""));
    let tokenizer = TextTokenizer::load(dir, [None; 3])?;
    let (raw, path) = match &scratch.config_name {
        Some(path) => {
            let path = if path.is_dir() { path.join("config.json") } else { path.clone() };
            (read_object(&path)?, path)
        }
        None => (sized(&scratch.sizes, config.model_max_length)?, "--hidden_size".into()),
    };
    let raw = complete(raw, scratch, &tokenizer);
    let model = HfConfig::parse(raw).map_err(|faults| ModelError::Config { path, faults })?;
    tokenizer.check_fits(model.spec.vocab_size)?;
    Ok((model, tokenizer))
}

fn read_object(path: &Path) -> Result<Map<String, Value>> {
    if !path.is_file() {
        let dir = path.parent().unwrap_or(path).to_path_buf();
        return Err(ModelError::NotAModel { path: dir, missing: "config.json" }.into());
    }
    let bytes = read_limited(path, MODEL_CONFIG_BYTES_MAX)?;
    serde_json::from_slice(&bytes).map_err(|e| {
        let faults = vec![format!("it is not a JSON object ({e}); download it again")];
        ModelError::Config { path: path.into(), faults }.into()
    })
}

/// A LLaMA of the sizes given by flags; what is left out follows from the others.
fn sized(sizes: &BTreeMap<String, Value>, block_size: usize) -> Result<Map<String, Value>> {
    let size = |name: &str| sizes.get(name).and_then(Value::as_u64);
    let needed = ["hidden_size", "num_hidden_layers", "num_attention_heads"];
    let missing: Vec<String> = needed
        .iter()
        .filter(|name| size(name).is_none())
        .map(|name| {
            format!("`--{name}` is missing: a model from scratch needs it, or `--config_name`")
        })
        .collect();
    if !missing.is_empty() {
        return Err(ConfigError::Faults(missing).into());
    }
    let hidden = size("hidden_size").unwrap_or(1);
    // The gated MLP has three matrices where a plain one has two of four times the width; a
    // multiple of 32 keeps products even.
    let intermediate = (hidden * 8).div_ceil(3).next_multiple_of(32);
    let value = json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": false,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "intermediate_size": intermediate,
        "max_position_embeddings": block_size,
        "mlp_bias": false,
        "num_key_value_heads": size("num_attention_heads"),
        "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0,
        "tie_word_embeddings": true,
        "torch_dtype": "float32",
    });
    Ok(match value {
        Value::Object(raw) => raw,
        _ => Map::new(),
    })
}

fn complete(
    mut raw: Map<String, Value>,
    scratch: &Pretraining,
    tokenizer: &TextTokenizer,
) -> Map<String, Value> {
    for (name, value) in &scratch.sizes {
        raw.insert(name.clone(), value.clone());
    }
    let id = |token: Option<(&str, u32)>| token.map(|(_, id)| id);
    let eos = id(tokenizer.eos());
    raw.entry("vocab_size").or_insert_with(|| json!(tokenizer.largest_id() + 1));
    // A configuration made for another tokenizer has ids that mean something else here.
    for (name, value) in
        [("bos_token_id", id(tokenizer.bos())), ("eos_token_id", eos), ("pad_token_id", eos)]
    {
        raw.insert(name.into(), json!(value));
    }
    raw
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::data::Provenance;
    use crate::text::IGNORE_INDEX;

    fn documents(lengths: &[usize]) -> Vec<TokenizedExample> {
        let mut next = 0;
        lengths
            .iter()
            .enumerate()
            .map(|(row, &n)| {
                let input_ids: Vec<u32> = (next..next + n as u32).collect();
                next += n as u32;
                TokenizedExample {
                    labels: input_ids.iter().map(|&id| id as i32).collect(),
                    loss_weights: (row % 3 == 2).then(|| vec![0.5; n]),
                    input_ids,
                    provenance: Provenance { file: "x".into(), row: row as u64 + 1 },
                }
            })
            .collect()
    }

    proptest! {
        #[test]
        fn every_token_is_in_exactly_one_block(
            lengths in prop::collection::vec(1usize..40, 0..20),
            block_size in 2usize..17,
        ) {
            for packing in [Packing::Concat, Packing::Documents, Packing::None] {
                let whole = documents(&lengths);
                let total: u32 = lengths.iter().sum::<usize>() as u32;
                let cut = blocks(whole.clone(), block_size, packing);
                let ids: Vec<u32> = cut.iter().flat_map(|b| b.input_ids.clone()).collect();
                prop_assert_eq!(ids, (0..total).collect::<Vec<_>>());
                let weight = |e: &TokenizedExample| -> f64 {
                    let ones = vec![1.0; e.input_ids.len()];
                    let w = e.loss_weights.as_ref().unwrap_or(&ones);
                    w.iter().map(|w| f64::from(*w)).sum()
                };
                let (a, b): (f64, f64) = (whole.iter().map(weight).sum(), cut.iter().map(weight).sum());
                prop_assert!((a - b).abs() < 1e-9);
                for block in &cut {
                    let n = block.input_ids.len();
                    prop_assert!(n <= block_size && n == block.labels.len() && n > 0);
                    prop_assert!(!block.labels.contains(&IGNORE_INDEX));
                }
                if packing == Packing::Concat {
                    let short = cut.iter().filter(|b| b.input_ids.len() < block_size).count();
                    prop_assert!(short <= 1);
                }
            }
        }
    }
}
