//! PEFT's LoRA folders: `adapter_config.json` and `adapter_model.safetensors` (or `.bin`, read
//! without executing anything). Written are the keys that every PEFT since early 2024 knows.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Tensor};
use regex::Regex;
use serde_json::{Map, Value, json};

use crate::model::save::{Entry, write_json, write_safetensors};
use crate::model::slots::Slot;
use crate::model::{DecoderSpec, ModelError, ParamSet, reader};
use crate::{fs, limits};

/// Layers to adapt.
#[derive(Clone, Debug, PartialEq)]
pub enum TargetModules {
    /// Every linear layer but the head.
    All,
    /// Layers whose path is, or ends with a dot and, one of these.
    List(Vec<String>),
    /// Layers whose whole path this expression matches.
    Regex(String),
}

impl TargetModules {
    /// `all` (or `all-linear`); names separated by commas or spaces; anything else with characters
    /// that names don't have is a regular expression.
    pub fn parse(text: &str) -> Self {
        let names: Vec<String> =
            text.split([',', ' ']).filter(|n| !n.is_empty()).map(str::to_string).collect();
        let plain = |n: &String| n.chars().all(|c| c.is_ascii_alphanumeric() || "_.".contains(c));
        if names.iter().any(|n| n == "all" || n == "all-linear") {
            TargetModules::All
        } else if names.iter().all(plain) {
            TargetModules::List(names)
        } else {
            TargetModules::Regex(text.trim().to_string())
        }
    }
}

impl std::fmt::Display for TargetModules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            TargetModules::All => f.write_str("all"),
            TargetModules::List(names) => f.write_str(&names.join(",")),
            TargetModules::Regex(r) => f.write_str(r),
        }
    }
}

/// How fresh pairs begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Initialization {
    /// A random, B zero: the model is unchanged.
    #[default]
    Random,
    /// The largest singular values of the frozen matrix, which keeps the rest (PiSSA: Meng et al. 2024,
    /// arXiv 2404.02948).
    Pissa,
}

/// What the adapted model is for (PEFT's `task_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskType {
    /// Language modelling.
    CausalLm,
    /// Scores: the head is trained beside the LoRA pairs and saved with them.
    SeqCls,
}

/// Modules that PEFT trains whole, beside the pairs, for [`TaskType::SeqCls`].
pub const SCORE_MODULES: [&str; 2] = ["classifier", "score"];

/// What stands before every name of a base's module in an adapter.
pub const PREFIX: &str = "base_model.model.";

/// Key of a reward model's head in an adapter.
pub const SCORE_KEY: &str = "base_model.model.score.weight";

/// A LoRA configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraConfig {
    /// What the adapted model is for.
    pub task_type: TaskType,
    /// Rank.
    pub r: usize,
    /// Numerator of the scale.
    pub lora_alpha: f64,
    /// Probability of dropping an input element in training.
    pub lora_dropout: f64,
    /// Layers.
    pub target_modules: TargetModules,
    /// Ranks of layers whose path matches an expression.
    pub rank_pattern: BTreeMap<String, usize>,
    /// The same for alpha.
    pub alpha_pattern: BTreeMap<String, f64>,
    /// Modules trained whole, beside the head of a reward model.
    pub modules_to_save: Vec<String>,
    /// Rows of tables that are trained alone, by the table's module; an empty name: the embedding, and
    /// with it a head that is the same.
    pub trainable_token_indices: BTreeMap<String, Vec<u32>>,
    /// Blocks that carry pairs; `None`: all.
    pub layers_to_transform: Option<Vec<usize>>,
    /// Magnitudes beside the pairs (DoRA).
    pub use_dora: bool,
    /// How fresh pairs begin; folders hold no trace of it.
    pub initialization: Initialization,
    /// Scale by `alpha / sqrt(r)` (Kalajdzievski 2023, arXiv 2312.03732).
    pub use_rslora: bool,
    /// Matrices of the base are stored `[in, out]` (GPT-2).
    pub fan_in_fan_out: bool,
    /// The base, as the adapter names it.
    pub base_model_name_or_path: String,
}

