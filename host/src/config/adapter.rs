//! How an adapter differs from plain LoRA, and noise on embeddings.

use std::collections::BTreeMap;

use serde::Serialize;

use super::values::Values;

/// Settings beside rank, alpha, dropout and targets.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AdapterSettings {
    /// Scale by `alpha / sqrt(rank)`.
    pub use_rslora: bool,
    /// Magnitudes beside the pairs.
    pub use_dora: bool,
    /// Pairs begin as the largest singular values of the base.
    pub pissa: bool,
    /// Ranks of layers whose path matches.
    pub rank_pattern: BTreeMap<String, usize>,
    /// Alphas of layers whose path matches.
    pub alpha_pattern: BTreeMap<String, f64>,
    /// Blocks to adapt; `None`: all.
    pub layers_to_transform: Option<Vec<usize>>,
    /// Modules trained whole.
    pub modules_to_save: Vec<String>,
    /// Tokens that the tokenizer gets and whose rows of the embedding are trained.
    pub add_tokens: Vec<String>,
    /// The same, left out of decoded text.
    pub add_special_tokens: Vec<String>,
    /// Learning rate of B over that of A.
    pub loraplus_lr_ratio: f64,
    /// NEFTune's alpha; 0: no noise.
    pub neftune_noise_alpha: f64,
}

impl Default for AdapterSettings {
    fn default() -> Self {
        Self {
            use_rslora: false,
            use_dora: false,
            pissa: false,
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
            layers_to_transform: None,
            modules_to_save: Vec::new(),
            add_tokens: Vec::new(),
            add_special_tokens: Vec::new(),
            loraplus_lr_ratio: 1.0,
            neftune_noise_alpha: 0.0,
        }
    }
}

/// Settings that the folder of an adapter decides.
const OF_THE_FOLDER: [&str; 7] = [
    "init_lora_weights",
    "use_rslora",
    "use_dora",
    "rank_pattern",
    "alpha_pattern",
    "layers_to_transform",
    "modules_to_save",
];

impl AdapterSettings {
    /// From the values; faults go into them.
    pub fn resolve(v: &mut Values, use_peft: bool) -> Self {
        let layers = layers(v);
        let ranks = pattern(v, "rank_pattern");
        let mut rank_pattern = BTreeMap::new();
        for (name, rank) in ranks {
            if rank.fract() != 0.0 || !(1.0..=65536.0).contains(&rank) {
                v.faults.push(format!(
                    "`--rank_pattern` gives `{name}` the rank {rank}, expected a whole number from 1 to 65536"
                ));
            }
            rank_pattern.insert(name, rank as usize);
        }
        let settings = Self {
            use_rslora: v.bool("use_rslora"),
            use_dora: v.bool("use_dora"),
            pissa: v.choice("init_lora_weights") == "pissa",
            rank_pattern,
            alpha_pattern: pattern(v, "alpha_pattern"),
            layers_to_transform: layers,
            modules_to_save: words(v, "modules_to_save"),
            add_tokens: words(v, "add_tokens"),
            add_special_tokens: words(v, "add_special_tokens"),
            loraplus_lr_ratio: v.float("loraplus_lr_ratio"),
            neftune_noise_alpha: v.float("neftune_noise_alpha"),
        };
        if settings.pissa && settings.use_dora {
            v.faults.push("`--init_lora_weights pissa` and `--use_dora` exclude each other".into());
        }
        let folder = OF_THE_FOLDER.as_slice();
        let every: Vec<&str> = folder.iter().copied().chain(["loraplus_lr_ratio"]).collect();
        if !use_peft {
            refuse(v, &every, "is about adapters; leave it or `--use_peft False` out");
        } else if v.is_given("peft_path") {
            let of_peft_path = "is decided by the adapter of `--peft_path`; leave it out";
            refuse(v, folder, of_peft_path);
            refuse(v, &["add_tokens", "add_special_tokens"], of_peft_path);
        }
        settings
    }

    /// What is not as by default, `name = value`.
    pub fn differences(&self) -> Vec<(String, String)> {
        let of = |settings: &Self| serde_json::to_value(settings).unwrap_or_default();
        let (own, plain) = (of(self), of(&Self::default()));
        let entries = own.as_object().into_iter().flatten();
        entries
            .filter(|(name, value)| plain.get(name.as_str()) != Some(value))
            .map(|(name, value)| (name.clone(), value.to_string()))
            .collect()
    }
}

fn refuse(v: &mut Values, names: &[&str], why: &str) {
    let given: Vec<&&str> = names.iter().filter(|name| v.is_given(name)).collect();
    v.faults.extend(given.iter().map(|name| format!("`--{name}` {why}")));
}

/// Words of a list, separated by commas or spaces.
fn words(v: &Values, name: &str) -> Vec<String> {
    let list = v.list(name);
    let words = list.iter().flat_map(|text| text.split([',', ' ']));
    words.filter(|w| !w.is_empty()).map(str::to_string).collect()
}

/// `NAME=NUMBER`, several separated by commas, or a JSON object.
fn pattern(v: &mut Values, name: &str) -> BTreeMap<String, f64> {
    let mut all = BTreeMap::new();
    for text in v.list(name) {
        let entries: Option<Vec<(String, f64)>> = match text.trim_start().starts_with('{') {
            true => serde_json::from_str::<BTreeMap<String, f64>>(&text)
                .ok()
                .map(|map| map.into_iter().collect()),
            false => text
                .split(',')
                .map(|part| {
                    let (name, number) = part.rsplit_once('=')?;
                    Some((name.trim().to_string(), number.trim().parse().ok()?))
                })
                .collect(),
        };
        let sound = |(name, number): &(String, f64)| {
            !name.is_empty() && number.is_finite() && *number > 0.0
        };
        match entries.filter(|e| e.iter().all(sound)) {
            Some(entries) => all.extend(entries),
            None => {
                let text = crate::error::excerpt(&text);
                v.faults.push(format!("`--{name}` is `{text}`, expected NAME=NUMBER"));
            }
        }
    }
    all
}

/// Numbers and ranges of blocks.
fn layers(v: &mut Values) -> Option<Vec<usize>> {
    /// More blocks than any decoder has.
    const MOST: usize = 1 << 16;
    let words = words(v, "layers_to_transform");
    if words.is_empty() {
        return None;
    }
    let mut layers = Vec::new();
    for word in words {
        let range = match word.split_once('-') {
            Some((from, to)) => from.parse().ok().zip(to.parse().ok()),
            None => word.parse().ok().map(|n| (n, n)),
        };
        match range.filter(|&(from, to): &(usize, usize)| from <= to && to < MOST) {
            Some((from, to)) => layers.extend(from..=to),
            None => {
                let word = crate::error::excerpt(&word);
                v.faults.push(format!(
                    "`--layers_to_transform` has `{word}`, expected a block's number or a range (3-5)"
                ));
            }
        }
    }
    layers.sort_unstable();
    layers.dedup();
    Some(layers)
}
