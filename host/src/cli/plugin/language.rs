//! The languages of plugins, and what a project in each of them consists of. The files are those of
//! `plugin-sdk/`, inside the binary.

use crate::plugin::World;

/// A language that plugins can be written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    Rust,
    Python,
    JavaScript,
    TypeScript,
    C,
    Cpp,
    Zig,
    Go,
    AssemblyScript,
}

/// A file of a project: where it goes, and its text with [`NAME`] where the plugin's name belongs.
#[derive(Clone, Copy)]
pub struct File {
    pub path: &'static str,
    pub text: &'static str,
}

/// The name that templates bear.
pub const NAME: &str = "my-plugin";

macro_rules! files {
    ($($path:literal: $from:literal),* $(,)?) => {
        &[$(File { path: $path, text: include_str!(concat!("../../../../plugin-sdk/", $from)) }),*]
    };
}

/// The contract, for tools that read it.
pub const CONTRACT: &str = include_str!("../../../../plugin-sdk/wit/trainer.wit");

const WIT: &[File] = &[File { path: "sdk/trainer.wit", text: CONTRACT }];

const RUST: &[File] = files! {
    "Cargo.toml": "rust/templates/Cargo.toml.txt",
    "sdk/wit/trainer.wit": "wit/trainer.wit",
    "sdk/rust/Cargo.toml": "rust/Cargo.toml",
    "sdk/rust/README.md": "rust/README.md",
    "sdk/rust/src/about.rs": "rust/src/about.rs",
    "sdk/rust/src/bindings.rs": "rust/src/bindings.rs",
    "sdk/rust/src/chat.rs": "rust/src/chat.rs",
    "sdk/rust/src/fields.rs": "rust/src/fields.rs",
    "sdk/rust/src/formatter.rs": "rust/src/formatter.rs",
    "sdk/rust/src/glue.rs": "rust/src/glue.rs",
    "sdk/rust/src/lib.rs": "rust/src/lib.rs",
    "sdk/rust/src/logging.rs": "rust/src/logging.rs",
    "sdk/rust/src/reward.rs": "rust/src/reward.rs",
    "sdk/rust/src/rows.rs": "rust/src/rows.rs",
    "sdk/rust/src/template.rs": "rust/src/template.rs",
};
const PYTHON: &[File] = files! {
    "sdk/trainer_plugin.py": "python/sdk/trainer_plugin.py",
    "sdk/trainer_glue.py": "python/sdk/trainer_glue.py",
};
const JAVASCRIPT: &[File] = files! {
    "package.json": "javascript/package.json",
    "sdk/trainer.js": "javascript/sdk/trainer.js",
    "sdk/trainer.d.ts": "javascript/sdk/trainer.d.ts",
};
const C_SDK: &[File] = files! {
    "sdk/plugin.h": "c/sdk/common/plugin.h",
    "sdk/plugin_glue.h": "c/sdk/common/plugin_glue.h",
    "sdk/plugin.c": "c/sdk/common/plugin.c",
};
const C_REWARD: &[File] = files! {
    "sdk/rows.c": "c/sdk/common/rows.c",
    "sdk/reward.c": "c/sdk/common/reward.c",
    "sdk/trainer.c": "c/sdk/reward/trainer.c",
    "sdk/trainer.h": "c/sdk/reward/trainer.h",
};

impl Language {
    /// All of them.
    pub const ALL: [Language; 9] = [
        Language::Rust,
        Language::Python,
        Language::JavaScript,
        Language::TypeScript,
        Language::C,
        Language::Cpp,
        Language::Zig,
        Language::Go,
        Language::AssemblyScript,
    ];

