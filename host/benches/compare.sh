#!/usr/bin/env bash
# trainer against PyTorch + PEFT on the same model, rows, threads and arithmetic (float32), in turn.
#
#     host/benches/compare.sh MODEL [TOKENS_PER_ROW] [ROUNDS]
#
# PYTHON names an interpreter with torch, transformers and peft. Build first: cargo build --release.
set -euo pipefail
cd "$(dirname "$0")/../.."
model=$1 tokens=${2:-256} rounds=${3:-3} python=${PYTHON:-python3} steps=7
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" - "$tokens" "$steps" >"$work/rows.jsonl" <<'P'
import json, random, sys
rng = random.Random(1)
for _ in range(int(sys.argv[2])):
    ids = [rng.randrange(5, 40000) for _ in range(int(sys.argv[1]))]
    print(json.dumps({"input_ids": ids, "labels": ids}))
P
ours() { # $1 updates: prints seconds of training
  rm -rf "$work/out"
  target/release/trainer sft --model_name_or_path "$model" --train_file_dir "$work/rows.jsonl" --output_dir "$work/out" \
    --model_max_length "$tokens" --shuffle False --lora_dropout 0 --learning_rate 1e-4 --lr_scheduler_type constant \
    --per_device_train_batch_size 1 --max_steps "$1" --eval_strategy no --save_strategy no --report_to none \
    --logging_steps 1 >"$work/log"
  "$python" - "$work" <<'P'
import json, sys
results = json.load(open(sys.argv[1] + "/out/train_results.json"))
peak = [l for l in open(sys.argv[1] + "/log") if "at the peak" in l][-1].split()[1].replace(",", "")
print(json.dumps({"seconds": results["train_runtime"], "peak_rss_mb": int(peak) * 1e6 / 2**20}))
P
}
for _ in $(seq "$rounds"); do
  one=$(ours 1) all=$(ours "$steps")
  theirs=$("$python" host/benches/pytorch_baseline.py "$model" "$work/rows.jsonl" --threads 2 --steps "$steps" 2>/dev/null)
  "$python" - "$one" "$all" "$theirs" "$tokens" "$steps" <<'P'
import json, sys
one, all_, theirs = (json.loads(a) for a in sys.argv[1:4])
# The first update, which touches memory for the first time, is left out on both sides.
speed = int(sys.argv[4]) * (int(sys.argv[5]) - 1) / (all_["seconds"] - one["seconds"])
print(f"trainer {speed:.0f} tokens/s, {all_['peak_rss_mb']:.0f} MB | PyTorch {theirs['tokens_per_second']:.0f} tokens/s, "
      f"{theirs['peak_rss_mb']:.0f} MB | speed x {speed / theirs['tokens_per_second']:.2f}, "
      f"memory x {all_['peak_rss_mb'] / theirs['peak_rss_mb']:.2f}")
P
done
