//! Rewards of completions: plugins and reward models, weighted; failures are data.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use serde_json::Value;

use super::prompt::Prompt;
use super::reward_model::RewardModel;
use crate::config::{ConfigError, RewardFailure};
use crate::data::{Conversation, Message};
use crate::dist::World;
use crate::error::{Error, Result};
use crate::plugin::{JSON_METADATA_KEY, Plugin, PluginError, Reads};
use crate::run::RunError;

/// Share of a batch on which a reward may fail, where failures are allowed at all.
const FAILURES_MAX: f64 = 0.05;

/// Who judges.
enum Judge {
    Plugin(Box<Plugin>),
    Model(Box<RewardModel>),
}

/// A reward, and how much it counts.
struct Reward {
    name: String,
    weight: f64,
    judge: Judge,
}

/// All rewards of a run.
pub struct Rewards {
    rewards: Vec<Reward>,
    /// Renders conversations for reward models; without it their own templates do.
    template: Option<Plugin>,
    failure: RewardFailure,
    clip: Option<(f64, f64)>,
}

/// A completion to be judged.
#[derive(Clone, Copy)]
pub struct Answer<'a> {
    /// What was asked.
    pub prompt: &'a Prompt,
    /// What was answered.
    pub completion: &'a str,
}

/// Rewards of some completions.
#[derive(Clone, Debug, Default)]
pub struct Judged {
    /// By reward, by completion; none: no opinion, or failed.
    pub values: Vec<Vec<Option<f64>>>,
    /// Weighted sums, clipped; none where no reward had an opinion.
    pub total: Vec<Option<f64>>,
    /// Completions on which each reward failed.
    pub failures: Vec<usize>,
}

/// A score, none where the reward has no opinion, or why it failed.
type Scored = std::result::Result<Option<f64>, String>;

/// Whether an error is about what a plugin did with these rows, and not about the plugin's use.
fn is_failure(error: &PluginError) -> bool {
    matches!(
        error,
        PluginError::Stopped { .. } | PluginError::Failed { .. } | PluginError::Returned { .. }
    )
}

impl Rewards {
    /// Rewards by plugins, then by models, with their `weights` (all 1 when empty).
    ///
    /// # Errors
    /// None at all, or another number of weights.
    pub fn new(
        plugins: Vec<Plugin>,
        models: Vec<(String, RewardModel)>,
        weights: &[f64],
        template: Option<Plugin>,
        failure: RewardFailure,
        clip: Option<(f64, f64)>,
    ) -> Result<Self> {
        let plugins =
            plugins.into_iter().map(|p| (p.name().to_string(), Judge::Plugin(Box::new(p))));
        let judges: Vec<(String, Judge)> = plugins
            .chain(models.into_iter().map(|(n, m)| (n, Judge::Model(Box::new(m)))))
            .collect();
        if judges.is_empty() {
            let fault = "there is no reward: give a reward plugin (`--plugin accuracy`) or \
                         `--reward_model_name_or_path`";
            return Err(ConfigError::one(fault).into());
        }
        if !weights.is_empty() && weights.len() != judges.len() {
            let names: Vec<&str> = judges.iter().map(|(n, _)| n.as_str()).collect();
            return Err(ConfigError::one(format!(
                "`--reward_weights` holds {} numbers for {} rewards ({})",
                weights.len(),
                judges.len(),
                names.join(", ")
            ))
            .into());
        }
        let mut rewards: Vec<Reward> = Vec::new();
        for (i, (name, judge)) in judges.into_iter().enumerate() {
            // Two of one name are told apart in the log.
            let same = rewards.iter().filter(|r| r.name.split('#').next() == Some(&name)).count();
            let name = if same == 0 { name } else { format!("{name}#{}", same + 1) };
            rewards.push(Reward { name, weight: weights.get(i).copied().unwrap_or(1.0), judge });
        }
        Ok(Self { rewards, template, failure, clip })
    }

