//! Which data files an input names: a file, a folder (searched in depth, sorted) or a pattern.
//! A file in a folder that is no data is listed with the reason, never passed over in silence.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::SourceFile;
use super::format::{self, Compression, Format};
use crate::data::error::{DataError, nearest, shown};
use crate::fs::io_error;
use crate::limits::DATA_FOLDER_DEPTH_MAX;

/// A file that is not read, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ignored {
    /// Its path.
    pub name: String,
    /// The reason.
    pub reason: &'static str,
}

/// What some inputs name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Discovered {
    /// The data files: inputs in the order given, a folder's or pattern's files sorted by path.
    pub files: Vec<SourceFile>,
    /// The other files, sorted likewise.
    pub ignored: Vec<Ignored>,
}

impl Discovered {
    /// Lines for a report: how many files are not read, and the first of them with reasons.
    pub fn ignored_lines(&self) -> Vec<String> {
        const LINES_MAX: usize = 10;
        let mut lines: Vec<String> = self
            .ignored
            .iter()
            .take(LINES_MAX)
            .map(|i| format!("not read: {} ({})", shown(&i.name), i.reason))
            .collect();
        if self.ignored.len() > LINES_MAX {
            lines.push(format!("not read: {} more files", self.ignored.len() - LINES_MAX));
        }
        lines
    }
}

/// The data files of `inputs`, each a file, a folder or a pattern (`*`, `?`, `[a-z]`, `**`). A
/// file named twice is read once.
///
/// # Errors
/// An input that does not exist, matches nothing, holds no data file, or whose content is not
/// what its name says.
pub fn discover<S: AsRef<str>>(inputs: &[S]) -> Result<Discovered, DataError> {
    let mut found = Discovered::default();
    let mut seen = BTreeSet::new();
    for input in inputs {
        let input = input.as_ref();
        let path = Path::new(input);
        if path.is_dir() {
            folder(path, input, &mut found, &mut seen)?;
        } else if path.exists() {
            add(path, true, &mut found, &mut seen)?;
        } else if input.contains(['*', '?', '[']) {
            pattern(input, &mut found, &mut seen)?;
        } else {
            return Err(not_found(path, input));
        }
    }
    Ok(found)
}

/// The data files of one folder, as for `--train_file_dir`.
///
/// # Errors
/// As [`discover`]; [`DataError::NotAFolder`] for a file.
pub fn discover_folder(path: &Path) -> Result<Discovered, DataError> {
    let input = path.to_string_lossy();
    if path.is_file() {
        return Err(DataError::NotAFolder { path: shown(&input) });
    }
    if !path.exists() {
        return Err(not_found(path, &input));
    }
    let mut found = Discovered::default();
    folder(path, &input, &mut found, &mut BTreeSet::new())?;
    Ok(found)
}

/// One data file.
///
/// # Errors
/// As [`discover`]; [`DataError::NotAFile`] for a folder.
pub fn discover_file(path: &Path) -> Result<SourceFile, DataError> {
    let input = path.to_string_lossy();
    if path.is_dir() {
        return Err(DataError::NotAFile { path: shown(&input) });
    }
    if !path.exists() {
        return Err(not_found(path, &input));
    }
    let mut found = Discovered::default();
    add(path, true, &mut found, &mut BTreeSet::new())?;
    found.files.pop().ok_or_else(|| not_found(path, &input))
}

/// The files that one input names, whatever is in them: a file itself, the data files of a folder
/// or pattern by their names.
///
/// # Errors
/// An input that does not exist.
pub fn listed(input: &str) -> Result<Vec<PathBuf>, DataError> {
    let path = Path::new(input);
    let mut paths = Vec::new();
    if path.is_dir() {
        walk(path, 0, &mut BTreeSet::new(), &mut paths, &mut Vec::new())?;
    } else if path.exists() {
        return Ok(vec![path.to_path_buf()]);
    } else if input.contains(['*', '?', '[']) {
        paths.extend(matching(input)?);
    } else {
        return Err(not_found(path, input));
    }
    paths.retain(|path| no_data(&file_name(path)).is_none());
    Ok(paths)
}

fn not_found(path: &Path, input: &str) -> DataError {
    let wanted = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let beside: Vec<String> = (fs::read_dir(parent).into_iter().flatten().flatten())
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    let hint = nearest(&wanted, beside.iter().map(String::as_str));
    DataError::NotFound { path: shown(input), hint }
}

