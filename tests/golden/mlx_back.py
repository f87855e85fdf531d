"""Loads in mlx-lm the adapter that `cargo test --release --test export mlx` left in EXPORT_OUT, and compares
logits with PEFT's. Run by hand, with `pip install mlx[cpu] mlx-lm` beside torch and PEFT:

    python mlx_back.py peft PEFT_ADAPTER LOGITS.npy      (an environment with PEFT)
    python mlx_back.py mlx MLX_ADAPTER LOGITS.npy        (an environment with mlx-lm)
"""

import sys
from pathlib import Path

import numpy as np

MODEL = Path(__file__).resolve().parents[3] / "shared/data/stories260K/hf"
IDS = [3 + (i * i * 7) % 400 for i in range(24)]

kind, adapter, path = sys.argv[1:]
if kind == "peft":
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32), adapter)
    with torch.no_grad():
        np.save(path, model(input_ids=torch.tensor([IDS])).logits[0].numpy())
else:
    import mlx.core as mx
    from mlx_lm import load

    model, _ = load(str(MODEL), adapter_path=adapter)
    logits = np.array(model(mx.array([IDS]))[0].astype(mx.float32))
    error = np.abs(logits - np.load(path)).max()
    print(f"largest difference {error:.1e}")
    assert error < 1e-3