    /// Their names, as logged.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.rewards.iter().map(|r| r.name.as_str())
    }

    /// Bytes of all reward models' weights.
    pub fn bytes(&self) -> usize {
        let of = |r: &Reward| match &r.judge {
            Judge::Model(model) => model.bytes(),
            Judge::Plugin(_) => 0,
        };
        self.rewards.iter().map(of).sum()
    }

    /// Judges `answers`, of which each rank takes its part.
    ///
    /// # Errors
    /// A failing reward, where that ends the run, or one that fails too often.
    pub fn judge(&self, answers: &[Answer<'_>], world: &World) -> Result<Judged> {
        let mut judged = Judged { total: vec![None; answers.len()], ..Judged::default() };
        for reward in &self.rewards {
            let scores = world.map(answers, "rewards", |own| {
                let scores = match &reward.judge {
                    Judge::Plugin(plugin) => self.by_plugin(plugin, own)?,
                    Judge::Model(model) => self.by_model(reward, model, own)?,
                };
                // As bits: what is not finite must arrive so.
                let bits = |score: Scored| score.map(|value| value.map(f64::to_bits));
                Ok::<_, Error>(scores.into_iter().map(bits).collect())
            })?;
            let mut failed = 0;
            let mut first = None;
            let mut values = Vec::with_capacity(scores.len());
            for (score, total) in scores.into_iter().zip(&mut judged.total) {
                let value = match score {
                    Ok(value) => value.map(f64::from_bits),
                    Err(why) => {
                        failed += 1;
                        first.get_or_insert(why);
                        (self.failure == RewardFailure::Zero).then_some(0.0)
                    }
                };
                if let Some(value) = value {
                    *total = Some(total.unwrap_or(0.0) + reward.weight * value);
                }
                values.push(value);
            }
            if failed as f64 > FAILURES_MAX * answers.len() as f64 {
                let (name, total) = (reward.name.clone(), answers.len());
                let first = first.unwrap_or_default();
                return Err(RunError::RewardFails { name, failed, total, first }.into());
            }
            judged.values.push(values);
            judged.failures.push(failed);
        }
        if let Some((low, high)) = self.clip {
            judged.total.iter_mut().flatten().for_each(|r| *r = r.clamp(low, high));
        }
        Ok(judged)
    }

    /// One score for each answer, or why there is none.
    fn by_plugin(&self, plugin: &Plugin, answers: &[Answer<'_>]) -> Result<Vec<Scored>> {
        let batch = batch(plugin.reads(), answers)?;
        match plugin.score(std::slice::from_ref(&batch)) {
            Ok(scores) => return Ok(scores.into_iter().map(|s| Ok(s.value)).collect()),
            Err(e) if !is_failure(&e) || self.failure == RewardFailure::Fail => {
                return Err(e.into());
            }
            Err(_) => {}
        }
        // Something failed: row by row it shows what.
        (0..answers.len())
            .map(|i| match plugin.score(&[batch.slice(i, 1)]) {
                Ok(scores) => Ok(Ok(scores.into_iter().next().and_then(|s| s.value))),
                Err(e) if is_failure(&e) => {
                    Ok(Err(format!("{}: {e}", answers[i].prompt.provenance)))
                }
                Err(e) => Err(e.into()),
            })
            .collect()
    }

    fn by_model(
        &self,
        reward: &Reward,
        model: &RewardModel,
        answers: &[Answer<'_>],
    ) -> Result<Vec<Scored>> {
        let conversations: Vec<Conversation> = answers
            .iter()
            .map(|a| {
                let mut conversation = a.prompt.conversation.clone();
                conversation.messages.push(Message::new("assistant", a.completion));
                conversation
            })
            .collect();
        let scores = model.score(&conversations, self.template.as_ref())?;
        let named = |(score, answer): (std::result::Result<f64, String>, &Answer<'_>)| {
            let place = |why| format!("{}: {why}", answer.prompt.provenance);
            score.map(Some).map_err(place)
        };
        let scores: Vec<_> = scores.into_iter().zip(answers).map(named).collect();
        if self.failure == RewardFailure::Fail
            && let Some(Err(why)) = scores.iter().find(|s| s.is_err())
        {
            let (name, total, first) = (reward.name.clone(), answers.len(), why.clone());
            let failed = scores.iter().filter(|s| s.is_err()).count();
            return Err(RunError::RewardFails { name, failed, total, first }.into());
        }
        Ok(scores)
    }
}

/// The columns that a reward asked for.
fn batch(reads: &Reads, answers: &[Answer<'_>]) -> Result<RecordBatch> {
    let own = ["prompt", "completion", "reference"];
    let extra: Vec<serde_json::Map<String, Value>> = answers
        .iter()
        .map(|a| {
            let text = a.prompt.columns.as_deref().unwrap_or("{}");
            serde_json::from_str(text).unwrap_or_default()
        })
        .collect();
    let json = std::collections::HashMap::from([(JSON_METADATA_KEY.into(), "true".into())]);
    let mut fields = Vec::new();
    let mut columns: Vec<ArrayRef> = Vec::new();
    let mut add = |name: &str, values: Vec<Option<String>>, is_json: bool| {
        let field = Field::new(name, DataType::Utf8, true);
        fields.push(if is_json { field.with_metadata(json.clone()) } else { field });
        columns.push(Arc::new(StringArray::from(values)));
    };
    let messages = |a: &Answer<'_>| serde_json::to_string(&a.prompt.conversation.messages).ok();
    add("prompt", answers.iter().map(messages).collect(), true);
    add("completion", answers.iter().map(|a| Some(a.completion.to_string())).collect(), false);
    let has_reference = answers.iter().any(|a| a.prompt.reference.is_some());
    let wanted = |name: &str| reads.columns.iter().any(|n| n.name == name);
    if has_reference || wanted("reference") {
        add("reference", answers.iter().map(|a| a.prompt.reference.clone()).collect(), false);
    }
    let mut names: Vec<&String> = extra.iter().flat_map(|row| row.keys()).collect();
    names.sort_unstable();
    names.dedup();
    for name in names.into_iter().filter(|n| !own.contains(&n.as_str())) {
        let value = |row: &serde_json::Map<String, Value>| {
            row.get(name).filter(|v| !v.is_null()).map(Value::to_string)
        };
        add(name, extra.iter().map(value).collect(), true);
    }
    let schema = Arc::new(Schema::new(fields));
    RecordBatch::try_new(schema, columns).map_err(|e| {
        let fault = format!("the columns of the rewards don't fit together: {e}");
        ConfigError::one(fault).into()
    })
}
