//! Several adapters as one: their changes summed by weights, exactly (`cat`), or as PEFT's
//! `add_weighted_adapter` does (`linear`, `svd`).

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Tensor};

use super::peft::{self, LoraConfig, PeftAdapter, TargetModules};
use super::{peft_key, svd};
use crate::fs::AtomicDir;
use crate::model::{ModelError, NamedTensor, ParamSet};

/// How pairs become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Combination {
    /// Side by side: the sum of the changes, the rank the sum of the ranks.
    Cat,
    /// A and B each by the roots of the weights: products of different adapters come in.
    Linear,
    /// The nearest change of this rank.
    Svd(usize),
}

/// Writes the adapters' combination into the new folder `output`. Their scales go into the matrices,
/// so that its own is 1.
///
/// # Errors
/// Adapters with more than pairs, or of different ranks where `linear` adds them; a full disk.
pub fn combine(
    adapter_dirs: &[(&Path, f64)],
    combination: Combination,
    output: &Path,
) -> Result<usize, ModelError> {
    let adapters: Vec<(PeftAdapter, f64)> = adapter_dirs
        .iter()
        .map(|(dir, weight)| Ok((peft::read(dir)?, *weight)))
        .collect::<Result<_, ModelError>>()?;
    for (adapter, _) in &adapters {
        let pairs_alone = adapter.modules.is_empty() && adapter.token_rows.is_empty();
        let more = !adapter.magnitudes.is_empty() || !pairs_alone;
        if more || adapter.score.is_some() {
            return Err(adapter.fault(
                "it holds more than LoRA pairs, which can't be combined; merge it into its base",
            ));
        }
    }
    let mut modules: BTreeMap<&str, Vec<(&PeftAdapter, &(Tensor, Tensor), f64)>> = BTreeMap::new();
    for (adapter, weight) in &adapters {
        for (module, pair) in &adapter.tensors {
            let factor = adapter.config.rank_and_scale(module).1 * weight;
            modules.entry(module).or_default().push((adapter, pair, factor));
        }
    }
    let mut params = ParamSet::default();
    let mut ranks: BTreeMap<&str, usize> = BTreeMap::new();
    for (module, pairs) in &modules {
        let (a, b) = match combination {
            Combination::Cat => side_by_side(pairs)?,
            Combination::Linear => added(pairs)?,
            Combination::Svd(rank) => nearest(pairs, rank)?,
        };
        ranks.insert(module, a.dim(0)?);
        params.params.push(NamedTensor::new(peft_key(module, 'A'), a));
        params.params.push(NamedTensor::new(peft_key(module, 'B'), b));
    }
    let Some((first, _)) = adapters.first() else { return Ok(0) };
    // The rank that most modules have is the adapter's; the others are named.
    let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
    ranks.values().for_each(|&r| *counts.entry(r).or_default() += 1);
    let rank = counts.iter().max_by_key(|(_, count)| **count).map_or(1, |(&r, _)| r);
    let others = || ranks.iter().filter(|(_, r)| **r != rank);
    let pattern = |module: &&str| regex::escape(module);
    let names: std::collections::BTreeSet<String> =
        modules.keys().map(ToString::to_string).collect();
    let config = LoraConfig {
        r: rank,
        lora_alpha: rank as f64,
        rank_pattern: others().map(|(m, &r)| (pattern(m), r)).collect(),
        alpha_pattern: others().map(|(m, &r)| (pattern(m), r as f64)).collect(),
        target_modules: TargetModules::List(names.into_iter().collect()),
        use_rslora: false,
        layers_to_transform: None,
        ..first.config.clone()
    };
    let out = AtomicDir::create(output)?;
    peft::write(out.path(), &config, &params)?;
    super::merge::copy_if_there(&first.path, out.path(), &super::merge::TOKENIZER_FILES)?;
    out.commit()?;
    Ok(modules.len())
}

type Pair<'a> = (&'a PeftAdapter, &'a (Tensor, Tensor), f64);

/// Checks that the pairs change the same matrix.
fn shapes(pairs: &[Pair<'_>], same_rank: bool) -> Result<(), ModelError> {
    let Some((_, (first_a, first_b), _)) = pairs.first() else { return Ok(()) };
    for (adapter, (a, b), _) in pairs {
        let fits = a.dims()[1] == first_a.dims()[1] && b.dims()[0] == first_b.dims()[0];
        if !fits {
            return Err(adapter.fault("it belongs to another base than the first one"));
        }
        if same_rank && a.dims() != first_a.dims() {
            return Err(adapter.fault(format!(
                "its rank is {}, the first one's {}; only equal ones are added: use \
                 `--combination_type cat`",
                a.dims()[0],
                first_a.dims()[0]
            )));
        }
    }
    Ok(())
}

fn side_by_side(pairs: &[Pair<'_>]) -> Result<(Tensor, Tensor), ModelError> {
    shapes(pairs, false)?;
    let a: Vec<Tensor> =
        pairs.iter().map(|(_, (a, _), f)| a * *f).collect::<candle_core::Result<_>>()?;
    let b: Vec<&Tensor> = pairs.iter().map(|(_, (_, b), _)| b).collect();
    Ok((Tensor::cat(&a, 0)?, Tensor::cat(&b, 1)?.contiguous()?))
}

fn added(pairs: &[Pair<'_>]) -> Result<(Tensor, Tensor), ModelError> {
    shapes(pairs, true)?;
    let mut sums: Option<(Tensor, Tensor)> = None;
    for (_, (a, b), factor) in pairs {
        let root = factor.abs().sqrt();
        let (a, b) = ((a * (root * factor.signum()))?, (b * root)?);
        sums = Some(match sums {
            None => (a, b),
            Some((sum_a, sum_b)) => ((sum_a + a)?, (sum_b + b)?),
        });
    }
    sums.ok_or_else(|| candle_core::Error::Msg("no pair to add".into()).into())
}

fn nearest(pairs: &[Pair<'_>], rank: usize) -> Result<(Tensor, Tensor), ModelError> {
    let (a, b) = side_by_side(pairs)?;
    let change = b.to_dtype(DType::F64)?.matmul(&a.to_dtype(DType::F64)?)?;
    let found = svd::largest(&change, rank, 0)?;
    let values = Tensor::new(found.s.as_slice(), change.device())?;
    let b = found.u.broadcast_mul(&values)?.to_dtype(DType::F32)?;
    Ok((found.vt.to_dtype(DType::F32)?.contiguous()?, b.contiguous()?))
}
