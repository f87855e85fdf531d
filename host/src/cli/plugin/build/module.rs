//! From a core module to a component of the contract.

use memchr::memmem;
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use super::BuildError;
use super::manifest::Manifest;
use crate::cli::plugin::language::{CONTRACT, Language};

/// Stands in for WASI (`plugin-sdk/wasi/inert.wat`).
const INERT: &[u8] = include_bytes!("../../../../../plugin-sdk/wasi/inert.wasm");
const PREVIEW1: &str = "wasi_snapshot_preview1";

/// The component of what the tools made: that itself, or the core module with the type of its
/// world, and with inert functions where its runtime asks for WASI.
pub fn component(bytes: Vec<u8>, manifest: &Manifest) -> Result<Vec<u8>, BuildError> {
    let fault = |why: String| BuildError::Module { language: manifest.language.name(), why };
    if !bytes.starts_with(b"\0asm") {
        return Err(fault("it does not begin like WebAssembly".into()));
    }
    // The layer field of the preamble: 0 for a core module, 1 for a component.
    if !matches!(bytes.get(6..8), Some([0, 0])) {
        return Ok(bytes);
    }
    let mut module = bytes;
    if manifest.language == Language::AssemblyScript {
        module = rename_exports(&module, contract_name)
            .ok_or_else(|| fault("its exports can't be read".into()))?;
    }
    let encode = |module: &mut Vec<u8>| {
        // wit-bindgen leaves the type in the modules that it has a part in.
        if memmem::find(module, b"component-type:").is_none() {
            let mut resolve = Resolve::default();
            let package = resolve.push_source("trainer.wit", CONTRACT)?;
            let world = resolve.select_world(&[package], Some(manifest.world.name()))?;
            embed_component_metadata(module, &resolve, world, StringEncoding::UTF8)?;
        }
        let mut encoder = ComponentEncoder::default().validate(true).module(module)?;
        if memmem::find(module, PREVIEW1.as_bytes()).is_some() {
            encoder = encoder.adapter(PREVIEW1, INERT)?;
        }
        encoder.encode()
    };
    encode(&mut module).map_err(|e| fault(format!("{e:#}")))
}

/// The contract's name of an export that could not bear it: `rewards_score`, and what comes after
/// a call, `post_rewards_score`.
fn contract_name(name: &str) -> Option<String> {
    let (prefix, rest) = match name.strip_prefix("post_") {
        Some(rest) => ("cabi_post_", rest),
        None => ("", name),
    };
    let (interface, function) = rest.split_once('_')?;
    let known = ["formatting", "templating", "rewards"].contains(&interface);
    let function = function.replace('_', "-");
    known.then(|| format!("{prefix}trainer:plugin/{interface}@0.1.0#{function}"))
}

/// The module with other names of its exports; `None` where it can't be read.
fn rename_exports(module: &[u8], name_of: impl Fn(&str) -> Option<String>) -> Option<Vec<u8>> {
    const EXPORTS: u8 = 7;
    let mut out = module.get(..8)?.to_vec();
    let mut rest = module.get(8..)?;
    while let Some((&id, after)) = rest.split_first() {
        let (len, after) = number(after)?;
        let (body, next) = (after.get(..len)?, after.get(len..)?);
        let body = if id == EXPORTS { renamed(body, &name_of)? } else { body.to_vec() };
        out.push(id);
        put_number(&mut out, body.len());
        out.extend(body);
        rest = next;
    }
    Some(out)
}

fn renamed(body: &[u8], name_of: &impl Fn(&str) -> Option<String>) -> Option<Vec<u8>> {
    let (count, mut rest) = number(body)?;
    let mut out = Vec::new();
    put_number(&mut out, count);
    for _ in 0..count {
        let (len, after) = number(rest)?;
        let name = std::str::from_utf8(after.get(..len)?).ok()?;
        let (kind, after) = after.get(len..)?.split_first()?;
        let (index, after) = number(after)?;
        let name = name_of(name).unwrap_or_else(|| name.to_string());
        put_number(&mut out, name.len());
        out.extend(name.as_bytes());
        out.push(*kind);
        put_number(&mut out, index);
        rest = after;
    }
    Some(out)
}

/// An unsigned LEB128 number of 32 bits, and what follows it.
fn number(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0_u64;
    for (at, byte) in bytes.iter().take(5).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some((usize::try_from(value).ok()?, bytes.get(at + 1..)?));
        }
    }
    None
}

fn put_number(out: &mut Vec<u8>, mut value: usize) {
    loop {
        let byte = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            out.push(byte);
            return;
        }
        out.push(byte | 0x80);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_assembled_stand_in_is_its_source() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../plugin-sdk/wasi/inert.wat");
        let assembled = wat::parse_file(path).unwrap();
        assert!(assembled == INERT, "assemble plugin-sdk/wasi/inert.wat anew (wat::parse_file)");
    }

    #[test]
    fn exports_get_the_names_of_the_contract() {
        let module = wat::parse_str(
            r#"(module (memory (export "memory") 1)
                (func (export "rewards_score")) (func (export "post_rewards_score"))
                (func (export "templating_stop_strings")) (func (export "other_thing")))"#,
        )
        .unwrap();
        let renamed = rename_exports(&module, contract_name).unwrap();
        let wanted = wat::parse_str(
            r#"(module (memory (export "memory") 1)
                (func (export "trainer:plugin/rewards@0.1.0#score"))
                (func (export "cabi_post_trainer:plugin/rewards@0.1.0#score"))
                (func (export "trainer:plugin/templating@0.1.0#stop-strings"))
                (func (export "other_thing")))"#,
        )
        .unwrap();
        assert_eq!(renamed, wanted);
        for cut in 9..module.len() {
            // Never a panic; a shorter module is read or refused.
            let _ = rename_exports(&module[..cut], contract_name);
        }
    }
}
