//! Rows divided into parts to train on, to validate and to test on.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::leaves::{at, fingerprint};
use super::{Input, Watch};
use crate::config::ConfigError;
use crate::data::DataError;
use crate::error::Result;
use crate::rng::{Purpose, Stream};
use crate::stage::convert::{self, Job, Selection, Take};

/// How large a part is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Size {
    /// A share of all rows.
    Share(f64),
    /// A number of rows.
    Rows(u64),
}

impl Size {
    /// A size as it is typed: below 1 a share, from 1 on a number of rows.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> std::result::Result<Self, String> {
        let percent = text.strip_suffix('%').and_then(|t| t.trim().parse::<f64>().ok());
        match (percent.map(|p| p / 100.0), text.parse::<u64>(), text.parse::<f64>()) {
            (Some(share), ..) if share > 0.0 && share < 1.0 => Ok(Size::Share(share)),
            (None, Ok(rows), _) if rows > 0 => Ok(Size::Rows(rows)),
            (None, Err(_), Ok(share)) if share > 0.0 && share < 1.0 => Ok(Size::Share(share)),
            _ => Err(format!(
                "is `{}`, expected a share such as 0.1 or 10%, or a number of rows",
                crate::error::excerpt(text)
            )),
        }
    }

    fn of(self, rows: u64) -> f64 {
        match self {
            Size::Share(share) => share * rows as f64,
            Size::Rows(rows) => rows as f64,
        }
    }
}

/// What decides on which side a row is.
#[derive(Clone, Debug, PartialEq)]
pub enum By {
    /// Nothing but its whole content: equal rows stay together.
    Row,
    /// Rows with the same value of a column stay together.
    Group(String),
    /// Every part gets its share of the rows with each value of a column.
    Stratum(String),
}

/// What a run of `split` does.
pub struct Split {
    /// What is read.
    pub input: Input,
    /// The parts that are held out, with their names; all other rows are `train`.
    pub parts: Vec<(&'static str, Size)>,
    /// What decides.
    pub by: By,
    /// Seed of the draw.
    pub seed: u64,
}

/// Rows of a part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PartSize {
    /// Its name.
    pub name: &'static str,
    /// Its rows.
    pub rows: u64,
}

/// A part that is written.
#[derive(Debug)]
pub struct Part {
    /// Its name.
    pub name: &'static str,
    /// Its rows.
    pub rows: u64,
    /// What was written; `None`: an earlier attempt had finished it.
    pub report: Option<convert::Report>,
    /// Where it lies.
    pub output: PathBuf,
}

/// The name of the rows that are not held out.
pub const TRAIN: &str = "train";

/// Rows that stay together, and what they are balanced by.
struct Groups {
    /// The group of each row.
    of_row: Vec<u32>,
    /// Rows of each group.
    sizes: Vec<u64>,
    /// The stratum of each group.
    strata: Vec<u32>,
}

/// The part of each group: `parts` by number, and the number behind them for `train`.
fn draw(groups: &Groups, parts: &[Size], seed: u64) -> Vec<usize> {
    let order = Stream::new(seed, Purpose::Split, 1).permutation(groups.sizes.len());
    let train = parts.len();
    let mut chosen = vec![train; groups.sizes.len()];
    let strata = groups.strata.iter().max().map_or(0, |s| *s as usize + 1);
    let mut of_stratum: Vec<Vec<u32>> = vec![Vec::new(); strata];
    order.iter().for_each(|g| of_stratum[groups.strata[*g as usize] as usize].push(*g));
    let all: u64 = groups.sizes.iter().sum();
    // What a part is behind its size so far goes on to the next stratum, so that the sizes are
    // right over all of them, however small each is.
    let mut behind = vec![0.0; parts.len()];
    for members in &of_stratum {
        let rows: u64 = members.iter().map(|g| groups.sizes[*g as usize]).sum();
        let mut wanted: Vec<f64> = parts
            .iter()
            .zip(&behind)
            .map(|(size, behind)| size.of(all) * rows as f64 / all.max(1) as f64 + behind)
            .collect();
        for &group in members {
            let size = groups.sizes[group as usize] as f64;
            // The part that lacks most takes it, unless it would become more than half too large.
            let lacking = (0..parts.len()).max_by(|a, b| wanted[*a].total_cmp(&wanted[*b]));
            let Some(part) = lacking.filter(|p| wanted[*p] >= size / 2.0) else { continue };
            chosen[group as usize] = part;
            wanted[part] -= size;
        }
        behind = wanted;
    }
    chosen
}

