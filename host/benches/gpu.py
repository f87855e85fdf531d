"""trainer on a GPU: its losses against its own on the CPU, and its speed and memory against PyTorch + PEFT.

    python gpu.py TRAINER losses                 four short runs of a small random model
    python gpu.py TRAINER speed [--size 135m,1b,7b] [--dtype bfloat16,float32] [--rounds 2]

Models are random ones of known shapes, made by transformers; rows are token ids. Both sides train LoRA
of rank 8 on all linear layers with AdamW, one row an update, the first updates untimed. Prints lines
of JSON.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time

SHAPES = {
    "tiny": dict(hidden_size=64, intermediate_size=176, num_hidden_layers=3, num_attention_heads=4,
                 num_key_value_heads=2, vocab_size=512),
    "135m": dict(hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
                 num_key_value_heads=3, vocab_size=49152),
    "1b": dict(hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
               num_key_value_heads=8, vocab_size=128256),
    "7b": dict(hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32,
               num_key_value_heads=32, vocab_size=32000),
}


def make_model(size, folder, dtype):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    if os.path.exists(folder + "/config.json"):
        return
    torch.manual_seed(5)
    torch.set_default_dtype(getattr(torch, dtype))
    config = LlamaConfig(max_position_embeddings=4096, tie_word_embeddings=size in ("135m", "1b"), **SHAPES[size])
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    torch.set_default_dtype(torch.float32)
    write_tokenizer(folder, config.vocab_size)


def write_tokenizer(folder, vocab_size):
    from tokenizers import Tokenizer, models

    vocab = {f"t{i}": i for i in range(vocab_size)}
    Tokenizer(models.WordLevel(vocab, unk_token="t0")).save(folder + "/tokenizer.json")
    with open(folder + "/tokenizer_config.json", "w") as out:
        json.dump({"eos_token": "t1"}, out)


def make_rows(path, vocab, tokens, rows, spread=0):
    rng = random.Random(1)
    with open(path, "w") as out:
        for _ in range(rows):
            ids = [rng.randrange(3, vocab) for _ in range(tokens - rng.randint(0, spread))]
            labels = [-100 if i < len(ids) // 4 else t for i, t in enumerate(ids)] if spread else ids
            out.write(json.dumps({"input_ids": ids, "labels": labels}) + "\n")


def run_trainer(trainer, model, rows, tokens, steps, *more):
    out = tempfile.mkdtemp()
    command = [trainer, "sft", "--model_name_or_path", model, "--train_file_dir", rows, "--output_dir", out,
               "--model_max_length", str(tokens), "--shuffle", "False", "--learning_rate", "1e-3",
               "--lr_scheduler_type", "constant", "--max_steps", str(steps), "--eval_strategy", "no",
               "--save_strategy", "no", "--report_to", "none", "--logging_steps", "1", "--overwrite_output_dir", "True"]
    seen = subprocess.run(command + list(more), capture_output=True, text=True)
    if seen.returncode:
        print(json.dumps({"failed": command + list(more), "stderr": seen.stderr[-1500:], "stdout": seen.stdout[-800:]}))
        return None
    history = json.load(open(out + "/trainer_state.json"))["log_history"]
    result = {
        "losses": [e["loss"] for e in history if "loss" in e],
        "grad_norms": [e["grad_norm"] for e in history if "grad_norm" in e],
        "seconds": json.load(open(out + "/train_results.json"))["train_runtime"],
        "screen": [line.strip() for line in seen.stdout.splitlines() if "machine" in line or "note" in line],
    }
    shutil.rmtree(out)
    return result


def losses(args):
    folder = tempfile.mkdtemp()
    model, rows = folder + "/model", folder + "/rows.jsonl"
    make_model("tiny", model, "float32")
    make_rows(rows, 512, 96, 64, spread=60)
    common = ["--per_device_train_batch_size", "4", "--max_grad_norm", "1.0", "--weight_decay", "0.05"]
    kinds = {
        "lora": [],
        "lora, dropout": ["--lora_dropout", "0.3"],
        "lora, packed": ["--packing", "True"],
        "lora, checkpointing": ["--gradient_checkpointing", "True"],
        "lora, accumulation": ["--gradient_accumulation_steps", "3"],
        "dora": ["--use_dora", "True"],
        "full": ["--use_peft", "False"],
        "int8": ["--load_in_8bit", "True"],
        "nf4": ["--load_in_4bit", "True"],
    }
    for name, more in kinds.items():
        more = common + (["--lora_dropout", "0"] if "--lora_dropout" not in more else []) + more
        cpu = run_trainer(args.trainer, model, rows, 128, 12, "--device", "cpu", *more)
        gpu = run_trainer(args.trainer, model, rows, 128, 12, "--device", "cuda", *more)
        half = run_trainer(args.trainer, model, rows, 128, 12, "--device", "cuda", "--torch_dtype", "bfloat16", *more)
        again = run_trainer(args.trainer, model, rows, 128, 12, "--device", "cuda", *more)
        if not all((cpu, gpu, half, again)):
            continue
        apart = lambda a, b: max(abs(x - y) / abs(y) for x, y in zip(a, b))
        print(json.dumps({
            "run": name,
            "first_last": [cpu["losses"][0], cpu["losses"][-1]],
            "gpu_from_cpu": apart(gpu["losses"], cpu["losses"]),
            "norms_from_cpu": apart(gpu["grad_norms"], cpu["grad_norms"]),
            "bf16_from_cpu": apart(half["losses"], cpu["losses"]),
            "same_bits_again": gpu["losses"] == again["losses"] and gpu["grad_norms"] == again["grad_norms"],
            "screen": gpu["screen"][:1],
        }), flush=True)


PEFT = r"""
import json, sys, time, torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
model, rows, dtype, steps, skip = sys.argv[1], sys.argv[2], getattr(torch, sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
rows = [json.loads(line) for line in open(rows)]
base = AutoModelForCausalLM.from_pretrained(model, dtype=dtype).to("cuda")
config = LoraConfig(r=8, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
model = get_peft_model(base, config)
params = [p for p in model.parameters() if p.requires_grad]
if dtype != torch.float32:
    for p in params: p.data = p.data.float()
optimizer = torch.optim.AdamW(params, lr=1e-3)
tokens, losses = 0, []
for step in range(steps):
    if step == skip:
        torch.cuda.synchronize(); started = time.time(); tokens = 0
    ids = torch.tensor([rows[step % len(rows)]["input_ids"]], device="cuda")
    with torch.autocast("cuda", dtype=dtype, enabled=dtype != torch.float32):
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(params, 1.0)
    optimizer.step(); optimizer.zero_grad()
    losses.append(loss.item()); tokens += ids.numel()
torch.cuda.synchronize()
print(json.dumps({"tokens_per_second": tokens / (time.time() - started), "losses": losses,
                  "peak_mb": torch.cuda.max_memory_reserved() / 2**20}))
"""


def watch_memory(process):
    peak = 0
    while process.poll() is None:
        seen = subprocess.run(["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"],
                              capture_output=True, text=True).stdout
        peak = max([peak] + [int(n) for n in seen.split()])
        time.sleep(0.1)
    return peak


def speed(args):
    for size in args.size.split(","):
        folder = os.path.join(tempfile.gettempdir(), "trainer-bench-" + size)
        os.makedirs(folder, exist_ok=True)
        make_model(size, folder, "bfloat16" if size != "135m" else "float32")
        rows = folder + "/rows.jsonl"
        make_rows(rows, SHAPES[size]["vocab_size"], args.tokens, 64)
        for dtype in args.dtype.split(","):
            for _ in range(args.rounds):
                more = ["--device", "cuda", "--torch_dtype", dtype, "--lora_dropout", "0",
                        "--per_device_train_batch_size", "1"]
                one = run_trainer(args.trainer, folder, rows, args.tokens, args.skip, *more)
                all_ = run_trainer(args.trainer, folder, rows, args.tokens, args.steps, *more)
                theirs = subprocess.run([sys.executable, "-c", PEFT, folder, rows, dtype, str(args.steps), str(args.skip)],
                                        capture_output=True, text=True)
                if theirs.returncode:
                    print(json.dumps({"failed": "peft", "stderr": theirs.stderr[-800:]}))
                    continue
                theirs = json.loads(theirs.stdout.splitlines()[-1])
                if not (one and all_):
                    continue
                ours = args.tokens * (args.steps - args.skip) / (all_["seconds"] - one["seconds"])
                print(json.dumps({
                    "size": size, "dtype": dtype, "tokens": args.tokens, "trainer": round(ours),
                    "peft": round(theirs["tokens_per_second"]), "ratio": round(ours / theirs["tokens_per_second"], 3),
                    "peft_reserved_mb": round(theirs["peak_mb"]), "losses": all_["losses"][:2], "peft_losses": theirs["losses"][:2],
                }), flush=True)
            if args.memory:
                command = [args.trainer, "sft", "--model_name_or_path", folder, "--train_file_dir", rows, "--output_dir",
                           tempfile.mkdtemp(), "--max_steps", "4", "--eval_strategy", "no", "--save_strategy", "no",
                           "--report_to", "none", "--model_max_length", str(args.tokens), *more]
                process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                print(json.dumps({"size": size, "dtype": dtype, "trainer_device_mb": watch_memory(process)}), flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("trainer")
    parser.add_argument("what", choices=["losses", "speed"])
    parser.add_argument("--size", default="135m,1b")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--skip", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--memory", action="store_true")
    args = parser.parse_args()
    {"losses": losses, "speed": speed}[args.what](args)


if __name__ == "__main__":
    main()
