"""dpo_curve: ten LoRA updates by TRL's DPOTrainer, for each loss.

pairs.jsonl   prompt, chosen and rejected as turns
tokenizer/    the shared model's tokenizer with a chat template
initial/      the adapter they start from (B is zero)
expected.json per loss: loss, rewards/margins, rewards/accuracies, logps/chosen of every update

Batch 2, accumulation 1, learning rate 5e-3, linear, no warm-up, no weight decay, beta 0.1, rows in
order, no dropout, float32.
"""

import json
import shutil
import tempfile

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from torch.utils.data import SequentialSampler
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

from common import DATA, HERE, TARGETS, write_json

OUT = HERE / "dpo_curve"
BASE = DATA / "stories260K" / "hf"
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[Q] ' + m['content'] + ' [A]' }}"
    "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)


class InOrder(DPOTrainer):
    def _get_train_sampler(self, *args, **kwargs):
        return SequentialSampler(self.train_dataset)


def pairs():
    names, things = ["Lily", "Tom", "Sue", "Ben", "Mia"], ["ball", "cake", "dog", "tree", "boat", "hat", "kite"]
    for i in range(20):
        name, thing = names[i % 5], things[i % 7]
        yield {
            "prompt": [{"role": "user", "content": f"What did {name} see?"}],
            "chosen": [{"role": "assistant", "content": f"{name} saw a big {thing} in the park."}],
            "rejected": [{"role": "assistant", "content": f"The {thing} was sad" + (" and cold." if i % 3 else ".")}],
        }


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    data = list(pairs())
    (OUT / "pairs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in data))
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    tokenizer.chat_template = TEMPLATE
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(OUT / "tokenizer")
    torch.manual_seed(3)
    base = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    lora = LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules=TARGETS, task_type="CAUSAL_LM")
    get_peft_model(base, lora).save_pretrained(OUT / "initial")
    (OUT / "initial" / "README.md").unlink(missing_ok=True)
    path = OUT / "initial" / "adapter_config.json"
    settings = json.loads(path.read_text())
    settings["base_model_name_or_path"] = "stories260K/hf"
    path.write_text(json.dumps(settings, indent=2, sort_keys=True))
    expected = {}
    for loss, smoothing in [("sigmoid", 0.0), ("hinge", 0.0), ("ipo", 0.0), ("robust", 0.1)]:
        base = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
        model = PeftModel.from_pretrained(base, OUT / "initial", is_trainable=True)
        scratch = tempfile.mkdtemp()
        arguments = DPOConfig(
            output_dir=scratch, per_device_train_batch_size=2, gradient_accumulation_steps=1, max_steps=10,
            learning_rate=5e-3, lr_scheduler_type="linear", warmup_steps=0, weight_decay=0.0, max_grad_norm=1.0,
            logging_steps=1, save_strategy="no", report_to=[], use_cpu=True, seed=1, optim="adamw_torch",
            beta=0.1, loss_type=loss, label_smoothing=smoothing, bf16=False, gradient_checkpointing=False,
        )
        trainer = InOrder(model=model, args=arguments, train_dataset=Dataset.from_list(data), processing_class=tokenizer)
        trainer.train()
        log = [r for r in trainer.state.log_history if "loss" in r]
        keys = ("loss", "grad_norm", "rewards/margins", "rewards/accuracies", "logps/chosen", "logps/rejected", "logits/chosen", "logits/rejected")
        expected[loss] = {k: [float(r[k]) for r in log] for k in keys}
        shutil.rmtree(scratch)
        print(loss, expected[loss]["loss"])
    write_json(OUT / "expected.json", expected)


main()
