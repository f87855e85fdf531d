//! Machine code of components, kept between runs in the user's own cache folder.
//!
//! An entry is one file, `SHA256-ENGINE.DIGEST.cwasm`: the sha256 of the plugin's bytes; a hash of
//! wasmtime's version, the engine's settings and the CPU's features; the digest of the file
//! itself. Machine code is trusted by whoever maps it, so an entry is used only when it is a plain
//! file in a folder that nobody else may enter, belongs to this user, can be read by nobody else,
//! and has the digest of its name. Anything else is compiled anew. Code that comes with a plugin is
//! never loaded.
//!
//! Nothing here is an error: without a usable folder plugins are compiled every time.

use std::fs::{self, File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rayon::prelude::*;
use sha2::{Digest, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

use crate::fs::sha256_hex;
use crate::limits as ceilings;

/// Entries end in this.
const SUFFIX: &str = ".cwasm";
/// Files are digested in pieces of this size, on all cores.
const PIECE: usize = 1 << 20;
/// A file that was being written this long ago was left by a process that died.
const ABANDONED: Duration = Duration::from_secs(3600);

static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();

/// Keeps compiled plugins in `dir` for the rest of the process; `None`: nowhere. Without this call
/// `TRAINER_CACHE_DIR` names the folder, else it is `trainer` in `XDG_CACHE_HOME` or in `~/.cache`;
/// `TRAINER_PLUGIN_CACHE=off` means nowhere. Has no effect once a plugin was loaded.
pub fn set_cache_dir(dir: Option<PathBuf>) {
    // Fails only when the choice was made already.
    let _ = FOLDER.set(dir);
}

/// The user's folder of compiled plugins, whether or not it exists; `None`: they are not kept.
pub fn cache_dir() -> Option<&'static Path> {
    FOLDER.get_or_init(default_dir).as_deref()
}

fn default_dir() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty());
    let off = set("TRAINER_PLUGIN_CACHE")
        .is_some_and(|v| ["0", "off", "no", "false"].iter().any(|no| v.eq_ignore_ascii_case(no)));
    if off {
        return None;
    }
    let base = match set("TRAINER_CACHE_DIR") {
        Some(dir) => PathBuf::from(dir),
        // A relative XDG_CACHE_HOME is invalid by its own specification.
        None => set("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .filter(|dir| dir.is_absolute())
            .or_else(|| set("HOME").map(|home| PathBuf::from(home).join(".cache")))
            .filter(|dir| dir.is_absolute())?
            .join("trainer"),
    };
    Some(base.join("plugins"))
}

/// What an entry is found by: the sha256 of the plugin's bytes and the engine's settings.
pub(super) fn key(engine: &Engine, sha256: &str) -> String {
    let mut hasher = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    // The host makes components of core modules; how it does so is its version's business.
    env!("CARGO_PKG_VERSION").hash(&mut hasher);
    format!("{sha256}-{:016x}", hasher.finish())
}

/// The entry of `key`, mapped from `dir`, if there is a sound one.
pub(super) fn open(engine: &Engine, dir: &Path, key: &str) -> Option<Component> {
    if !is_private(dir) {
        return None;
    }
    let prefix = format!("{key}.");
    for entry in fs::read_dir(dir).ok()?.flatten() {
        let name = entry.file_name();
        let digest = name
            .to_str()
            .and_then(|n| n.strip_prefix(&prefix))
            .and_then(|n| n.strip_suffix(SUFFIX));
        let Some(digest) = digest else { continue };
        match map(engine, &entry.path(), digest) {
            Some(component) => return Some(component),
            // Damaged, or not ours: out of the way of its successor.
            None => drop(fs::remove_file(entry.path())),
        }
    }
    None
}

fn map(engine: &Engine, path: &Path, digest: &str) -> Option<Component> {
    let no_link = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(no_link).open(path).ok()?;
    let about = file.metadata().ok()?;
    let ours = about.is_file()
        && about.uid() == rustix::process::geteuid().as_raw()
        && about.mode() & 0o077 == 0
        && about.nlink() == 1
        && about.len() <= ceilings::PLUGIN_CACHE_BYTES_MAX;
    if !ours || digest_of_file(&file, about.len()).ok()? != digest {
        return None;
    }
    // The open file itself, not whatever its name has come to mean since.
    let same_file = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    let path = if cfg!(target_os = "linux") { Path::new(&same_file) } else { path };
    // SAFETY: the file is the unaltered output of `Component::serialize` (its digest was just
    // checked) as this user's process wrote it (only this user may enter the folder, read or write
    // the file, and it has no other name). wasmtime checks version, settings and CPU itself.
    let component = unsafe { Component::deserialize_file(engine, path) }.ok()?;
    // Eviction goes by the time of last use.
    let _ = file.set_modified(SystemTime::now());
    Some(component)
}

