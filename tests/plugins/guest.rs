//! Small guests written by hand: a core module around one function's body, with the contract's
//! type attached, so that the host itself makes the component.

pub use wit_component::StringEncoding;
use wit_parser::Resolve;

use crate::{own_cache, root};

/// A guest of one world. The parameters of its main function, which returns the address of its
/// result: of `format` and `score` `$rows`, `$columns`, `$num_columns`, `$whole`, `$num_whole`; of
/// `render` `$conversations`, `$rows` and six for the options.
pub struct Guest {
    world: &'static str,
    interface: &'static str,
    function: &'static str,
    main: String,
    imports: String,
    items: String,
    memory: String,
    realloc: String,
    describe: String,
    configure: String,
    wit: Vec<(String, String)>,
    encoding: StringEncoding,
}

/// The address of a description: name "evil", version "1.0.0", summary "s", no columns.
const INFO: &str = "i32.const 64";
/// The address of `ok` with no columns.
const NO_COLUMNS: &str = "i32.const 128";
/// A bump allocator that grows the memory as needed.
const BUMP: &str = "(local $at i32)
    (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 15)) (i32.const -16)))
    (global.set $heap (i32.add (local.get $at) (local.get $new)))
    (loop $grow
      (if (i32.gt_u (global.get $heap) (i32.mul (memory.size) (i32.const 65536)))
        (then
          (if (i32.eq (memory.grow (i32.const 16)) (i32.const -1)) (then unreachable))
          (br $grow))))
    (local.get $at)";

impl Guest {
    fn new(
        world: &'static str,
        interface: &'static str,
        function: &'static str,
        main: String,
    ) -> Self {
        Self {
            world,
            interface,
            function,
            main,
            imports: String::new(),
            items: String::new(),
            memory: "(memory (export \"memory\") 2)".into(),
            realloc: BUMP.into(),
            describe: INFO.into(),
            configure: NO_COLUMNS.into(),
            wit: Vec::new(),
            encoding: StringEncoding::UTF8,
        }
    }