impl Default for LoraConfig {
    /// PEFT's defaults, on every linear layer.
    fn default() -> Self {
        Self {
            task_type: TaskType::CausalLm,
            r: 8,
            lora_alpha: 8.0,
            lora_dropout: 0.0,
            target_modules: TargetModules::All,
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
            modules_to_save: Vec::new(),
            trainable_token_indices: BTreeMap::new(),
            layers_to_transform: None,
            use_dora: false,
            initialization: Initialization::Random,
            use_rslora: false,
            fan_in_fan_out: false,
            base_model_name_or_path: String::new(),
        }
    }
}

/// Whether a pattern of ranks or alphas means a module: PEFT matches it at the end of the path, after
/// a dot.
pub fn pattern_matches(pattern: &str, module: &str) -> bool {
    Regex::new(&format!(r"^(?:.*\.)?(?:{pattern})$")).is_ok_and(|r| r.is_match(module))
}

impl LoraConfig {
    /// The rows of a table that are trained alone.
    pub fn token_ids(&self, module: &str) -> &[u32] {
        let tables = &self.trainable_token_indices;
        let named = |name: &&String| module == *name || module.ends_with(&format!(".{name}"));
        let name = tables.keys().filter(|n| !n.is_empty()).find(named);
        name.and_then(|n| tables.get(n)).or_else(|| tables.get("")).map_or(&[], Vec::as_slice)
    }

    /// Rank and scale of one module, patterns considered.
    pub fn rank_and_scale(&self, module: &str) -> (usize, f64) {
        let applies = |pattern: &str| pattern_matches(pattern, module);
        let rank = self.rank_pattern.iter().find(|(p, _)| applies(p)).map_or(self.r, |(_, &r)| r);
        let alpha = self
            .alpha_pattern
            .iter()
            .find(|(p, _)| applies(p))
            .map_or(self.lora_alpha, |(_, &a)| a);
        let divisor = if self.use_rslora { (rank as f64).sqrt() } else { rank as f64 };
        (rank, alpha / divisor)
    }
}

/// An adapter read from a folder.
#[derive(Clone, Debug)]
pub struct PeftAdapter {
    /// Its folder.
    pub path: PathBuf,
    /// Its configuration.
    pub config: LoraConfig,
    /// A `[r, in]` and B `[out, r]` by module path (`model.layers.0.self_attn.q_proj`).
    pub tensors: BTreeMap<String, (Tensor, Tensor)>,
    /// Magnitudes `[out]` by module path.
    pub magnitudes: BTreeMap<String, Tensor>,
    /// Rows trained alone, `[ids, hidden]`, by the path of their table's module.
    pub token_rows: BTreeMap<String, Tensor>,
    /// Tensors of modules trained whole, by their names in the base.
    pub modules: BTreeMap<String, Tensor>,
    /// A reward model's head, `[1, hidden]`.
    pub score: Option<Tensor>,
}

impl PeftAdapter {
    /// Whether it has tokens of its own, and so its own tokenizer. `spec` is of the base as its files are.
    pub fn brings_tokens(&self, spec: &DecoderSpec) -> bool {
        let own = !self.token_rows.is_empty() || self.rows_needed(spec) > spec.vocab_size;
        own && self.path.join("tokenizer.json").is_file()
    }

    /// How many rows the embedding of its base must have: its trained tokens, or a table that it holds
    /// whole, may lie beyond the base's.
    pub fn rows_needed(&self, spec: &DecoderSpec) -> usize {
        let ids = self.config.trainable_token_indices.values().flatten();
        let of_ids = ids.map(|&id| id as usize + 1).max().unwrap_or(0);
        let tables = [Slot::Embed, Slot::LmHead].map(|slot| slot.name(spec));
        let of_tables = tables.iter().filter_map(|name| self.modules.get(name)?.dims().first());
        of_tables.copied().fold(of_ids, usize::max)
    }

