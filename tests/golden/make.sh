#!/usr/bin/env bash
# Makes the golden files again. Needs Python 3.11 and the package registry; the tests need neither.
set -euo pipefail
cd "$(dirname "$0")"
if [ ! -x .venv/bin/python ]; then
  python3 -m venv .venv
  .venv/bin/pip install -q --no-deps torch==2.9.1
  .venv/bin/pip install -q filelock typing-extensions sympy networkx jinja2 fsspec numpy \
    transformers==5.23.* peft==0.21.* accelerate safetensors datasets trl==1.16.* sentencepiece tiktoken gguf
fi
for script in lora_step adapters full_step sft_curve foreign_folders dpo_curve preference_curves rm_curve policy_losses ppo_values divergence tokenizer_ids gguf_exports; do .venv/bin/python "$script.py"; done
