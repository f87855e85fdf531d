//! Which files of a repository are a split of a configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::HubError;
use crate::data::error::names;
use crate::data::source::is_data_name;

/// The files of a split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Their paths in the repository, in order.
    pub paths: Vec<String>,
    /// Whether the split is named by paths, and not all there is.
    pub named: bool,
    /// What the user should know.
    pub notices: Vec<String>,
}

/// Words by which the names of files and folders tell a split, as `datasets` reads them.
const SPLITS: [(&str, &[&str]); 3] = [
    ("train", &["train", "training"]),
    ("validation", &["validation", "valid", "val", "dev"]),
    ("test", &["test", "testing", "eval", "evaluation"]),
];

/// The split that a path's words tell, the last part first.
fn split_of(path: &str) -> Option<&'static str> {
    path.rsplit('/').find_map(|part| {
        let lower = part.to_ascii_lowercase();
        let mut words = lower.split(|c: char| !c.is_ascii_alphabetic());
        words.find_map(|word| SPLITS.iter().find(|(_, w)| w.contains(&word)).map(|(name, _)| *name))
    })
}

/// The configuration that is meant, of those there are.
fn config_of(
    name: &str,
    configs: &BTreeSet<&str>,
    wanted: Option<&str>,
) -> Result<String, HubError> {
    let found = || names(configs.iter().copied());
    match wanted {
        Some(config) if configs.contains(config) => Ok(config.to_string()),
        Some(config) => Err(HubError::NoConfig {
            name: name.to_string(),
            config: crate::error::excerpt(config),
            found: found(),
        }),
        None if configs.contains("default") => Ok("default".into()),
        None => match configs.iter().next() {
            Some(only) if configs.len() == 1 => Ok((*only).to_string()),
            _ => Err(HubError::SeveralConfigs { name: name.to_string(), found: found() }),
        },
    }
}

/// Chooses among `paths`; `converted` says that they are laid out as the hub's Parquet conversion:
/// `CONFIG/SPLIT/NNNN.parquet`.
pub(super) fn choose(
    name: &str,
    paths: &[String],
    converted: bool,
    config: Option<&str>,
    split: &str,
) -> Result<Choice, HubError> {
    let data: Vec<&str> =
        paths.iter().map(String::as_str).filter(|p| is_data_name(Path::new(p))).collect();
    if data.is_empty() {
        return Err(HubError::NoFiles {
            name: name.to_string(),
            revision: String::new(),
            found: String::new(),
        });
    }
    let mut by_split: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut notices = Vec::new();
    let mut named = true;
    if converted {
        let places: Vec<(&str, &str, &str)> = data
            .iter()
            .filter_map(|path| {
                let mut parts = path.splitn(3, '/');
                Some((parts.next()?, parts.next()?, *path)).filter(|_| parts.next().is_some())
            })
            .collect();
        let configs = places.iter().map(|(config, ..)| *config).collect();
        let config = config_of(name, &configs, config)?;
        for (_, folder, path) in places.into_iter().filter(|(c, ..)| *c == config) {
            let whole = folder.strip_prefix("partial-");
            if whole == Some(split) && notices.is_empty() {
                notices.push(format!(
                    "the hub has only the beginning of `{name}` as Parquet; for all of it give \
                     --dataset_revision main"
                ));
            }
            let split = whole.unwrap_or(folder).to_string();
            by_split.entry(split).or_default().push(path.to_string());
        }
    } else {
        // A configuration is a folder of that name.
        let within = |path: &&&str| match config {
            Some(config) => path.split('/').rev().skip(1).any(|part| part == config),
            None => true,
        };
        let own: Vec<&&str> = data.iter().filter(within).collect();
        if own.is_empty() {
            let folders: BTreeSet<&str> =
                data.iter().filter_map(|p| Some(p.split_once('/')?.0)).collect();
            return Err(HubError::NoConfig {
                name: name.to_string(),
                config: crate::error::excerpt(config.unwrap_or_default()),
                found: names(folders),
            });
        }
        named = own.iter().any(|path| split_of(path).is_some());
        for path in own {
            // Without any word of a split all files are to train on.
            let split = split_of(path).unwrap_or(if named { "other" } else { "train" });
            by_split.entry(split.to_string()).or_default().push(path.to_string());
        }
    }
    let found = names(by_split.keys().map(String::as_str));
    match by_split.remove(split) {
        Some(paths) => Ok(Choice { paths, named, notices }),
        None => Err(HubError::NoSplit {
            name: name.to_string(),
            split: crate::error::excerpt(split),
            found,
        }),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn paths(of: &[&str]) -> Vec<String> {
        of.iter().map(|p| p.to_string()).collect()
    }

    #[test]
    fn conversions_are_read_by_their_folders() {
        let all = paths(&[
            "en/train/0000.parquet",
            "en/train/0001.parquet",
            "en/test/0000.parquet",
            "de/partial-train/0000.parquet",
            ".gitattributes",
        ]);
        let of = |config, split| choose("x", &all, true, config, split);
        assert_eq!(of(Some("en"), "train").unwrap().paths, all[..2]);
        assert_eq!(of(Some("en"), "test").unwrap().paths, all[2..3]);
        assert_eq!(of(Some("de"), "train").unwrap().notices.len(), 1);
        let e = of(None, "train").unwrap_err().to_string();
        assert!(e.contains("--dataset_config_name: `de`, `en`"), "{e}");
        let e = of(Some("fr"), "train").unwrap_err().to_string();
        assert!(e.contains("no configuration `fr`; it has `de`, `en`"), "{e}");
        let e = of(Some("en"), "validation").unwrap_err().to_string();
        assert!(e.contains("no split `validation`; it has `test`, `train`"), "{e}");
    }

    #[test]
    fn plain_files_tell_their_split_by_words() {
        let all = paths(&[
            "README.md",
            "data/train-00000-of-00002.parquet",
            "data/train-00001-of-00002.parquet",
            "data/val.jsonl",
            "data/test.csv.gz",
            "restrained.txt",
        ]);
        let of = |split| choose("x", &all, false, None, split);
        assert_eq!(of("train").unwrap().paths, all[1..3]);
        assert_eq!(of("validation").unwrap().paths, all[3..4]);
        assert!(of("train").unwrap().named);
        let plain = paths(&["a.jsonl", "b/c.jsonl"]);
        let got = choose("x", &plain, false, None, "train").unwrap();
        assert_eq!((got.paths.len(), got.named), (2, false));
        assert_eq!(choose("x", &plain, false, Some("b"), "train").unwrap().paths, ["b/c.jsonl"]);
        assert!(choose("x", &plain, false, None, "test").is_err());
        assert!(matches!(
            choose("x", &paths(&["a.py"]), false, None, "train"),
            Err(HubError::NoFiles { .. })
        ));
    }
}
