//! `plugin.toml`: what a project is.

use std::path::Path;

use serde::Deserialize;

use super::BuildError;
use crate::cli::plugin::language::{Language, world};
use crate::cli::plugin::new::is_name;
use crate::plugin::World;

/// The manifest's name within a project.
pub const FILE: &str = "plugin.toml";

/// A project's name, kind and language.
#[derive(Debug, PartialEq)]
pub struct Manifest {
    pub name: String,
    pub world: World,
    pub language: Language,
    pub engine: Engine,
}

/// What runs JavaScript.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// Small, and quick to start.
    #[default]
    QuickJs,
    /// Large, and quicker on long texts.
    SpiderMonkey,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    name: String,
    kind: String,
    language: String,
    engine: Option<Engine>,
}

impl Manifest {
    /// The manifest of the project in `folder`.
    pub fn read(folder: &Path) -> Result<Self, BuildError> {
        let path = folder.join(FILE);
        let fault = |why: String| BuildError::Manifest { file: path.display().to_string(), why };
        let text = std::fs::read_to_string(&path).map_err(|e| {
            fault(format!(
                "can't be read ({e}); `trainer plugin new NAME` makes a project with one"
            ))
        })?;
        Self::parse(&text).map_err(fault)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let fields: Fields = toml::from_str(text).map_err(|e| {
            format!("{}; it has name, kind and language, of JavaScript also engine", e.message())
        })?;
        if !is_name(&fields.name) {
            return Err(format!(
                "`name` is {:?}; use lower-case letters, digits and single dashes, a letter first",
                fields.name
            ));
        }
        let world = world(&fields.kind).ok_or_else(|| {
            format!("`kind` is {:?}; use formatter, template or reward", fields.kind)
        })?;
        let language = Language::of(&fields.language).ok_or_else(|| {
            let names = Language::ALL.map(Language::name).join(", ");
            format!("`language` is {:?}; use one of {names}", fields.language)
        })?;
        if fields.engine.is_some()
            && !matches!(language, Language::JavaScript | Language::TypeScript)
        {
            return Err("`engine` is for JavaScript and TypeScript; leave it out".into());
        }
        Ok(Self { name: fields.name, world, language, engine: fields.engine.unwrap_or_default() })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_read_and_its_faults_named() {
        let good = "name = \"a\"\nkind = \"reward\"\nlanguage = \"ts\"\nengine = \"spidermonkey\"";
        let manifest = Manifest::parse(good).unwrap();
        assert_eq!(manifest.language, Language::TypeScript);
        assert_eq!((manifest.world, manifest.engine), (World::Reward, Engine::SpiderMonkey));
        for (text, wanted) in [
            ("kind = \"reward\"\nlanguage = \"c\"", "missing field `name`"),
            ("name = \"A\"\nkind = \"reward\"\nlanguage = \"c\"", "`name`"),
            ("name = \"a\"\nkind = \"rewards\"\nlanguage = \"c\"", "`kind`"),
            ("name = \"a\"\nkind = \"reward\"\nlanguage = \"cobol\"", "`language`"),
            ("name = \"a\"\nkind = \"reward\"\nlanguage = \"c\"\nengine = \"quickjs\"", "`engine`"),
            ("name = \"a\"\nkind = \"reward\"\nlanguage = \"c\"\nspeed = 1", "`speed`"),
            ("name", "it has name, kind and language"),
        ] {
            let fault = Manifest::parse(text).unwrap_err();
            assert!(fault.contains(wanted), "{text}: {fault}");
        }
    }
}
