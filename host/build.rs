//! Embeds the components of `plugins/dist` (built by `scripts/plugins.sh`) into the binary, so that
//! `--plugin sharegpt` works wherever the binary goes. Without them the library still builds; it
//! then knows no shipped plugin.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

fn main() {
    #[cfg(feature = "gloo")]
    gloo_shim();
    #[cfg(feature = "cuda")]
    cuda_kernels();
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

/// Compiles the CUDA kernels to PTX, `NAME.cu` to `NAME.ptx` in the build's folder. The driver compiles
/// that for its GPU, of compute capability 8.0 or later.
#[cfg(feature = "cuda")]
fn cuda_kernels() {
    use std::process::{Child, Command, Stdio};

    const FOLDER: &str = "src/ops/cuda";
    const NAMES: [&str; 8] =
        ["activation", "adamw", "dropout", "head", "norm", "quant", "rope", "softmax"];
    println!("cargo::rerun-if-changed={FOLDER}/common.cuh");
    let mut nvcc = PathBuf::from("nvcc");
    for home in ["CUDA_PATH", "CUDA_HOME"] {
        println!("cargo::rerun-if-env-changed={home}");
        let own = std::env::var_os(home).map(|home| Path::new(&home).join("bin").join("nvcc"));
        nvcc = own.filter(|own| own.is_file()).unwrap_or(nvcc);
    }
    println!("cargo::rerun-if-env-changed=PATH");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default());
    let mut compilers: Vec<(String, Child)> = Vec::new();
    for name in NAMES {
        let file = format!("{FOLDER}/{name}.cu");
        println!("cargo::rerun-if-changed={file}");
        let started = Command::new(&nvcc)
            .args(["--ptx", "-arch=compute_80", "-O3", "--std=c++17", &file, "-o"])
            .arg(out.join(name).with_extension("ptx"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        match started {
            Ok(compiler) => compilers.push((file, compiler)),
            Err(e) => panic!(
                "can't run {}, CUDA's compiler: {e}; install the CUDA toolkit and set CUDA_HOME to \
                 its folder, or build with `scripts/cuda.sh build`",
                nvcc.display()
            ),
        }
    }
    for (file, compiler) in compilers {
        match compiler.wait_with_output() {
            Ok(output) if output.status.success() => {}
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stdout).into_owned()
                    + &String::from_utf8_lossy(&output.stderr);
                panic!("{} can't compile {file} ({}):\n{said}", nvcc.display(), output.status);
            }
            Err(e) => panic!("{} did not finish {file}: {e}", nvcc.display()),
        }
    }
}

/// Name and absolute path of `path` if it is a `NAME.wasm`.
fn component(path: &Path) -> Option<(String, PathBuf)> {
    if path.extension()? != "wasm" {
        return None;
    }
    let name = path.file_stem()?.to_str()?.to_string();
    Some((name, path.canonicalize().ok()?))
}
