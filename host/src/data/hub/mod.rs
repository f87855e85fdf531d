//! Data sets of the Hugging Face hub, by name: which files a configuration and a split have, and
//! those files in a cache that is laid out as Hugging Face's own and shared with it
//! (<https://huggingface.co/docs/huggingface_hub/guides/manage-cache>).
//!
//! A data set is read from the hub's Parquet conversion (revision `refs/convert/parquet`) where
//! there is one, else from the files of its main revision. A revision is resolved to a commit
//! first, so that what is cached is what is wanted.

mod cache;
mod choose;
mod http;

use std::path::PathBuf;
use std::time::Duration;

pub use choose::Choice;

use super::error::names;
use crate::fs::FsError;
use cache::Cache;
use http::Http;

/// The revision under which the hub keeps every public data set as Parquet.
const PARQUET_REVISION: &str = "refs/convert/parquet";

/// What the hub refuses, or how it fails.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// A file operation.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// A name that can't be one.
    #[error("`{name}` is no name of a data set on the hub; give OWNER/NAME or NAME")]
    Name {
        /// The name as given.
        name: String,
    },
    /// No connection, or one that broke.
    #[error(
        "can't reach {url}: {problem}; check the network and HF_ENDPOINT, or give files with --train_file_dir (HF_HUB_OFFLINE=1 uses what was fetched before)"
    )]
    Network {
        /// The address.
        url: String,
        /// What failed.
        problem: String,
    },
    /// 401 or 403.
    #[error("the hub refuses {what} ({status}): {hint}")]
    Forbidden {
        /// What was asked for.
        what: String,
        /// The status.
        status: u16,
        /// What to do.
        hint: &'static str,
    },
    /// Conditions to be accepted first.
    #[error(
        "the hub refuses {what} before its conditions are accepted; do so on its page at {page} and set HF_TOKEN to a token of that account"
    )]
    Gated {
        /// What was asked for.
        what: String,
        /// The hub's address.
        page: String,
    },
    /// 404.
    #[error("the hub has no {what}; check the name (and set HF_TOKEN if it is private)")]
    NotFound {
        /// What was asked for.
        what: String,
    },
    /// A data set without that revision.
    #[error("the hub has no {what}: there is no such revision; check --dataset_revision")]
    NoRevision {
        /// What was asked for.
        what: String,
    },
    /// 429.
    #[error(
        "the hub gets too many requests and refuses {what}{seconds}; try again later, or set HF_TOKEN for more of them"
    )]
    TooMany {
        /// What was asked for.
        what: String,
        /// For how long, as " for N seconds".
        seconds: String,
    },
    /// Any other status.
    #[error("{url} answers with status {status}; try again later")]
    Status {
        /// The address.
        url: String,
        /// The status.
        status: u16,
    },
    /// The part asked for is behind the file's end.
    #[error("{url} is shorter than what is cached of it; remove the .incomplete file")]
    Range {
        /// The address.
        url: String,
    },
    /// An answer that can't be used.
    #[error("can't use the answer of {url}: {problem}; check HF_ENDPOINT")]
    Answer {
        /// The address.
        url: String,
        /// What is wrong.
        problem: String,
    },
    /// A file that is not what the hub says it is.
    #[error("`{file}` came as {got}, the hub says {expected}; try again")]
    Damaged {
        /// The file.
        file: String,
        /// Its size or hash.
        got: String,
        /// What it should be.
        expected: String,
    },
    /// Several configurations, and none named.
    #[error(
        "data set `{name}` has several configurations; give one with --dataset_config_name: {found}"
    )]
    SeveralConfigs {
        /// The data set.
        name: String,
        /// The configurations.
        found: String,
    },
    /// No such configuration.
    #[error("data set `{name}` has no configuration `{config}`; it has {found}")]
    NoConfig {
        /// The data set.
        name: String,
        /// The configuration wanted.
        config: String,
        /// The configurations.
        found: String,
    },
    /// No such split.
    #[error(
        "data set `{name}` has no split `{split}`; it has {found}; give one with --dataset_split"
    )]
    NoSplit {
        /// The data set.
        name: String,
        /// The split wanted.
        split: String,
        /// The splits.
        found: String,
    },
    /// No file that can be read.
    #[error(
        "data set `{name}` has no file of a known format in revision {revision}; found {found}"
    )]
    NoFiles {
        /// The data set.
        name: String,
        /// The revision.
        revision: String,
        /// What it has instead.
        found: String,
    },
    /// Nothing cached while offline.
    #[error(
        "nothing is cached of data set `{name}` ({what}), and HF_HUB_OFFLINE forbids to fetch it; unset it"
    )]
    Offline {
        /// The data set.
        name: String,
        /// What is missing.
        what: String,
    },
}

