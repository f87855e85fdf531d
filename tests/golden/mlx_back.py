"""Exports for MLX the adapters that `runs_back.py` left in RUNS, loads them in mlx-lm and compares logits with
PEFT's. Run by hand, with `pip install mlx[cpu] mlx-lm` beside torch and PEFT:

    python mlx_back.py peft RUNS TRAINER      (an environment with PEFT; the program's binary)
    python mlx_back.py mlx RUNS               (an environment with mlx-lm)
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

DATA = Path(os.environ.get("TRAINER_TEST_DATA", Path(__file__).resolve().parents[3] / "shared/data")) / "stories260K"
BASES = {"llama": DATA / "hf", "qwen2": DATA / "hf-qwen2", "qwen3": DATA / "hf-qwen3"}
KINDS = ["plain", "rslora", "patterns", "pissa", "pissa-patterns", "expression", "layers", "dora", "dora-rslora"]
IDS = [3 + (i * i * 7) % 400 for i in range(24)]

kind, runs = sys.argv[1], Path(sys.argv[2])
for base, model_path in BASES.items():
    for name in KINDS:
        adapter = runs / base / name
        mlx, path = adapter.with_name(f"{name}-mlx"), adapter.with_name(f"{name}-logits.npy")
        if kind == "peft":
            import torch
            from peft import PeftModel
            from transformers import AutoModelForCausalLM

            shutil.rmtree(mlx, ignore_errors=True)
            subprocess.run([sys.argv[3], "export", "--model", model_path, "--adapter", adapter, "--format", "mlx-lora",
                            "--output", mlx], check=True, stdout=subprocess.DEVNULL)
            model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
            model = PeftModel.from_pretrained(model, adapter).eval()
            with torch.no_grad():
                np.save(path, model(input_ids=torch.tensor([IDS])).logits[0].numpy())
        else:
            import mlx.core as mx
            from mlx_lm import load

            # mlx-lm's qwen2 does not look into `rope_parameters`.
            theta = {"rope_theta": 10000.0}
            found = [np.array(load(str(model_path), model_config=theta, adapter_path=a)[0](mx.array([IDS]))[0].astype(mx.float32))
                     for a in (str(mlx), None)]
            error, changed = (np.abs(found[0] - other).max() for other in (np.load(path), found[1]))
            print(f"{base} {name:16} largest difference {error:.1e}  away from the base {changed:.1f}")
            assert error < 1e-3 and changed > 0.1, (base, name)
