"""The work of `compare.sh` by PyTorch + PEFT: LoRA r 8 on all linear layers, AdamW, float32.

    python pytorch_baseline.py MODEL ROWS.jsonl --threads 2 --steps 6

One row (input_ids, labels) an update. Prints one JSON object; the first update is not timed.
"""

import argparse
import json
import resource
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("rows")
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--steps", type=int, default=6)
args = parser.parse_args()

torch.set_num_threads(args.threads)
rows = [json.loads(line) for line in open(args.rows)]
base = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
config = LoraConfig(r=8, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
model = get_peft_model(base, config)
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, weight_decay=0.05)
losses, tokens, started = [], 0, None
for step in range(args.steps):
    row = rows[step % len(rows)]
    ids, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
    loss = model(input_ids=ids, labels=labels, use_cache=False).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    losses.append(loss.item())
    if step == 0:
        started = time.time()
    else:
        tokens += ids.numel()
seconds = time.time() - started
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"tokens_per_second": tokens / seconds, "peak_rss_mb": peak, "losses": losses}))
