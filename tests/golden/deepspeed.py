"""Learning rates of DeepSpeed's schedules, from its own source (`lr_schedules.py`, 0.19.6), update
by update as its engine uses them.

    pip download --no-deps --no-binary :all: deepspeed==0.19.6 && tar xzf deepspeed-0.19.6.tar.gz
    python deepspeed.py deepspeed-0.19.6/deepspeed/runtime/lr_schedules.py > deepspeed/schedules.json
"""

import json
import sys
import types
import warnings

import torch

for name in ("deepspeed", "deepspeed.utils"):
    sys.modules[name] = types.ModuleType(name)
quiet = types.SimpleNamespace(warning=lambda *a: None, info=lambda *a: None)
sys.modules["deepspeed.utils"].logger = quiet
source = open(sys.argv[1]).read()
module = {}
exec(compile(source, sys.argv[1], "exec"), module)
warnings.simplefilter("ignore")

CASES = [
    ("WarmupLR", {"warmup_min_lr": 0.0, "warmup_max_lr": 2e-4, "warmup_num_steps": 5}),
    ("WarmupLR", {"warmup_min_lr": 1e-6, "warmup_max_lr": 2e-4, "warmup_num_steps": 4, "warmup_type": "linear"}),
    ("WarmupLR", {"warmup_num_steps": 1}),
    ("WarmupDecayLR", {"total_num_steps": 10, "warmup_min_lr": 0.0, "warmup_max_lr": 2e-4, "warmup_num_steps": 3}),
    ("WarmupDecayLR", {"total_num_steps": 10, "warmup_min_lr": 1e-5, "warmup_max_lr": 2e-4, "warmup_num_steps": 3, "warmup_type": "linear"}),
    ("WarmupCosineLR", {"total_num_steps": 10, "warmup_min_ratio": 0.1, "warmup_num_steps": 3}),
    ("WarmupCosineLR", {"total_num_steps": 10, "warmup_num_steps": 2, "cos_min_ratio": 0.2, "warmup_type": "linear"}),
]
LR = 3e-4
out = []
for kind, params in CASES:
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=LR)
    schedule = module[kind](optimizer, **params)
    rates = []
    for _ in range(12):
        rates.append(optimizer.param_groups[0]["lr"])
        schedule.step()
    out.append({"type": kind, "params": params, "lr": LR, "rates": rates})
json.dump(out, sys.stdout, indent=1)
print()
