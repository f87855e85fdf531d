//! `checkpoint-N`: everything that decides update N + 1, written whole or not at all, and read
//! back only when it is what was written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::state::TrainerState;
use super::{Learner, RunError, Task, reduce};
use crate::config::TrainingArguments;
use crate::error::Result;
use crate::fs::{self, AtomicDir, io_error};
use crate::model::ModelError;
use crate::model::reader::SafetensorsFile;
use crate::model::save::{Entry, write_json, write_safetensors};
use crate::optim::{AdamW, LossScale};

/// Version of the layout; others are refused.
const VERSION: u32 = 2;
const RESUME: &str = "resume.json";

/// What a run goes on from, beside the tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Resume {
    /// Version of the layout.
    pub version: u32,
    /// Updates made.
    pub global_step: u64,
    /// Epoch of the next micro-batch.
    pub epoch: u64,
    /// The next update's place in its epoch.
    pub next_update: usize,
    /// Sum of the losses of all updates.
    pub loss_sum: f64,
    /// Sums since the last log row.
    pub window: Window,
    /// Scale of the loss, where it is scaled.
    pub loss_scale: Option<LossScale>,
    /// Updates that were left out because their gradients overflowed.
    pub skipped: u64,
    /// What must be the same when the run goes on.
    pub identity: BTreeMap<String, Value>,
    /// The state of the loop.
    pub state: TrainerState,
    /// sha256 of every other file of the checkpoint.
    pub files: BTreeMap<String, String>,
}

/// Sums since the last log row.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// Updates.
    pub steps: u64,
    /// Sum of their losses.
    pub loss_sum: f64,
    /// Correctly predicted targets.
    pub num_correct: u64,
    /// Targets.
    pub num_targets: u64,
    /// Sum of entropies.
    pub entropy_sum: f64,
    /// Sums and counts of a stage's own metrics.
    #[serde(default)]
    pub metrics: BTreeMap<String, (f64, f64)>,
}

/// Name of the checkpoint after `step` updates.
pub fn name(step: u64) -> String {
    format!("checkpoint-{step}")
}

/// Checkpoints in `dir`, by step.
pub fn list(dir: &Path) -> Vec<(u64, PathBuf)> {
    let mut found: Vec<(u64, PathBuf)> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let step = name.to_str()?.strip_prefix("checkpoint-")?.parse().ok()?;
            entry.path().join(RESUME).is_file().then(|| (step, entry.path()))
        })
        .collect();
    found.sort();
    found
}

/// Writes a checkpoint: rank 0 does, and is lent the others' parts of the optimiser's state. It
/// holds nothing that depends on the number of ranks.
///
/// # Errors
/// A full disk and the like; then an older checkpoint of the same name is intact and nothing
/// half-written remains.
pub fn save<T: Task>(
    output_dir: &Path,
    task: &T,
    optimizer: &AdamW,
    args: &TrainingArguments,
    mut resume: Resume,
) -> Result<PathBuf> {
    let target = output_dir.join(name(resume.global_step));
    let world = task.learner().world();
    let params = &task.learner().params.params;
    let whole = |i: usize, own: &Tensor| match optimizer.partition().is_sharded() {
        true => reduce::gather_whole(world, optimizer.partition(), i, own, &params[i].tensor),
        false => Ok(own.clone()),
    };
    if !world.is_main() {
        if optimizer.partition().is_sharded() {
            for (i, (m, v)) in optimizer.m.iter().zip(&optimizer.v).enumerate() {
                whole(i, m)?;
                whole(i, v)?;
            }
        }
        return Ok(target);
    }
    let out = AtomicDir::create(&target)?;
    task.learner().save(out.path())?;
    if let Some((name, bytes)) = task.save_state()? {
        fs::write_atomic(&out.path().join(name), &bytes)?;
    }
    let failed = std::cell::RefCell::new(None);
    // Only one tensor's state is whole at a time.
    let mut entries = Vec::new();
    for (i, param) in params.iter().enumerate() {
        for (suffix, own) in [("exp_avg", &optimizer.m[i]), ("exp_avg_sq", &optimizer.v[i])] {
            let failed = &failed;
            let tensor = move || {
                whole(i, own).map_err(|e| {
                    let text = e.to_string();
                    *failed.borrow_mut() = Some(e);
                    ModelError::from(candle_core::Error::Msg(text))
                })
            };
            entries.push(Entry {
                name: format!("{}.{suffix}", param.name),
                dtype: DType::F32,
                signed: false,
                shape: param.tensor.dims().to_vec(),
                tensor: Box::new(tensor),
            });
        }
    }
    let step = optimizer.step.to_string();
    let written =
        write_safetensors(&out.path().join("optimizer.safetensors"), entries, &[("step", step)]);
    if let Some(e) = failed.take() {
        return Err(e);
    }
    written?;
    resume.state.write(out.path(), args, false)?;
    resume.version = VERSION;
    resume.files = hash_all(out.path())?;
    let value = serde_json::to_value(&resume)
        .map_err(|e| RunError::Checkpoint { path: target.clone(), reason: e.to_string() })?;
    write_json(&out.path().join(RESUME), &value, 2)?;
    out.commit()?;
    Ok(target)
}

