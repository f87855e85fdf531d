//! From bytes to a compiled component whose imports and world are known to be right.

use std::time::Duration;

use wasmtime::Engine;
use wasmtime::component::{Component, HasSelf, Linker};
use wit_component::ComponentEncoder;

use super::bindings::{formatter, host, reward, template};
use super::cache;
use super::columns::Reads;
use super::engine::{Guest, engine};
use super::error::{PluginError, shown};
use super::schema::{self, OptionRow};

/// The package of the contract, as it begins every name of it.
const PACKAGE: &str = "trainer:plugin/";
/// The line of contract versions understood: `0.1.*`.
const CONTRACT_LINE: &str = "0.1.";
/// The interfaces a component may import; the last two only hold types.
const OFFERED: [&str; 3] = ["host", "types", "chat"];

/// What a plugin is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum World {
    /// Rows to examples.
    Formatter,
    /// Conversations to text.
    Template,
    /// Completions to scores.
    Reward,
}

impl World {
    /// The world's name in the contract.
    pub fn name(self) -> &'static str {
        match self {
            World::Formatter => "formatter",
            World::Template => "template",
            World::Reward => "reward",
        }
    }

    fn of_interface(interface: &str) -> Option<Self> {
        Some(match interface {
            "formatting" => World::Formatter,
            "templating" => World::Template,
            "rewards" => World::Reward,
            _ => return None,
        })
    }
}

impl std::fmt::Display for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Everything there is to say about a plugin file, for `trainer plugin inspect`.
#[derive(Clone, Debug, PartialEq)]
pub struct Inspection {
    /// What was asked for.
    pub file: String,
    /// Size of the file, bytes.
    pub bytes: usize,
    /// sha256 of the file.
    pub sha256: String,
    /// Its world.
    pub world: World,
    /// The contract version it was built against.
    pub contract: String,
    /// True when the file is a core module that the host wrapped.
    pub core_module: bool,
    /// Names of its imports.
    pub imports: Vec<String>,
    /// Names of its exports.
    pub exports: Vec<String>,
    /// Its own name.
    pub name: String,
    /// Its own version.
    pub version: String,
    /// One sentence.
    pub summary: String,
    /// What it reads with default options.
    pub reads: Reads,
    /// JSON Schema of its options; empty for none.
    pub options_schema: String,
    /// Same input, same output.
    pub deterministic: bool,
    /// True when its machine code came from the cache.
    pub cached: bool,
    /// Time from the file's name to a running instance.
    pub start: Duration,
}

impl Inspection {
    /// Its options, one by one, as its schema describes them.
    pub fn options(&self) -> Vec<OptionRow> {
        let schema = serde_json::from_str(&self.options_schema).unwrap_or_default();
        schema::describe(&schema)
    }
}

/// A linked component, ready to be instantiated.
pub(super) enum Linked {
    Formatter(formatter::FormatterPre<Guest>),
    Template(template::TemplatePre<Guest>),
    Reward(reward::RewardPre<Guest>),
}

pub(super) struct Compiled {
    pub world: World,
    pub contract: String,
    pub core_module: bool,
    pub imports: Vec<String>,
    pub exports: Vec<String>,
    pub linked: Linked,
    pub cached: bool,
}