    /// An error that names the folder.
    pub fn fault(&self, reason: impl Into<String>) -> ModelError {
        ModelError::Adapter { path: self.path.clone(), reason: reason.into() }
    }
}

/// Keys whose feature changes the result and is not supported, with the values that mean "off".
const UNSUPPORTED: [&str; 18] = [
    "layer_replication",
    "lora_bias",
    "exclude_modules",
    "target_parameters",
    "use_qalora",
    "arrow_config",
    "alora_invocation_tokens",
    "use_bdlora",
    "velora_config",
    "kasa_config",
    "corda_config",
    "eva_config",
    "lora_ga_config",
    "monteclora_config",
    "ensure_weight_tying",
    "megatron_config",
    "loftq_config",
    "layers_pattern",
];

fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
        _ => false,
    }
}

/// Reads an adapter folder.
///
/// # Errors
/// [`ModelError::Adapter`] naming what is absent, damaged or not supported.
pub fn read(dir: &Path) -> Result<PeftAdapter, ModelError> {
    let fault = |reason: String| ModelError::Adapter { path: dir.into(), reason };
    let path = dir.join("adapter_config.json");
    if !path.is_file() {
        return Err(fault("it has no adapter_config.json; give a PEFT adapter folder".into()));
    }
    let bytes = fs::read_limited(&path, limits::MODEL_CONFIG_BYTES_MAX)?;
    let raw: Map<String, Value> = serde_json::from_slice(&bytes)
        .map_err(|e| fault(format!("adapter_config.json is not a JSON object ({e})")))?;
    let config = parse_config(&raw).map_err(|faults| fault(faults.join("; ")))?;
    let file = ["adapter_model.safetensors", "adapter_model.bin"]
        .iter()
        .map(|name| dir.join(name))
        .find(|p| p.is_file())
        .ok_or_else(|| fault("it has no adapter_model.safetensors; save it again".into()))?;
    let mut halves: BTreeMap<String, [Option<Tensor>; 2]> = BTreeMap::new();
    let (mut magnitudes, mut modules) = (BTreeMap::new(), BTreeMap::new());
    let mut token_rows = BTreeMap::new();
    let mut score = None;
    for (name, tensor) in reader::read_all(&file)? {
        if config.task_type == TaskType::SeqCls && name == SCORE_KEY {
            if tensor.dims().len() != 2 || tensor.dims()[0] != 1 {
                return Err(fault(format!(
                    "its score head has shape {:?}; a reward model has one output",
                    tensor.dims()
                )));
            }
            score = Some(tensor.to_dtype(DType::F32)?);
            continue;
        }
        if let Some(module) = config.use_dora.then(|| split_magnitude(&name)).flatten() {
            magnitudes.insert(module.to_string(), tensor.to_dtype(DType::F32)?);
            continue;
        }
        if let Some(module) = split_token_rows(&name) {
            token_rows.insert(module.to_string(), tensor.to_dtype(DType::F32)?);
            continue;
        }
        if let Some(name) = whole_module(&config, &name) {
            modules.insert(name, tensor);
            continue;
        }
        let (module, half) = split_key(&name).ok_or_else(|| {
            fault(format!(
                "tensor `{}` is neither a LoRA matrix of a linear layer nor of a saved module; only \
                 those are supported",
                crate::error::excerpt(&name)
            ))
        })?;
        halves.entry(module.to_string()).or_default()[half] = Some(tensor.to_dtype(DType::F32)?);
    }
    let mut tensors = BTreeMap::new();
    for (module, pair) in halves {
        match pair {
            [Some(a), Some(b)] => tensors.insert(module, (a, b)),
            _ => {
                return Err(fault(format!("`{module}` has only one of A and B; save it again")));
            }
        };
    }
    if config.task_type == TaskType::SeqCls && score.is_none() {
        return Err(fault(format!("it is of a reward model but has no `{SCORE_KEY}`")));
    }
    let path = dir.into();
    Ok(PeftAdapter { path, config, tensors, magnitudes, token_rows, modules, score })
}

