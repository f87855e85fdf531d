"""Loads in PEFT and transformers what trainer wrote of every kind of adapter, and compares logits with the
golden ones after ten updates. Run by hand:

    ADAPTERS_OUT=DIR cargo test --release --test adapters ten_updates
    python adapters_back.py DIR
"""

import json
import sys
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from common import HERE


def worst(model, record):
    error = 0.0
    for row, want in zip(record["rows"], record["merged"]):
        with torch.no_grad():
            got = model(input_ids=torch.tensor([row["input_ids"]])).logits[0, -1]
        error = max(error, (got - torch.tensor(want)).abs().max().item())
    return error


load = lambda path: AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()
for path in sorted((HERE / "adapters").glob("*.json")):
    record, folder = json.loads(path.read_text()), Path(sys.argv[1]) / path.stem
    merged = worst(load(folder / "merged"), record)
    adapted = worst(PeftModel.from_pretrained(load(folder / "base"), folder / "adapter"), record)
    print(f"{path.stem:22} merged {merged:.1e}  adapter {adapted:.1e}")
    assert max(merged, adapted) < 2e-3, path.stem
