//! Where a plugin and its golden rows are: a file, a shipped name, or a project's folder.

use std::path::{Path, PathBuf};

use crate::config::ConfigError;

/// A plugin and what lies beside it.
#[derive(Debug, PartialEq)]
pub(super) struct Place {
    /// Path or name, as `Plugin::load` takes it.
    pub plugin: String,
    /// The folder of golden rows, if there is one.
    pub golden: Option<PathBuf>,
}

/// Finds the plugin of a project's folder: the one `.wasm` in it or in its `dist`, else
/// `../dist/FOLDER.wasm`. Golden rows are in `golden`, in the folder or beside the file.
///
/// # Errors
/// A folder with no component, or with several.
pub(super) fn find(given: &str) -> Result<Place, ConfigError> {
    let path = Path::new(given);
    let golden = |dir: &Path| Some(dir.join("golden")).filter(|dir| dir.is_dir());
    if !path.is_dir() {
        let mut near = Vec::new();
        if let Some(dir) = path.parent().filter(|_| path.is_file()) {
            near.push(dir.to_path_buf());
            // `dist/NAME.wasm` belongs to the project that `dist` is in, or to `NAME` beside it.
            if dir.file_name().is_some_and(|name| name == "dist") {
                near.push(dir.join(".."));
                near.extend(path.file_stem().map(|name| dir.join("..").join(name)));
            }
        }
        let golden = near.iter().find_map(|dir| golden(dir));
        return Ok(Place { plugin: given.into(), golden });
    }
    let mut found = components(path);
    found.extend(components(&path.join("dist")));
    if found.is_empty()
        && let Some(name) = path.canonicalize().ok().as_deref().and_then(Path::file_name)
    {
        let mut file = name.to_os_string();
        file.push(".wasm");
        found.extend(Some(path.join("../dist").join(file)).filter(|file| file.is_file()));
    }
    match found.as_slice() {
        [one] => Ok(Place { plugin: one.display().to_string(), golden: golden(path) }),
        [] => Err(ConfigError::one(format!(
            "`{given}` holds no component (no .wasm in it or in its dist/); build it first"
        ))),
        several => {
            let names: Vec<String> = several.iter().map(|p| p.display().to_string()).collect();
            Err(ConfigError::one(format!(
                "`{given}` holds several components ({}); name one of them",
                names.join(", ")
            )))
        }
    }
}

fn components(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "wasm") && path.is_file())
        .collect();
    found.sort();
    found
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_folder_stands_for_its_one_component() {
        let outer = tempfile::tempdir().unwrap();
        let dir = outer.path().join("mine");
        fs::create_dir_all(dir.join("golden")).unwrap();
        let given = dir.display().to_string();
        assert!(find(&given).unwrap_err().to_string().contains("no component"));
        fs::create_dir(outer.path().join("dist")).unwrap();
        fs::write(outer.path().join("dist/mine.wasm"), b"x").unwrap();
        assert!(find(&given).unwrap().plugin.ends_with("dist/mine.wasm"));
        fs::create_dir(dir.join("dist")).unwrap();
        fs::write(dir.join("dist/a.wasm"), b"x").unwrap();
        let place = find(&given).unwrap();
        assert!(place.plugin.ends_with("mine/dist/a.wasm"));
        assert_eq!(place.golden, Some(dir.join("golden")));
        let by_file = find(&place.plugin).unwrap();
        assert_eq!(by_file.plugin, place.plugin);
        assert!(by_file.golden.unwrap().ends_with("mine/dist/../golden"));
        fs::write(dir.join("b.wasm"), b"x").unwrap();
        assert!(find(&given).unwrap_err().to_string().contains("several components"));
        assert_eq!(find("sharegpt").unwrap(), Place { plugin: "sharegpt".into(), golden: None });
    }
}
