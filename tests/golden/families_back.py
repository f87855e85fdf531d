"""Loads in transformers and PEFT what trainer wrote of every family that transformers carries, and compares
logits with the golden ones. With the program's binary it also trains every weight of each, experts too, and compares
the loss that the program told with that of the folder in transformers. Run by hand:

    FAMILIES_OUT=DIR cargo test --release --test families adapters_and_merged
    python families_back.py DIR [TRAINER]
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import torch
import transformers
from peft import PeftModel
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM

from common import HERE, summed_loss

transformers.utils.logging.disable_progress_bar()
OWN = {"chatglm", "chatglm2", "baichuan", "baichuan2-13b", "internlm2"}


def worst(model, record):
    error = 0.0
    for row, want in zip(record["rows"], record["lora"]["logits"]):
        with torch.no_grad():
            got = model(input_ids=torch.tensor([row["input_ids"]])).logits[0, -1]
        error = max(error, (got - torch.tensor(want)).abs().max().item())
    return error


def trained(base, folder, record):
    """The difference of the losses, and the weight that changed least."""
    shutil.rmtree(folder, ignore_errors=True)
    size = record["config"]["vocab_size"]
    Tokenizer(models.WordLevel({f"t{i}": i for i in range(size)}, unk_token="t0")).save(str(base / "tokenizer.json"))
    (base / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "t2", "unk_token": "t0"}')
    rows = folder.with_name("rows")
    rows.mkdir(exist_ok=True)
    (rows / "rows.jsonl").write_text("".join(json.dumps({k: r[k] for k in ["input_ids", "labels"]}) + "\n" for r in record["rows"]))
    args = ["sft", "--use_peft", "False", "--model_name_or_path", base, "--train_file_dir", rows, "--validation_file_dir", rows,
            "--output_dir", folder, "--learning_rate", "1e-3", "--max_steps", "3", "--per_device_train_batch_size", "2",
            "--model_max_length", "48", "--report_to", "none", "--save_strategy", "no"]
    subprocess.run([sys.argv[2], *args], check=True, stdout=subprocess.DEVNULL)
    told = json.loads((folder / "eval_results.json").read_text())["eval_loss"]
    model, before = load(folder), dict(load(base).named_parameters())
    with torch.no_grad():
        total, count = summed_loss(model, record["rows"])
    changed = min((p - before[k]).abs().max().item() for k, p in model.named_parameters())
    return abs(total.item() / count - told), changed


load = lambda path: AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()
for path in sorted((HERE / "families").glob("*.json")):
    if path.stem in OWN:
        continue
    record, folder = json.loads(path.read_text()), Path(sys.argv[1]) / path.stem
    merged = worst(load(folder / "merged"), record)
    adapted = worst(PeftModel.from_pretrained(load(folder / "base"), folder / "adapter"), record)
    print(f"{path.stem:22} merged {merged:.1e}  adapter {adapted:.1e}")
    assert max(merged, adapted) < 1e-4, path.stem
    if len(sys.argv) > 2:
        off, changed = trained(folder / "base", folder / "full", record)
        print(f"{'':22} every weight trained: loss off by {off:.1e}  least changed by {changed:.1e}")
        assert off < 1e-5 and changed > 1e-5, path.stem
