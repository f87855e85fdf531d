#!/usr/bin/env bash
# Builds the plugins and the trainer, then runs the quick start. Extra arguments go to
# `trainer quickstart`. Needs Rust, a C compiler and the package registries.
set -euo pipefail
cd "$(dirname "$0")/.."
say() { printf '\n== %s\n' "$*"; }

say "1/3 plugins: Rust -> WebAssembly components (plugins/dist)"
bash scripts/plugins.sh
say "2/3 trainer: release build (about 10 minutes the first time on 2 cores)"
cargo build --release --locked -p trainer
say "3/3 trainer quickstart"
exec target/release/trainer quickstart "$@"
