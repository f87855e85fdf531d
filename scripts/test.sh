#!/usr/bin/env bash
# Everything a change must pass: format, build, tests, lints, documentation. One build profile
# for all, so that dependencies compile once.
set -euo pipefail
cd "$(dirname "$0")/.."
say() { printf '\n== %s (%s s)\n' "$*" "$SECONDS"; }

say "format"
cargo fmt --all --check
cargo fmt --all --check --manifest-path plugins/Cargo.toml
say "plugins: Rust -> WebAssembly components (plugins/dist)"
bash scripts/plugins.sh
say "build"
cargo build --release --locked --workspace --all-targets
say "tests"
cargo test --release --locked --workspace
say "tests of the plugin SDK"
cargo test --release --locked --manifest-path plugin-sdk/rust/Cargo.toml
say "plugins in other languages: the same bits as the specification"
bash scripts/conformance.sh c cpp zig javascript
say "lints"
cargo clippy --release --locked --workspace --all-targets -- -D warnings
say "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --release --locked --no-deps --workspace
say "done"