/// Compiles `bytes`, or takes what was made of them before; refuses imports that are not offered,
/// and finds the world.
pub(super) fn compile(file: &str, bytes: &[u8], sha256: &str) -> Result<Compiled, PluginError> {
    let engine = engine()?;
    let not_a_plugin = |why: String| PluginError::NotAPlugin { file: shown(file), why };
    if !bytes.starts_with(b"\0asm") {
        return Err(not_a_plugin("it does not begin like WebAssembly".into()));
    }
    // The layer field of the preamble: 0 for a core module, 1 for a component.
    let core_module = matches!(bytes.get(6..8), Some([0, 0]));
    let key = cache::key(engine, sha256);
    let kept = cache::cache_dir().and_then(|dir| cache::open(engine, dir, &key));
    let cached = kept.is_some();
    let component = match kept {
        Some(component) => component,
        None => {
            let wrapped = if core_module { Some(wrap(file, engine, bytes)?) } else { None };
            Component::from_binary(engine, wrapped.as_deref().unwrap_or(bytes))
                .map_err(|e| not_a_plugin(shown(&e.root_cause().to_string())))?
        }
    };

    let ty = component.component_type();
    let imports: Vec<String> = ty.imports(engine).map(|(name, _)| name.to_string()).collect();
    let exports: Vec<String> = ty.exports(engine).map(|(name, _)| name.to_string()).collect();
    if let Some(import) = imports.iter().find(|name| !is_offered(name)) {
        return Err(PluginError::ForbiddenImport { file: shown(file), import: shown(import) });
    }
    let (world, contract) = world_of(file, &exports)?;

    let mut linker = Linker::<Guest>::new(engine);
    let mut link = || -> wasmtime::Result<Linked> {
        host::add_to_linker::<Guest, HasSelf<Guest>>(&mut linker, |guest| guest)?;
        let pre = linker.instantiate_pre(&component)?;
        Ok(match world {
            World::Formatter => Linked::Formatter(formatter::FormatterPre::new(pre)?),
            World::Template => Linked::Template(template::TemplatePre::new(pre)?),
            World::Reward => Linked::Reward(reward::RewardPre::new(pre)?),
        })
    };
    let linked = link().map_err(|e| {
        not_a_plugin(format!("its {world} does not fit the contract: {}", shown(&format!("{e:#}"))))
    })?;
    // Only what passed every check is worth keeping.
    if let (false, Some(dir)) = (cached, cache::cache_dir()) {
        cache::keep(dir, &key, &component);
    }
    Ok(Compiled { world, contract, core_module, imports, exports, linked, cached })
}

/// The component of a core module that carries its WIT type.
fn wrap(file: &str, engine: &Engine, bytes: &[u8]) -> Result<Vec<u8>, PluginError> {
    let encode = || ComponentEncoder::default().validate(true).module(bytes)?.encode();
    encode().map_err(|e| match foreign_import(engine, bytes) {
        Some(import) => PluginError::ForbiddenImport { file: shown(file), import: shown(&import) },
        None => PluginError::NotAPlugin {
            file: shown(file),
            why: format!(
                "a core module that can't become a component: {}",
                shown(&format!("{e:#}"))
            ),
        },
    })
}

/// The first import of a core module that is not of the contract.
fn foreign_import(engine: &Engine, bytes: &[u8]) -> Option<String> {
    let module = wasmtime::Module::from_binary(engine, bytes).ok()?;
    let mut imports = module.imports();
    let import = imports.find(|import| !is_offered(import.module()))?;
    Some(format!("{}.{}", import.module(), import.name()))
}

fn is_offered(import: &str) -> bool {
    import
        .strip_prefix(PACKAGE)
        .map(|rest| rest.split('@').next().unwrap_or(rest))
        .is_some_and(|interface| OFFERED.contains(&interface))
}

/// The one world whose interface is exported, and its version.
fn world_of(file: &str, exports: &[String]) -> Result<(World, String), PluginError> {
    let mut found = Vec::new();
    for export in exports {
        let Some(rest) = export.strip_prefix(PACKAGE) else { continue };
        let (interface, version) = rest.split_once('@').unwrap_or((rest, ""));
        if let Some(world) = World::of_interface(interface) {
            found.push((world, version.to_string()));
        }
    }
    match found.as_slice() {
        [(world, version)] if version.starts_with(CONTRACT_LINE) => Ok((*world, version.clone())),
        [(_, version)] => Err(PluginError::ContractVersion {
            file: shown(file),
            got: shown(version),
            expected: "0.1",
        }),
        [] => Err(PluginError::NotAPlugin {
            file: shown(file),
            why: format!(
                "it exports no world of `trainer:plugin` (formatter, template or reward) but {}",
                if exports.is_empty() { "nothing".into() } else { shown(&exports.join(", ")) }
            ),
        }),
        [..] => Err(PluginError::NotAPlugin {
            file: shown(file),
            why: "it exports several worlds of `trainer:plugin`; a plugin is of one".into(),
        }),
    }
}
