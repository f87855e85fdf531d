//! `checkpoint-N`: everything that decides update N + 1, written whole or not at all, and read
//! back only when it is what was written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::state::TrainerState;
use super::{RunError, Task};
use crate::config::TrainingArguments;
use crate::error::Result;
use crate::fs::{self, AtomicDir, io_error};
use crate::model::reader::SafetensorsFile;
use crate::model::save::{Entry, write_json, write_safetensors};
use crate::optim::AdamW;

/// Version of the layout; older ones are read, newer ones refused.
const VERSION: u32 = 1;
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
    /// The next micro-batch's place in its epoch.
    pub next_batch: usize,
    /// Sum of the losses of all updates.
    pub loss_sum: f64,
    /// Sums since the last log row.
    pub window: Window,
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

/// Writes a checkpoint.
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
    let out = AtomicDir::create(&target)?;
    task.learner().save(out.path())?;
    task.save_state(out.path())?;
    let mut entries = Vec::new();
    for (i, param) in task.learner().params.params.iter().enumerate() {
        entries.push(Entry::of(format!("{}.exp_avg", param.name), optimizer.m[i].clone()));
        entries.push(Entry::of(format!("{}.exp_avg_sq", param.name), optimizer.v[i].clone()));
    }
    let step = optimizer.step.to_string();
    write_safetensors(&out.path().join("optimizer.safetensors"), entries, &[("step", step)])?;
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
    if resume.version > VERSION {
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

/// Restores parameters and optimiser from a checkpoint that [`read`] accepted.
///
/// # Errors
/// When a tensor is absent or of another shape.
pub fn restore<T: Task>(path: &Path, task: &mut T, optimizer: &mut AdamW) -> Result<()> {
    let damaged = |reason: String| RunError::Checkpoint { path: path.into(), reason };
    task.learner_mut().load(path)?;
    task.load_state(path)?;
    let file = SafetensorsFile::open(&path.join("optimizer.safetensors"))?;
    optimizer.step = file
        .metadata("step")
        .and_then(|s| s.parse().ok())
        .ok_or_else(|| damaged("optimizer.safetensors names no step".into()))?;
    for (i, param) in task.learner().params.params.iter().enumerate() {
        let read = |suffix: &str| -> Result<Tensor> {
            let name = format!("{}.{suffix}", param.name);
            let tensor = file.read(&name)?;
            if tensor.dims() != param.tensor.dims() || tensor.dtype() != DType::F32 {
                return Err(damaged(format!("`{name}` has shape {:?}", tensor.dims())).into());
            }
            Ok(tensor.to_device(param.tensor.device())?)
        };
        optimizer.m[i] = read("exp_avg")?;
        optimizer.v[i] = read("exp_avg_sq")?;
    }
    Ok(())
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
