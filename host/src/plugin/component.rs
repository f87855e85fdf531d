//! From bytes to a compiled component whose imports and world are known to be right.

use std::time::Duration;

use wasmtime::component::{Component, HasSelf, Linker};
use wasmtime::{Engine, Module};
use wit_component::{ComponentEncoder, StringEncoding};
use wit_parser::Resolve;

use super::bindings::{formatter, host, reward, template};
use super::cache;
use super::columns::Reads;
use super::engine::{Guest, engine};
use super::error::{PluginError, shown};
use super::schema::{self, OptionRow};

/// The package of the contract, as it begins every name of it.
const PACKAGE: &str = "trainer:plugin/";
/// The contract.
const CONTRACT: &str = include_str!("../../../plugin-sdk/wit/trainer.wit");
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

/// The component of a core module: its imports and exports by name, its types those of the contract.
/// What the module's custom sections say of its types is not looked at: the code that reads them
/// was not written for strangers' files.
fn wrap(file: &str, engine: &Engine, bytes: &[u8]) -> Result<Vec<u8>, PluginError> {
    let not_a_plugin = |why: String| PluginError::NotAPlugin { file: shown(file), why };
    let module = Module::from_binary(engine, bytes)
        .map_err(|e| not_a_plugin(shown(&e.root_cause().to_string())))?;
    if let Some(import) = module.imports().find(|import| !is_offered(import.module())) {
        let import = shown(&format!("{}.{}", import.module(), import.name()));
        return Err(PluginError::ForbiddenImport { file: shown(file), import });
    }
    // `trainer:plugin/formatting@0.1.0#format` and its like.
    let mut exports: Vec<String> = module
        .exports()
        .filter_map(|export| export.name().split_once('#').map(|(name, _)| name.to_string()))
        .filter(|name| name.starts_with(PACKAGE))
        .collect();
    exports.sort();
    exports.dedup();
    let (world, _) = world_of(file, &exports)?;
    // A panic in there would be a fault of the encoder, of which a stranger's file makes use.
    let encode = std::panic::AssertUnwindSafe(|| encode(bytes, world));
    std::panic::catch_unwind(encode).unwrap_or_else(|_| Err("it is broken".into())).map_err(|why| {
        not_a_plugin(format!("a core module that can't become a component: {}", shown(&why)))
    })
}

fn encode(bytes: &[u8], world: World) -> Result<Vec<u8>, String> {
    let mut module = without_custom_sections(bytes).ok_or("its sections are broken")?;
    let mut contract = Resolve::default();
    let encoded = contract.push_str("trainer.wit", CONTRACT).and_then(|package| {
        let world = contract.select_world(&[package], Some(world.name()))?;
        let encoding = StringEncoding::UTF8;
        wit_component::embed_component_metadata(&mut module, &contract, world, encoding)?;
        ComponentEncoder::default().validate(true).module(&module)?.encode()
    });
    encoded.map_err(|e| format!("{e:#}"))
}

/// A module without what is not part of the program: names, types for tools, and the like.
fn without_custom_sections(bytes: &[u8]) -> Option<Vec<u8>> {
    /// The preamble's bytes.
    const PREAMBLE: usize = 8;
    let mut out = bytes.get(..PREAMBLE)?.to_vec();
    let mut rest = bytes.get(PREAMBLE..)?;
    while let [id, after @ ..] = rest {
        // The size, in LEB128.
        let end = after.iter().take(5).position(|byte| byte & 0x80 == 0)?;
        let size = after[..=end]
            .iter()
            .enumerate()
            .map(|(i, byte)| u64::from(byte & 0x7f) << (7 * i))
            .sum::<u64>();
        let whole = 1 + end + 1 + usize::try_from(size).ok()?;
        if *id != 0 {
            out.extend_from_slice(rest.get(..whole)?);
        }
        rest = rest.get(whole..)?;
    }
    Some(out)
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
