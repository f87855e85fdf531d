"""Loads in transformers, with bitsandbytes on the CPU, what `trainer quantize` wrote of MODEL in 8 and in 4 bits, and
compares with the program's own reading of the same folder: loss of rows, and the likeliest continuation of a text. Run
by hand, with a folder for the results; bitsandbytes 0.50 widens wrongly on the CPU unless every width is a multiple of 64:

    python quantized_back.py TRAINER MODEL DIR

widened   the program against the folder widened by bitsandbytes, products in float32: the same values
bnb       against bitsandbytes' own layers, which in 8 bits round the activations too
"""

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

import common  # one thread

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()
TRAINER, MODEL, OUT = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
PROMPT = "The capital of Norway is"
TEXTS = ["The capital of Norway is Oslo, and that of France is Paris.", "The heart pumps blood through the body.",
         "A bat is a mammal that flies at night; it eats insects or fruit.", "Copper is a metal with the symbol Cu."]


def trainer(*args):
    done = subprocess.run([TRAINER, *map(str, args)], capture_output=True, text=True)
    assert done.returncode == 0, f"{args}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def told(model):
    """The program's loss of all tokens together, by one evaluation after an update that changes nothing."""
    out = OUT / "told"
    shutil.rmtree(out, ignore_errors=True)
    trainer("sft", "--model_name_or_path", model, "--train_file_dir", OUT / "rows", "--validation_file_dir", OUT / "rows",
            "--output_dir", out, "--max_steps", "1", "--learning_rate", "1e-12", "--report_to", "none", "--save_strategy", "no")
    return json.loads((out / "eval_results.json").read_text())["eval_loss"]


def loss(model):
    total = count = 0
    for row in ROWS:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([row])).logits[0, :-1].float()
        total += torch.nn.functional.cross_entropy(logits, torch.tensor(row[1:]), reduction="sum").item()
        count += len(row) - 1
    return total / count


def continued(model, tokens=24):
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    made = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False)[0]
    return tokenizer.decode(made[ids.shape[1] :], skip_special_tokens=True)


tokenizer = AutoTokenizer.from_pretrained(MODEL)
ROWS = [tokenizer(text).input_ids for text in TEXTS]
(OUT / "rows").mkdir(parents=True, exist_ok=True)
(OUT / "rows/rows.jsonl").write_text("".join(json.dumps({"input_ids": r, "labels": r}) + "\n" for r in ROWS))
print(f"whole  {told(MODEL):.5f}")
for bits in ["8", "4"]:
    folder = OUT / bits
    shutil.rmtree(folder, ignore_errors=True)
    trainer("quantize", "--model", MODEL, "--bits", bits, "--output_dir", folder)
    ours = told(folder)
    text = trainer("generate", "--model", folder, "--prompt", PROMPT, "--raw", "True", "--max_new_tokens", "24")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    kinds = {type(m).__name__ for m in model.modules() if type(m).__name__.startswith("Linear")}
    layers, said = loss(model), continued(model)
    wide = model.dequantize().float().eval()
    error, same = abs(loss(wide) - ours), continued(wide).strip() == text.strip()
    print(f"{bits} bits {ours:.5f}  widened off by {error:.1e}, continues {'the same' if same else 'otherwise'}"
          f"  {kinds} off by {abs(layers - ours):.1e}, continues {'the same' if said.strip() == text.strip() else 'otherwise'}")
    print(f"       {text.strip()!r}\n       {said.strip()!r}")
    assert error < 1e-4 and same and abs(layers - ours) < (0.2 if bits == "8" else 1e-3), bits