/// Keeps `component` in `dir` under `key`, and evicts what was not used for longest.
pub(super) fn keep(dir: &Path, key: &str, component: &Component) {
    let Ok(bytes) = component.serialize() else { return };
    if bytes.len() as u64 > ceilings::PLUGIN_CACHE_BYTES_MAX || !make_private(dir) {
        return;
    }
    let name = format!("{key}.{}{SUFFIX}", digest_of(&bytes));
    if write(dir, &name, &bytes).is_ok() {
        evict(dir, &name, ceilings::PLUGIN_CACHE_BYTES_MAX);
    }
}

/// Writes aside and renames. Not synced: what a crash tears has another digest.
fn write(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let aside = dir.join(format!(".tmp-{}-{count}", std::process::id()));
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&aside)
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| fs::rename(&aside, dir.join(name)));
    if written.is_err() {
        let _ = fs::remove_file(&aside);
    }
    written
}

/// Removes the entries used longest ago until `limit` bytes are left, but never `newest`.
fn evict(dir: &Path, newest: &str, limit: u64) {
    let mut entries = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let (Ok(about), Ok(name)) = (entry.metadata(), entry.file_name().into_string()) else {
            continue;
        };
        let used = about.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        if name.ends_with(SUFFIX) {
            entries.push((name != newest, used, about.len(), entry.path()));
        } else if name.starts_with(".tmp-") && used.elapsed().is_ok_and(|age| age > ABANDONED) {
            let _ = fs::remove_file(entry.path());
        }
    }
    // The newest first, then by last use.
    entries.sort_by_key(|(other, used, ..)| (*other, std::cmp::Reverse(*used)));
    let mut total = 0u64;
    for (other, _, len, path) in entries {
        total = total.saturating_add(len);
        if other && total > limit {
            // Processes that have it mapped keep it.
            let _ = fs::remove_file(path);
        }
    }
}

/// True for a real folder of this user that nobody else may enter.
fn is_private(dir: &Path) -> bool {
    fs::symlink_metadata(dir).is_ok_and(|about| {
        about.is_dir()
            && about.uid() == rustix::process::geteuid().as_raw()
            && about.mode() & 0o077 == 0
    })
}

fn make_private(dir: &Path) -> bool {
    // Parents that are missing become private too.
    let _ = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    is_private(dir)
}

/// sha256 of the sha256s of the pieces.
fn digest_of(bytes: &[u8]) -> String {
    let pieces: Vec<[u8; 32]> =
        bytes.par_chunks(PIECE).map(|piece| Sha256::digest(piece).into()).collect();
    sha256_hex(&pieces.concat())
}

