//! Which linear layers a LoRA configuration means, by PEFT's rules.

use regex::Regex;

use super::peft::{LoraConfig, TargetModules};
use crate::model::projection::Projection;
use crate::model::slots::projections;
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
    if found.is_empty() { Err(fault()) } else { Ok(found) }
}
