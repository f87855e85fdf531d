"""Trains adapters of every kind with the real binary, and loads them and what it merged of them in PEFT and
transformers: equal logits, and the losses that the program itself told. Run by hand, with a folder for the results:

    python runs_back.py TRAINER DIR
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import torch
import transformers
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from common import DATA, HERE

transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()
TRAINER, OUT = sys.argv[1], Path(sys.argv[2])
BASES = {"llama": DATA / "stories260K/hf", "qwen2": DATA / "stories260K/hf-qwen2", "qwen3": DATA / "stories260K/hf-qwen3"}
ADDED = ["--add_tokens", "<city>", "--add_special_tokens", "<|turn|>"]
KINDS = {
    "plain": [],
    "rslora": ["--use_rslora", "True"],
    "dora": ["--use_dora", "True"],
    "dora-rslora": ["--use_dora", "True", "--use_rslora", "True", "--lora_rank", "3"],
    "pissa": ["--init_lora_weights", "pissa", "--lora_rank", "4", "--lora_dropout", "0"],
    "pissa-patterns": ["--init_lora_weights", "pissa", "--lora_dropout", "0", "--use_rslora", "True",
                       "--rank_pattern", "q_proj=4,v_proj=2", "--alpha_pattern", '{"v_proj": 3}'],
    "patterns": ["--rank_pattern", "q_proj=4,v_proj=2", "--alpha_pattern", '{"v_proj": 3, "layers.1.mlp.up_proj": 5}'],
    "expression": ["--target_modules", r".*\.layers\.[13]\.(self_attn\.[qv]|mlp\.down)_proj"],
    "layers": ["--layers_to_transform", "1,3-4", "--target_modules", "q_proj,down_proj"],
    "loraplus": ["--loraplus_lr_ratio", "8", "--neftune_noise_alpha", "5"],
    "saved": ["--modules_to_save", "embed_tokens,lm_head,norm", "--layers_to_transform", "1,3-4"],
    "saved-embedding": ["--modules_to_save", "embed_tokens"],
    "saved-head": ["--modules_to_save", "lm_head", "--use_dora", "True"],
    "saved-norms": ["--modules_to_save", "input_layernorm,post_attention_layernorm"],
    "tokens": ADDED,
    "tokens-dora": [*ADDED, "--use_dora", "True", "--target_modules", "q_proj"],
    "tokens-saved": [*ADDED, "--modules_to_save", "embed_tokens,lm_head"],
}


def trainer(*args):
    done = subprocess.run([TRAINER, *map(str, args)], capture_output=True, text=True)
    assert done.returncode == 0, f"{args}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def ids(row, more=()):
    return [3 + (row * 31 + i * i * 5) % 500 for i in range(12 + row * 7 % 17)] + [*more, 7, 8]


def rows(path, count, more=()):
    path.parent.mkdir(parents=True, exist_ok=True)
    row = lambda r: json.dumps({"input_ids": ids(r, more), "labels": ids(r, more)}) + "\n"
    path.write_text("".join(map(row, range(count))))
    return path


def logits(model, more=()):
    with torch.no_grad():
        return [model(input_ids=torch.tensor([ids(r, more)])).logits[0] for r in range(6)]


def loss(found, more=()):
    """Of all tokens together, as the program's evaluation."""
    sums = [torch.nn.functional.cross_entropy(l[:-1], torch.tensor(ids(r, more)[1:]), reduction="sum") for r, l in enumerate(found)]
    return sum(sums).item() / sum(len(l) - 1 for l in found)


def far(one, two):
    return max((a - b).abs().max().item() for a, b in zip(one, two))


def load(path, cls=AutoModelForCausalLM, **more):
    return cls.from_pretrained(path, dtype=torch.float32, attn_implementation="eager", **more).eval()


def grown(base, tokens, *args, **more):
    model = load(base, *args, **more)
    if tokens:
        model.resize_token_embeddings(514, mean_resizing=False)
    return model


