"""Loads in PEFT and transformers what trainer wrote of every kind of adapter, and compares logits of adapter and
merged folder with each other, and with the golden ones after ten updates. `runs_back.py` does so for adapters that the
binary trained. Run by hand:

    ADAPTERS_OUT=DIR cargo test --release --test adapters ten_updates
    python adapters_back.py DIR
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from peft import PeftModel
from transformers import AutoModelForCausalLM

from common import HERE

transformers.utils.logging.disable_progress_bar()


def logits(model, record):
    with torch.no_grad():
        return torch.stack([model(input_ids=torch.tensor([row["input_ids"]])).logits[0, -1] for row in record["rows"]])


far = lambda one, two: (one - two).abs().max().item()
load = lambda path: AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()
for path in sorted((HERE / "adapters").glob("*.json")):
    record, folder = json.loads(path.read_text()), Path(sys.argv[1]) / path.stem
    want = torch.tensor(record["merged"])
    merged = logits(load(folder / "merged"), record)
    adapted = logits(PeftModel.from_pretrained(load(folder / "base"), folder / "adapter"), record)
    print(f"{path.stem:22} golden to merged {far(merged, want):.1e}, to adapter {far(adapted, want):.1e}"
          f"  adapter to merged {far(adapted, merged):.1e}")
    # Updates may drift apart; what was written is one and the same.
    assert max(far(merged, want), far(adapted, want)) < 2e-3 and far(adapted, merged) < 1e-4, path.stem
