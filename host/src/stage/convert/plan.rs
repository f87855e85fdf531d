//! What a conversion does: its inputs, the way its rows go, and the schema they end in.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::{FieldRef, Fields, Schema, SchemaRef};
use serde_json::json;

use super::shape::Shape;
use super::sink::OutputFormat;
use super::take::Take;
use super::worker::Way;
use crate::config::ConfigError;
use crate::data::error::shown;
use crate::data::source::{Blocks, Format, ReadOptions, SourceFile, Unit, peek};
use crate::data::{DataError, Projection, Reject, RejectKind};
use crate::error::Result;
use crate::fs;
use crate::plugin::{Plugin, Verdict};
use crate::stage::dataset::projection;

/// The columns of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputSchema {
    /// What the formatter's first example is; without a formatter, the rows' own.
    Same,
    /// Examples in this shape.
    Of(Shape),
}

/// A conversion.
pub struct Job {
    /// Files, folders, patterns.
    pub inputs: Vec<String>,
    /// The file, or what shards are named after.
    pub output: PathBuf,
    /// Makes examples of rows; `None`: rows stay as they are.
    pub formatter: Option<Plugin>,
    /// The columns of the output.
    pub schema: OutputSchema,
    /// Rows of a shard.
    pub shard_rows: Option<usize>,
    /// Bytes of a shard, before compression.
    pub shard_bytes: Option<usize>,
    /// Most rows of a row group.
    pub row_group_rows: usize,
    /// Where rejected rows are listed.
    pub rejects: Option<PathBuf>,
    /// Share of rejected rows that stops the job.
    pub max_reject_rate: f64,
    /// Plain text: a file is one document, and not every line.
    pub whole_file_text: bool,
    /// Which of several machines this is, and how many there are.
    pub machine: (u64, u64),
    /// Workers.
    pub threads: usize,
    /// Replace what an earlier conversion left.
    pub overwrite: bool,
    /// Which rows are taken.
    pub take: Take,
}

impl Job {
    /// What the files of this machine are named after.
    pub fn own_output(&self) -> PathBuf {
        let (index, count) = self.machine;
        if count <= 1 {
            return self.output.clone();
        }
        self.renamed(&format!(".{index}-of-{count}"))
    }

    /// The output with a text before its extensions.
    fn renamed(&self, infix: &str) -> PathBuf {
        let name = self.output.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let lower = name.to_ascii_lowercase();
        let packed = [".gz", ".zst"].iter().find(|e| lower.ends_with(*e)).map_or(0, |e| e.len());
        let stem = name[..name.len() - packed].rfind('.').unwrap_or(name.len());
        self.output.with_file_name(format!("{}{infix}{}", &name[..stem], &name[stem..]))
    }

    /// Whether a path is one that this job, or one of its machines, writes.
    pub fn is_own(&self, path: &Path) -> bool {
        let name = |p: &Path| p.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (own, other) = (name(&self.output), name(path));
        let lower = own.to_ascii_lowercase();
        let packed = [".gz", ".zst"].iter().find(|e| lower.ends_with(*e)).map_or(0, |e| e.len());
        let stem = own[..own.len() - packed].rfind('.').unwrap_or(own.len());
        let infix = other.strip_prefix(&own[..stem]).and_then(|o| o.strip_suffix(&own[stem..]));
        // Machine and shard: `.0-of-4`, `-00012`.
        let numbered = |infix: &str| {
            infix.starts_with(['.', '-'])
                && infix
                    .replace("-of-", "-")
                    .chars()
                    .all(|c| c.is_ascii_digit() || ".-".contains(c))
        };
        let beside = path.parent() == self.output.parent();
        beside && infix.is_some_and(|infix| infix.is_empty() || numbered(infix))
    }

    /// The name of shard `number`; the output itself without sharding.
    pub fn shard(&self, number: usize) -> PathBuf {
        let (index, count) = self.machine;
        let machine = if count > 1 { format!(".{index}-of-{count}") } else { String::new() };
        match self.shard_rows.is_some() || self.shard_bytes.is_some() {
            true => self.renamed(&format!("{machine}-{number:05}")),
            false => self.own_output(),
        }
    }

    /// Hash of everything that decides the output.
    pub fn identity(&self, files: &[SourceFile], units: &[Unit]) -> String {
        let modified = |path: &Path| {
            let time = std::fs::metadata(path).and_then(|m| m.modified()).ok();
            let since = time.and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
            since.map_or(0, |d| d.as_nanos())
        };
        let files: Vec<String> =
            files.iter().map(|f| format!("{} {} {}", f.name, f.bytes, modified(&f.path))).collect();
        let plugin =
            self.formatter.as_ref().map(|p| (p.sha256().to_string(), p.options().to_string()));
        let schema = match self.schema {
            OutputSchema::Same => "same",
            OutputSchema::Of(shape) => shape.name(),
        };
        let all = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "files": files,
            "units": units.len(),
            "output": self.output,
            "plugin": plugin,
            "schema": schema,
            "shard_rows": self.shard_rows,
            "shard_bytes": self.shard_bytes,
            "row_group_rows": self.row_group_rows,
            "rejects": self.rejects,
            "whole_file_text": self.whole_file_text,
            "machine": self.machine,
            "take": self.take.identity(),
        });
        fs::sha256_hex(all.to_string().as_bytes())
    }
}