/// Name of the rows of a table that are trained alone.
pub fn token_rows_key(module: &str) -> String {
    format!("{PREFIX}{module}.token_adapter.trainable_tokens_delta")
}

fn split_token_rows(name: &str) -> Option<&str> {
    let rest = name.strip_prefix(PREFIX)?;
    let rest = rest.strip_suffix(".default").unwrap_or(rest);
    rest.strip_suffix(".token_adapter.trainable_tokens_delta")
}

/// Name of a decomposed layer's magnitudes.
pub fn magnitude_key(module: &str) -> String {
    format!("{PREFIX}{module}.lora_magnitude_vector")
}

fn split_magnitude(name: &str) -> Option<&str> {
    let rest = name.strip_prefix(PREFIX)?;
    let rest = rest.strip_suffix(".weight").unwrap_or(rest);
    let rest = rest.strip_suffix(".default").unwrap_or(rest);
    rest.strip_suffix(".lora_magnitude_vector")
}

/// The base's name of a tensor that belongs to a module trained whole.
fn whole_module(config: &LoraConfig, name: &str) -> Option<String> {
    let name = name.strip_prefix(PREFIX)?.replace(".modules_to_save.default", "");
    let (module, _) = name.rsplit_once('.')?;
    let saved = |m: &String| module.ends_with(m.as_str());
    config.modules_to_save.iter().any(saved).then_some(name)
}

/// `base_model.model.MODULE.lora_A.weight` → `(MODULE, 0)`; B → 1.
fn split_key(name: &str) -> Option<(&str, usize)> {
    let rest = name.strip_prefix(PREFIX)?.strip_suffix(".weight")?;
    let rest = rest.strip_suffix(".default").unwrap_or(rest);
    rest.strip_suffix(".lora_A")
        .map(|m| (m, 0))
        .or_else(|| rest.strip_suffix(".lora_B").map(|m| (m, 1)))
}

