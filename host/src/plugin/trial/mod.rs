//! Trying a plugin out, as `trainer plugin check` and `trainer plugin bench` do.
//!
//! A check asks what the contract asks: answers as recorded; the same answer for the same row
//! however often it is asked, however the rows are cut into calls and in whatever order they come;
//! an answer, not a trap, whatever a row holds; far from the limits.

mod bench;
mod hostile;
mod items;
mod seeded;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use super::component::World;
use super::error::{PluginError, Who, shown};
use super::limits::PluginLimits;
use super::pool::{Plugin, Usage};
use super::schema;
use crate::fs;
use crate::rng::{Purpose, Stream};

pub use bench::{Bench, Timing};
pub use items::{Case, Items, outcome, rendering, score};

/// Items that are asked about in several ways.
const ITEMS: usize = 200;
/// Items that get an instance of their own each.
const FRESH: usize = 40;
/// Faults listed per check.
const FAULTS_SHOWN: usize = 8;
/// Largest golden file, bytes.
const GOLDEN_BYTES_MAX: u64 = 64 << 20;
/// Share of the fuel or of the memory from which on a plugin is too near its limits on sound rows.
const SHARE_MAX: f64 = 0.5;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// All is well.
    Passed,
    /// Something is wrong.
    Failed,
    /// There was nothing to check.
    Skipped,
}

impl Status {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Status::Passed => "ok",
            Status::Failed => "failed",
            Status::Skipped => "skipped",
        }
    }
}

/// One check and what came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// What was checked: `golden`, `again`, `batches` …
    pub name: &'static str,
    /// How it ended.
    pub status: Status,
    /// What was done, in words.
    pub detail: String,
    /// What is wrong, at most a few lines.
    pub faults: Vec<String>,
}

impl Check {
    fn of(name: &'static str, detail: String, mut faults: Vec<String>) -> Self {
        let status = if faults.is_empty() { Status::Passed } else { Status::Failed };
        let more = faults.len().saturating_sub(FAULTS_SHOWN);
        faults.truncate(FAULTS_SHOWN);
        if more > 0 {
            faults.push(format!("and {more} more"));
        }
        Self { name, status, detail, faults }
    }

    fn skipped(name: &'static str, why: impl Into<String>) -> Self {
        Self { name, status: Status::Skipped, detail: why.into(), faults: Vec::new() }
    }
}

/// All checks of one plugin.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The plugin's name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its world.
    pub world: World,
    /// sha256 of its file.
    pub sha256: String,
    /// The checks, in order.
    pub checks: Vec<Check>,
}

impl Report {
    /// An error unless every check passed.
    ///
    /// # Errors
    /// [`PluginError::Unsound`].
    pub fn verdict(&self) -> Result<(), PluginError> {
        let count = |status| self.checks.iter().filter(|c| c.status == status).count();
        let failed = count(Status::Failed);
        if failed == 0 {
            return Ok(());
        }
        let who = Arc::new(Who { name: self.name.clone(), version: self.version.clone() });
        Err(PluginError::Unsound { who, failed, total: failed + count(Status::Passed) })
    }

    /// The report for programs.
    pub fn to_json(&self) -> Value {
        let check = |c: &Check| {
            json!({"check": c.name, "status": c.status.name(), "detail": c.detail,
                "faults": c.faults})
        };
        json!({
            "plugin": self.name, "version": self.version, "world": self.world.name(),
            "sha256": self.sha256, "passed": self.verdict().is_ok(),
            "checks": self.checks.iter().map(check).collect::<Vec<_>>(),
        })
    }
}

/// What to check.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// Path or name of the plugin.
    pub plugin: &'a str,
    /// Its options, JSON text; empty for none.
    pub options: &'a str,
    /// Seed of the plugin and of the rows made up.
    pub seed: u64,
    /// A folder with `in.jsonl`, `out.jsonl` and perhaps `options.json`, or with folders that have
    /// them.
    pub golden: Option<&'a Path>,
    /// The limits.
    pub limits: PluginLimits,
}

/// Rows recorded with their answers.
struct Golden {
    dir: PathBuf,
    options: String,
    input: Vec<String>,
    output: Vec<Value>,
}

