//! Turns a core module that carries its WIT type (as `wit-bindgen` leaves it) into a component.
//!
//! `componentize [--adapter FILE] IN.wasm OUT.wasm`, any number of `IN OUT` pairs. The adapter
//! answers the imports of `wasi_snapshot_preview1` for languages whose runtime insists on them;
//! Rust guests need none. An output appears only when whole.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use wit_component::ComponentEncoder;

const USAGE: &str = "usage: componentize [--adapter FILE] IN.wasm OUT.wasm [IN.wasm OUT.wasm ...]";

fn main() -> ExitCode {
    match run(std::env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::from(2)
        }
    }
}

fn run(args: impl Iterator<Item = String>) -> Result<(), String> {
    let mut adapter = None;
    let mut files: Vec<PathBuf> = Vec::new();
    let mut args = args;
    while let Some(arg) = args.next() {
        if arg == "--adapter" {
            adapter = Some(args.next().ok_or(USAGE)?);
        } else {
            files.push(arg.into());
        }
    }
    if files.is_empty() || !files.len().is_multiple_of(2) {
        return Err(USAGE.into());
    }
    let adapter = adapter.map(|path| read(Path::new(&path))).transpose()?;
    for pair in files.chunks_exact(2) {
        let [input, output] = pair else { continue };
        let component = encode(&read(input)?, adapter.as_deref())
            .map_err(|e| format!("{} can't become a component: {e}", input.display()))?;
        write(output, &component)?;
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|e| format!("can't read {}: {e}; check the path", path.display()))
}

/// The component of `module`, validated.
fn encode(module: &[u8], adapter: Option<&[u8]>) -> Result<Vec<u8>, String> {
    let encode = || {
        let mut encoder = ComponentEncoder::default().validate(true).module(module)?;
        if let Some(bytes) = adapter {
            encoder = encoder.adapter("wasi_snapshot_preview1", bytes)?;
        }
        encoder.encode()
    };
    encode().map_err(|e| format!("{e:#}"))
}

/// Writes aside and renames, unless the file already holds these bytes: an unchanged plugin keeps
/// its time stamp, and nothing that depends on it is built again.
fn write(path: &Path, bytes: &[u8]) -> Result<(), String> {
    if std::fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let aside = path.with_extension("wasm.tmp");
    std::fs::write(&aside, bytes)
        .and_then(|()| std::fs::rename(&aside, path))
        .map_err(|e| format!("can't write {}: {e}; check the folder", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_without_a_type_is_refused_with_its_name() {
        let dir = std::env::temp_dir().join(format!("componentize-{}", std::process::id()));
        std::fs::create_dir_all(&dir).ok();
        let input = dir.join("plain.wasm");
        std::fs::write(&input, b"not wasm").ok();
        let output = dir.join("out.wasm");
        let args = [input.display().to_string(), output.display().to_string()];
        let message = run(args.into_iter()).err().unwrap_or_default();
        assert!(message.contains("plain.wasm can't become a component"), "{message}");
        assert!(!output.exists());
        std::fs::remove_dir_all(&dir).ok();
    }

    #[test]
    fn an_odd_number_of_files_is_refused() {
        assert_eq!(run(["a".to_string()].into_iter()).err().as_deref(), Some(USAGE));
    }
}