def adapted(base, folder, *args, **more):
    return PeftModel.from_pretrained(grown(base, folder.name.startswith("tokens"), *args, **more), folder).eval()


def merged(folder, *more):
    out = folder.with_name(folder.name + "-merged")
    shutil.rmtree(out, ignore_errors=True)
    trainer("merge", *more, "--output_dir", out)
    return out


def compare(name, base, folder, told, more=()):
    into = merged(folder, "--base_model", base, "--peft_model_path", folder)
    found, whole, plain = (logits(m, more) for m in (adapted(base, folder), load(into), grown(base, bool(more))))
    error, off, changed = far(found, whole), abs(loss(found, more) - told), far(found, plain)
    print(f"{name:24} adapter to merged {error:.1e}  loss {told:.4f} off by {off:.1e}  away from the base {changed:.1f}")
    assert error < 1e-4 and off < 1e-4 and changed > 0.1, name


def run(base, name, more):
    folder, tokens = OUT / base / name, [512, 513] if name.startswith("tokens") else []
    shutil.rmtree(folder, ignore_errors=True)
    data = rows(OUT / f"train{len(tokens)}" / "rows.jsonl", 11, tokens)
    held = rows(OUT / f"held{len(tokens)}" / "rows.jsonl", 6, tokens)
    trainer("sft", "--model_name_or_path", BASES[base], "--train_file_dir", data, "--validation_file_dir", held,
            "--output_dir", folder, "--learning_rate", "1e-2", "--num_train_epochs", "1", "--per_device_train_batch_size", "2",
            "--report_to", "none", "--save_strategy", "no", *more)
    told = json.loads((folder / "eval_results.json").read_text())["eval_loss"]
    compare(f"{base} {name}", BASES[base], folder, told, tokens)
    return folder


def reward(base):
    """A head with one output, as PEFT keeps adapters for SEQ_CLS."""
    folder, data = OUT / base / "reward", HERE.parents[1] / "datasets/preference"
    shutil.rmtree(folder, ignore_errors=True)
    trainer("rm", "--plugin", "preference", "--plugin", "chatml", "--model_name_or_path", BASES[base], "--train_file_dir", data,
            "--output_dir", folder, "--learning_rate", "1e-3", "--max_steps", "12", "--report_to", "none", "--save_strategy", "no")
    into = merged(folder, "--base_model", BASES[base], "--peft_model_path", folder)
    cls = AutoModelForSequenceClassification
    more = {"num_labels": 1, "pad_token_id": 0}
    one, two = adapted(BASES[base], folder, cls, **more), load(into, cls)
    with torch.no_grad():
        found = [[m(input_ids=torch.tensor([ids(r)])).logits[0] for r in range(6)] for m in (one, two)]
    error, spread = far(*found), (max(found[0]) - min(found[0])).item()
    print(f"{base + ' reward':24} adapter to merged {error:.1e}  rewards apart {spread:.2f}")
    assert error < 1e-4 and spread > 0.01


def together(base, one, two):
    """Two adapters as one, and at once in the base."""
    for kind, more in [("cat", []), ("linear", []), ("svd", ["--svd_rank", "6"])]:
        folder = OUT / base / f"both-{kind}"
        shutil.rmtree(folder, ignore_errors=True)
        of = ["--peft_model_path", one, two, "--adapter_weights", "0.7,-0.3"]
        trainer("merge", *of, "--combination_type", kind, *more, "--output_dir", folder)
        into = merged(folder, "--base_model", BASES[base], "--peft_model_path", folder)
        found = logits(adapted(BASES[base], folder))
        error = far(found, logits(load(into)))
        if kind == "cat":
            error = max(error, far(found, logits(load(merged(folder, "--base_model", BASES[base], *of)))))
        print(f"{base} {folder.name:18} adapter to merged {error:.1e}")
        assert error < 1e-4, folder


for base in BASES:
    made = {name: run(base, name, more) for name, more in KINDS.items()}
    together(base, made["plain"], made["loraplus"])
    reward(base)
