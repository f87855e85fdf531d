//! Small guests written by hand: a core module around one function's body, with the contract's
//! type attached, so that the host itself makes the component.

use wit_component::StringEncoding;
use wit_parser::Resolve;

use crate::root;

/// A guest of one world. Its main function (`format` or `score`) has the parameters `$rows`,
/// `$columns`, `$num_columns`, `$whole`, `$num_whole` and returns the address of its result.
pub struct Guest {
    world: &'static str,
    interface: &'static str,
    function: &'static str,
    body: String,
    imports: String,
    items: String,
    describe: String,
    configure: String,
}

/// The address of a description: name "evil", version "1.0.0", summary "s", no columns.
const INFO: &str = "i32.const 64";
/// The address of `ok` with no columns.
const NO_COLUMNS: &str = "i32.const 128";

impl Guest {
    fn new(
        world: &'static str,
        interface: &'static str,
        function: &'static str,
        body: &str,
    ) -> Self {
        Self {
            world,
            interface,
            function,
            body: body.into(),
            imports: String::new(),
            items: String::new(),
            describe: INFO.into(),
            configure: NO_COLUMNS.into(),
        }
    }

    /// A formatter with this `format`.
    pub fn formatter(body: &str) -> Self {
        Self::new("formatter", "formatting", "format", body)
    }

    /// A reward with this `score`.
    pub fn reward(body: &str) -> Self {
        Self::new("reward", "rewards", "score", body)
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

    /// The core module with its type.
    pub fn bytes(&self) -> Vec<u8> {
        let Self { world, interface, function, body, imports, items, describe, configure } = self;
        let name = format!("trainer:plugin/{interface}@0.1.0");
        // At 64 the record of `describe`: three strings, columns, whole-rows, schema,
        // deterministic. At 128 `ok` of `configure`: tag, columns, whole-rows.
        let module = format!(
            r#"(module
  (import "trainer:plugin/host@0.1.0" "log" (func $log (param i32 i32 i32)))
  {imports}
  (memory (export "memory") 2)
  (global $heap (mut i32) (i32.const 65536))
  (data (i32.const 16) "evil1.0.0s")
  (data (i32.const 64) "\10\00\00\00\04\00\00\00\14\00\00\00\05\00\00\00\19\00\00\00\01\00\00\00")
  (data (i32.const 108) "\01")
  (func (export "cabi_realloc") (param $old i32) (param $size i32) (param $align i32) (param $new i32)
      (result i32) (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 15)) (i32.const -16)))
    (global.set $heap (i32.add (local.get $at) (local.get $new)))
    (loop $grow
      (if (i32.gt_u (global.get $heap) (i32.mul (memory.size) (i32.const 65536)))
        (then
          (if (i32.eq (memory.grow (i32.const 16)) (i32.const -1)) (then unreachable))
          (br $grow))))
    (local.get $at))
  (func (export "{name}#describe") (result i32) {describe})
  (func (export "{name}#configure") (param i32 i32 i64) (result i32) {configure})
  (func $main (export "{name}#{function}")
      (param $rows i32) (param $columns i32) (param $num_columns i32)
      (param $whole i32) (param $num_whole i32) (result i32)
    {body})
  {items})"#
        );
        let mut bytes = wat::parse_str(&module).unwrap_or_else(|e| panic!("{e}\n{module}"));
        let mut resolve = Resolve::default();
        let (package, _) = resolve.push_path(root().join("plugin-sdk/wit")).unwrap();
        let world = resolve.select_world(&[package], Some(world)).unwrap();
        wit_component::embed_component_metadata(&mut bytes, &resolve, world, StringEncoding::UTF8)
            .unwrap();
        bytes
    }
}

/// `bytes` as a file that lives as long as the folder returned.
pub fn file(bytes: &[u8]) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("evil.wasm");
    std::fs::write(&path, bytes).unwrap();
    let path = path.display().to_string();
    (dir, path)
}