/// Divides the rows: which of them are in which part, by name, `train` first.
///
/// # Errors
/// Files that can't be read; parts that take all rows; a column that no row has.
pub fn choose(split: &Split, watch: &mut Watch<'_>) -> Result<Vec<(PartSize, Selection)>> {
    let files = split.input.files()?.files;
    let column = match &split.by {
        By::Row => None,
        By::Group(column) | By::Stratum(column) => Some(column.as_str()),
    };
    let stratified = matches!(split.by, By::Stratum(_));
    let mut places: Vec<(Arc<str>, u64)> = Vec::new();
    let mut keys: HashMap<u128, u32> = HashMap::new();
    let mut values: HashMap<u128, u32> = HashMap::new();
    let mut groups = Groups { of_row: Vec::new(), sizes: Vec::new(), strata: Vec::new() };
    let mut without = 0u64;
    split.input.scan(
        files,
        watch,
        |batches| {
            let mut rows = Vec::new();
            for batch in &batches {
                for (row, text) in batch.rows.iter().zip(batch.whole_rows()) {
                    let fields: Map<String, Value> = serde_json::from_str(text).unwrap_or_default();
                    let value = column.map(|c| at(&fields, c));
                    let by_value = value.map(|v| fingerprint([v]));
                    let lacks = matches!(value, Some(None));
                    let whole = fingerprint([Some(&Value::Object(fields))]);
                    rows.push((batch.file.clone(), *row, whole, by_value, lacks));
                }
            }
            Ok(rows)
        },
        |rows| {
            let count = rows.len() as u64;
            for (file, row, whole, by_value, lacks) in rows {
                without += u64::from(lacks);
                // A row without the column is a group of its own content.
                let grouped = by_value.filter(|_| !stratified && !lacks);
                let stratum = match by_value.filter(|_| stratified) {
                    Some(value) => {
                        let next = values.len() as u32;
                        *values.entry(value).or_insert(next)
                    }
                    None => 0,
                };
                let next = groups.sizes.len() as u32;
                let group = *keys.entry(grouped.unwrap_or(whole)).or_insert(next);
                if group == next {
                    groups.sizes.push(0);
                    groups.strata.push(stratum);
                }
                groups.sizes[group as usize] += 1;
                groups.of_row.push(group);
                places.push((file, row));
            }
            Ok(count)
        },
    )?;
    let rows = places.len() as u64;
    if let (Some(column), true) = (column, without == rows && rows > 0) {
        let fault = format!(
            "no row has a value at `{}`; give a column, or a path such as `messages.0.content`",
            crate::error::excerpt(column)
        );
        return Err(ConfigError::one(fault).into());
    }
    if places.len() > u32::MAX as usize {
        return Err(DataError::TooManyRows { got: places.len() }.into());
    }
    let held_out: f64 = split.parts.iter().map(|(_, size)| size.of(rows)).sum();
    if held_out >= rows as f64 {
        let fault = format!(
            "the parts held out are {held_out:.0} rows, but there are only {rows}; hold out fewer"
        );
        return Err(ConfigError::one(fault).into());
    }
    let sizes: Vec<Size> = split.parts.iter().map(|(_, size)| *size).collect();
    let chosen = draw(&groups, &sizes, split.seed);
    let what = |name: &str, rows: u64| {
        json!({
            "split": name,
            "rows": rows,
            "sizes": split.parts.iter().map(|(n, s)| json!([n, s])).collect::<Vec<_>>(),
            "by": match &split.by {
                By::Row => json!("row"),
                By::Group(column) => json!({"group": column}),
                By::Stratum(column) => json!({"stratum": column}),
            },
            "seed": split.seed,
        })
    };
    let names: Vec<&'static str> =
        split.parts.iter().map(|(name, _)| *name).chain([TRAIN]).collect();
    let mut parts: Vec<(PartSize, Selection)> = names
        .iter()
        .map(|&name| (PartSize { name, rows: 0 }, Selection::new("in another part", Value::Null)))
        .collect();
    for ((file, row), group) in places.iter().zip(&groups.of_row) {
        let (size, selection) = &mut parts[chosen[*group as usize]];
        size.rows += 1;
        selection.choose(file, *row);
    }
    for (size, selection) in &mut parts {
        selection.describe(what(size.name, size.rows));
    }
    parts.rotate_right(1);
    Ok(parts)
}

