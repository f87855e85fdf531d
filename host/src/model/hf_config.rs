//! Hugging Face's `config.json`, both generations of keys (`torch_dtype`/`dtype`,
//! `rope_theta` + `rope_scaling` / `rope_parameters`). Unknown keys are kept for saving.

use std::path::Path;

use candle_core::DType;
use serde_json::{Map, Value};

use super::ModelError;
use super::families;
use super::fields::Fields;
use super::gguf::{self, GgufFile};
use super::spec::{DecoderSpec, Position};
use crate::{fs, limits};

/// A model folder's configuration.
#[derive(Clone, Debug)]
pub struct HfConfig {
    /// The file as it stands.
    pub raw: Map<String, Value>,
    /// What the decoder needs of it.
    pub spec: DecoderSpec,
    /// Type in which the weights are stored, if the file says.
    pub dtype: Option<DType>,
    /// First token, if any.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a text.
    pub eos_token_ids: Vec<u32>,
    /// Padding token, if any.
    pub pad_token_id: Option<u32>,
    /// What the user should know: ignored keys and the like.
    pub notices: Vec<String>,
}

/// How Hugging Face names models with a head of scores.
const CLASSIFIER: &str = "ForSequenceClassification";

impl HfConfig {
    /// Reads `config.json` of a language model's folder.
    ///
    /// # Errors
    /// [`ModelError::NotAModel`] without the file; [`ModelError::Config`] naming every fault, also
    /// for a reward model.
    pub fn read(dir: &Path) -> Result<Self, ModelError> {
        let config = Self::read_any(dir)?;
        if config.is_reward_model() {
            let fault = "it describes a reward model, which has no head for text; give a language \
                         model (reward models go to `trainer rm`, `score` and `--reward_model_name_or_path`)";
            let path = dir.join("config.json");
            return Err(ModelError::Config { path, faults: vec![fault.into()] });
        }
        Ok(config)
    }

    /// Reads `config.json` of a language or reward model's folder, or the metadata of a GGUF file.
    ///
    /// # Errors
    /// As [`HfConfig::read`].
    pub fn read_any(dir: &Path) -> Result<Self, ModelError> {
        if gguf::is_file(dir) {
            return Ok(GgufFile::open(dir)?.config);
        }
        let path = dir.join("config.json");
        if !path.is_file() {
            return Err(ModelError::NotAModel { path: dir.into(), missing: "config.json" });
        }
        let bytes = fs::read_limited(&path, limits::MODEL_CONFIG_BYTES_MAX)?;
        let fault = |f: String| ModelError::Config { path: path.clone(), faults: vec![f] };
        let value: Value = serde_json::from_slice(&bytes)
            .map_err(|e| fault(format!("it is not JSON ({e}); download it again")))?;
        let Value::Object(raw) = value else {
            return Err(fault("it is not a JSON object; download it again".into()));
        };
        Self::parse(raw).map_err(|faults| ModelError::Config { path, faults })
    }

    /// The configuration in `raw`.
    ///
    /// # Errors
    /// Every fault.
    pub fn parse(raw: Map<String, Value>) -> Result<Self, Vec<String>> {
        let mut fields = Fields::new(&raw);
        let model_type = raw.get("model_type").and_then(Value::as_str).unwrap_or("");
        let Some(family) = families::find(model_type) else {
            return Err(vec![format!(
                "model_type `{}` is not supported; this version trains {}",
                crate::error::excerpt(model_type),
                families::names()
            )]);
        };
        let spec = (family.spec)(&mut fields);
        fields.check(&spec);
        let dtype = ["dtype", "torch_dtype"]
            .iter()
            .find_map(|key| raw.get(*key).and_then(Value::as_str))
            .and_then(|name| match name {
                "float32" => Some(DType::F32),
                "bfloat16" => Some(DType::BF16),
                "float16" => Some(DType::F16),
                _ => None,
            });
        let id = |v: &Value| v.as_u64().and_then(|v| u32::try_from(v).ok());
        let eos_token_ids = match raw.get("eos_token_id") {
            Some(Value::Array(ids)) => ids.iter().filter_map(id).collect(),
            Some(value) => id(value).into_iter().collect(),
            None => Vec::new(),
        };
        let mut notices = fields.notices.clone();
        if raw.contains_key("auto_map") {
            notices.push("config.json names code of its own (auto_map); it is not run".into());
        }
        let (bos, pad) =
            (raw.get("bos_token_id").and_then(id), raw.get("pad_token_id").and_then(id));
        if fields.faults.is_empty() {
            Ok(Self {
                spec,
                dtype,
                bos_token_id: bos,
                eos_token_ids,
                pad_token_id: pad,
                notices,
                raw,
            })
        } else {
            Err(fields.faults)
        }
    }

    /// Gives the embedding and the head at least `rows` rows: more than the files have, for added tokens.
    pub fn grow(&mut self, rows: usize) {
        let more = rows.saturating_sub(self.spec.vocab_size);
        self.spec.vocab_size += more;
        self.spec.added_rows += more;
    }

    /// Whether the model has a head with scores in place of the one with words (Hugging Face's
    /// `…ForSequenceClassification`).
    pub fn is_reward_model(&self) -> bool {
        self.architecture().is_some_and(|name| name.ends_with(CLASSIFIER))
    }

    fn architecture(&self) -> Option<&str> {
        self.raw.get("architectures")?.as_array()?.first()?.as_str()
    }

