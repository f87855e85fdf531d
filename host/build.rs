//! Embeds the components of `plugins/dist` (built by `scripts/plugins.sh`) into the binary, so that
//! `--plugin sharegpt` works wherever the binary goes. Without them the library still builds; it
//! then knows no shipped plugin.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

fn main() {
    #[cfg(feature = "gloo")]
    gloo_shim();
    let manifest_dir = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let dist = manifest_dir.join("../plugins/dist");
    // An absent folder would make every build a changed one.
    let _ = std::fs::create_dir_all(&dist);
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={}", dist.display());

    let mut plugins: Vec<(String, PathBuf)> = std::fs::read_dir(&dist)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| component(&entry.path()))
        .collect();
    plugins.sort();

    let mut list = String::from("&[\n");
    for (name, path) in plugins {
        println!("cargo::rerun-if-changed={}", path.display());
        let path = path.display().to_string();
        let _ = writeln!(list, "    ({name:?}, include_bytes!({path:?}).as_slice()),");
    }
    list.push_str("]\n");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default());
    if let Err(e) = std::fs::write(out.join("shipped_plugins.rs"), list) {
        panic!("can't write the list of shipped plugins to {}: {e}", out.display());
    }
}

/// Compiles the C interface to Gloo and links both.
#[cfg(feature = "gloo")]
fn gloo_shim() {
    const SHIM: &str = "src/dist/gloo_shim.cc";
    println!("cargo::rerun-if-changed={SHIM}");
    cc::Build::new().cpp(true).std("c++17").file(SHIM).compile("trainer_gloo_shim");
    println!("cargo::rustc-link-lib=gloo");
}

/// Name and absolute path of `path` if it is a `NAME.wasm`.
fn component(path: &Path) -> Option<(String, PathBuf)> {
    if path.extension()? != "wasm" {
        return None;
    }
    let name = path.file_stem()?.to_str()?.to_string();
    Some((name, path.canonicalize().ok()?))
}