/// As [`digest_of`], of a file.
fn digest_of_file(file: &File, len: u64) -> io::Result<String> {
    let starts: Vec<u64> = (0..len).step_by(PIECE).collect();
    let piece = |start: &u64| -> io::Result<[u8; 32]> {
        let mut bytes = vec![0; PIECE.min((len - start) as usize)];
        file.read_exact_at(&mut bytes, *start)?;
        Ok(Sha256::digest(&bytes).into())
    };
    // Most plugins of native languages are one piece: no need of other threads.
    let pieces: Vec<[u8; 32]> = match starts.as_slice() {
        [only] => vec![piece(only)?],
        many => many.par_iter().map(piece).collect::<io::Result<_>>()?,
    };
    Ok(sha256_hex(&pieces.concat()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::engine::engine;
    use super::*;

    fn component(constant: u32) -> Component {
        let text = format!(
            "(component (core module $m (func (export \"f\") (result i32) i32.const {constant}))
               (core instance $i (instantiate $m))
               (func (export \"f\") (result u32) (canon lift (core func $i \"f\"))))"
        );
        Component::from_binary(engine().unwrap(), &wat::parse_str(text).unwrap()).unwrap()
    }

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let outer = tempfile::tempdir().unwrap();
        let dir = outer.path().join("a/plugins");
        (outer, dir)
    }

    fn entries(dir: &Path) -> Vec<PathBuf> {
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect()
    }

    fn found(dir: &Path, key: &str) -> bool {
        open(engine().unwrap(), dir, key).is_some()
    }

    #[test]
    fn what_was_kept_is_found_and_private() {
        let (_outer, dir) = folder();
        assert!(!found(&dir, "k"), "nothing there yet");
        keep(&dir, "k", &component(1));
        assert!(found(&dir, "k"));
        assert!(!found(&dir, "other") && !found(&dir, ""));
        assert_eq!(fs::metadata(&dir).unwrap().mode() & 0o777, 0o700);
        assert_eq!(entries(&dir).len(), 1, "no file aside is left");
        assert_eq!(fs::metadata(&entries(&dir)[0]).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn damaged_entries_are_removed_and_made_anew() {
        let (_outer, dir) = folder();
        keep(&dir, "k", &component(1));
        let path = entries(&dir).remove(0);
        let sound = fs::read(&path).unwrap();
        for at in [0, 40, sound.len() / 2, sound.len() - 1] {
            let mut bytes = sound.clone();
            bytes[at] ^= 1;
            fs::write(&path, &bytes).unwrap();
            assert!(!found(&dir, "k"), "byte {at}");
            assert!(entries(&dir).is_empty());
            keep(&dir, "k", &component(1));
        }
        fs::write(&path, &sound[..sound.len() / 2]).unwrap();
        assert!(!found(&dir, "k"), "cut short");
        fs::write(&path, b"").unwrap();
        assert!(!found(&dir, "k"), "empty");
        keep(&dir, "k", &component(1));
        assert!(found(&dir, "k"));
    }

    #[test]
    fn entries_that_others_could_have_touched_are_not_used() {
        let (_outer, dir) = folder();
        let renew = || {
            keep(&dir, "k", &component(1));
            entries(&dir).remove(0)
        };
        for mode in [0o644, 0o640, 0o604, 0o666] {
            fs::set_permissions(renew(), fs::Permissions::from_mode(mode)).unwrap();
            assert!(!found(&dir, "k"), "mode {mode:o}");
        }
        let path = renew();
        let elsewhere = dir.parent().unwrap().join("elsewhere");
        fs::rename(&path, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        assert!(!found(&dir, "k"), "a link");
        let path = renew();
        fs::hard_link(&path, dir.parent().unwrap().join("second")).unwrap();
        assert!(!found(&dir, "k"), "a second name");
        let path = renew();
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(12_345), None).unwrap();
            assert!(!found(&dir, "k"), "of another user");
        }
    }

    #[test]
    fn folders_that_others_may_enter_are_not_used() {
        let (_outer, dir) = folder();
        keep(&dir, "k", &component(1));
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(!found(&dir, "k"));
        keep(&dir, "l", &component(2));
        assert_eq!(entries(&dir).len(), 1);
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
        assert!(found(&dir, "k") && !found(&dir, "l"));
        let link = dir.parent().unwrap().join("link");
        std::os::unix::fs::symlink(&dir, &link).unwrap();
        assert!(!found(&link, "k"));
        let file = dir.parent().unwrap().join("file");
        fs::write(&file, b"").unwrap();
        keep(&file, "k", &component(1));
        assert!(!found(&file, "k"));
    }

    #[test]
    fn the_entries_used_longest_ago_go_first() {
        let (_outer, dir) = folder();
        for (i, key) in ["a", "b", "c"].into_iter().enumerate() {
            keep(&dir, key, &component(i as u32));
            let day = Duration::from_secs(86_400);
            let used = SystemTime::now() - day * (3 - i as u32);
            let path = entries(&dir)
                .into_iter()
                .find(|p| p.file_name().unwrap().to_str().unwrap().starts_with(&format!("{key}.")));
            File::open(path.unwrap()).unwrap().set_modified(used).unwrap();
        }
        fs::write(dir.join(".tmp-1-1"), b"half").unwrap();
        let old = SystemTime::now() - 2 * ABANDONED;
        File::open(dir.join(".tmp-1-1")).unwrap().set_modified(old).unwrap();
        let size = fs::metadata(&entries(&dir)[0]).unwrap().len();
        assert!(found(&dir, "a"), "used just now");
        keep(&dir, "d", &component(9));
        assert!(!dir.join(".tmp-1-1").exists());
        let newest = entries(&dir)
            .into_iter()
            .map(|p| p.file_name().unwrap().to_str().unwrap().to_string())
            .find(|n| n.starts_with("d."))
            .unwrap();
        evict(&dir, &newest, size * 5 / 2);
        let left = ["a", "b", "c", "d"].map(|key| found(&dir, key));
        assert_eq!(left, [true, false, false, true]);
        evict(&dir, &newest, 0);
        assert!(found(&dir, "d"), "the newest always stays");
        assert_eq!(entries(&dir).len(), 1);
    }

    #[test]
    fn keys_tell_plugins_apart() {
        let engine = engine().unwrap();
        assert_ne!(key(engine, "a"), key(engine, "b"));
        assert_eq!(key(engine, "a"), key(engine, "a"));
        let mut config = wasmtime::Config::new();
        config.consume_fuel(false);
        assert_ne!(key(engine, "a"), key(&Engine::new(&config).unwrap(), "a"));
    }
}
