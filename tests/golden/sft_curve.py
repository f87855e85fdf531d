"""sft_curve: twenty LoRA updates by transformers' Trainer with PEFT.

rows.jsonl    rows of input_ids and labels, the first third masked
initial/      the adapter it starts from (B is zero)
expected.json loss, grad_norm and learning_rate of every update
final/        the adapter after them

Batch 2, accumulation 2, learning rate 1e-3, linear with 2 updates of warm-up, weight decay 0.01, clipping
at 1.0, rows in order, no dropout, float32.
"""

import json
import shutil
import tempfile

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer
from torch.utils.data import SequentialSampler
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from common import DATA, HERE, TARGETS, write_json

OUT = HERE / "sft_curve"
BASE = DATA / "stories260K" / "hf"


def rows():
    tokenizer = Tokenizer.from_file(str(BASE / "tokenizer.json"))
    out = []
    for line in (DATA / "stories260K" / "sampled_stories.jsonl").read_text().splitlines()[:80]:
        ids = tokenizer.encode(json.loads(line)["text"]).ids[: 20 + 7 * len(out) % 41]
        out.append({"input_ids": ids, "labels": [-100] * (len(ids) // 3) + ids[len(ids) // 3 :]})
    return out


def collate(batch):
    longest = max(len(r["input_ids"]) for r in batch)
    pad = lambda values, fill: values + [fill] * (longest - len(values))
    return {
        "input_ids": torch.tensor([pad(r["input_ids"], 0) for r in batch]),
        "attention_mask": torch.tensor([pad([1] * len(r["input_ids"]), 0) for r in batch]),
        "labels": torch.tensor([pad(r["labels"], -100) for r in batch]),
    }


class InOrder(Trainer):
    def _get_train_sampler(self, *args, **kwargs):
        return SequentialSampler(self.train_dataset)


def save(model, path):
    model.save_pretrained(path)
    (path / "README.md").unlink(missing_ok=True)
    config = path / "adapter_config.json"
    settings = json.loads(config.read_text())
    settings["base_model_name_or_path"] = "stories260K/hf"
    config.write_text(json.dumps(settings, indent=2, sort_keys=True))


data = rows()
OUT.mkdir(exist_ok=True)
(OUT / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in data))
torch.manual_seed(1)
base = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
config = LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules=TARGETS, task_type="CAUSAL_LM")
model = get_peft_model(base, config)
save(model, OUT / "initial")
scratch = tempfile.mkdtemp()
arguments = TrainingArguments(
    output_dir=scratch, per_device_train_batch_size=2, gradient_accumulation_steps=2, max_steps=20,
    learning_rate=1e-3, lr_scheduler_type="linear", warmup_steps=2, weight_decay=0.01, max_grad_norm=1.0,
    logging_steps=1, save_strategy="no", report_to=[], use_cpu=True, seed=1, optim="adamw_torch",
)
trainer = InOrder(model=model, args=arguments, train_dataset=data, data_collator=collate)
trainer.train()
log = [r for r in trainer.state.log_history if "loss" in r]
write_json(OUT / "expected.json", {k: [r[k] for r in log] for k in ("loss", "grad_norm", "learning_rate")})
save(model, OUT / "final")
shutil.rmtree(scratch)
print([r["loss"] for r in log])