fn hash_all(dir: &Path) -> Result<BTreeMap<String, String>> {
    let mut hashes = BTreeMap::new();
    for entry in std::fs::read_dir(dir).map_err(io_error("read", dir))? {
        let path = entry.map_err(io_error("read", dir))?.path();
        if let Some(name) = path.file_name().and_then(|n| n.to_str())
            && path.is_file()
            && name != RESUME
        {
            hashes.insert(name.to_string(), fs::sha256_file(&path)?);
        }
    }
    Ok(hashes)
}

/// Reads and checks a checkpoint: every file by its hash, the run by its identity.
///
/// # Errors
/// [`RunError::Checkpoint`] for damage, [`RunError::OtherRun`] for other settings.
pub fn read(path: &Path, identity: &BTreeMap<String, Value>) -> Result<Resume> {
    let damaged = |reason: String| RunError::Checkpoint { path: path.into(), reason };
    let file = path.join(RESUME);
    if !file.is_file() {
        return Err(damaged(format!("it has no {RESUME}; it was not written by trainer")).into());
    }
    let bytes = fs::read_limited(&file, 1 << 30)?;
    let resume: Resume = serde_json::from_slice(&bytes)
        .map_err(|e| damaged(format!("{RESUME} is damaged ({e})")))?;
    if resume.version != VERSION {
        let version = resume.version;
        return Err(
            damaged(format!("its version is {version}; this program reads {VERSION}")).into()
        );
    }
    for (name, want) in &resume.files {
        let file = fs::confine(path, name)?;
        if !file.is_file() {
            return Err(damaged(format!("`{name}` is missing")).into());
        }
        let got = fs::sha256_file(&file)?;
        if got != *want {
            let (got, want) = (got.get(..12).unwrap_or(""), want.get(..12).unwrap_or(""));
            return Err(damaged(format!("`{name}` has sha256 {got}…, expected {want}…")).into());
        }
    }
    let keys: std::collections::BTreeSet<&String> =
        resume.identity.keys().chain(identity.keys()).collect();
    let none = Value::Null;
    let differences: Vec<String> = keys
        .into_iter()
        .filter_map(|key| {
            let theirs = resume.identity.get(key).unwrap_or(&none);
            let ours = identity.get(key).unwrap_or(&none);
            (theirs != ours).then(|| format!("{key} = {theirs} (now {ours})"))
        })
        .collect();
    if !differences.is_empty() {
        return Err(RunError::OtherRun { path: path.into(), differences }.into());
    }
    Ok(resume)
}

