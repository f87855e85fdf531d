//! `trainer plugin new`: a project that builds and passes its own check.

use std::path::Path;

use super::language::{File, Language, NAME, golden, world};
use crate::cli::screen;
use crate::config::ConfigError;
use crate::error::Result;
use crate::fs::AtomicDir;
use crate::plugin::World;

/// How the command is called.
pub const USAGE: &str = "trainer plugin new NAME [--lang rust|python|javascript|typescript|c|cpp|\
    zig|go|assemblyscript] [--kind formatter|template|reward]";

/// What `--help` says of it.
pub const ABOUT: &str = "Makes a project with a working plugin, its SDK and golden rows (a reward \
    in Rust unless told otherwise).";

/// Runs the command.
pub fn run(args: &[String]) -> Result<()> {
    let asked = Asked::of(args)?;
    write(&asked)?;
    let Asked { folder, language, .. } = &asked;
    let name = &asked.name;
    screen::line(&format!(
        "made {folder}: {} in {}\nnext:\n  edit {folder}/{}\n  trainer plugin build {folder}\n  \
         trainer plugin check {folder}/{name}.wasm",
        asked.world,
        language.name(),
        language.source(),
    ));
    Ok(())
}

/// What was asked for.
struct Asked {
    /// Where the project goes; its last part is the plugin's name.
    folder: String,
    name: String,
    language: Language,
    world: World,
}

impl Asked {
    fn of(args: &[String]) -> Result<Self> {
        let fault = |message: String| ConfigError::one(message);
        let (mut folder, mut language, mut kind) = (None, Language::Rust, World::Reward);
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let (flag, given) = match arg.split_once('=') {
                Some((flag, value)) if flag.starts_with("--") => (flag, Some(value.to_string())),
                _ => (arg.as_str(), None),
            };
            let mut value = || given.clone().or_else(|| args.next().cloned()).unwrap_or_default();
            match flag {
                "--lang" | "--language" => {
                    let value = value();
                    language = Language::of(&value).ok_or_else(|| {
                        let names = Language::ALL.map(Language::name).join(", ");
                        fault(format!("`--lang {value}`: there are {names}"))
                    })?;
                }
                "--kind" | "--world" => {
                    let value = value();
                    kind = world(&value).ok_or_else(|| {
                        fault(format!("`--kind {value}`: there are formatter, template, reward"))
                    })?;
                }
                flag if flag.starts_with('-') => {
                    return Err(fault(format!("unknown flag `{flag}`; usage: {USAGE}")).into());
                }
                _ if folder.is_none() => folder = Some(arg.clone()),
                _ => return Err(fault(format!("two names; usage: {USAGE}")).into()),
            }
        }
        let folder = folder.ok_or_else(|| fault(format!("a name is missing; usage: {USAGE}")))?;
        let name = Path::new(&folder).file_name().unwrap_or_default().to_string_lossy();
        if !is_name(&name) {
            return Err(fault(format!(
                "`{name}` can't be a plugin's name: lower-case letters, digits and single dashes, \
                 a letter first, at most 64"
            ))
            .into());
        }
        Ok(Self { name: name.into_owned(), folder, language, world: kind })
    }
}

/// Whether a text is a plugin's name, and a package's in every language.
pub fn is_name(name: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty() && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
    };
    name.len() <= 64
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.split('-').all(part)
}

