"""preference_curves: ten LoRA updates by TRL's trainers of ORPO, SimPO and KTO.

rows.jsonl     single answers with a label, for KTO; the pairs, tokenizer and first adapter are
               those of dpo_curve
expected.json  per loss: loss, grad_norm and the trainer's own metrics of every update

Batch 2 (KTO: 4), accumulation 1, learning rate 5e-3, linear, no warm-up, no weight decay, rows in
order, no dropout, float32. ORPO: beta 0.1; its likelihood is a mean over the tokens of the batch's
prompts and better answers. SimPO: beta 2, gamma 0.5. KTO: beta 0.1, the divergence from prompts
with the answer of the row before in their batch; the reference is the adapter switched off.
"""

import json
import shutil
import tempfile

from datasets import Dataset
from peft import PeftModel
import torch
from torch.utils.data import SequentialSampler
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import KTOConfig, KTOTrainer
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from common import DATA, HERE, write_json

OUT = HERE / "preference_curves"
DPO = HERE / "dpo_curve"
BASE = DATA / "stories260K" / "hf"


def in_order(trainer):
    class InOrder(trainer):
        def _get_train_sampler(self, *args, **kwargs):
            return SequentialSampler(self.train_dataset)

    return InOrder


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    pairs = [json.loads(line) for line in (DPO / "pairs.jsonl").read_text().splitlines()]
    rows = []
    for i, pair in enumerate(pairs):
        good = i % 3 != 1
        rows.append({"prompt": pair["prompt"], "completion": pair["chosen" if good else "rejected"], "label": good})
        if i % 2:
            rows.append({"prompt": pair["prompt"], "completion": pair["rejected"], "label": False})
    (OUT / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    # Loaded again from dpo_curve/tokenizer, transformers would treat the space after <s> otherwise.
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    tokenizer.chat_template = (DPO / "tokenizer" / "chat_template.jinja").read_text()
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    expected = {}
    for name, trainer, config, own, data in [
        ("orpo", ORPOTrainer, ORPOConfig, {"beta": 0.1}, pairs),
        ("simpo", CPOTrainer, CPOConfig, {"beta": 2.0, "loss_type": "simpo", "simpo_gamma": 0.5, "cpo_alpha": 0.0}, pairs),
        ("kto", KTOTrainer, KTOConfig, {"beta": 0.1, "loss_type": "kto", "train_sampling_strategy": "sequential"}, rows),
        ("apo_zero_unpaired", KTOTrainer, KTOConfig, {"beta": 0.1, "loss_type": "apo_zero_unpaired"}, rows),
    ]:
        base = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
        model = PeftModel.from_pretrained(base, DPO / "initial", is_trainable=True)
        scratch = tempfile.mkdtemp()
        arguments = config(
            output_dir=scratch, per_device_train_batch_size=4 if data is rows else 2, gradient_accumulation_steps=1,
            max_steps=10, learning_rate=5e-3, lr_scheduler_type="linear", warmup_steps=0, weight_decay=0.0,
            max_grad_norm=1.0, logging_steps=1, save_strategy="no", report_to=[], use_cpu=True, seed=1,
            optim="adamw_torch", bf16=False, gradient_checkpointing=False, **own,
        )
        made = in_order(trainer)(
            model=model, args=arguments, train_dataset=Dataset.from_list(data), processing_class=tokenizer
        )
        made.train()
        log = [r for r in made.state.log_history if "loss" in r]
        wanted = ("loss", "grad_norm", "kl", "nll_loss", "log_odds_chosen", "log_odds_ratio")
        keys = sorted({k for r in log for k in r if k in wanted or (k.startswith(("rewards/", "logps/")) or (data is rows and k.startswith("logits/")))})
        expected[name] = {k: [r.get(k) for r in log] for k in keys}
        shutil.rmtree(scratch)
        print(name, expected[name]["loss"])
    write_json(OUT / "expected.json", expected)


main()