/// Makes all checks.
///
/// # Errors
/// A plugin that can't be loaded, golden files that can't be read. What else is wrong is in the
/// report.
pub fn check(request: &Request<'_>) -> Result<Report, PluginError> {
    let golden = match request.golden {
        Some(dir) => read_golden(dir, request.options)?,
        None => Vec::new(),
    };
    // A plugin that can't do without options is checked with those of its first golden rows.
    let options = match (request.options, golden.first()) {
        ("", Some(first)) => first.options.as_str(),
        (own, _) => own,
    };
    let load = || Plugin::load(request.plugin, options, request.seed, request.limits.clone());
    let plugin = load()?;
    let world = plugin.world();
    // Answers must not depend on which thread asks; one thread makes every fault the same twice.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
    let pool = pool.map_err(|e| PluginError::Engine(e.to_string()))?;
    let checks = pool.install(|| -> Result<Vec<Check>, PluginError> {
        let mut checks = vec![described(&plugin, load)?, schema_check(&plugin)];
        let mut most = plugin.usage();
        checks.push(golden_check(request, &golden, world, &mut most)?);
        let base = base(&plugin, &golden, options, request.seed);
        checks.extend(repeated(&plugin, load, &base, &mut most)?);
        checks.push(limits_check(&plugin, most, &request.limits));
        checks.push(hostile_check(&plugin, &base));
        Ok(checks)
    })?;
    Ok(Report {
        name: plugin.name().into(),
        version: plugin.version().into(),
        world,
        sha256: plugin.sha256().into(),
        checks,
    })
}

/// The folders of golden rows in `dir`.
fn read_golden(dir: &Path, own_options: &str) -> Result<Vec<Golden>, PluginError> {
    let mut dirs = vec![dir.to_path_buf()];
    let entries = std::fs::read_dir(dir).map_err(fs::io_error("read", dir))?;
    let mut inner: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    inner.sort();
    dirs.extend(inner);
    let mut found = Vec::new();
    for dir in dirs.into_iter().filter(|dir| dir.join("in.jsonl").is_file()) {
        let text = |name: &str| -> Result<String, PluginError> {
            let path = dir.join(name);
            let bytes = fs::read_limited(&path, GOLDEN_BYTES_MAX)?;
            String::from_utf8(bytes)
                .map_err(|_| PluginError::Golden { path, why: "it is not UTF-8".into() })
        };
        let lines = |text: String| -> Vec<String> {
            text.lines().filter(|line| !line.trim().is_empty()).map(str::to_string).collect()
        };
        let output = lines(text("out.jsonl")?);
        let output = output.iter().enumerate().map(|(i, line)| {
            serde_json::from_str(line).map_err(|e| PluginError::Golden {
                path: dir.join("out.jsonl"),
                why: format!("line {}: {e}", i + 1),
            })
        });
        found.push(Golden {
            options: match dir.join("options.json").is_file() {
                true => text("options.json")?,
                false => own_options.to_string(),
            },
            input: lines(text("in.jsonl")?),
            output: output.collect::<Result<_, _>>()?,
            dir,
        });
    }
    if found.is_empty() {
        let why = "there is no in.jsonl in it or in a folder of it".into();
        return Err(PluginError::Golden { path: dir.to_path_buf(), why });
    }
    Ok(found)
}

/// What a plugin says about itself is the same every time.
fn described(
    plugin: &Plugin,
    load: impl Fn() -> Result<Plugin, PluginError>,
) -> Result<Check, PluginError> {
    let mut faults = Vec::new();
    let second = load()?;
    let (a, b) = (plugin.inspection(), second.inspection());
    let same = a.name == b.name
        && a.version == b.version
        && a.summary == b.summary
        && a.reads == b.reads
        && a.options_schema == b.options_schema;
    if !same {
        faults.push("a second `describe` says something else than the first".into());
    }
    if plugin.reads() != second.reads() {
        faults.push("a second `configure` with the same options asks for other columns".into());
    }
    if plugin.world() == World::Template && *plugin.reads() != super::Reads::default() {
        faults.push("a template reads no columns, but `configure` asks for some".into());
    }
    if a.summary.trim().is_empty() {
        faults.push("`describe` gives no summary".into());
    }
    Ok(Check::of("describe", format!("{} {}", a.name, a.version), faults))
}

fn schema_check(plugin: &Plugin) -> Check {
    let text = &plugin.inspection().options_schema;
    if text.trim().is_empty() {
        return Check::skipped("schema", "the plugin takes no options");
    }
    let count = plugin.inspection().options().len();
    let faults = match serde_json::from_str(text) {
        Ok(value) => schema::lint(&value),
        Err(e) => vec![format!("the schema is no JSON: {e}")],
    };
    Check::of("schema", format!("{count} options"), faults)
}