/// Which hub, and how.
#[derive(Clone, Debug)]
pub struct HubOptions {
    /// Address, without a slash at the end.
    pub endpoint: String,
    /// Token, if there is one. It is sent to the endpoint only.
    pub token: Option<String>,
    /// Folder of the cache.
    pub cache: PathBuf,
    /// Use only what is cached.
    pub offline: bool,
    /// The first wait before another attempt.
    pub pause: Duration,
}

impl HubOptions {
    /// As the environment says: `HF_ENDPOINT`, `HF_TOKEN` (or the file that `hf auth login`
    /// wrote), `HF_HUB_CACHE`, `HF_HOME`, `HF_HUB_OFFLINE`.
    pub fn from_env() -> Self {
        let of = |name: &str| std::env::var(name).ok().filter(|v| !v.trim().is_empty());
        let cache_home = of("XDG_CACHE_HOME").map(PathBuf::from).unwrap_or_else(|| {
            PathBuf::from(of("HOME").unwrap_or_else(|| ".".into())).join(".cache")
        });
        let home = of("HF_HOME").map(PathBuf::from).unwrap_or(cache_home.join("huggingface"));
        let file = of("HF_TOKEN_PATH").map(PathBuf::from).unwrap_or(home.join("token"));
        let saved = || crate::fs::read_limited(&file, 4096).ok();
        let saved = || String::from_utf8(saved()?).ok();
        let token = of("HF_TOKEN").or_else(|| of("HUGGING_FACE_HUB_TOKEN")).or_else(saved);
        let on = |name: &str| {
            of(name).is_some_and(|v| ["1", "on", "yes", "true"].contains(&&*v.to_ascii_lowercase()))
        };
        Self {
            endpoint: of("HF_ENDPOINT")
                .unwrap_or_else(|| "https://huggingface.co".into())
                .trim_end_matches('/')
                .to_string(),
            token: token.map(|t| t.trim().to_string()).filter(|t| !t.is_empty()),
            cache: of("HF_HUB_CACHE").map(PathBuf::from).unwrap_or(home.join("hub")),
            offline: on("HF_HUB_OFFLINE"),
            pause: Duration::from_millis(500),
        }
    }
}

/// A data set by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubDataset {
    /// `OWNER/NAME`, or `NAME` of old ones.
    pub name: String,
    /// Configuration; may be left out where there is one, or one called `default`.
    pub config: Option<String>,
    /// Revision: branch, tag or commit; `None`: the Parquet conversion, or `main`.
    pub revision: Option<String>,
}

/// The files of a split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// The files in the cache, in their order.
    pub files: Vec<PathBuf>,
    /// The commit that they are of.
    pub commit: String,
    /// What the user should know.
    pub notices: Vec<String>,
}

/// Files of a revision.
struct Listing {
    commit: String,
    paths: Vec<String>,
}

/// A data set whose revision is known.
pub struct Opened {
    dataset: HubDataset,
    options: HubOptions,
    http: Http,
    cache: Cache,
    revision: String,
    listing: Listing,
}