/// The configuration in an `adapter_config.json`.
///
/// # Errors
/// Every fault.
pub fn parse_config(raw: &Map<String, Value>) -> Result<LoraConfig, Vec<String>> {
    let mut faults = Vec::new();
    let kind = raw.get("peft_type").and_then(Value::as_str).unwrap_or("");
    if kind != "LORA" {
        let kind = crate::error::excerpt(kind);
        faults.push(format!("peft_type is `{kind}`; only LORA adapters are supported"));
    }
    let task_type = match raw.get("task_type").and_then(Value::as_str) {
        Some("SEQ_CLS") => TaskType::SeqCls,
        _ => TaskType::CausalLm,
    };
    for key in UNSUPPORTED {
        if raw.get(key).is_some_and(|v| !is_off(v)) {
            faults.push(format!("`{key}` is set, which this version does not support; merge the adapter with PEFT first"));
        }
    }
    // PEFT lists the head's possible names there for reward models.
    let modules_to_save = raw
        .get("modules_to_save")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .filter(|name| task_type != TaskType::SeqCls || !SCORE_MODULES.contains(name))
        .map(str::to_string)
        .collect();
    let ids = |list: &Value| -> Option<Vec<u32>> {
        let id = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
        list.as_array()?.iter().map(id).collect()
    };
    let trainable_token_indices = match raw.get("trainable_token_indices") {
        None | Some(Value::Null) => Some(BTreeMap::new()),
        Some(Value::Object(tables)) => {
            tables.iter().map(|(name, list)| Some((name.clone(), ids(list)?))).collect()
        }
        Some(list) => ids(list).map(|ids| BTreeMap::from([(String::new(), ids)])),
    };
    if trainable_token_indices.is_none() {
        faults.push("`trainable_token_indices` holds something else than token ids".into());
    }
    let layers_to_transform = match raw.get("layers_to_transform") {
        Some(Value::Number(n)) => n.as_u64().map(|n| vec![n as usize]),
        Some(Value::Array(list)) if !list.is_empty() => {
            Some(list.iter().filter_map(Value::as_u64).map(|n| n as usize).collect())
        }
        _ => None,
    };
    // These change the base too, and PEFT changes it again at loading.
    if let Some(name) = raw.get("init_lora_weights").and_then(Value::as_str)
        && ["pissa", "olora", "corda", "loftq", "lora_ga"].iter().any(|n| name.starts_with(n))
    {
        faults.push(format!(
            "its `init_lora_weights` is `{}`, which changes the base; save it again in PEFT with \
             `path_initial_model_for_weight_conversion`",
            crate::error::excerpt(name)
        ));
    }
    if raw.get("bias").and_then(Value::as_str).is_some_and(|b| b != "none") {
        faults.push("`bias` is not none, which this version does not support".into());
    }
    let r = raw.get("r").and_then(Value::as_u64).unwrap_or(8) as usize;
    if r == 0 || r > 1 << 16 {
        faults.push(format!("`r` is {r}, expected a positive rank"));
    }
    let number = |key: &str, default: f64| raw.get(key).and_then(Value::as_f64).unwrap_or(default);
    let target_modules = match raw.get("target_modules") {
        Some(Value::String(s)) if s == "all-linear" => TargetModules::All,
        Some(Value::String(s)) => TargetModules::Regex(s.clone()),
        Some(Value::Array(names)) => TargetModules::List(
            names.iter().filter_map(Value::as_str).map(str::to_string).collect(),
        ),
        _ => {
            faults.push("`target_modules` is missing".into());
            TargetModules::All
        }
    };
    let pattern = |key: &str| -> BTreeMap<String, f64> {
        let map = raw.get(key).and_then(Value::as_object);
        map.into_iter().flatten().filter_map(|(k, v)| Some((k.clone(), v.as_f64()?))).collect()
    };
    let flag = |key: &str| raw.get(key).and_then(Value::as_bool).unwrap_or(false);
    let config = LoraConfig {
        task_type,
        r,
        lora_alpha: number("lora_alpha", 8.0),
        lora_dropout: number("lora_dropout", 0.0),
        target_modules,
        rank_pattern: pattern("rank_pattern").into_iter().map(|(k, v)| (k, v as usize)).collect(),
        alpha_pattern: pattern("alpha_pattern"),
        modules_to_save,
        trainable_token_indices: trainable_token_indices.unwrap_or_default(),
        layers_to_transform,
        use_dora: flag("use_dora"),
        initialization: Initialization::Random,
        use_rslora: flag("use_rslora"),
        fan_in_fan_out: flag("fan_in_fan_out"),
        base_model_name_or_path: raw
            .get("base_model_name_or_path")
            .and_then(Value::as_str)
            .unwrap_or("")
            .to_string(),
    };
    if faults.is_empty() { Ok(config) } else { Err(faults) }
}

/// A number as PEFT writes it: without a fraction when it has none.
fn plain_number(x: f64) -> Value {
    if x.fract() == 0.0 && x.abs() < 1e15 { json!(x as i64) } else { json!(x) }
}