/// Divides the rows and writes every part as `job` says for its name; parts that an earlier attempt
/// had finished are left alone.
///
/// # Errors
/// Those of [`choose`] and of [`convert::run`]; a part without a row.
pub fn split(
    split: &Split,
    job: &dyn Fn(&'static str) -> Job,
    watch: &mut Watch<'_>,
) -> Result<Vec<Part>> {
    let parts = choose(split, watch)?;
    if let Some((empty, _)) = parts.iter().find(|(size, _)| size.rows == 0) {
        let fault = format!(
            "part `{}` would have no row: rows that must stay together are too many for its size; \
             hold out more, or group by another column",
            empty.name
        );
        return Err(ConfigError::one(fault).into());
    }
    let mut written = Vec::new();
    for (PartSize { name, rows }, selection) in parts {
        let mut job = job(name);
        job.take = Take::Selected(Arc::new(selection));
        let output = job.output.clone();
        let report = match !job.overwrite && convert::is_done(&job)? {
            true => None,
            false => Some(convert::run(job, watch.progress, watch.interrupted)?),
        };
        written.push(Part { name, rows, report, output });
    }
    Ok(written)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_are_shares_or_rows() {
        assert_eq!(Size::parse("0.1"), Ok(Size::Share(0.1)));
        assert_eq!(Size::parse("10%"), Ok(Size::Share(0.1)));
        assert_eq!(Size::parse("100"), Ok(Size::Rows(100)));
        for bad in ["0", "-1", "1.5", "100%", "0%", "x", "", "nan", "1.0"] {
            assert!(Size::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn parts_have_their_sizes(
            sizes in proptest::collection::vec(1u64..4, 50..300),
            strata in 1u32..6,
            share in 0.05f64..0.3,
            seed: u64,
        ) {
            let groups = Groups {
                of_row: Vec::new(),
                strata: (0..sizes.len()).map(|i| i as u32 % strata).collect(),
                sizes: sizes.clone(),
            };
            let all: u64 = sizes.iter().sum();
            let parts = [Size::Share(share), Size::Rows(7)];
            let chosen = draw(&groups, &parts, seed);
            prop_assert_eq!(&chosen, &draw(&groups, &parts, seed));
            let rows = |part| -> u64 {
                chosen.iter().zip(&sizes).filter(|(c, _)| **c == part).map(|(_, s)| s).sum()
            };
            prop_assert!((rows(0) as f64 - share * all as f64).abs() <= 3.0);
            prop_assert!((rows(1) as f64 - 7.0).abs() <= 3.0);
            for stratum in 0..strata {
                let of = |part: Option<usize>| -> u64 {
                    (0..sizes.len())
                        .filter(|&i| groups.strata[i] == stratum)
                        .filter(|&i| part.is_none_or(|p| chosen[i] == p))
                        .map(|i| sizes[i])
                        .sum()
                };
                let wanted = share * of(None) as f64;
                prop_assert!((of(Some(0)) as f64 - wanted).abs() <= 4.5);
            }
        }
    }
}