/// The way of a job's rows.
pub struct Plan {
    /// How blocks are read.
    pub options: ReadOptions,
    /// What happens to them; types of JSON columns are still to be found.
    pub way: Way,
    /// The output's columns; `None`: lines, or still to be found.
    pub schema: Option<SchemaRef>,
    /// Whether the types of JSON columns are still to be found.
    pub to_infer: bool,
}

/// Decides the way. Takes the formatter out of the job.
///
/// # Errors
/// Files that can't be read, or whose columns don't fit together.
pub fn plan(job: &mut Job, format: OutputFormat, files: &[SourceFile]) -> Result<Plan> {
    let options = |projection| ReadOptions {
        whole_file_text: job.whole_file_text,
        ..ReadOptions::new(projection)
    };
    if let Some(plugin) = job.formatter.take() {
        let options = options(projection(plugin.reads()));
        let shape = match job.schema {
            OutputSchema::Of(shape) => shape,
            OutputSchema::Same => first_shape(&plugin, files, &options)?,
        };
        let columnar = format.is_columnar();
        let schema = columnar.then(|| shape.schema());
        let way = Way::Examples { plugin: Box::new(plugin), shape, columnar };
        return Ok(Plan { options, way, schema, to_infer: false });
    }
    if let OutputSchema::Of(shape) = job.schema {
        return Err(ConfigError::one(format!(
            "`--output_schema {}` needs a formatter that makes examples of rows; add --plugin, or \
             leave it out",
            shape.name()
        ))
        .into());
    }
    let text = options(Projection::Columns { needs: Vec::new(), whole_row: true });
    if !format.is_columnar() {
        return Ok(Plan { options: text, way: Way::Lines, schema: None, to_infer: false });
    }
    let typed = files.iter().all(|f| matches!(f.format, Format::Parquet | Format::Arrow));
    if !typed {
        let way = Way::Typed(Default::default());
        return Ok(Plan { options: text, way, schema: None, to_infer: true });
    }
    let schema = united(files)?;
    let way = Way::Columns(schema.clone());
    Ok(Plan { options: options(Projection::All), way, schema: Some(schema), to_infer: false })
}

/// The shape of the first example.
fn first_shape(plugin: &Plugin, files: &[SourceFile], options: &ReadOptions) -> Result<Shape> {
    let units = files.iter().cloned().map(Unit::File);
    let mut rejected: Option<Reject> = None;
    for block in Blocks::new(units, options.clone()) {
        for batch in block?.read(options)? {
            rejected = rejected.or_else(|| batch.rejects.first().cloned());
            for (i, outcome) in plugin.format_here(&batch.batch)?.into_iter().enumerate() {
                match outcome.verdict {
                    Verdict::Keep(examples) => {
                        if let Some(example) = examples.first() {
                            return Ok(Shape::of(example));
                        }
                    }
                    Verdict::Reject(reason) if rejected.is_none() => {
                        let at = batch.provenance(i);
                        let kind = RejectKind::Formatter;
                        let (file, row, excerpt) = (at.file, at.row, String::new());
                        rejected = Some(Reject { file, row, kind, reason, excerpt });
                    }
                    Verdict::Reject(_) | Verdict::Skip(_) => {}
                }
            }
        }
    }
    if let Some(reject) = rejected {
        return Err(DataError::from(reject).into());
    }
    let file = files.first().map_or(String::new(), |f| shown(&f.name));
    Err(DataError::NoRows { file, detail: " that the formatter makes an example of" }.into())
}

/// The columns of all files, in order of appearance.
fn united(files: &[SourceFile]) -> Result<SchemaRef> {
    let mut fields: Vec<FieldRef> = Vec::new();
    for file in files {
        let Some(schema) = peek(file)? else { continue };
        for field in schema.fields() {
            match fields.iter().find(|f| f.name() == field.name()) {
                None => fields.push(Arc::new(field.as_ref().clone().with_nullable(true))),
                Some(own) if own.data_type() == field.data_type() => {}
                Some(own) => {
                    return Err(DataError::ColumnsDiffer {
                        file: shown(&file.name),
                        column: shown(field.name()),
                        got: field.data_type().to_string(),
                        expected: own.data_type().to_string(),
                    }
                    .into());
                }
            }
        }
    }
    if fields.is_empty() {
        let file = files.first().map_or(String::new(), |f| shown(&f.name));
        return Err(DataError::NoRows { file, detail: "" }.into());
    }
    Ok(Arc::new(Schema::new(fields.into_iter().collect::<Fields>())))
}