fn config_json(config: &LoraConfig, modules: &[String]) -> Value {
    // PEFT writes the names it matched, without the common path.
    let targets = match &config.target_modules {
        TargetModules::Regex(r) => json!(r),
        TargetModules::List(names) => json!(names),
        TargetModules::All => {
            let mut names: Vec<&str> =
                modules.iter().filter_map(|m| m.rsplit('.').next()).collect();
            names.sort_unstable();
            names.dedup();
            json!(names)
        }
    };
    let alpha: BTreeMap<&String, Value> =
        config.alpha_pattern.iter().map(|(k, &v)| (k, plain_number(v))).collect();
    let mut keys: BTreeMap<&str, Value> = BTreeMap::from([
        ("alpha_pattern", json!(alpha)),
        ("auto_mapping", Value::Null),
        ("base_model_name_or_path", json!(config.base_model_name_or_path)),
        ("bias", json!("none")),
        ("fan_in_fan_out", json!(config.fan_in_fan_out)),
        ("inference_mode", json!(true)),
        ("init_lora_weights", json!(true)),
        ("layer_replication", Value::Null),
        ("layers_pattern", Value::Null),
        ("layers_to_transform", json!(config.layers_to_transform)),
        ("loftq_config", json!({})),
        ("lora_alpha", plain_number(config.lora_alpha)),
        ("lora_dropout", json!(config.lora_dropout)),
        ("megatron_config", Value::Null),
        ("megatron_core", json!("megatron.core")),
        (
            "modules_to_save",
            match config.task_type {
                TaskType::CausalLm if config.modules_to_save.is_empty() => Value::Null,
                TaskType::CausalLm => json!(config.modules_to_save),
                TaskType::SeqCls => {
                    let own = config.modules_to_save.iter().map(String::as_str);
                    json!(SCORE_MODULES.into_iter().chain(own).collect::<Vec<_>>())
                }
            },
        ),
        ("peft_type", json!("LORA")),
        ("r", json!(config.r)),
        ("rank_pattern", json!(config.rank_pattern)),
        ("revision", Value::Null),
        ("target_modules", targets),
        (
            "task_type",
            json!(match config.task_type {
                TaskType::CausalLm => "CAUSAL_LM",
                TaskType::SeqCls => "SEQ_CLS",
            }),
        ),
        ("use_dora", json!(config.use_dora)),
        ("use_rslora", json!(config.use_rslora)),
    ]);
    let tokens = &config.trainable_token_indices;
    match tokens.get("") {
        _ if tokens.is_empty() => {}
        Some(ids) if tokens.len() == 1 => drop(keys.insert("trainable_token_indices", json!(ids))),
        _ => drop(keys.insert("trainable_token_indices", json!(tokens))),
    }
    json!(keys)
}

/// Writes `params` (as [`super::attach_fresh`] names them) as a PEFT adapter into `dir`.
///
/// # Errors
/// A full disk and the like.
pub fn write(dir: &Path, config: &LoraConfig, params: &ParamSet) -> Result<(), ModelError> {
    let modules: Vec<String> = params
        .params
        .iter()
        .filter_map(|p| split_key(&p.name).map(|(m, _)| m.to_string()))
        .collect();
    let mut sorted: Vec<_> = params.params.iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    let entries = sorted.iter().map(|p| Entry::of(p.name.clone(), p.tensor.clone())).collect();
    write_safetensors(&dir.join("adapter_model.safetensors"), entries, &[])?;
    write_json(&dir.join("adapter_config.json"), &config_json(config, &modules), 2)
}

/// An adapter whose pairs began as `initial` parts of the base, as a plain one on the base itself:
/// `B A - B₀ A₀`, in pairs of twice the rank. Names and order of `params` stay.
///
/// # Errors
/// A failing tensor operation.
pub fn from_initial(
    config: &LoraConfig,
    params: &ParamSet,
    initial: &ParamSet,
) -> Result<(LoraConfig, ParamSet), ModelError> {
    let mut converted = params.clone();
    for (param, before) in converted.params.iter_mut().zip(&initial.params) {
        let (now, before) = (&param.tensor, &before.tensor);
        param.tensor = match split_key(&param.name) {
            Some((_, 0)) => Tensor::cat(&[now, before], 0)?,
            Some(_) => Tensor::cat(&[now, &before.neg()?], 1)?.contiguous()?,
            None => continue,
        };
    }
    // The scale stays: alpha over twice the rank, or over the root of it.
    let factor = if config.use_rslora { 2f64.sqrt() } else { 2.0 };
    let config = LoraConfig {
        r: 2 * config.r,
        lora_alpha: factor * config.lora_alpha,
        rank_pattern: config.rank_pattern.iter().map(|(k, r)| (k.clone(), 2 * r)).collect(),
        alpha_pattern: config.alpha_pattern.iter().map(|(k, a)| (k.clone(), factor * a)).collect(),
        initialization: Initialization::Random,
        ..config.clone()
    };
    Ok((config, converted))
}