fn write(asked: &Asked) -> Result<()> {
    let Asked { folder, name, language, world } = asked;
    let Some(lists) = language.files(*world) else {
        let able: Vec<&str> = Language::ALL
            .into_iter()
            .filter(|l| l.files(*world).is_some())
            .map(Language::name)
            .collect();
        return Err(ConfigError::one(format!(
            "no project of kind {world} can be made in {}, only in {}",
            language.name(),
            able.join(", ")
        ))
        .into());
    };
    let target = Path::new(folder);
    if target.symlink_metadata().is_ok() {
        return Err(ConfigError::one(format!(
            "`{folder}` is already there; choose another name or remove it"
        ))
        .into());
    }
    let project = AtomicDir::create(target)?;
    let manifest = format!(
        "# What `trainer plugin build` reads.\nname = \"{name}\"\nkind = \"{world}\"\nlanguage = \
         \"{}\"\n",
        language.name()
    );
    let readme = format!(
        "# {name}\n\nA {world} for trainer in {language}; `{source}` is the place to work in, `sdk/` \
         what it stands on.\n\n    trainer plugin build .\n    trainer plugin check {name}.wasm\n\n\
         `golden/in.jsonl` through the plugin gives `golden/out.jsonl`: change both with the plugin.\n",
        language = language.name(),
        source = language.source(),
    );
    let own = [
        ("plugin.toml", manifest.as_str()),
        ("README.md", readme.as_str()),
        (".gitignore", "/build\n/target\n/node_modules\n/.venv\n__pycache__/\n"),
    ];
    for (path, text) in own {
        put(project.path(), path, text)?;
    }
    for File { path, text } in lists.into_iter().flatten().chain(golden(*world)) {
        // The SDK is the same for all; only what is the author's bears the name.
        let text = if path.starts_with("sdk/") || path.starts_with("golden/") {
            text.to_string()
        } else {
            text.replace(NAME, name)
        };
        put(project.path(), path, &text)?;
    }
    project.commit()?;
    Ok(())
}

fn put(project: &Path, path: &str, text: &str) -> Result<()> {
    let path = project.join(path);
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(crate::fs::io_error("create", folder))?;
    }
    std::fs::write(&path, text).map_err(crate::fs::io_error("write", &path))?;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn asked(args: &[&str]) -> Result<Asked> {
        Asked::of(&args.iter().map(|a| a.to_string()).collect::<Vec<_>>())
    }

    #[test]
    fn names_are_names_of_packages_too() {
        for name in ["a", "gsm8k", "my-reward-2"] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", "A", "2a", "a_b", "a--b", "-a", "a-", "ä", "a b", "../a", &"a".repeat(65)]
        {
            assert!(!is_name(name), "{name}");
        }
    }

    #[test]
    fn flags_are_read_and_faults_named() {
        let one = asked(&["--lang=py", "x/mine", "--kind", "template"]).unwrap();
        assert_eq!((one.name.as_str(), one.folder.as_str()), ("mine", "x/mine"));
        assert_eq!((one.language, one.world), (Language::Python, World::Template));
        let fault = |args: &[&str]| asked(args).err().unwrap().to_string();
        assert!(
            fault(&["a", "--lang", "cobol"]).contains("`--lang cobol`: there are rust, python")
        );
        assert!(fault(&["a", "--kind", "x"]).contains("formatter, template, reward"));
        assert!(fault(&[]).contains("a name is missing"));
        assert!(fault(&["a", "b"]).contains("two names"));
        assert!(fault(&["a", "--speed"]).contains("`--speed`"));
        assert!(fault(&["Mine"]).contains("lower-case"));
    }

    #[test]
    fn every_template_makes_a_project_that_bears_the_name() {
        let dir = tempfile::tempdir().unwrap();
        for language in Language::ALL {
            for world in [World::Formatter, World::Template, World::Reward] {
                if language.files(world).is_none() {
                    continue;
                }
                let name = format!("a-{}-{world}", language.name());
                let folder = dir.path().join(&name).display().to_string();
                write(&Asked { folder: folder.clone(), name: name.clone(), language, world })
                    .unwrap();
                let read = |path: &str| {
                    std::fs::read_to_string(Path::new(&folder).join(path)).unwrap_or_default()
                };
                assert!(read(language.source()).contains(&name) || language == Language::Rust);
                assert!(!read(language.source()).contains(NAME), "{name}");
                assert!(read("plugin.toml").contains(&format!("name = \"{name}\"")));
                assert!(!read("golden/in.jsonl").is_empty());
                let again = Asked { folder, name, language, world };
                assert!(write(&again).unwrap_err().to_string().contains("already there"));
            }
        }
    }
}
