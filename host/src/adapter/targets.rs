//! Which linear layers and modules a LoRA configuration means, by PEFT's rules.

use regex::Regex;

use super::peft::{LoraConfig, SCORE_MODULES, TargetModules, pattern_matches};
use crate::model::projection::Projection;
use crate::model::slots::{Slot, projections};
use crate::model::{DecoderSpec, ModelError};

/// The layers that `config` names, from the first to the last.
///
/// # Errors
/// [`ModelError::NoTarget`] when there is none, or the expression is not one.
pub fn matching(
    spec: &DecoderSpec,
    config: &LoraConfig,
) -> Result<Vec<(usize, Projection)>, ModelError> {
    let mut present: Vec<Projection> =
        (0..spec.num_layers).flat_map(|l| projections(spec, l)).collect();
    present.sort();
    present.dedup();
    let module_path = |l, p| spec.names.module_path(l, p);
    let fault = || ModelError::NoTarget {
        wanted: config.target_modules.to_string(),
        available: present
            .iter()
            .map(|&p| spec.names.linear(p).rsplit('.').next().unwrap_or_default().to_string())
            .collect(),
    };
    let expression = match &config.target_modules {
        // PEFT matches the whole path.
        TargetModules::Regex(r) => Some(Regex::new(&format!("^(?:{r})$")).map_err(|_| fault())?),
        _ => None,
    };
    let matches = |module: &str| match (&config.target_modules, &expression) {
        // Beside experts PEFT takes the names of an MLP's layers for the experts' own.
        (TargetModules::All, _) => spec.mixture.is_none() || !module.contains("mlp."),
        (TargetModules::List(names), _) => {
            names.iter().any(|n| module == n || module.ends_with(&format!(".{n}")))
        }
        (_, Some(expression)) => expression.is_match(module),
        (_, None) => false,
    };
    // A name of the list that matches nothing is a spelling mistake, not a wish.
    if let TargetModules::List(names) = &config.target_modules {
        let known = |n: &String| {
            (0..spec.num_layers).any(|l| {
                projections(spec, l).into_iter().any(|p| {
                    let module = module_path(l, p);
                    module == *n || module.ends_with(&format!(".{n}"))
                })
            })
        };
        if !names.iter().all(known) {
            return Err(fault());
        }
    }
    let found: Vec<(usize, Projection)> = (0..spec.num_layers)
        .flat_map(|l| projections(spec, l).into_iter().map(move |p| (l, p)))
        .filter(|&(l, p)| matches(&module_path(l, p)))
        .collect();
    let Some(layers) = &config.layers_to_transform else {
        return if found.is_empty() { Err(fault()) } else { Ok(found) };
    };
    if let Some(beyond) = layers.iter().find(|&&l| l >= spec.num_layers) {
        return Err(ModelError::Target(format!(
            "layers_to_transform names block {beyond}, but the model has blocks 0 to {}",
            spec.num_layers.saturating_sub(1)
        )));
    }
    let found: Vec<_> = found.into_iter().filter(|(l, _)| layers.contains(l)).collect();
    if found.is_empty() { Err(fault()) } else { Ok(found) }
}

/// Checks that every pattern of ranks and alphas names an adapted layer: one that does not is a
/// spelling mistake.
///
/// # Errors
/// [`ModelError::Target`] with the first that names none.
pub fn check_patterns(spec: &DecoderSpec, config: &LoraConfig) -> Result<(), ModelError> {
    let adapted: Vec<String> = matching(spec, config)?
        .into_iter()
        .map(|(layer, projection)| spec.names.module_path(layer, projection))
        .collect();
    let ranks = config.rank_pattern.keys().map(|p| ("rank_pattern", p));
    for (name, pattern) in ranks.chain(config.alpha_pattern.keys().map(|p| ("alpha_pattern", p))) {
        if !adapted.iter().any(|module| pattern_matches(pattern, module)) {
            return Err(ModelError::Target(format!(
                "{name} `{}` matches no adapted layer; give the end of a path such as `{}`",
                crate::error::excerpt(pattern),
                adapted.first().and_then(|m| m.rsplit('.').next()).unwrap_or_default()
            )));
        }
    }
    Ok(())
}

