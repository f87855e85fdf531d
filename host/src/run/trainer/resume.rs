//! Which checkpoint a run goes on from.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;

use crate::config::TrainingArguments;
use crate::dist::{World, environment};
use crate::error::Result;
use crate::run::RunError;
use crate::run::checkpoint::{self, Resume};

/// Where to go on, as rank 0 finds it for all.
pub(super) fn find(
    args: &TrainingArguments,
    world: &World,
    identity: &BTreeMap<String, Value>,
) -> Result<Option<(PathBuf, Resume)>> {
    let found = match world.is_main() {
        true => match path(args)? {
            Some(path) => Some((path.clone(), checkpoint::read(&path, identity)?)),
            None => None,
        },
        false => None,
    };
    let failed = |e: serde_json::Error| RunError::Checkpoint {
        path: args.output_dir.clone(),
        reason: e.to_string(),
    };
    let bytes = serde_json::to_vec(&found).map_err(failed)?;
    let bytes = world.of_main(bytes, "the checkpoint")?;
    Ok(serde_json::from_slice(&bytes).map_err(failed)?)
}

/// The checkpoint to resume from: a folder, or `True` for the newest of the output folder. Started
/// again by its launcher, a run goes on from the newest.
fn path(args: &TrainingArguments) -> Result<Option<PathBuf>> {
    if environment::restart_count() > 0
        && let Some((_, newest)) = checkpoint::list(&args.output_dir).pop()
    {
        return Ok(Some(newest));
    }
    match args.resume_from_checkpoint.as_deref() {
        None | Some("" | "False" | "false") => Ok(None),
        Some("True" | "true") => {
            let newest = checkpoint::list(&args.output_dir).pop().map(|(_, path)| path);
            newest.map(Some).ok_or_else(|| RunError::NoCheckpoint(args.output_dir.clone()).into())
        }
        Some(path) => Ok(Some(PathBuf::from(path))),
    }
}