fn folder(
    path: &Path,
    input: &str,
    found: &mut Discovered,
    seen: &mut BTreeSet<PathBuf>,
) -> Result<(), DataError> {
    let (files_before, ignored_before) = (found.files.len(), found.ignored.len());
    let mut paths = Vec::new();
    walk(path, 0, &mut BTreeSet::new(), &mut paths, &mut found.ignored)?;
    for path in &paths {
        add(path, false, found, seen)?;
    }
    let twice = "named twice";
    let ignored = found.ignored.get(ignored_before..).unwrap_or_default();
    if found.files.len() > files_before || ignored.iter().any(|i| i.reason == twice) {
        return Ok(());
    }
    if ignored.is_empty() {
        return Err(DataError::EmptyFolder { path: shown(input) });
    }
    let listed: Vec<String> =
        ignored.iter().take(5).map(|i| format!("{} ({})", shown(&i.name), i.reason)).collect();
    let more = ignored.len().saturating_sub(5);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Err(DataError::NoDataFile { path: shown(input), found: format!("{}{more}", listed.join(", ")) })
}

/// Files below `dir`, sorted by path; hidden ones are noted as ignored.
fn walk(
    dir: &Path,
    depth: usize,
    folders: &mut BTreeSet<PathBuf>,
    paths: &mut Vec<PathBuf>,
    ignored: &mut Vec<Ignored>,
) -> Result<(), DataError> {
    let mut note = |path: &Path, reason| {
        ignored.push(Ignored { name: path.to_string_lossy().into_owned(), reason });
    };
    // Links may lead in a circle.
    let real = dir.canonicalize().map_err(io_error("read", dir))?;
    if depth > DATA_FOLDER_DEPTH_MAX || !folders.insert(real) {
        note(dir, "a folder already searched, or too deep");
        return Ok(());
    }
    let mut entries = Vec::new();
    for entry in fs::read_dir(dir).map_err(io_error("read", dir))? {
        entries.push(entry.map_err(io_error("read", dir))?.path());
    }
    entries.sort();
    for path in entries {
        let hidden = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'));
        if hidden {
            ignored.push(Ignored { name: path.to_string_lossy().into_owned(), reason: "hidden" });
        } else if path.is_dir() {
            walk(&path, depth + 1, folders, paths, ignored)?;
        } else {
            paths.push(path);
        }
    }
    Ok(())
}

/// Why a file of this name in a folder is no data, if it is none.
fn no_data(name: &str) -> Option<&'static str> {
    let lower = name.to_ascii_lowercase();
    let stem = lower.split('.').next().unwrap_or_default();
    let documents = ["readme", "license", "licence", "copying", "notice", "changelog", "citation"];
    let of_a_saved_set =
        ["dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"];
    if documents.contains(&stem) || lower.ends_with(".md") {
        Some("documentation")
    } else if of_a_saved_set.contains(&lower.as_str()) {
        Some("description of a data set")
    } else if format::by_name(Path::new(name)).is_none() {
        Some("not a data format")
    } else {
        None
    }
}

