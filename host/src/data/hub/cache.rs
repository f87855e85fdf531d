//! The cache of one data set: `blobs/ETAG`, `snapshots/COMMIT/PATH` (links to blobs) and
//! `refs/REVISION`, as Hugging Face lays it out.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::http::Http;
use super::{HubError, Listing};
use crate::data::error::shown;
use crate::fs::{confine, io_error, sha256_file, write_atomic};
use crate::limits::HUB_ATTEMPTS;

/// See the module.
pub(super) struct Cache {
    root: PathBuf,
}

impl Cache {
    pub fn of(cache: &Path, name: &str) -> Self {
        Self { root: cache.join(format!("datasets--{}", name.replace('/', "--"))) }
    }

    fn made(path: &Path) -> Result<(), HubError> {
        let parent = path.parent().unwrap_or(Path::new("."));
        Ok(fs::create_dir_all(parent).map_err(io_error("create", parent))?)
    }

    /// Where a file of a commit lies, once it is there.
    pub fn file(&self, commit: &str, path: &str) -> Result<PathBuf, HubError> {
        Ok(confine(&self.root.join("snapshots").join(commit), path)?)
    }

    /// Notes which commit a revision is.
    pub fn remember(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        let path = confine(&self.root.join("refs"), revision)?;
        Self::made(&path)?;
        Ok(write_atomic(&path, commit.as_bytes())?)
    }

    /// The files that are cached of a revision.
    pub fn listing(&self, name: &str, revision: &str) -> Result<Listing, HubError> {
        let missing = || HubError::Offline {
            name: name.to_string(),
            what: format!("revision `{}`", shown(revision)),
        };
        let noted = confine(&self.root.join("refs"), revision)?;
        let commit = fs::read_to_string(noted).map(|c| c.trim().to_string());
        let commit = commit.unwrap_or_else(|_| revision.to_string());
        let root = confine(&self.root.join("snapshots"), &commit).map_err(|_| missing())?;
        if !root.is_dir() {
            return Err(missing());
        }
        let (mut paths, mut folders) = (Vec::new(), vec![root.clone()]);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).map_err(io_error("read", &folder))?.flatten() {
                let path = entry.path();
                match path.is_dir() {
                    true => folders.push(path),
                    false => paths
                        .extend(path.strip_prefix(&root).map(|p| p.to_string_lossy().into_owned())),
                }
            }
        }
        paths.sort();
        Ok(Listing { commit, paths })
    }

    /// Fetches a file, goes on where an earlier attempt broke off, checks it, and gives it its name.
    pub fn download(
        &self,
        http: &Http,
        commit: &str,
        path: &str,
        url: &str,
        what: &str,
    ) -> Result<(), HubError> {
        // What was begun is found by the address, because the tag comes with the answer.
        let key = &crate::fs::sha256_hex(url.as_bytes())[..32];
        let lock = self.root.join(".locks").join(format!("{key}.lock"));
        Self::made(&lock)?;
        let held = File::create(&lock).map_err(io_error("create", &lock))?;
        // Two processes that want the same file take turns; the second finds it there.
        held.lock().map_err(io_error("lock", &lock))?;
        let link = self.file(commit, path)?;
        if link.is_file() {
            return Ok(());
        }
        let mut attempt = 0;
        let (blob, part) = loop {
            attempt += 1;
            match self.attempt(http, url, what, path, key) {
                Ok(done) => break done,
                // The connection broke in the middle; what came is kept.
                Err(HubError::Network { .. } | HubError::Damaged { .. })
                    if attempt < HUB_ATTEMPTS =>
                {
                    http.wait(attempt, None);
                }
                Err(other) => return Err(other),
            }
        };
        if let Some(part) = part {
            fs::rename(&part, &blob).map_err(io_error("rename", &part))?;
        }
        Self::made(&link)?;
        let up = link.strip_prefix(&self.root).map_or(0, |p| p.components().count() - 1);
        let name = blob.file_name().unwrap_or_default();
        let target = PathBuf::from("../".repeat(up)).join("blobs").join(name);
        // A link to a blob that is gone.
        let _ = fs::remove_file(&link);
        #[cfg(unix)]
        std::os::unix::fs::symlink(&target, &link).map_err(io_error("link", &link))?;
        #[cfg(not(unix))]
        fs::copy(&blob, &link).map_err(io_error("copy", &link))?;
        Ok(())
    }

    /// One attempt: the blob, and the checked file that is to become it unless it is there.
    fn attempt(
        &self,
        http: &Http,
        url: &str,
        what: &str,
        path: &str,
        key: &str,
    ) -> Result<(PathBuf, Option<PathBuf>), HubError> {
        let part = self.root.join("blobs").join(format!("{key}.incomplete"));
        Self::made(&part)?;
        let mut options = OpenOptions::new();
        let file = options.create(true).truncate(false).read(true).write(true).open(&part);
        let mut file = file.map_err(io_error("create", &part))?;
        let begun = file.metadata().map_err(io_error("read", &part))?.len();
        let answer = match http.get(url, begun, what) {
            Err(HubError::Range { .. }) => {
                file.set_len(0).map_err(io_error("write", &part))?;
                http.get(url, 0, what)?
            }
            other => other?,
        };
        let tag = answer.etag.clone().filter(|t| {
            !t.is_empty()
                && t.len() <= 128
                && t.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
        });
        let blob = self.root.join("blobs").join(tag.as_deref().unwrap_or(key));
        if blob.is_file() {
            drop(file);
            let _ = fs::remove_file(&part);
            return Ok((blob, None));
        }
        if answer.status == 200 {
            file.set_len(0).map_err(io_error("write", &part))?;
        }
        file.seek(SeekFrom::End(0)).map_err(io_error("write", &part))?;
        copy(answer.body, &mut file, &part, url)?;
        file.sync_all().map_err(io_error("write", &part))?;
        let got = file.metadata().map_err(io_error("read", &part))?.len();
        let damaged = |got: String, expected: String| {
            let _ = fs::remove_file(&part);
            HubError::Damaged { file: shown(path), got, expected }
        };
        match answer.size {
            // It broke off without an error; the rest is fetched by the next attempt.
            Some(size) if got < size => {
                let problem = format!("it broke off after {got} of {size} bytes");
                return Err(HubError::Network { url: shown(url), problem });
            }
            Some(size) if got > size => {
                return Err(damaged(format!("{got} bytes"), format!("{size} bytes")));
            }
            _ => {}
        }
        // The tags of large files are their sha256.
        let digest = tag.filter(|t| t.len() == 64 && t.chars().all(|c| c.is_ascii_hexdigit()));
        if let Some(expected) = digest {
            let got = sha256_file(&part)?;
            if got != expected.to_ascii_lowercase() {
                return Err(damaged(format!("sha256 {got}"), format!("sha256 {expected}")));
            }
        }
        Ok((blob, Some(part)))
    }
}

fn copy(
    mut from: Box<dyn Read + Send>,
    to: &mut File,
    path: &Path,
    url: &str,
) -> Result<(), HubError> {
    let mut piece = vec![0u8; 256 << 10];
    loop {
        match from.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(n) => to.write_all(&piece[..n]).map_err(io_error("write", path))?,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => {
                let problem = shown(&e.to_string());
                return Err(HubError::Network { url: shown(url), problem });
            }
        }
    }
}