fn golden_check(
    request: &Request<'_>,
    golden: &[Golden],
    world: World,
    most: &mut Usage,
) -> Result<Check, PluginError> {
    if golden.is_empty() {
        return Ok(Check::skipped("golden", "no golden rows given"));
    }
    let mut faults = Vec::new();
    let mut count = 0;
    for set in golden {
        let wrong = |why| PluginError::Golden { path: set.dir.join("in.jsonl"), why };
        let lines: Vec<&str> = set.input.iter().map(String::as_str).collect();
        let items = Items::parse(&lines, world).map_err(wrong)?;
        let plugin =
            Plugin::load(request.plugin, &set.options, request.seed, request.limits.clone())?;
        let place =
            set.dir.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        count += items.len();
        match items.answers(&plugin, &[items.len()]) {
            Err(e) => faults.push(format!("{place}: {e}")),
            Ok(answers) if answers.len() != set.output.len() => faults.push(format!(
                "{place}: {} rows in in.jsonl, {} in out.jsonl",
                answers.len(),
                set.output.len()
            )),
            Ok(answers) => faults.extend(differences(&answers, &set.output, 1, &place)),
        }
        *most = most.max(plugin.usage());
    }
    Ok(Check::of("golden", format!("{count} rows as recorded"), faults))
}

/// Lines about answers that are not what they should be, rows counted from `first`.
fn differences(got: &[Value], wanted: &[Value], first: usize, place: &str) -> Vec<String> {
    got.iter()
        .zip(wanted)
        .enumerate()
        .filter(|(_, (got, wanted))| !same(got, wanted))
        .map(|(i, (got, wanted))| {
            let (got, wanted) = (shown(&got.to_string()), shown(&wanted.to_string()));
            format!("{place}, row {}: {got} instead of {wanted}", i + first)
        })
        .collect()
}

/// Equal, where 1 is 1.0.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => x == y || x.as_f64() == y.as_f64(),
        (Value::Array(x), Value::Array(y)) => {
            x.len() == y.len() && x.iter().zip(y).all(|(x, y)| same(x, y))
        }
        (Value::Object(x), Value::Object(y)) => {
            x.len() == y.len() && x.iter().all(|(k, v)| y.get(k).is_some_and(|w| same(v, w)))
        }
        _ => a == b,
    }
}

/// Items to ask about: the golden ones that go with the options, else made-up ones.
fn base(plugin: &Plugin, golden: &[Golden], options: &str, seed: u64) -> Items {
    let set = golden.iter().find(|set| set.options == options);
    set.and_then(|set| {
        let lines: Vec<&str> = set.input.iter().map(String::as_str).collect();
        Items::parse(&lines, plugin.world()).ok()
    })
    .filter(|items| !items.is_empty())
    .unwrap_or_else(|| seeded::items(plugin.world(), plugin.reads(), ITEMS, seed))
}

