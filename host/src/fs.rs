//! Atomic writes, path confinement and hashing. Nothing else in the library replaces a file.
//!
//! A file or a folder appears under its final name only when whole: it is written aside,
//! synced, renamed, and its parent folder is synced.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Component, Path, PathBuf};

use sha2::{Digest, Sha256};

/// A file operation that failed, with its path.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// An operation of the operating system.
    #[error("can't {action} {}: {source}{}", path.display(), remedy(source))]
    Io {
        /// What was tried: "read", "write", "create", "rename" …
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// The operating system's answer.
        #[source]
        source: io::Error,
    },
    /// A name inside a file that would leave its folder.
    #[error("`{name}` in {} leaves its folder; only plain relative names are read, so fix or remove that entry", root.display())]
    Escapes {
        /// The folder.
        root: PathBuf,
        /// The offending name.
        name: String,
    },
    /// A file larger than its limit.
    #[error("{} has {got} bytes, more than the {limit} allowed for such a file; check that it is the right file", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        got: u64,
        /// The limit.
        limit: u64,
    },
}

impl FsError {
    /// Whether something could not be written: a fault of the storage, not of an input.
    pub fn is_write(&self) -> bool {
        matches!(self, FsError::Io { action, .. } if *action != "read")
    }
}

fn remedy(e: &io::Error) -> &'static str {
    match e.kind() {
        io::ErrorKind::NotFound => "; check the path",
        io::ErrorKind::PermissionDenied => "; check its permissions",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; free some space and start the same command again"
        }
        io::ErrorKind::ReadOnlyFilesystem => "; choose a writable place",
        _ => "",
    }
}

/// Adds the action and the path to an operating system's error.
pub fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FsError {
    let path = path.to_path_buf();
    move |source| FsError::Io { action, path, source }
}

/// Writes `path` whole or not at all: aside, fsync, rename, fsync of the folder.
///
/// # Errors
/// [`FsError::Io`]; then nothing is left behind and an older file of that name is intact.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), FsError> {
    write_atomic_with(path, |w| w.write_all(bytes))
}

/// As [`write_atomic`], the content written by `fill`.
pub fn write_atomic_with(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<(), FsError> {
    let aside = aside_name(path);
    let written = (|| {
        let mut out = BufWriter::new(File::create(&aside)?);
        fill(&mut out)?;
        out.flush()?;
        out.get_ref().sync_all()?;
        drop(out);
        fs::rename(&aside, path)
    })();
    if let Err(source) = written {
        // The aside file is ours alone; failing to remove it changes nothing for the reader.
        let _ = fs::remove_file(&aside);
        return Err(FsError::Io { action: "write", path: path.to_path_buf(), source });
    }
    sync_parent(path)
}

fn aside_name(path: &Path) -> PathBuf {
    let mut name = path.file_name().map(|n| n.to_os_string()).unwrap_or_default();
    name.push(format!(".tmp-{}", std::process::id()));
    path.with_file_name(name)
}

fn sync_parent(path: &Path) -> Result<(), FsError> {
    let parent = match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    };
    File::open(parent).and_then(|d| d.sync_all()).map_err(io_error("sync", parent))
}

/// A folder being written aside; it takes its final name at [`AtomicDir::commit`] and is
/// removed when dropped before.
pub struct AtomicDir {
    aside: PathBuf,
    target: PathBuf,
    committed: bool,
}

impl AtomicDir {
    /// Starts writing what will become `target`; leftovers of an earlier attempt are removed.
    pub fn create(target: &Path) -> Result<Self, FsError> {
        let aside = target.with_extension(match target.extension() {
            Some(e) => format!("{}.tmp", e.to_string_lossy()),
            None => "tmp".to_string(),
        });
        if aside.exists() {
            fs::remove_dir_all(&aside).map_err(io_error("remove", &aside))?;
        }
        fs::create_dir_all(&aside).map_err(io_error("create", &aside))?;
        Ok(Self { aside, target: target.to_path_buf(), committed: false })
    }

    /// Where to write the files.
    pub fn path(&self) -> &Path {
        &self.aside
    }