    /// The configuration of this model as a reward model: a head with one output.
    pub fn as_reward_model(&self) -> Self {
        let mut out = self.clone();
        let name = self.architecture().unwrap_or("LlamaForCausalLM").to_string();
        let generators = ["ForCausalLM", "LMHeadModel", "ForConditionalGeneration"];
        let name = match generators.iter().find_map(|end| name.strip_suffix(end)) {
            Some(stem) => format!("{stem}{CLASSIFIER}"),
            None => name,
        };
        out.raw.insert("architectures".into(), serde_json::json!([name]));
        out.raw.insert("id2label".into(), serde_json::json!({"0": "LABEL_0"}));
        out.raw.insert("label2id".into(), serde_json::json!({"LABEL_0": 0}));
        // Transformers finds the last token of each row of a batch by the padding.
        if out.pad_token_id.is_none() {
            out.pad_token_id = self.eos_token_ids.first().copied();
        }
        out.raw.insert("pad_token_id".into(), serde_json::json!(out.pad_token_id));
        out.spec = self.spec.body();
        out
    }

    /// A complete LLaMA configuration of a model made from scratch.
    pub fn fresh(spec: DecoderSpec, bos: Option<u32>, eos: u32, pad: u32) -> Self {
        let theta = match &spec.position {
            Position::Rope(rope) => rope.theta,
            _ => 10_000.0,
        };
        let raw = serde_json::json!({
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": false,
            "attention_dropout": 0.0,
            "bos_token_id": bos,
            "eos_token_id": eos,
            "head_dim": spec.head_dim,
            "hidden_act": "silu",
            "hidden_size": spec.hidden_size,
            "initializer_range": spec.initializer_range,
            "intermediate_size": spec.intermediate_size,
            "max_position_embeddings": spec.max_position_embeddings,
            "mlp_bias": false,
            "model_type": "llama",
            "num_attention_heads": spec.num_heads,
            "num_hidden_layers": spec.num_layers,
            "num_key_value_heads": spec.num_kv_heads,
            "pad_token_id": pad,
            "pretraining_tp": 1,
            "rms_norm_eps": spec.norm_eps,
            "rope_scaling": null,
            "rope_theta": theta,
            "tie_word_embeddings": spec.tie_word_embeddings,
            "torch_dtype": "float32",
            "use_cache": true,
            "vocab_size": spec.vocab_size,
        });
        let raw = match raw {
            Value::Object(raw) => raw,
            _ => Map::new(),
        };
        Self {
            raw,
            spec,
            dtype: Some(DType::F32),
            bos_token_id: bos,
            eos_token_ids: vec![eos],
            pad_token_id: Some(pad),
            notices: Vec::new(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::model::spec::RopeScaling;

    fn llama() -> Map<String, Value> {
        serde_json::json!({
            "model_type": "llama", "hidden_size": 64, "intermediate_size": 172,
            "num_hidden_layers": 5, "num_attention_heads": 8, "num_key_value_heads": 4,
            "vocab_size": 512, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "torch_dtype": "bfloat16",
            "eos_token_id": [2, 7],
        })
        .as_object()
        .unwrap()
        .clone()
    }

    fn faults(change: impl Fn(&mut Map<String, Value>)) -> String {
        let mut raw = llama();
        change(&mut raw);
        HfConfig::parse(raw).unwrap_err().join("; ")
    }

    #[test]
    fn both_generations_of_keys_are_read() {
        let old = HfConfig::parse(llama()).unwrap();
        assert_eq!((old.spec.head_dim, old.dtype), (8, Some(DType::BF16)));
        assert_eq!(old.eos_token_ids, [2, 7]);
        let mut raw = llama();
        raw.remove("rope_theta");
        raw.remove("torch_dtype");
        raw.insert("dtype".into(), "bfloat16".into());
        let rope = serde_json::json!({"rope_theta": 5e5, "rope_type": "llama3", "factor": 8.0,
            "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192});
        raw.insert("rope_parameters".into(), rope);
        let new = HfConfig::parse(raw).unwrap();
        let rope = new.spec.rope(0).unwrap();
        assert_eq!(rope.theta, 5e5);
        assert!(matches!(rope.scaling, RopeScaling::Llama3 { factor: 8.0, .. }));
        assert_eq!(new.dtype, Some(DType::BF16));
    }

    #[test]
    fn every_fault_is_named_at_once() {
        let text = faults(|c| {
            c.remove("hidden_size");
            c.insert("num_hidden_layers".into(), "five".into());
            c.insert("tie_word_embeddings".into(), 3.into());
        });
        for part in ["`hidden_size` is missing", "`num_hidden_layers` is \"five\"", "true or false"]
        {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn impossible_values_are_refused() {
        for (key, value) in [
            ("hidden_size", serde_json::json!(0)),
            ("hidden_size", serde_json::json!(-4)),
            ("hidden_size", serde_json::json!(1e18)),
            ("hidden_size", serde_json::json!(65)),
            ("num_key_value_heads", serde_json::json!(3)),
            ("num_hidden_layers", serde_json::json!(1_000_000_000)),
            ("rms_norm_eps", serde_json::json!("x")),
            ("hidden_act", serde_json::json!("quick_gelu")),
            ("head_dim", serde_json::json!(7)),
            ("rope_scaling", serde_json::json!({"type": "spiral", "factor": 2.0})),
            ("rope_scaling", serde_json::json!({"type": "yarn"})),
            ("rope_scaling", serde_json::json!({"type": "longrope", "short_factor": [1.0]})),
            ("rope_scaling", serde_json::json!({"type": "linear"})),
        ] {
            assert!(!faults(|c| drop(c.insert(key.into(), value.clone()))).is_empty(), "{key}");
        }
        let unknown = faults(|c| drop(c.insert("model_type".into(), "mamba".into())));
        assert!(unknown.contains("bloom") && unknown.contains("llama"), "{unknown}");
    }
}
