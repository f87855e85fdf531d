#!/usr/bin/env bash
# Times `trainer convert` on seeded conversations, and, where PYTHON has them, the same by Hugging Face
# `datasets`, polars and DuckDB. Usage: convert.sh [MEGABYTES] [FOLDER]
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
megabytes="${1:-200}" folder="${2:-$(mktemp -d)}"
trainer="$here/../../target/release/trainer" python="${PYTHON:-python3}"
input="$folder/conversations.jsonl"
[ -f "$input" ] || "$python" "$here/conversations.py" "$megabytes" "$input"
once() {
  /usr/bin/time -f "$1: %e s, %U s of processor, %M KB" "${@:2}" >/dev/null
}
for threads in 1 2; do
  for output in out.jsonl out.parquet; do
    once "sharegpt to $output, $threads threads" "$trainer" convert --plugin sharegpt --input "$input" \
      --output "$folder/$threads/$output" --overwrite True --num_threads "$threads"
  done
done
once "as they are to out.jsonl" "$trainer" convert --input "$input" --output "$folder/out.jsonl" --overwrite True
once "as they are to out.parquet" "$trainer" convert --input "$input" --output "$folder/out.parquet" --overwrite True
if "$python" -c 'import datasets' 2>/dev/null; then
  rm -rf "$folder/datasets.parquet.cache"
  once "datasets" "$python" "$here/convert_datasets.py" "$input" "$folder/datasets.parquet"
fi
for engine in polars duckdb; do
  if "$python" -c "import $engine" 2>/dev/null; then
    for output in out.jsonl out.parquet; do
      once "$engine to $output" "$python" "$here/convert_engines.py" "$engine" "$input" "$folder/$engine.$output"
    done
  fi
done