/// The same answers however the rows come.
fn repeated(
    plugin: &Plugin,
    load: impl Fn() -> Result<Plugin, PluginError>,
    base: &Items,
    most: &mut Usage,
) -> Result<Vec<Check>, PluginError> {
    let names = ["again", "batches", "shuffled", "fresh"];
    if !plugin.inspection().deterministic {
        let why = "the plugin says that its answers differ from time to time";
        return Ok(names.map(|name| Check::skipped(name, why)).to_vec());
    }
    let items = base.cycled(ITEMS.max(base.len().min(ITEMS * 5)));
    let len = items.len();
    let asked = load()?;
    let first = items.answers(&asked, &[len]);
    *most = most.max(asked.usage());
    let first = match first {
        Ok(answers) => answers,
        Err(e) => {
            let mut checks = vec![Check::of(names[0], "sound rows".into(), vec![e.to_string()])];
            checks.extend(names[1..].iter().map(|name| Check::skipped(name, "rows fail already")));
            return Ok(checks);
        }
    };
    let compare = |what: &str, answers: Result<Vec<Value>, PluginError>| match answers {
        Ok(answers) => differences(&answers, &first, 0, what),
        Err(e) => vec![format!("{what}: {e}")],
    };

    let mut again = compare("a second plugin", items.answers(&load()?, &[len]));
    let twice = load()?;
    let _ = items.answers(&twice, &[len]);
    again.extend(compare("a second time", items.answers(&twice, &[len])));

    let mut batches = Vec::new();
    for (what, sizes) in [
        ("one by one", &[1][..]),
        ("in calls of 2, 3, 5, 7, 11, 13", &[2, 3, 5, 7, 11, 13]),
        ("in calls of 97 and 1", &[97, 1]),
        ("in halves", &[len.div_ceil(2)]),
    ] {
        batches.extend(compare(what, items.answers(&load()?, sizes)));
    }

    let order: Vec<usize> =
        Stream::new(1, Purpose::Test, 1).permutation(len).into_iter().map(|i| i as usize).collect();
    let wanted: Vec<Value> = order.iter().map(|i| first[*i].clone()).collect();
    let mut shuffled = Vec::new();
    for (what, order, wanted) in [
        ("shuffled", order.clone(), wanted.clone()),
        ("backwards", (0..len).rev().collect(), first.iter().rev().cloned().collect()),
    ] {
        match items.pick(&order).answers(&load()?, &[len, 1]) {
            Ok(answers) => shuffled.extend(differences(&answers, &wanted, 0, what)),
            Err(e) => shuffled.push(format!("{what}: {e}")),
        }
    }

    let mut fresh = Vec::new();
    let some = FRESH.min(len);
    for (i, wanted) in first.iter().enumerate().take(some) {
        match items.pick(&[i]).answers(&load()?, &[1]) {
            Ok(answers) => {
                fresh.extend(differences(&answers, std::slice::from_ref(wanted), i, "alone"));
            }
            Err(e) => fresh.push(format!("row {i} alone: {e}")),
        }
    }
    Ok(vec![
        Check::of("again", format!("the same twice over {len} rows"), again),
        Check::of("batches", "one by one, odd sizes, halves".into(), batches),
        Check::of("shuffled", "in another order, backwards".into(), shuffled),
        Check::of("fresh", format!("{some} rows on an instance of their own"), fresh),
    ])
}

/// Whatever a row holds, it gets an answer.
fn hostile_check(plugin: &Plugin, base: &Items) -> Check {
    let tries = hostile::tries(plugin.world(), plugin.reads(), base);
    if tries.is_empty() {
        return Check::skipped("hostile", "the plugin reads nothing");
    }
    let mut faults = Vec::new();
    let mut kept_away = 0;
    let (mut share, mut dearest) = (0.0, None);
    for attempt in &tries {
        let answers = attempt.items.answers(plugin, &[1]);
        if plugin.usage().fuel_share > share {
            (share, dearest) = (plugin.usage().fuel_share, Some(&attempt.about));
        }
        match answers {
            Ok(_) => {}
            // A value that is not of the column's kind never reaches a reward.
            Err(PluginError::Failed { message, .. }) if message.starts_with("field `") => {
                kept_away += 1;
            }
            Err(PluginError::ColumnType { .. }) => kept_away += 1,
            Err(e) => faults.push(format!("{}: {e}", attempt.about)),
        }
    }
    let count = tries.len();
    let away = match kept_away {
        0 => String::new(),
        n => format!(", {n} of them kept away by the host"),
    };
    let dearest = dearest.map_or(String::new(), |about| {
        format!(", at most {:.1} % of a call's fuel ({about})", 100.0 * share)
    });
    Check::of("hostile", format!("{count} rows with hostile values{away}{dearest}"), faults)
}

fn limits_check(plugin: &Plugin, most: Usage, limits: &PluginLimits) -> Check {
    let memory = most.memory_bytes as f64 / limits.memory_bytes as f64;
    let detail = format!(
        "sound rows: at most {:.1} % of a call's fuel and {:.1} MB of memory ({:.1} %)",
        100.0 * most.fuel_share,
        most.memory_bytes as f64 / 1e6,
        100.0 * memory
    );
    let mut faults = Vec::new();
    let (name, half) = (plugin.name(), 100.0 * SHARE_MAX);
    if most.fuel_share > SHARE_MAX {
        faults.push(format!("a call of `{name}` spent more than {half} % of its fuel"));
    }
    if memory > SHARE_MAX {
        faults.push(format!("an instance of `{name}` owns more than {half} % of its memory"));
    }
    Check::of("limits", detail, faults)
}
