//! Damaged files: whatever a flipped bit, a cut or a splice leaves of a plugin, loading it and
//! calling it ends in an answer or an error, never in a panic.

use std::sync::LazyLock;

use proptest::prelude::*;
use trainer::plugin::{Plugin, PluginError, PluginLimits, World};

use crate::guest::{self, Guest};
use crate::hostile::{SKIP, scores, skips};
use crate::{dist, rows};

/// Little fuel and memory: a damaged plugin may well loop.
fn limits() -> PluginLimits {
    PluginLimits {
        fuel_base: 1_000_000,
        fuel_per_row: 100_000,
        memory_bytes: 16 << 20,
        ..PluginLimits::default()
    }
}

/// Loads and calls what is left of a plugin; the error, if it ends in one.
fn outcome(bytes: &[u8]) -> Option<PluginError> {
    let (_dir, path) = guest::file(bytes);
    let plugin = match Plugin::load(&path, "", 0, limits()) {
        Ok(plugin) => plugin,
        Err(error) => return Some(error),
    };
    let batch = rows::batch(&[r#"{"text":"a","completion":"1","reference":"1"}"#; 3]);
    match plugin.world() {
        World::Formatter => plugin.format(&[batch]).err(),
        World::Reward => plugin.score(&[batch]).err(),
        World::Template => plugin.stop_strings(&Default::default()).err(),
    }
}

/// A core module, a component made of one, a reward, and a plugin of the SDK.
static SOUND: LazyLock<[Vec<u8>; 4]> = LazyLock::new(|| {
    let formatter = Guest::formatter(&skips()).items(SKIP);
    let (module, component) = (formatter.bytes(), formatter.component());
    let reward = Guest::reward(&scores()).bytes();
    [module, component, reward, std::fs::read(dist("length")).unwrap()]
});

#[test]
fn sound_ones_are_sound() {
    for bytes in SOUND.iter() {
        assert!(outcome(bytes).is_none(), "{:?}", outcome(bytes));
    }
}

#[test]
fn what_a_module_says_of_its_types_is_not_read() {
    // A type section for tools whose packages need each other brings a parser of such down.
    let mut module = SOUND[0].clone();
    let name = b"component-type:x";
    let garbage = vec![0xa5; 100];
    module.extend_from_slice(&[0, (1 + name.len() + garbage.len()) as u8, name.len() as u8]);
    module.extend_from_slice(name);
    module.extend_from_slice(&garbage);
    assert!(outcome(&module).is_none(), "{:?}", outcome(&module));
}

#[test]
fn every_cut_of_a_component_is_refused() {
    let component = &SOUND[1];
    for cut in (0..component.len()).step_by(7) {
        match outcome(&component[..cut]) {
            Some(PluginError::NotAPlugin { .. }) => {}
            // Without what is said for tools, at the very end, it is still whole.
            None if cut > component.len() * 3 / 4 => {}
            other => panic!("cut at {cut} of {}: {other:?}", component.len()),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 250, ..ProptestConfig::default() })]

    #[test]
    fn flipped_bits_never_panic(
        which in 0usize..3,
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0u8..8), 1..4),
    ) {
        let mut bytes = SOUND[which].clone();
        for (at, bit) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        outcome(&bytes);
    }

    #[test]
    fn spliced_files_never_panic(
        which in 0usize..3,
        from in any::<prop::sample::Index>(),
        to in any::<prop::sample::Index>(),
        len in 1usize..64,
    ) {
        let mut bytes = SOUND[which].clone();
        let (from, to) = (from.index(bytes.len()), to.index(bytes.len()));
        let end = bytes.len().min(from + len);
        let piece = bytes[from..end].to_vec();
        bytes.splice(to..to, piece);
        outcome(&bytes);
    }
}

proptest! {
    // Each of these compiles a hundred kilobytes.
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn flipped_bits_of_a_whole_plugin_never_panic(
        at in any::<prop::sample::Index>(),
        bit in 0u8..8,
    ) {
        let mut bytes = SOUND[3].clone();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        outcome(&bytes);
    }
}
