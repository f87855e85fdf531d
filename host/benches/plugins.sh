#!/usr/bin/env bash
# Rows a second of the shipped `sharegpt` and `accuracy`: in the sandbox, and the same in CPython. Usage:
# plugins.sh [FOLDER]; build first.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
root="$here/../.." folder="${1:-$(mktemp -d)}" python="${PYTHON:-python3}"
mkdir -p "$folder"
[ -f "$folder/conversations.jsonl" ] || "$python" "$here/conversations.py" 100 "$folder/conversations.jsonl"
[ -f "$folder/answers.jsonl" ] || "$python" "$here/answers.py" 200000 "$folder/answers.jsonl"
"$root/target/release/trainer" plugin bench sharegpt --input "$folder/conversations.jsonl"
"$root/target/release/trainer" plugin bench accuracy --input "$folder/answers.jsonl"
"$python" "$here/plugins_cpython.py" sharegpt "$folder/conversations.jsonl" "$folder/out"
"$python" "$here/plugins_cpython.py" accuracy "$folder/answers.jsonl" "$folder/out"