/// Adds one file. A file the user named is data or an error; of a folder's files only those whose
/// names say so are.
fn add(
    path: &Path,
    named: bool,
    found: &mut Discovered,
    seen: &mut BTreeSet<PathBuf>,
) -> Result<(), DataError> {
    let name = path.to_string_lossy().into_owned();
    if !named && let Some(reason) = no_data(&file_name(path)) {
        found.ignored.push(Ignored { name, reason });
        return Ok(());
    }
    let metadata = fs::metadata(path).map_err(io_error("read", path))?;
    if !metadata.is_file() {
        if named {
            return Err(DataError::NotAFile { path: shown(&name) });
        }
        found.ignored.push(Ignored { name, reason: "not a regular file" });
        return Ok(());
    }
    if !seen.insert(path.canonicalize().map_err(io_error("read", path))?) {
        found.ignored.push(Ignored { name, reason: "named twice" });
        return Ok(());
    }
    let mut head = Vec::new();
    File::open(path)
        .and_then(|f| f.take(64).read_to_end(&mut head))
        .map_err(io_error("read", path))?;
    let (format, compression): (Format, Compression) = match format::by_name(path) {
        Some(by_name) => format::check(&name, by_name, &head)?,
        None => match format::by_magic(&head) {
            Some(format) => (format, Compression::None),
            None => return Err(DataError::UnknownFormat { path: shown(&name) }),
        },
    };
    found.files.push(SourceFile {
        path: path.to_path_buf(),
        name: name.into(),
        format,
        compression,
        bytes: metadata.len(),
    });
    Ok(())
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

fn pattern(
    input: &str,
    found: &mut Discovered,
    seen: &mut BTreeSet<PathBuf>,
) -> Result<(), DataError> {
    let paths = matching(input)?;
    let before = found.files.len() + found.ignored.len();
    for path in &paths {
        add(path, false, found, seen)?;
    }
    if found.files.len() + found.ignored.len() == before {
        return Err(DataError::NoMatch { pattern: shown(input) });
    }
    if !paths.iter().any(|p| no_data(&file_name(p)).is_none()) {
        return Err(DataError::NoDataFile {
            path: shown(input),
            found: paths
                .iter()
                .take(5)
                .map(|p| shown(&p.to_string_lossy()))
                .collect::<Vec<_>>()
                .join(", "),
        });
    }
    Ok(())
}

/// The files whose paths match a pattern.
fn matching(input: &str) -> Result<BTreeSet<PathBuf>, DataError> {
    let parts: Vec<&str> = input.split('/').collect();
    let fixed = parts.iter().take_while(|p| !p.contains(['*', '?', '['])).count();
    let root = match parts.get(..fixed).unwrap_or_default().join("/") {
        root if root.is_empty() && input.starts_with('/') => PathBuf::from("/"),
        root => PathBuf::from(root),
    };
    let rest: Vec<&str> =
        parts.get(fixed..).unwrap_or_default().iter().copied().filter(|p| !p.is_empty()).collect();
    let mut paths = BTreeSet::new();
    expand(&root, &rest, 0, &mut paths)?;
    Ok(paths)
}

/// Files below `dir` whose path matches `parts`. Hidden entries match only a part that begins
/// with a dot.
fn expand(
    dir: &Path,
    parts: &[&str],
    depth: usize,
    paths: &mut BTreeSet<PathBuf>,
) -> Result<(), DataError> {
    let Some((part, rest)) = parts.split_first() else { return Ok(()) };
    let listed = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    if depth > DATA_FOLDER_DEPTH_MAX || !listed.is_dir() {
        return Ok(());
    }
    if *part == "**" {
        expand(dir, rest, depth, paths)?;
    }
    for entry in fs::read_dir(listed).map_err(io_error("read", listed))? {
        let name = entry.map_err(io_error("read", listed))?.file_name();
        let path = dir.join(&name);
        let name = name.to_string_lossy();
        if name.starts_with('.') && !part.starts_with('.') {
            continue;
        }
        if *part == "**" {
            if path.is_dir() && !path.is_symlink() {
                expand(&path, parts, depth + 1, paths)?;
            } else if rest.is_empty() && path.is_file() {
                paths.insert(path);
            }
        } else if matches(part, &name) {
            if rest.is_empty() {
                if path.is_file() {
                    paths.insert(path);
                }
            } else {
                expand(&path, rest, depth + 1, paths)?;
            }
        }
    }
    Ok(())
}

/// Whether `name` matches a pattern of `*`, `?` and `[…]` (ranges; `!` or `^` negates).
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), name.chars().collect());
    // The last star and how much of the name it took: on a mismatch it takes one more.
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        let step = match pattern.get(p) {
            Some('*') => {
                star = Some((p + 1, n));
                p += 1;
                continue;
            }
            Some('?') => Some(p + 1),
            Some('[') => class(&pattern, p, name[n]),
            Some(c) if *c == name[n] => Some(p + 1),
            _ => None,
        };
        match (step, star) {
            (Some(next), _) => (p, n) = (next, n + 1),
            (None, Some((after, taken))) => {
                star = Some((after, taken + 1));
                (p, n) = (after, taken + 1);
            }
            (None, None) => return false,
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// Where the pattern goes on after the class at `open` if `c` is in it. A bracket without its
/// partner stands for itself.
fn class(pattern: &[char], open: usize, c: char) -> Option<usize> {
    let mut first = open + 1;
    let negated = matches!(pattern.get(first), Some('!' | '^'));
    first += usize::from(negated);
    let Some(close) = (first + 1..pattern.len()).find(|&i| pattern[i] == ']') else {
        return (c == '[').then_some(open + 1);
    };
    let members = pattern.get(first..close).unwrap_or_default();
    let mut inside = false;
    let mut i = 0;
    while i < members.len() {
        if members.get(i + 1) == Some(&'-') && i + 2 < members.len() {
            inside |= (members[i]..=members[i + 2]).contains(&c);
            i += 3;
        } else {
            inside |= members[i] == c;
            i += 1;
        }
    }
    (inside != negated).then_some(close + 1)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    fn names(dir: &Path, found: &Discovered) -> Vec<String> {
        let relative = |f: &SourceFile| f.path.strip_prefix(dir).unwrap().display().to_string();
        found.files.iter().map(relative).collect()
    }

    #[test]
    fn folder_is_searched_in_depth_and_order_and_lists_what_it_leaves() {
        let dir = tree(&[
            ("b.jsonl", "{}"),
            ("a/z.txt", "x"),
            ("a/b/c.csv", "x\n1"),
            (".hidden.jsonl", "{}"),
            (".git/x.jsonl", "{}"),
            ("README.txt", "read me"),
            ("LICENSE", "free"),
            ("picture.png", "png"),
            ("dataset_info.json", "{}"),
        ]);
        let found = discover_folder(dir.path()).unwrap();
        assert_eq!(names(dir.path(), &found), ["a/b/c.csv", "a/z.txt", "b.jsonl"]);
        assert_eq!(found.ignored.len(), 6, "{:?}", found.ignored);
        assert!(
            found.ignored_lines().iter().any(|l| l.contains("picture.png (not a data format)"))
        );
    }

    #[cfg(unix)]
    #[test]
    fn circular_links_end() {
        let dir = tree(&[("a/x.jsonl", "{}")]);
        std::os::unix::fs::symlink(dir.path(), dir.path().join("a/up")).unwrap();
        assert_eq!(discover_folder(dir.path()).unwrap().files.len(), 1);
    }

    #[test]
    fn wrong_inputs_are_named_with_a_remedy() {
        let dir = tree(&[("data.jsonl", "{}"), ("only/README.md", "x"), ("odd.xyz", "x")]);
        fs::create_dir(dir.path().join("empty")).unwrap();
        let at = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
        let fails = |input: String, part: &str| {
            let e = discover(&[input]).unwrap_err().to_string();
            assert!(e.contains(part), "{e}");
        };
        fails(at("date.jsonl"), "did you mean `data.jsonl`; check the path");
        fails(at("empty"), "is empty");
        fails(at("only"), "no data file in");
        fails(at("odd.xyz"), "can't tell the format");
        fails(at("*.parquet"), "no file matches");
        fails(at("odd.*"), "no data file in");
        let e = discover_folder(&dir.path().join("data.jsonl")).unwrap_err().to_string();
        assert!(e.contains("a folder of data files is wanted"), "{e}");
        let e = discover_file(dir.path()).unwrap_err().to_string();
        assert!(e.contains("is a folder"), "{e}");
    }

    #[test]
    fn patterns_find_files_once_and_sorted() {
        let dir =
            tree(&[("a1.jsonl", "{}"), ("a2.jsonl", "{}"), ("b/a3.jsonl", "{}"), ("c.txt", "x")]);
        let at = |name: &str| format!("{}/{name}", dir.path().display());
        let find = |patterns: &[&str]| {
            let inputs: Vec<String> = patterns.iter().map(|p| at(p)).collect();
            names(dir.path(), &discover(&inputs).unwrap())
        };
        assert_eq!(find(&["*.jsonl"]), ["a1.jsonl", "a2.jsonl"]);
        assert_eq!(find(&["a[2-9].jsonl"]), ["a2.jsonl"]);
        assert_eq!(find(&["**/*.jsonl"]), ["a1.jsonl", "a2.jsonl", "b/a3.jsonl"]);
        assert_eq!(find(&["?/*", "a1.jsonl", "*1*"]), ["b/a3.jsonl", "a1.jsonl"]);
    }

    #[test]
    fn patterns_match_as_in_a_shell() {
        for (pattern, name, want) in [
            ("*", "abc", true),
            ("a*c*e", "abcde", true),
            ("a*c*e", "abcd", false),
            ("[!a]b", "cb", true),
            ("[!a]b", "ab", false),
            ("a[b", "a[b", true),
            ("**x", "yyx", true),
            ("", "", true),
            ("?", "é", true),
        ] {
            assert_eq!(matches(pattern, name), want, "{pattern} {name}");
        }
    }
}