    fn of_rows(
        world: &'static str,
        interface: &'static str,
        function: &'static str,
        body: &str,
    ) -> Self {
        let main = format!(
            r#"(func $main (export "trainer:plugin/{interface}@0.1.0#{function}")
      (param $rows i32) (param $columns i32) (param $num_columns i32)
      (param $whole i32) (param $num_whole i32) (result i32)
    {body})"#
        );
        Self::new(world, interface, function, main)
    }

    /// A formatter with this `format`.
    pub fn formatter(body: &str) -> Self {
        Self::of_rows("formatter", "formatting", "format", body)
    }

    /// A reward with this `score`.
    pub fn reward(body: &str) -> Self {
        Self::of_rows("reward", "rewards", "score", body)
    }

    /// A template with this `render`; its `stop-strings` traps.
    pub fn template(body: &str) -> Self {
        let six = "(param i32 i32 i32 i32 i32 i32)";
        let main = format!(
            r#"(func $main (export "trainer:plugin/templating@0.1.0#render")
      (param $conversations i32) (param $rows i32) {six} (result i32)
    {body})
  (func (export "trainer:plugin/templating@0.1.0#stop-strings") {six} (result i32)
    unreachable)"#
        );
        Self::new("template", "templating", "render", main)
    }

    /// Name of the main function in the contract.
    pub fn function(&self) -> &'static str {
        self.function
    }

    /// One more import.
    pub fn import(mut self, text: &str) -> Self {
        self.imports.push_str(text);
        self
    }

    /// More items of the module.
    pub fn items(mut self, text: &str) -> Self {
        self.items.push_str(text);
        self
    }

    /// Another body for `describe`.
    pub fn describe(mut self, body: &str) -> Self {
        self.describe = body.into();
        self
    }

    /// Another body for `configure`.
    pub fn configure(mut self, body: &str) -> Self {
        self.configure = body.into();
        self
    }

    /// Another memory.
    pub fn memory(mut self, text: &str) -> Self {
        self.memory = text.into();
        self
    }

    /// Another allocator; its parameters are `$old`, `$size`, `$align` and `$new`.
    pub fn realloc(mut self, body: &str) -> Self {
        self.realloc = body.into();
        self
    }

    /// What is called when the host has taken the main function's result.
    pub fn post_return(self, body: &str) -> Self {
        let (interface, function) = (self.interface, self.function);
        let name = format!("cabi_post_trainer:plugin/{interface}@0.1.0#{function}");
        self.items(&format!("(func (export \"{name}\") (param i32) {body})"))
    }

    /// No main function at all.
    pub fn without_main(mut self) -> Self {
        self.main.clear();
        self
    }

    /// Another contract: `from` in its text becomes `to`.
    pub fn contract(mut self, from: &str, to: &str) -> Self {
        self.wit.push((from.into(), to.into()));
        self
    }

    /// Another encoding of strings.
    pub fn encoding(mut self, encoding: StringEncoding) -> Self {
        self.encoding = encoding;
        self
    }

    /// The component, made by the tools of its language rather than by the host.
    pub fn component(&self) -> Vec<u8> {
        let encoder = wit_component::ComponentEncoder::default().module(&self.bytes()).unwrap();
        let encoded = encoder.validate(true).encode();
        encoded.unwrap_or_else(|e| panic!("{e:#}"))
    }

    /// The core module with its type.
    pub fn bytes(&self) -> Vec<u8> {
        let Self { interface, main, imports, items, memory, realloc, describe, configure, .. } =
            self;
        let name = format!("trainer:plugin/{interface}@0.1.0");
        // At 64 the record of `describe`: three strings, columns, whole-rows, schema,
        // deterministic. At 128 `ok` of `configure`: tag, columns, whole-rows.
        let mut module = format!(
            r#"(module
  (import "trainer:plugin/host@0.1.0" "log" (func $log (param i32 i32 i32)))
  {imports}
  {memory}
  (global $heap (mut i32) (i32.const 65536))
  (data (i32.const 16) "evil1.0.0s")
  (data (i32.const 64) "\10\00\00\00\04\00\00\00\14\00\00\00\05\00\00\00\19\00\00\00\01\00\00\00")
  (data (i32.const 108) "\01")
  (func $realloc (export "cabi_realloc")
      (param $old i32) (param $size i32) (param $align i32) (param $new i32) (result i32)
    {realloc})
  (func (export "{name}#describe") (result i32) {describe})
  (func (export "{name}#configure") (param i32 i32 i64) (result i32) {configure})
  {main}
  {items})"#
        );
        let path = root().join("plugin-sdk/wit/trainer.wit");
        let mut wit = std::fs::read_to_string(&path).unwrap();
        for (from, to) in &self.wit {
            assert!(wit.contains(from), "no `{from}` in the contract");
            wit = wit.replace(from, to);
        }
        // A module speaks of its contract's package by name.
        let package = wit.lines().find_map(|l| l.strip_prefix("package "));
        let package = package.unwrap().trim_end_matches(';');
        let (package, version) = package.split_once('@').unwrap();
        module = module
            .replace("trainer:plugin/", &format!("{package}/"))
            .replace("@0.1.0", &format!("@{version}"));
        let mut bytes = wat::parse_str(&module).unwrap_or_else(|e| panic!("{e}\n{module}"));
        let mut resolve = Resolve::default();
        let package = resolve.push_str("trainer.wit", &wit).unwrap();
        let world = resolve.select_world(&[package], Some(self.world)).unwrap();
        wit_component::embed_component_metadata(&mut bytes, &resolve, world, self.encoding)
            .unwrap();
        bytes
    }
}

/// `bytes` as a file that lives as long as the folder returned.
pub fn file(bytes: &[u8]) -> (tempfile::TempDir, String) {
    own_cache();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("evil.wasm");
    std::fs::write(&path, bytes).unwrap();
    let path = path.display().to_string();
    (dir, path)
}
