"""What the golden scripts share."""

import json
import os
from pathlib import Path

import torch
from safetensors.torch import save_file

HERE = Path(__file__).parent
DATA = Path(os.environ.get("TRAINER_TEST_DATA", HERE.parents[2] / "shared" / "data"))
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value) + "\n")


def write_tensors(path, tensors):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.detach().float().contiguous() for k, v in tensors.items()}, path, {"format": "pt"})


def summed_loss(model, rows):
    """Sum of the cross entropies of all trained tokens of `rows`, and their number."""
    total, count = 0.0, 0
    for row in rows:
        ids = torch.tensor([row["input_ids"]])
        labels = torch.tensor(row["labels"])
        logits = model(input_ids=ids).logits[0, :-1].float()
        total = total + torch.nn.functional.cross_entropy(
            logits, labels[1:], ignore_index=-100, reduction="sum"
        )
        count += int((labels[1:] != -100).sum())
    return total, count


def make_rows(lengths, vocab_size, seed):
    """Random rows whose first third is masked."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for n in lengths:
        ids = torch.randint(3, vocab_size, (n,), generator=generator).tolist()
        rows.append({"input_ids": ids, "labels": [-100] * (n // 3) + ids[n // 3 :]})
    return rows
