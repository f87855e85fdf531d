#!/usr/bin/env bash
# Rows a second of the shipped `sharegpt` and `accuracy`: in the sandbox, the same Rust code linked
# natively (host/benches/native, a crate of its own that shares the trainer's build folder), and in
# CPython. Usage: plugins.sh [FOLDER]
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
root="$here/../.." folder="${1:-$(mktemp -d)}" python="${PYTHON:-python3}"
mkdir -p "$folder"
[ -f "$folder/conversations.jsonl" ] || "$python" "$here/conversations.py" 100 "$folder/conversations.jsonl"
[ -f "$folder/answers.jsonl" ] || "$python" "$here/answers.py" 200000 "$folder/answers.jsonl"
# The same versions as the trainer's own build, whose compiled crates are then used.
cp "$root/Cargo.lock" "$here/native/Cargo.lock"
CARGO_TARGET_DIR="$root/target" cargo build --release --manifest-path "$here/native/Cargo.toml" ${CARGO_FLAGS:-}
for threads in 1 "$(nproc)"; do
  "$root/target/release/native" sharegpt "$folder/conversations.jsonl" "$threads"
  "$root/target/release/native" accuracy "$folder/answers.jsonl" "$threads"
done
"$python" "$here/plugins_cpython.py" sharegpt "$folder/conversations.jsonl" "$folder/out"
"$python" "$here/plugins_cpython.py" accuracy "$folder/answers.jsonl" "$folder/out"