/// The tables of which `config` trains rows alone, with the rows. A head that is the embedding follows
/// it.
///
/// # Errors
/// [`ModelError::Target`] for a name that is no table, or an id that it has no row for.
pub fn token_rows(
    spec: &DecoderSpec,
    config: &LoraConfig,
) -> Result<Vec<(Slot, Vec<u32>)>, ModelError> {
    let mut found = Vec::new();
    for (name, ids) in &config.trainable_token_indices {
        let named = |slot: &Slot| {
            let tensor = slot.name(spec);
            let module = tensor.strip_suffix(".weight").unwrap_or(&tensor);
            module == name || module.ends_with(&format!(".{name}"))
        };
        let slot = match name.as_str() {
            "" => Some(Slot::Embed),
            _ if spec.tie_word_embeddings => Some(Slot::Embed).filter(named),
            _ => [Slot::Embed, Slot::LmHead].into_iter().find(named),
        };
        let slot = slot.ok_or_else(|| {
            let name = crate::error::excerpt(name);
            ModelError::Target(format!("trainable_token_indices names no table `{name}`"))
        })?;
        if let Some(id) = ids.iter().find(|&&id| id as usize >= spec.vocab_size) {
            return Err(ModelError::Target(format!(
                "trainable_token_indices has token {id}, and the embedding {} rows",
                spec.vocab_size
            )));
        }
        found.push((slot, ids.clone()));
    }
    Ok(found)
}

/// The tensors of the modules that `config` trains whole, in the decoder's order. The head of a reward
/// model is none of them.
///
/// # Errors
/// [`ModelError::Target`] for a name that matches nothing, or a linear layer.
pub fn modules_to_save(spec: &DecoderSpec, config: &LoraConfig) -> Result<Vec<Slot>, ModelError> {
    let mut slots = Slot::all(spec);
    if spec.tie_word_embeddings && config.task_type == super::peft::TaskType::CausalLm {
        slots.push(Slot::LmHead);
    }
    let module = |slot: Slot| {
        let name = slot.name(spec);
        name.rsplit_once('.').map_or(name.clone(), |(module, _)| module.to_string())
    };
    let named = |slot: Slot, name: &str| {
        // PEFT matches any end of the path here, without a dot before it.
        module(slot).ends_with(name)
    };
    let linear = |slot: &Slot| {
        matches!(slot, Slot::Weight(..) | Slot::Bias(..) | Slot::Router(_) | Slot::Expert(..))
    };
    for name in &config.modules_to_save {
        if config.task_type == super::peft::TaskType::SeqCls && SCORE_MODULES.contains(&&**name) {
            continue;
        }
        let found: Vec<&Slot> = slots.iter().filter(|&&slot| named(slot, name)).collect();
        let name = crate::error::excerpt(name);
        if found.iter().any(|slot| linear(slot)) {
            return Err(ModelError::Target(format!(
                "modules_to_save names the linear layer `{name}`; give it a LoRA pair \
                 (target_modules), or train every weight (`--use_peft False`)"
            )));
        }
        if found.is_empty() {
            let mut known: Vec<String> =
                slots.iter().filter(|s| !linear(s)).map(|&s| module(s)).collect();
            known.iter_mut().for_each(|m| *m = m.rsplit('.').next().unwrap_or(m).to_string());
            known.sort();
            known.dedup();
            return Err(ModelError::Target(format!(
                "modules_to_save `{name}` matches no module; this model has {}",
                known.join(", ")
            )));
        }
    }
    let wanted = |slot: &Slot| config.modules_to_save.iter().any(|name| named(*slot, name));
    Ok(slots.into_iter().filter(wanted).collect())
}