impl HubDataset {
    /// Resolves the revision and lists its files.
    ///
    /// # Errors
    /// What the hub refuses, or how it fails.
    pub fn open(&self, options: &HubOptions) -> Result<Opened, HubError> {
        let part = |p: &str| {
            let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            !p.is_empty() && p.len() <= 96 && p.chars().all(allowed) && !p.starts_with('.')
        };
        let parts: Vec<&str> = self.name.split('/').collect();
        if parts.len() > 2 || !parts.iter().all(|p| part(p)) {
            return Err(HubError::Name { name: crate::error::excerpt(&self.name) });
        }
        let http = Http::new(&options.endpoint, options.token.clone(), options.pause);
        let cache = Cache::of(&options.cache, &self.name);
        let of = |revision: &str| match options.offline {
            true => cache.listing(&self.name, revision),
            false => self.list(&http, &cache, revision),
        };
        let (revision, listing) = match &self.revision {
            Some(revision) => (revision.clone(), of(revision)?),
            None => match of(PARQUET_REVISION) {
                Ok(listing) => (PARQUET_REVISION.to_string(), listing),
                // Private ones and those with scripts have none.
                Err(
                    HubError::NoRevision { .. }
                    | HubError::NotFound { .. }
                    | HubError::Offline { .. },
                ) => ("main".to_string(), of("main")?),
                Err(other) => return Err(other),
            },
        };
        let (dataset, options) = (self.clone(), options.clone());
        Ok(Opened { dataset, options, http, cache, revision, listing })
    }

    fn list(&self, http: &Http, cache: &Cache, revision: &str) -> Result<Listing, HubError> {
        let what = format!("revision `{revision}` of data set `{}`", self.name);
        let path = format!("/api/datasets/{}/revision/{}", self.name, encoded(revision, false));
        let answer = http.json(&path, &what)?;
        let problem = |problem: &str| HubError::Answer {
            url: format!("{path} of the hub"),
            problem: problem.to_string(),
        };
        let commit = answer["sha"].as_str().ok_or_else(|| problem("it has no `sha`"))?;
        if commit.is_empty() || !commit.chars().all(|c| c.is_ascii_hexdigit()) {
            return Err(problem("its `sha` is no commit"));
        }
        let siblings =
            answer["siblings"].as_array().ok_or_else(|| problem("it has no `siblings`"))?;
        let mut paths: Vec<String> =
            siblings.iter().filter_map(|s| s["rfilename"].as_str().map(str::to_string)).collect();
        paths.sort();
        cache.remember(revision, commit)?;
        Ok(Listing { commit: commit.to_string(), paths })
    }
}

impl Opened {
    /// The commit that the revision is.
    pub fn commit(&self) -> &str {
        &self.listing.commit
    }

    /// Which files a split has.
    ///
    /// # Errors
    /// No such configuration or split.
    pub fn choose(&self, split: &str) -> Result<Choice, HubError> {
        let name = self.dataset.name.clone();
        let config = self.dataset.config.as_deref();
        let converted = self.revision == PARQUET_REVISION;
        choose::choose(&name, &self.listing.paths, converted, config, split).map_err(|e| match e {
            HubError::NoFiles { .. } => HubError::NoFiles {
                name,
                revision: self.revision.clone(),
                found: names(self.listing.paths.iter().map(String::as_str)),
            },
            other => other,
        })
    }

    /// Whether there is a split of this name.
    pub fn has_split(&self, split: &str) -> bool {
        self.choose(split).is_ok_and(|c| c.named)
    }

    /// Fetches the files of a split that are not cached yet. `told` is told of each file that is
    /// fetched.
    ///
    /// # Errors
    /// No such split; what the hub refuses, or how it fails; a full disk.
    pub fn fetch(&self, split: &str, told: &mut dyn FnMut(&str)) -> Result<Fetched, HubError> {
        let Choice { paths, notices, .. } = self.choose(split)?;
        let commit = self.listing.commit.clone();
        let mut files = Vec::with_capacity(paths.len());
        for path in &paths {
            let cached = self.cache.file(&commit, path)?;
            if !cached.is_file() {
                if self.options.offline {
                    let (name, what) = (self.dataset.name.clone(), format!("file `{path}`"));
                    return Err(HubError::Offline { name, what });
                }
                told(path);
                self.download(&commit, path)?;
            }
            files.push(cached);
        }
        Ok(Fetched { files, commit, notices })
    }

    fn download(&self, commit: &str, path: &str) -> Result<(), HubError> {
        let name = &self.dataset.name;
        let url = format!(
            "{}/datasets/{name}/resolve/{commit}/{}",
            self.options.endpoint,
            encoded(path, true)
        );
        let what = format!("file `{path}` of data set `{name}`");
        self.cache.download(&self.http, commit, path, &url, &what)
    }
}

/// A text as a part of an address; slashes may stay.
fn encoded(text: &str, slashes: bool) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            b'/' if slashes => out.push('/'),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}