/// The way back of [`from_initial`] for the parameter `name`: `None` when the folder's pairs began
/// otherwise than `initial`.
///
/// # Errors
/// A failing tensor operation.
pub fn since_initial(
    name: &str,
    stored: &Tensor,
    initial: &Tensor,
) -> Result<Option<Tensor>, ModelError> {
    let Some((_, half)) = split_key(name) else { return Ok(Some(stored.clone())) };
    let rank = initial.dim(half)?;
    if stored.dims().len() != 2 || stored.dim(half)? != 2 * rank {
        return Ok(None);
    }
    let (now, before) = (stored.narrow(half, 0, rank)?, stored.narrow(half, rank, rank)?);
    let before = if half == 1 { before.neg()? } else { before };
    let values = |t: &Tensor| t.flatten_all()?.to_vec1::<f32>();
    let same = before.dims() == initial.dims() && values(&before)? == values(initial)?;
    Ok(if same { Some(now.contiguous()?.copy()?) } else { None })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn config() -> LoraConfig {
        LoraConfig {
            r: 4,
            lora_dropout: 0.05,
            base_model_name_or_path: "base".into(),
            ..LoraConfig::default()
        }
    }

    #[test]
    fn targets_are_told_apart() {
        assert_eq!(TargetModules::parse("all"), TargetModules::All);
        assert_eq!(TargetModules::parse("all-linear"), TargetModules::All);
        let list = TargetModules::List(vec!["q_proj".into(), "v_proj".into()]);
        assert_eq!(TargetModules::parse("q_proj,v_proj"), list);
        assert_eq!(TargetModules::parse("q_proj v_proj"), list);
        let regex = r".*\.layers\.[01]\..*_proj";
        assert_eq!(TargetModules::parse(regex), TargetModules::Regex(regex.into()));
    }

    #[test]
    fn patterns_override_rank_and_alpha() {
        let mut c = config();
        c.rank_pattern.insert("q_proj".into(), 16);
        c.alpha_pattern.insert(r"layers\.1\.self_attn\.q_proj".into(), 64.0);
        assert_eq!(c.rank_and_scale("model.layers.0.mlp.up_proj"), (4, 2.0));
        assert_eq!(c.rank_and_scale("model.layers.0.self_attn.q_proj"), (16, 0.5));
        assert_eq!(c.rank_and_scale("model.layers.1.self_attn.q_proj"), (16, 4.0));
        assert_eq!(c.rank_and_scale("model.layers.0.self_attn.xq_proj").0, 4);
        c.use_rslora = true;
        assert_eq!(c.rank_and_scale("model.layers.0.mlp.up_proj"), (4, 4.0));
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        let raw = json!({"peft_type": "LORA", "r": 8, "target_modules": ["q_proj"],
            "lora_bias": true, "exclude_modules": ["lm_head"], "some_future_key": 1});
        let faults = parse_config(raw.as_object().unwrap()).unwrap_err().join("; ");
        assert!(faults.contains("`lora_bias`") && faults.contains("`exclude_modules`"), "{faults}");
        assert!(!faults.contains("some_future_key"));
    }

    #[test]
    fn a_reward_models_head_is_no_foreign_module() {
        let raw = json!({"peft_type": "LORA", "r": 8, "target_modules": ["q_proj"],
            "modules_to_save": ["classifier", "score", "embed_tokens"], "task_type": "SEQ_CLS"});
        let config = parse_config(raw.as_object().unwrap()).unwrap();
        assert_eq!((config.task_type, config.modules_to_save.len()), (TaskType::SeqCls, 1));
        let written = config_json(&config, &[]);
        assert_eq!(written["modules_to_save"], raw["modules_to_save"]);
    }

    #[test]
    fn config_has_the_keys_that_every_reader_knows() {
        let modules = ["model.layers.0.self_attn.q_proj".to_string()];
        let value = config_json(&config(), &modules);
        let object = value.as_object().unwrap();
        assert_eq!(object.len(), 24);
        assert_eq!(object["target_modules"], json!(["q_proj"]));
        assert_eq!(object["lora_alpha"].to_string(), "8");
    }
}