/// Restores parameters and optimiser from a checkpoint that [`read`] accepted. Rank 0 reads it, and
/// hands everything to the others, which need not see its files.
///
/// # Errors
/// When a tensor is absent or of another shape.
pub fn restore<T: Task>(path: &Path, task: &mut T, optimizer: &mut AdamW) -> Result<()> {
    let damaged = |reason: String| RunError::Checkpoint { path: path.into(), reason };
    let world = task.learner().world().clone();
    load_model(task.learner_mut(), path)?;
    if let Some(name) = task.state_file() {
        let read = || fs::read_limited(&path.join(name), 1 << 32);
        let bytes = if world.is_main() { read()? } else { Vec::new() };
        task.load_state(&world.of_main(bytes, "the checkpoint's state")?, path)?;
    }
    let file = match world.is_main() {
        true => Some(SafetensorsFile::open(&path.join("optimizer.safetensors"))?),
        false => None,
    };
    let mut step = Vec::new();
    if let Some(file) = &file {
        let text = file.metadata("step").and_then(|s| s.parse::<u64>().ok());
        let text = text.ok_or_else(|| damaged("optimizer.safetensors names no step".into()))?;
        step = text.to_le_bytes().to_vec();
    }
    let step = world.of_main(step, "the optimiser's step")?;
    optimizer.step = step.iter().rev().fold(0, |n, &b| n << 8 | u64::from(b));
    for (i, param) in task.learner().params.params.iter().enumerate() {
        let read = |suffix: &str| -> Result<Tensor> {
            let whole = match &file {
                Some(file) => {
                    let name = format!("{}.{suffix}", param.name);
                    let tensor = file.read(&name)?;
                    if tensor.dims() != param.tensor.dims() || tensor.dtype() != DType::F32 {
                        let reason = format!("`{name}` has shape {:?}", tensor.dims());
                        return Err(damaged(reason).into());
                    }
                    tensor.to_device(param.tensor.device())?
                }
                None => Tensor::zeros(param.tensor.shape(), DType::F32, param.tensor.device())?,
            };
            reduce::from_main(&world, &whole, "the optimiser's state")?;
            if !optimizer.partition().is_sharded() {
                return Ok(whole);
            }
            let own = optimizer.partition().own(i);
            Ok(whole.flatten_all()?.narrow(0, own.start, own.len())?.copy()?)
        };
        let (m, v) = (read("exp_avg")?, read("exp_avg_sq")?);
        (optimizer.m[i], optimizer.v[i]) = (m, v);
    }
    Ok(())
}

/// Reads the trained parameters of a checkpoint at rank 0, for all.
///
/// # Errors
/// As [`restore`].
pub fn load_model(learner: &mut Learner, path: &Path) -> Result<()> {
    let world = learner.world().clone();
    if world.is_main() {
        learner.load(path)?;
    }
    for param in &learner.params.params {
        reduce::from_main(&world, &param.tensor, "the checkpoint's parameters")?;
    }
    learner.relink()
}

/// Removes the oldest checkpoints beyond `limit`, never the newest nor `best`.
///
/// # Errors
/// A file operation.
pub fn rotate(output_dir: &Path, limit: Option<usize>, best: Option<&Path>) -> Result<()> {
    let Some(limit) = limit else { return Ok(()) };
    let all = list(output_dir);
    let newest = all.last().map(|(_, path)| path.clone());
    let mut excess = all.len().saturating_sub(limit.max(1));
    for (_, path) in all {
        if excess == 0 {
            break;
        }
        if Some(&path) == newest.as_ref() || Some(path.as_path()) == best {
            continue;
        }
        std::fs::remove_dir_all(&path).map_err(io_error("remove", &path))?;
        excess -= 1;
    }
    Ok(())
}

/// Removes what an interrupted save left behind.
///
/// # Errors
/// A file operation.
pub fn remove_leftovers(output_dir: &Path) -> Result<()> {
    for entry in std::fs::read_dir(output_dir).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("checkpoint-") && name.ends_with(".tmp") {
            std::fs::remove_dir_all(entry.path()).map_err(io_error("remove", &entry.path()))?;
        }
    }
    Ok(())
}
