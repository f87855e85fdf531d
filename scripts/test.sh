#!/usr/bin/env bash
# Everything a change must pass: format, build, tests, lints, documentation. One build profile
# for all, so that dependencies compile once.
set -euo pipefail
cd "$(dirname "$0")/.."
say() { printf '\n== %s (%s s)\n' "$*" "$SECONDS"; }

# Tests of several ranks need Gloo. Where it can't be had they say why they are skipped.
features=()
if [ ! -e /usr/include/gloo/config.h ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  say "libgloo-dev"
  { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends libgloo-dev; } >/dev/null ||
    echo "libgloo-dev could not be installed"
fi
if [ -e /usr/include/gloo/config.h ]; then
  features=(--features trainer/gloo)
else
  echo "built without the feature gloo: there is no libgloo-dev (apt-get install libgloo-dev)"
fi

say "format"
cargo fmt --all --check
cargo fmt --all --check --manifest-path plugins/Cargo.toml
say "plugins: Rust -> WebAssembly components (plugins/dist)"
bash scripts/plugins.sh
say "build"
cargo build --release --locked --workspace --all-targets "${features[@]}"
say "tests"
cargo test --release --locked --workspace "${features[@]}"
say "tests of the plugin SDK"
cargo test --release --locked --manifest-path plugin-sdk/rust/Cargo.toml
say "plugins in other languages: the same bits as the specification"
languages=()
if python3 -c 'import venv, ensurepip' 2>/dev/null; then languages+=(c cpp zig); fi
if command -v npm >/dev/null; then languages+=(javascript); fi
if [ ${#languages[@]} -gt 0 ]; then
  bash scripts/conformance.sh "${languages[@]}"
else
  echo "skipped: neither Python's venv nor npm is there to bring compilers"
fi
say "lints"
cargo clippy --release --locked --workspace --all-targets "${features[@]}" -- -D warnings
say "lints of the CUDA build, with a stand-in for NVIDIA's compiler"
if command -v python3 >/dev/null; then
  bash scripts/cuda.sh lint
else
  echo "skipped: there is no python3"
fi
say "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --release --locked --no-deps --workspace "${features[@]}"
say "done"