    /// Syncs every file, then gives the folder its final name, replacing an older one.
    pub fn commit(mut self) -> Result<(), FsError> {
        sync_tree(&self.aside)?;
        if self.target.exists() {
            fs::remove_dir_all(&self.target).map_err(io_error("replace", &self.target))?;
        }
        fs::rename(&self.aside, &self.target).map_err(io_error("rename", &self.target))?;
        self.committed = true;
        sync_parent(&self.target)
    }
}

impl Drop for AtomicDir {
    fn drop(&mut self) {
        if !self.committed {
            let _ = fs::remove_dir_all(&self.aside);
        }
    }
}

fn sync_tree(dir: &Path) -> Result<(), FsError> {
    for entry in fs::read_dir(dir).map_err(io_error("read", dir))? {
        let path = entry.map_err(io_error("read", dir))?.path();
        if path.is_dir() {
            sync_tree(&path)?;
        } else {
            File::open(&path).and_then(|f| f.sync_all()).map_err(io_error("sync", &path))?;
        }
    }
    File::open(dir).and_then(|d| d.sync_all()).map_err(io_error("sync", dir))
}

/// Reads a whole file that must not be larger than `limit` bytes.
pub fn read_limited(path: &Path, limit: u64) -> Result<Vec<u8>, FsError> {
    let file = File::open(path).map_err(io_error("read", path))?;
    let got = file.metadata().map_err(io_error("read", path))?.len();
    if got > limit {
        return Err(FsError::TooLarge { path: path.to_path_buf(), got, limit });
    }
    let mut bytes = Vec::with_capacity(got as usize);
    file.take(limit).read_to_end(&mut bytes).map_err(io_error("read", path))?;
    Ok(bytes)
}

/// `root/name` where `name` came from a file: relative, without `..`, and not a link out of `root`.
pub fn confine(root: &Path, name: &str) -> Result<PathBuf, FsError> {
    let escapes = || FsError::Escapes { root: root.to_path_buf(), name: name.to_string() };
    let relative = Path::new(name);
    let plain = relative.components().all(|c| matches!(c, Component::Normal(_)));
    if name.is_empty() || name.contains('\0') || !plain {
        return Err(escapes());
    }
    let path = root.join(relative);
    if let (Ok(real_root), Ok(real)) = (root.canonicalize(), path.canonicalize())
        && !real.starts_with(&real_root)
        // Hub caches keep every file as a link into a blob store beside the snapshot.
        && !real.components().any(|c| c.as_os_str() == "blobs")
    {
        return Err(escapes());
    }
    Ok(path)
}

/// Lower-case hexadecimal sha256 of `bytes`.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Lower-case hexadecimal sha256 of a file, read in pieces.
pub fn sha256_file(path: &Path) -> Result<String, FsError> {
    let mut file = File::open(path).map_err(io_error("read", path))?;
    let mut hasher = Sha256::new();
    let mut piece = vec![0u8; 1 << 20];
    loop {
        let n = file.read(&mut piece).map_err(io_error("read", path))?;
        if n == 0 {
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(&piece[..n]);
    }
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn failed_write_leaves_the_old_file_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        write_atomic(&path, b"old").unwrap();
        let failed = write_atomic_with(&path, |w| {
            w.write_all(b"half")?;
            Err(io::Error::from(io::ErrorKind::StorageFull))
        });
        assert!(failed.unwrap_err().to_string().contains("free some space"));
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn uncommitted_folder_disappears() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("checkpoint-5");
        let aside = AtomicDir::create(&target).unwrap();
        fs::write(aside.path().join("x"), b"1").unwrap();
        drop(aside);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let aside = AtomicDir::create(&target).unwrap();
        fs::write(aside.path().join("x"), b"1").unwrap();
        aside.commit().unwrap();
        assert_eq!(fs::read(target.join("x")).unwrap(), b"1");
    }

    #[test]
    fn names_stay_inside_their_folder() {
        let dir = tempfile::tempdir().unwrap();
        for bad in ["../x", "/etc/passwd", "a/../../x", "", "a\0b", "./../x"] {
            assert!(confine(dir.path(), bad).is_err(), "{bad:?}");
        }
        assert_eq!(confine(dir.path(), "a/b").unwrap(), dir.path().join("a/b"));
        std::os::unix::fs::symlink("/etc", dir.path().join("link")).unwrap();
        assert!(confine(dir.path(), "link/passwd").is_err());
    }

    #[test]
    fn sha256_is_the_published_one() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(sha256_hex(b""), empty);
    }
}
