//! Hostile plugins, each with the way it ends: refused when it is loaded, or stopped, or caught by
//! the checks of what it returned, with a typed error that names plugin, call and rows. Afterwards
//! the host is as it was.

use trainer::data::{Conversation, Message};
use trainer::plugin::{OnFault, Plugin, PluginError, PluginLimits, RenderOptions, Verdict, World};

use crate::guest::{self, Guest, StringEncoding};
use crate::hostile::{SKIP, list, scores, skips};
use crate::{rows, shipped};

/// How a specimen ends.
enum End {
    /// When it is loaded, before anything of it runs.
    Refused,
    /// By a limit or a trap in this function.
    Stopped(&'static str),
    /// By the checks of what this function returned.
    Returned(&'static str),
    /// By its own error from this function.
    Failed(&'static str),
    /// By the options it is given.
    Options,
}

struct Specimen {
    name: &'static str,
    bytes: Vec<u8>,
    end: End,
    words: &'static str,
}

const LOOP: &str = "(loop $l (br $l)) unreachable";

/// Body of a `format` that keeps one example on every row; `example` writes it to 8192.
fn keeps(example: &str) -> String {
    format!(
        "(local $i i32) (local $at i32)
         {example}
         (loop $next
           (if (i32.lt_u (local.get $i) (local.get $rows)) (then
             (local.set $at (i32.add (i32.const 1024) (i32.mul (local.get $i) (i32.const 20))))
             (i32.store offset=4 (local.get $at) (i32.const 8192))
             (i32.store offset=8 (local.get $at) (i32.const 1))
             (local.set $i (i32.add (local.get $i) (i32.const 1)))
             (br $next))))
         {}",
        list("i32.const 1024", "local.get $rows")
    )
}

/// An example that is a conversation of one turn at 8448 with this role and weight.
fn turn(role: u32, weight: &str) -> String {
    format!(
        "(i32.store8 (i32.const 8192) (i32.const 1))
         (i32.store (i32.const 8200) (i32.const 8448)) (i32.store (i32.const 8204) (i32.const 1))
         (i32.store8 (i32.const 8448) (i32.const {role}))
         (i32.store (i32.const 8452) (i32.const 16)) (i32.store (i32.const 8456) (i32.const 4))
         (i32.store8 (i32.const 8492) (i32.const 1)) (f32.store (i32.const 8496) ({weight}))"
    )
}

/// Body of a `render` that answers every conversation with one segment at 8192.
fn renders(segment: &str) -> String {
    format!(
        "(local $i i32) (local $at i32)
         (i32.store (i32.const 8192) (i32.const 16)) (i32.store (i32.const 8196) (i32.const 4))
         {segment}
         (loop $next
           (if (i32.lt_u (local.get $i) (local.get $rows)) (then
             (local.set $at (i32.add (i32.const 1024) (i32.mul (local.get $i) (i32.const 12))))
             (i32.store offset=4 (local.get $at) (i32.const 8192))
             (i32.store offset=8 (local.get $at) (i32.const 1))
             (local.set $i (i32.add (local.get $i) (i32.const 1)))
             (br $next))))
         {}",
        list("i32.const 1024", "local.get $rows")
    )
}

fn bytes_of(x: f64) -> String {
    let bytes: String = x.to_le_bytes().iter().map(|b| format!("\\{b:02x}")).collect();
    format!("(data (i32.const 512) \"{bytes}\")")
}

/// A component as text that imports this instance.
fn importing(name: &str) -> Vec<u8> {
    wat::parse_str(format!("(component (import \"{name}\" (instance)))")).unwrap()
}

/// A core guest with one more import.
fn with_import(import: &str) -> Vec<u8> {
    Guest::formatter("unreachable").import(import).bytes()
}

fn component(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

/// Types that double in size at each of 40 steps.
fn type_bomb() -> Vec<u8> {
    let mut text = String::from("(component (type $t0 (tuple u32 u32))");
    for i in 1..40 {
        text.push_str(&format!(" (type $t{i} (tuple $t{} $t{}))", i - 1, i - 1));
    }
    text.push(')');
    component(&text)
}

/// Loading ends it.
fn refused() -> Vec<Specimen> {
    let one = |name, bytes, words| Specimen { name, bytes, end: End::Refused, words };
    let sound = Guest::formatter(&skips()).items(SKIP).bytes();
    let text = std::fs::read(crate::dist("text")).unwrap();
    let evil = || Guest::formatter("unreachable");
    let locals = "(local i64)".repeat(60_000);
    vec![
        one("an empty file", vec![], "does not begin like WebAssembly"),
        one("a script", b"#!/bin/sh\nrm -rf /\n".to_vec(), "does not begin like WebAssembly"),
        one("machine code", b"\x7fELF\x02\x01\x01\0\0\0\0\0".to_vec(), "does not begin"),
        one("a magic number alone", b"\0asm".to_vec(), "not a plugin"),
        one("a version that does not exist", b"\0asm\x63\0\0\0".to_vec(), "not a plugin"),
        one("a layer that does not exist", b"\0asm\x0d\0\x07\0".to_vec(), "not a plugin"),
        one("half a core module", sound[..sound.len() / 2].to_vec(), "not a plugin"),
        one("half a component", text[..text.len() / 2].to_vec(), "not a plugin"),
        one("bytes after the end", [&text[..], &[0xff; 64]].concat(), "not a plugin"),
        one("two files in one", [&text[..], &text[..]].concat(), "not a plugin"),
        one("a module without a type", component("(module)"), "not a plugin"),
        one("a component without exports", component("(component)"), "exports no world"),
        one("files", importing("wasi:filesystem/preopens@0.2.3"), "`wasi:filesystem/preopens@0.2.3`"),
        one("sockets", importing("wasi:sockets/tcp@0.2.3"), "`wasi:sockets/tcp@0.2.3`"),
        one("the network", importing("wasi:http/outgoing-handler@0.2.3"), "`wasi:http/outgoing"),
        one("clocks", importing("wasi:clocks/wall-clock@0.2.3"), "`wasi:clocks/wall-clock@0.2.3`"),
        one("randomness", importing("wasi:random/random@0.2.3"), "`wasi:random/random@0.2.3`"),
        one("the environment", importing("wasi:cli/environment@0.2.3"), "`wasi:cli/environment@"),
        one("threads by import", importing("wasi:thread-spawn/spawn@0.1.0"), "`wasi:thread-spawn"),
        one(
            "files of old",
            with_import(
                r#"(import "wasi_snapshot_preview1" "path_open" (func (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))"#,
            ),
            "`wasi_snapshot_preview1.path_open`",
        ),
        one(
            "sockets of old",
            with_import(
                r#"(import "wasi_snapshot_preview1" "sock_send" (func (param i32 i32 i32 i32 i32) (result i32)))"#,
            ),
            "`wasi_snapshot_preview1.sock_send`",
        ),
        one(
            "clocks of old",
            with_import(
                r#"(import "wasi_snapshot_preview1" "clock_time_get" (func (param i32 i64 i32) (result i32)))"#,
            ),
            "`wasi_snapshot_preview1.clock_time_get`",
        ),
        one(
            "randomness of old",
            with_import(
                r#"(import "wasi_snapshot_preview1" "random_get" (func (param i32 i32) (result i32)))"#,
            ),
            "`wasi_snapshot_preview1.random_get`",
        ),
        one(
            "the environment of old",
            with_import(
                r#"(import "wasi_snapshot_preview1" "environ_get" (func (param i32 i32) (result i32)))"#,
            ),
            "`wasi_snapshot_preview1.environ_get`",
        ),
        one(
            "the end of the process",
            with_import(r#"(import "wasi_snapshot_preview1" "proc_exit" (func (param i32)))"#),
            "`wasi_snapshot_preview1.proc_exit`",
        ),
        one(
            "a function of the host that there is not",
            with_import(r#"(import "trainer:plugin/host@0.1.0" "open" (func (param i32 i32)))"#),
            "not a plugin",
        ),
        one(
            "an interface that there is not",
            importing("trainer:plugin/secrets@0.1.0"),
            "`trainer:plugin/secrets@0.1.0`",
        ),
        one(
            "a host of another version",
            component(
                r#"(component (import "trainer:plugin/host@0.9.0" (instance (export "log" (func))))
                   (instance $i) (export "trainer:plugin/formatting@0.1.0" (instance $i)))"#,
            ),
            "does not fit the contract",
        ),
        one(
            "another version",
            evil().contract("package trainer:plugin@0.1.0", "package trainer:plugin@0.2.0").bytes(),
            "speaks version 0.2.0 of the plugin contract",
        ),
        one(
            "a world of another package",
            evil().contract("package trainer:plugin@", "package other:plugin@").bytes(),
            "`other:plugin/host@0.1.0",
        ),
        one(
            "two worlds",
            component(
                r#"(component (instance $i) (export "trainer:plugin/formatting@0.1.0" (instance $i))
                   (export "trainer:plugin/rewards@0.1.0" (instance $i)))"#,
            ),
            "several worlds",
        ),
        one(
            "a world without functions",
            component(
                r#"(component (instance $i) (export "trainer:plugin/rewards@0.1.0" (instance $i)))"#,
            ),
            "does not fit the contract",
        ),
        one("no main function", evil().without_main().bytes(), "not a plugin"),
        one("no memory", evil().memory("(memory 2)").bytes(), "not a plugin"),
        one(
            "a result of another type",
            Guest::reward("unreachable").contract("value: option<f64>", "value: option<f32>").component(),
            "does not fit the contract",
        ),
        one(
            "a description of another type",
            evil().contract("deterministic: bool,", "deterministic: u32,").component(),
            "does not fit the contract",
        ),
        one("a memory of 64 bits", evil().items("(memory i64 1)").bytes(), "not a plugin"),
        one("shared memory", evil().items("(memory 1 1 shared)").bytes(), "not a plugin"),
        one(
            "atomics",
            evil()
                .items("(func (drop (i32.atomic.rmw.add (i32.const 0) (i32.const 1))))")
                .bytes(),
            "not a plugin",
        ),
        one(
            "relaxed vectors",
            evil()
                .items(
                    "(func (param v128) (result v128)
                       (f32x4.relaxed_madd (local.get 0) (local.get 0) (local.get 0)))",
                )
                .bytes(),
            "not a plugin",
        ),
        one(
            "exceptions",
            evil().items("(tag $e) (func (throw $e))").bytes(),
            "not a plugin",
        ),
        one(
            "garbage-collected structures",
            evil()
                .items("(type $s (struct (field i32))) (func (drop (struct.new $s (i32.const 1))))")
                .bytes(),
            "not a plugin",
        ),
        one(
            "switching of stacks",
            evil()
                .items("(type $f (func)) (type $c (cont $f)) (func (param (ref $c)) (resume $c (local.get 0)))")
                .bytes(),
            "not a plugin",
        ),
        one("sixty thousand locals", evil().items(&format!("(func {locals})")).bytes(), "not a plugin"),
        one("types that double", type_bomb(), "not a plugin"),
        one("more memories than there can be", evil().items(&"(memory 1)".repeat(120)).bytes(), "not a plugin"),
        one(
            "an asynchronous function",
            evil().contract("log: func(", "log: async func(").component(),
            "",
        ),
    ]
}

/// Started, and stopped before it could say what it is.
fn started() -> Vec<Specimen> {
    let one = |name, guest: Guest, function, words| Specimen {
        name,
        bytes: guest.bytes(),
        end: End::Stopped(function),
        words,
    };
    let evil = || Guest::formatter("unreachable");
    let start = |body: &str| evil().items(&format!("(func $s {body}) (start $s)"));
    vec![
        one("a trap at the start", start("unreachable"), "start", "unreachable"),
        one("a loop at the start", start("(loop $l (br $l))"), "start", "out of fuel"),
        one("recursion at the start", start("(call $s)"), "start", "stack overflow"),
        one(
            "memory at the start",
            start("(loop $l (drop (memory.grow (i32.const 64))) (br $l))"),
            "start",
            "bytes of memory",
        ),
        one("data beyond the memory", evil().items("(data (i32.const 0x7fffff00) \"x\")"), "start", "out of bounds"),
        one(
            "elements beyond the table",
            evil().items("(table 1 funcref) (elem (i32.const 9) $main)"),
            "start",
            "out of bounds",
        ),
        one("a gigantic memory", evil().memory("(memory (export \"memory\") 65536)"), "start", "bytes of memory"),
        one("a second, large memory", evil().items("(memory 8192)"), "start", "bytes of memory"),
        one("eighty memories", evil().items(&"(memory 0)".repeat(80)), "start", ""),
        one("eighty tables", evil().items(&"(table 0 funcref)".repeat(80)), "start", ""),
        one("a gigantic table", evil().items("(table 4000000000 funcref)"), "start", "tables of more"),
        one("a table at the limit, twice", evil().items("(table 60000 funcref) (table 60000 funcref)"), "start", "tables of more"),
        one("a loop in describe", evil().describe(LOOP), "describe", "out of fuel"),
        one("a trap in describe", evil().describe("unreachable"), "describe", "unreachable"),
        one("a description beyond the memory", evil().describe("i32.const -4"), "describe", ""),
        one("a description out of line", evil().describe("i32.const 66"), "describe", ""),
        one(
            "a name that is not UTF-8",
            evil().items(r#"(data (i32.const 16) "\ff\fe\ff\fe")"#),
            "describe",
            "utf-8",
        ),
        one(
            "a schema without end",
            // 100 MB of options-schema in a memory of as many.
            evil().memory("(memory (export \"memory\") 1700)").items(
                r#"(data (i32.const 100) "\00\00\01\00\00\e1\f5\05")"#,
            ),
            "describe",
            "returned more than",
        ),
        one(
            "a kind that there is not",
            evil().items(
                r#"(data (i32.const 88) "\00\02\00\00\01\00\00\00")
                   (data (i32.const 512) "\10\00\00\00\04\00\00\00\09\00")"#,
            ),
            "describe",
            "",
        ),
        Specimen {
            name: "a lone surrogate in UTF-16",
            bytes: evil()
                .encoding(StringEncoding::UTF16)
                .items(r#"(data (i32.const 16) "\00\d8\00\d8")"#)
                .component(),
            end: End::Stopped("describe"),
            words: "",
        },
        one("a loop in configure", evil().configure(LOOP), "configure", "out of fuel"),
        one("a trap in configure", evil().configure("unreachable"), "configure", "unreachable"),
        one(
            "an error that there is not in configure",
            evil().configure("(i32.store8 (i32.const 256) (i32.const 1)) (i32.store8 (i32.const 260) (i32.const 9)) (i32.const 256)"),
            "configure",
            "",
        ),
        one("an allocator that loops", evil().realloc(LOOP), "configure", "out of fuel"),
        one("an allocator that traps", evil().realloc("unreachable"), "configure", "unreachable"),
        one("an allocator that points beyond", evil().realloc("i32.const -16"), "configure", ""),
        one(
            "an allocator that calls out",
            evil().realloc(
                "(call $log (i32.const 1) (i32.const 16) (i32.const 4)) (i32.const 32768)",
            ),
            "configure",
            "",
        ),
    ]
}

/// Described or configured, and refused for what it said.
fn described() -> Vec<Specimen> {
    let returned = |name, guest: Guest, function, words| Specimen {
        name,
        bytes: guest.bytes(),
        end: End::Returned(function),
        words,
    };
    let evil = || Guest::formatter("unreachable");
    // `configure` answers with `count` columns at 8192, each of them what `column` writes.
    let columns = |count: u32, length: u32| {
        evil().configure(&format!(
            "(local $i i32) (local $at i32)
             (drop (memory.grow (i32.const 8)))
             (loop $next
               (local.set $at (i32.add (i32.const 131072) (i32.mul (local.get $i) (i32.const 12))))
               (i32.store (local.get $at) (i32.const 16))
               (i32.store offset=4 (local.get $at) (i32.const {length}))
               (local.set $i (i32.add (local.get $i) (i32.const 1)))
               (br_if $next (i32.lt_u (local.get $i) (i32.const {count}))))
             (i32.store8 (i32.const 256) (i32.const 0))
             (i32.store (i32.const 260) (i32.const 131072)) (i32.store (i32.const 264) (i32.const {count}))
             (i32.const 256)"
        ))
    };
    vec![
        returned(
            "an empty name",
            evil().items(r#"(data (i32.const 68) "\00\00\00\00")"#),
            "describe",
            "the name `` is not",
        ),
        returned(
            "a name that steers the terminal",
            evil().items(r#"(data (i32.const 16) "\1b[2J")"#),
            "describe",
            "the name `\\u{1b}[2J` is not",
        ),
        returned(
            "a version without characters",
            evil().items(r#"(data (i32.const 76) "\00\00\00\00")"#),
            "describe",
            "is no version",
        ),
        returned("the same column twice", columns(2, 4), "configure", "the column `evil` twice"),
        returned("a column without a name", columns(1, 0), "configure", "without a name"),
        returned("five thousand columns", columns(5_000, 4), "configure", "more than 4096"),
        Specimen {
            name: "options it does not take itself",
            bytes: evil()
                .configure(
                    "(i32.store8 (i32.const 256) (i32.const 1)) (i32.store8 (i32.const 260) (i32.const 0))
                     (i32.store (i32.const 264) (i32.const 16)) (i32.store (i32.const 268) (i32.const 4))
                     (i32.const 256)",
                )
                .bytes(),
            end: End::Options,
            words: "evil",
        },
    ]
}

/// Sound until it is given rows.
fn called() -> Vec<Specimen> {
    let stopped = |name, guest: Guest, words| Specimen {
        name,
        end: End::Stopped(guest.function()),
        bytes: guest.bytes(),
        words,
    };
    let returned = |name, guest: Guest, words| Specimen {
        name,
        end: End::Returned(guest.function()),
        bytes: guest.bytes(),
        words,
    };
    let f = Guest::formatter;
    let keep = |example: &str| f(&keeps(example));
    let skipping = |guest: Guest| guest.items(SKIP);
    let render = |segment: &str| Guest::template(&renders(segment));
    let tokens = "(i32.store8 (i32.const 8192) (i32.const 4))
        (i32.store (i32.const 8200) (i32.const 16)) (i32.store (i32.const 8204) (i32.const 2))
        (i32.store (i32.const 8208) (i32.const 16))";
    // Sixty thousand outcomes that all point at one list of as many empty notes.
    let notes = format!(
        "(local $i i32) (local $at i32)
         (drop (memory.grow (i32.const 64)))
         (loop $next
           (local.set $at (i32.add (i32.const 131072) (i32.mul (local.get $i) (i32.const 20))))
           (call $skip (local.get $at))
           (i32.store offset=12 (local.get $at) (i32.const 131072))
           (i32.store offset=16 (local.get $at) (i32.const 60000))
           (local.set $i (i32.add (local.get $i) (i32.const 1)))
           (br_if $next (i32.lt_u (local.get $i) (i32.const 60000))))
         {}",
        list("i32.const 131072", "i32.const 60000")
    );
    // One outcome with sixty thousand empty examples.
    let examples = format!(
        "(drop (memory.grow (i32.const 64)))
         (i32.store8 (i32.const 1024) (i32.const 0))
         (i32.store (i32.const 1028) (i32.const 131072))
         (i32.store (i32.const 1032) (i32.const 60000))
         {}",
        list("i32.const 1024", "local.get $rows")
    );
    let parts = scores().replace(
        "(i64.store offset=16 (local.get $at) (i64.const 0))",
        "(i32.store offset=16 (local.get $at) (i32.const 4096)) (i32.store offset=20 (local.get $at) (i32.const 65))",
    );
    vec![
        stopped("an endless loop", f(LOOP), "out of fuel"),
        stopped(
            "recursion",
            f("(call $main (local.get $rows) (i32.const 1) (i32.const 2) (i32.const 3) (i32.const 4))"),
            "stack overflow",
        ),
        stopped(
            "recursion through a table",
            f("(call_indirect (type $t) (local.get $rows) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))")
                .items("(type $t (func (param i32 i32 i32 i32 i32) (result i32))) (table 1 funcref) (elem (i32.const 0) $main)"),
            "stack overflow",
        ),
        stopped(
            "endless tail calls",
            f("(return_call $main (local.get $rows) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))"),
            "out of fuel",
        ),
        stopped(
            "memory without end",
            f("(loop $l (drop (memory.grow (i32.const 64))) (br $l)) unreachable"),
            "bytes of memory",
        ),
        stopped(
            "tables without end",
            f("(loop $l (drop (table.grow $t (ref.null func) (i32.const 1000))) (br $l)) unreachable")
                .items("(table $t 1 funcref)"),
            "tables of more",
        ),
        stopped("a trap", f("unreachable"), "unreachable"),
        stopped(
            "blocks in blocks",
            f("unreachable").items(&format!("(func {} {})", "block ".repeat(20_000), "end ".repeat(20_000))),
            "unreachable",
        ),
        stopped(
            "one long sum",
            f("unreachable").items(&format!(
                "(func (result i32) i32.const 1 {})",
                "i32.const 7 i32.add ".repeat(100_000)
            )),
            "unreachable",
        ),
        stopped(
            "a branch to thirty thousand places",
            f("unreachable").items(&format!(
                "(func (param i32) {} (br_table {} 0 (local.get 0)) {})",
                "block ".repeat(1_000),
                (0..30_000).map(|i| format!("{} ", i % 1_000)).collect::<String>(),
                "end ".repeat(1_000)
            )),
            "unreachable",
        ),
        stopped(
            "thirty thousand functions",
            f("unreachable").items(&"(func)".repeat(30_000)),
            "unreachable",
        ),
        stopped("a division by zero", f("(i32.div_u (i32.const 1) (i32.const 0))"), "divide by zero"),
        stopped("a conversion of what is not a number", f("(i32.trunc_f32_s (f32.const nan))"), "conversion"),
        stopped("a load beyond the memory", f("(i32.load (i32.const -4))"), "out of bounds"),
        stopped("a result beyond the memory", f("i32.const -8"), ""),
        stopped("a result out of line", f("i32.const 3"), ""),
        stopped("a list beyond the memory", f(&list("i32.const -16", "i32.const 3")), ""),
        stopped("a list out of line", f(&list("i32.const 1023", "i32.const 3")), ""),
        stopped("a list of two thousand million", f(&list("i32.const 1024", "i32.const 0x7fffffff")), ""),
        stopped("a list whose size overflows", f(&list("i32.const 1024", "i32.const 0xffffffff")), ""),
        stopped(
            "a result that is neither",
            f("(i32.store8 (i32.const 256) (i32.const 7)) (i32.const 256)"),
            "",
        ),
        stopped(
            "a verdict that there is not",
            f(&skips()).items(&SKIP.replace(
                "(i32.store8 (local.get $at) (i32.const 1))",
                "(i32.store8 (local.get $at) (i32.const 3))",
            )),
            "",
        ),
        stopped("an example that there is not", keep("(i32.store8 (i32.const 8192) (i32.const 200))"), ""),
        stopped("a role that there is not", keep(&turn(4, "f32.const 1")), ""),
        stopped(
            "a reason that is not UTF-8",
            f(&skips())
                .items(r#"(data (i32.const 600) "\c3\28\a0\a1")"#)
                .items(&SKIP.replace("(i32.const 16)", "(i32.const 600)")),
            "utf-8",
        ),
        stopped(
            "a reason beyond the memory",
            f(&skips()).items(&SKIP.replace("(i32.const 4))", "(i32.const -1))")),
            "",
        ),
        stopped("notes by the thousand million", skipping(f(&notes)), "returned more than"),
        stopped(
            "a megabyte sixty thousand times",
            skipping(f(&crate::hostile::amplified())),
            "returned more than",
        ),
        returned("too few outcomes", f(&list("i32.const 1024", "i32.const 0")), "0 answers for 3 rows"),
        returned(
            "too many outcomes",
            skipping(f(&skips().replace(
                "(i32.store (i32.const 264) (local.get $rows))",
                "(i32.store (i32.const 264) (i32.const 7))",
            ))),
            "7 answers for 3 rows",
        ),
        returned("a reason without words", f(&skips()).items(&SKIP.replace("(i32.const 4))", "(i32.const 0))")), "without words"),
        stopped("sixty thousand examples", f(&examples), "returned more than"),
        returned("an empty text", keep(""), "an empty text"),
        returned("a conversation of nobody", keep("(i32.store8 (i32.const 8192) (i32.const 1))"), "without turns"),
        returned("a weight that is not a number", keep(&turn(2, "f32.const nan")), "the weight NaN"),
        returned("an infinite weight", keep(&turn(2, "f32.const inf")), "the weight inf"),
        returned("a weight below zero", keep(&turn(2, "f32.const -1")), "the weight -1"),
        returned(
            "tools that are not JSON",
            keep(&format!(
                "{} (i32.store8 (i32.const 8208) (i32.const 1))
                 (i32.store (i32.const 8212) (i32.const 16)) (i32.store (i32.const 8216) (i32.const 4))",
                turn(1, "f32.const 0")
            )),
            "tools that are not a JSON list",
        ),
        returned(
            "tool calls of a user",
            keep(&format!(
                "{} (i32.store (i32.const 8460) (i32.const 8600)) (i32.store (i32.const 8464) (i32.const 1))",
                turn(1, "f32.const 0")
            )),
            "tool calls in a user turn",
        ),
        returned(
            "a preference for nothing",
            keep("(i32.store8 (i32.const 8192) (i32.const 2))"),
            "two empty sides",
        ),
        returned(
            "tokens without labels",
            keep(&format!("{tokens} (i32.store (i32.const 8212) (i32.const 1))")),
            "2 input ids with 1 labels",
        ),
        returned(
            "a label below zero",
            keep(&format!(
                "{tokens} (i32.store (i32.const 8212) (i32.const 2)) (i32.store (i32.const 16) (i32.const -5))"
            )),
            "the label -5",
        ),
        Specimen {
            name: "an error of its own",
            bytes: f(
                "(i32.store8 (i32.const 256) (i32.const 1)) (i32.store8 (i32.const 260) (i32.const 2))
                 (i32.store (i32.const 264) (i32.const 16)) (i32.store (i32.const 268) (i32.const 4))
                 (i32.const 256)",
            )
            .bytes(),
            end: End::Failed("format"),
            words: "evil",
        },
        stopped("a trap when the result was taken", skipping(f(&skips())).post_return("unreachable"), "unreachable"),
        stopped("a loop when the result was taken", skipping(f(&skips())).post_return("(loop $l (br $l))"), "out of fuel"),
        stopped(
            "a call out when the result was taken",
            skipping(f(&skips())).post_return("(call $log (i32.const 1) (i32.const 16) (i32.const 4))"),
            "",
        ),
        stopped(
            "a flooded log",
            f("(loop $l (call $log (i32.const 1) (i32.const 16) (i32.const 4)) (br $l)) unreachable"),
            "flooded the log",
        ),
        stopped(
            "huge lines in the log",
            f("(loop $l (call $log (i32.const 1) (i32.const 16) (i32.const 100000)) (br $l)) unreachable"),
            "flooded the log",
        ),
        stopped("a line beyond the memory", f("(call $log (i32.const 1) (i32.const 16) (i32.const -1)) unreachable"), ""),
        stopped(
            "a line that is not UTF-8",
            f("(call $log (i32.const 1) (i32.const 600) (i32.const 2)) unreachable").items(r#"(data (i32.const 600) "\ff\ff")"#),
            "utf-8",
        ),
        stopped("a level that there is not", f("(call $log (i32.const 77) (i32.const 16) (i32.const 4)) unreachable"), ""),
        returned("a score that is not a number", Guest::reward(&scores()).items(&bytes_of(f64::NAN)), "the value NaN"),
        returned("an infinite score", Guest::reward(&scores()).items(&bytes_of(f64::INFINITY)), "the value inf"),
        returned("too many parts of a score", Guest::reward(&parts), "65 parts"),
        returned("no scores", Guest::reward(&list("i32.const 1024", "i32.const 0")), "0 answers for 3 rows"),
        stopped("a reward that loops", Guest::reward(LOOP), "out of fuel"),
        stopped("a template that loops", Guest::template(LOOP), "out of fuel"),
        stopped("a template that traps", Guest::template("unreachable"), "unreachable"),
        returned("too few renderings", Guest::template(&list("i32.const 1024", "i32.const 1")), "1 renderings for 3"),
        returned(
            "a segment with a weight that is not a number",
            render("(f32.store (i32.const 8204) (f32.const nan))"),
            "the weight NaN",
        ),
        returned("a segment below zero", render("(f32.store (i32.const 8204) (f32.const -2))"), "the weight -2"),
        returned("a rendering without text", render("(i32.store (i32.const 8196) (i32.const 0))"), "without text"),
        stopped(
            "a speaker that there is not",
            render("(i32.store8 (i32.const 8200) (i32.const 1)) (i32.store8 (i32.const 8201) (i32.const 9))"),
            "",
        ),
    ]
}

const ROWS: usize = 3;

/// Three rows or conversations through the plugin.
fn call(plugin: &Plugin) -> Result<(), PluginError> {
    match plugin.world() {
        World::Formatter => plugin.format(&[rows::batch(&[r#"{"a":1}"#; ROWS])]).map(drop),
        World::Reward => plugin.score(&[rows::batch(&[r#"{"a":1}"#; ROWS])]).map(drop),
        World::Template => plugin.render(&conversations(), &RenderOptions::default()).map(drop),
    }
}

fn conversations() -> Vec<Conversation> {
    vec![Conversation { messages: vec![Message::new("user", "q")], tools: None }; ROWS]
}

fn load(bytes: &[u8]) -> Result<Plugin, PluginError> {
    let (_dir, path) = guest::file(bytes);
    Plugin::load(&path, "", 0, PluginLimits::default())
}

/// What a specimen ends in.
fn error_of(specimen: &Specimen) -> PluginError {
    let ended = load(&specimen.bytes).and_then(|plugin| call(&plugin));
    ended.err().unwrap_or_else(|| panic!("{}: nothing happened", specimen.name))
}

#[test]
fn every_specimen_ends_as_it_should() {
    let all: Vec<Specimen> =
        [refused(), started(), described(), called()].into_iter().flatten().collect();
    assert!(all.len() >= 100, "{} specimens", all.len());
    let mut wrong = Vec::new();
    for specimen in &all {
        let error = error_of(specimen);
        let text = error.to_string();
        let (sound, named) = match (&specimen.end, &error) {
            (
                End::Refused,
                PluginError::NotAPlugin { .. }
                | PluginError::ForbiddenImport { .. }
                | PluginError::ContractVersion { .. },
            ) => (true, "evil.wasm"),
            (End::Stopped(at), PluginError::Stopped { function, .. })
            | (End::Returned(at), PluginError::Returned { function, .. })
            | (End::Failed(at), PluginError::Failed { function, .. }) => {
                let of_rows = matches!(*at, "format" | "score" | "render");
                (at == function && error.rows().is_some() == of_rows, "evil")
            }
            (End::Options, PluginError::Options { .. }) => (true, "evil"),
            _ => (false, ""),
        };
        if !sound || !text.contains(named) || !text.contains(specimen.words) {
            wrong.push(format!("{}: {error:?}", specimen.name));
        }
        let again = error_of(specimen).to_string();
        if without_paths(&text) != without_paths(&again) {
            wrong.push(format!("{}: {text} and then {again}", specimen.name));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), all.len(), wrong.join("\n"));
    let peak = trainer::run::memory::peak_bytes().unwrap_or(0);
    assert!(peak < 3 << 30, "{peak} bytes of memory at the peak");
    let sound = shipped("text", "{}").format(&[rows::batch(&[r#"{"text":"a"}"#])]).unwrap();
    assert!(matches!(sound[0].verdict, Verdict::Keep(_)));
}

/// `text` without the words that are paths: those differ from one temporary folder to the next.
fn without_paths(text: &str) -> String {
    text.split(' ').filter(|word| !word.contains("/evil.wasm")).collect::<Vec<_>>().join(" ")
}

#[test]
fn under_the_other_policy_their_rows_are_rejected() {
    for specimen in called() {
        let (at, name) = match specimen.end {
            End::Stopped(at) | End::Returned(at) | End::Failed(at) => (at, specimen.name),
            _ => continue,
        };
        let plugin = load(&specimen.bytes).unwrap().on_fault(OnFault::Reject);
        match at {
            "format" => {
                let outcomes = plugin.format(&[rows::batch(&[r#"{"a":1}"#; ROWS])]).unwrap();
                assert_eq!(outcomes.len(), ROWS);
                for outcome in outcomes {
                    let Verdict::Reject(why) = &outcome.verdict else {
                        panic!("{name}: {outcome:?}")
                    };
                    assert!(why.starts_with("the plugin "), "{name}: {why}");
                }
            }
            "score" => {
                let scores = plugin.score(&[rows::batch(&[r#"{"a":1}"#; ROWS])]).unwrap();
                assert!(scores.iter().all(|s| s.value.is_none()), "{name}: {scores:?}");
            }
            _ => {
                let rendered = plugin.render(&conversations(), &RenderOptions::default()).unwrap();
                assert!(rendered.iter().all(Result::is_err), "{name}: {rendered:?}");
            }
        }
    }
}