    /// Its name on the command line and in a manifest.
    pub fn name(self) -> &'static str {
        match self {
            Language::Rust => "rust",
            Language::Python => "python",
            Language::JavaScript => "javascript",
            Language::TypeScript => "typescript",
            Language::C => "c",
            Language::Cpp => "cpp",
            Language::Zig => "zig",
            Language::Go => "go",
            Language::AssemblyScript => "assemblyscript",
        }
    }

    /// The language of a name or a usual short form of it.
    pub fn of(name: &str) -> Option<Self> {
        let name = match name {
            "rs" => "rust",
            "py" => "python",
            "js" => "javascript",
            "ts" => "typescript",
            "c++" | "cxx" => "cpp",
            "golang" => "go",
            "as" => "assemblyscript",
            other => other,
        };
        Self::ALL.into_iter().find(|language| language.name() == name)
    }

    /// The file an author works in.
    pub fn source(self) -> &'static str {
        match self {
            Language::Rust => "src/lib.rs",
            Language::Python => "plugin.py",
            Language::JavaScript => "plugin.js",
            Language::TypeScript => "plugin.ts",
            Language::C => "plugin.c",
            Language::Cpp => "plugin.cpp",
            Language::Zig => "plugin.zig",
            Language::Go => "plugin.go",
            Language::AssemblyScript => "plugin.ts",
        }
    }

    /// The files of a project of this kind, but for manifest and golden rows; `None` where the
    /// language has no template of the kind.
    pub fn files(self, world: World) -> Option<Vec<&'static [File]>> {
        use Language::*;
        use World::*;
        let own: &[File] = match (self, world) {
            (Rust, Reward) => files! { "src/lib.rs": "rust/templates/reward/src/lib.rs" },
            (Rust, Formatter) => files! { "src/lib.rs": "rust/templates/formatter/src/lib.rs" },
            (Rust, Template) => files! { "src/lib.rs": "rust/templates/template/src/lib.rs" },
            (Python, Reward) => files! {
                "plugin.py": "python/templates/reward/plugin.py",
                "sdk/reward_app.py": "python/sdk/reward_app.py",
            },
            (Python, Formatter) => files! {
                "plugin.py": "python/templates/formatter/plugin.py",
                "sdk/formatter_app.py": "python/sdk/formatter_app.py",
            },
            (Python, Template) => files! {
                "plugin.py": "python/templates/template/plugin.py",
                "sdk/template_app.py": "python/sdk/template_app.py",
            },
            (JavaScript, Reward) => files! { "plugin.js": "javascript/templates/reward/plugin.js" },
            (JavaScript, Formatter) => {
                files! { "plugin.js": "javascript/templates/formatter/plugin.js" }
            }
            (JavaScript, Template) => {
                files! { "plugin.js": "javascript/templates/template/plugin.js" }
            }
            (TypeScript, Reward) => files! { "plugin.ts": "typescript/templates/reward/plugin.ts" },
            (TypeScript, Formatter) => {
                files! { "plugin.ts": "typescript/templates/formatter/plugin.ts" }
            }
            (TypeScript, Template) => {
                files! { "plugin.ts": "typescript/templates/template/plugin.ts" }
            }
            (C, Reward) => files! { "plugin.c": "c/templates/reward/plugin.c" },
            (C, Formatter) => files! {
                "plugin.c": "c/templates/formatter/plugin.c",
                "sdk/rows.c": "c/sdk/common/rows.c",
                "sdk/formatter.c": "c/sdk/common/formatter.c",
                "sdk/trainer.c": "c/sdk/formatter/trainer.c",
                "sdk/trainer.h": "c/sdk/formatter/trainer.h",
            },
            (C, Template) => files! {
                "plugin.c": "c/templates/template/plugin.c",
                "sdk/template.c": "c/sdk/common/template.c",
                "sdk/trainer.c": "c/sdk/template/trainer.c",
                "sdk/trainer.h": "c/sdk/template/trainer.h",
            },
            (Cpp, Reward) => files! {
                "plugin.cpp": "cpp/templates/reward/plugin.cpp",
                "sdk/plugin.hpp": "cpp/sdk/plugin.hpp",
            },
            (Zig, Reward) => files! {
                "plugin.zig": "zig/templates/reward/plugin.zig",
                "sdk/trainer.zig": "zig/sdk/trainer.zig",
            },
            (Go, Reward) => files! {
                "plugin.go": "go/templates/reward/plugin.go",
                "go.mod": "go/templates/reward/go.mod",
                "sdk/trainer.go": "go/sdk/trainer.go",
            },
            (AssemblyScript, Reward) => files! {
                "plugin.ts": "assemblyscript/templates/reward/plugin.ts",
                "package.json": "assemblyscript/templates/reward/package.json",
                "sdk/reward.ts": "assemblyscript/sdk/reward.ts",
                "sdk/trainer.ts": "assemblyscript/sdk/trainer.ts",
            },
            (Cpp | Zig | Go | AssemblyScript, Formatter | Template) => return None,
        };
        let shared: &[&[File]] = match (self, world) {
            (Rust, _) => &[RUST],
            (Python, _) => &[PYTHON, WIT],
            (JavaScript | TypeScript, _) => &[JAVASCRIPT, WIT],
            (C | Cpp, Reward) => &[C_SDK, C_REWARD],
            (C, _) => &[C_SDK],
            _ => &[],
        };
        Some(std::iter::once(own).chain(shared.iter().copied()).collect())
    }
}

/// The golden rows of a template's kind.
pub fn golden(world: World) -> &'static [File] {
    match world {
        World::Reward => files! {
            "golden/in.jsonl": "golden/reward/in.jsonl",
            "golden/out.jsonl": "golden/reward/out.jsonl",
        },
        World::Formatter => files! {
            "golden/in.jsonl": "golden/formatter/in.jsonl",
            "golden/out.jsonl": "golden/formatter/out.jsonl",
        },
        World::Template => files! {
            "golden/in.jsonl": "golden/template/in.jsonl",
            "golden/out.jsonl": "golden/template/out.jsonl",
        },
    }
}

/// The world of a kind's name.
pub fn world(name: &str) -> Option<World> {
    [World::Formatter, World::Template, World::Reward].into_iter().find(|w| w.name() == name)
}
