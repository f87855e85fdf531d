#!/usr/bin/env bash
# Builds every plugin of plugins/ into plugins/dist/NAME.wasm (components, embedded into the
# trainer's binary by its build script).
#
# Toolchain, whichever is there first:
#   1. the wasm32-unknown-unknown target of the Rust in PATH (`rustup target add …` put it there);
#   2. Debian's rustc-web, cargo-web and rust-web-src, which build the standard library from
#      source; installed by apt-get when this runs as root (or sudo needs no password).
# Nothing is ever fetched through rustup.
#
#   scripts/plugins.sh                  build
#   scripts/plugins.sh --print-command  only print the cargo command that would run
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
target=wasm32-unknown-unknown

say() { printf 'plugins: %s\n' "$*" >&2; }

debian_rust() { [ -x /usr/bin/rustc ] && [ -x /usr/bin/cargo ] && debian_source; }
debian_source() {
    local sysroot
    sysroot=$(/usr/bin/rustc --print sysroot 2>/dev/null) || return 1
    [ -d "$sysroot/lib/rustlib/src/rust/library/std" ]
}

install_debian() {
    command -v apt-get >/dev/null || return 1
    local sudo=()
    if [ "$(id -u)" != 0 ]; then
        sudo -n true 2>/dev/null || return 1
        sudo=(sudo -n)
    fi
    say "installing rustc-web, cargo-web and rust-web-src (about 150 MB) with apt-get"
    "${sudo[@]}" apt-get update -q >&2 || true
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -yq --no-install-recommends rustc-web cargo-web rust-web-src >&2
}

# The linker for wasm: the one that comes with Rust, else LLVM's.
find_lld() {
    local host lld
    host=$(rustc -vV | sed -n 's/^host: //p')
    lld=$(rustc --print sysroot)/lib/rustlib/$host/bin/rust-lld
    if [ -x "$lld" ]; then echo "$lld"; else command -v wasm-ld || command -v rust-lld; fi
}

libdir=$(rustc --print target-libdir --target "$target" 2>/dev/null || true)
if [ -n "$libdir" ] && compgen -G "$libdir/libstd-*.rlib" >/dev/null; then
    build=(cargo build)
else
    if ! debian_rust && ! { install_debian && debian_rust; }; then
        cat >&2 <<EOF
plugins: no way to compile for $target. Install one of:
  - rustup target add $target
  - apt-get install --no-install-recommends rustc-web cargo-web rust-web-src   (Debian, as root)
and run this script again.
EOF
        exit 1
    fi
    if ! lld=$(find_lld); then
        say "no wasm linker: neither rust-lld (part of Rust) nor wasm-ld (apt-get install lld) is there"
        exit 1
    fi
    # RUSTC_BOOTSTRAP: -Zbuild-std is asked of a released compiler.
    build=(env RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1
        CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER="$lld"
        /usr/bin/cargo build -Zbuild-std=std,panic_abort)
fi
# One target folder for all plugins: the standard library is built once. A `cargo` shim of rustup
# exports its own toolchain, which must not reach the other compiler. Paths of this machine stay
# out of the components.
remap="--remap-path-prefix=$root=trainer"$'\x1f'"--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=cargo"
build=(env -u RUSTUP_TOOLCHAIN -u CARGO -u RUSTC -u RUSTFLAGS -u CARGO_BUILD_TARGET
    CARGO_ENCODED_RUSTFLAGS="$remap" CARGO_TARGET_DIR="$root/plugins/target" "${build[@]}"
    --release --locked --target "$target" --manifest-path plugins/Cargo.toml)

if [ "${1:-}" = --print-command ]; then
    printf '%q ' "${build[@]}"
    echo
    exit 0
fi

say "compiling for $target"
"${build[@]}"

say "making components"
mkdir -p plugins/dist
pairs=()
names=()
for manifest in plugins/*/Cargo.toml; do
    name=$(basename "$(dirname "$manifest")")
    names+=("$name")
    pairs+=("plugins/target/$target/release/${name//-/_}.wasm" "plugins/dist/$name.wasm")
done
cargo run --quiet --release --locked -p componentize -- "${pairs[@]}"

# A plugin that is no longer in the tree must not stay in the binary.
for file in plugins/dist/*.wasm; do
    name=$(basename "$file" .wasm)
    [[ " ${names[*]} " == *" $name "* ]] || rm -f "$file"
done
say "ready: ${names[*]}"
