"""rm_curve: ten LoRA updates by TRL's RewardTrainer, and the rewards of a reward model.

initial/       the adapter they start from (B is zero, the head small random values), as PEFT saved it
margins.jsonl  the pairs of dpo_curve with margins
expected.json  per variant (plain, centred, margin): loss, grad_norm, accuracy, margin, min_reward,
               mean_reward, max_reward of every update
final/         the adapter after the plain run, as PEFT saved it
rewards.json   rewards of the better and worse answers by the base with the final adapter

Transformers scores the rendered prompt and answer at the last token that is not padding; the
tokenizer pads with </s>, so that is the one before it. Batch 2, accumulation 1, learning rate
5e-3, linear, no warm-up, no weight decay, rows in order, no dropout, float32.
"""

import json
import shutil
import tempfile

from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
import torch
from torch.utils.data import SequentialSampler
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from trl import RewardConfig, RewardTrainer

from common import DATA, HERE, TARGETS, write_json

OUT = HERE / "rm_curve"
DPO = HERE / "dpo_curve"
BASE = DATA / "stories260K" / "hf"


class InOrder(RewardTrainer):
    def _get_train_sampler(self, *args, **kwargs):
        return SequentialSampler(self.train_dataset)


def base(tokenizer):
    model = AutoModelForSequenceClassification.from_pretrained(BASE, num_labels=1, dtype=torch.float32)
    model.config.pad_token_id = tokenizer.pad_token_id
    return model


def save(model, folder):
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    settings = json.loads(path.read_text())
    settings["base_model_name_or_path"] = "stories260K/hf"
    path.write_text(json.dumps(settings, indent=2, sort_keys=True))


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    pairs = [json.loads(line) for line in (DPO / "pairs.jsonl").read_text().splitlines()]
    margins = [{**pair, "margin": [0.0, 0.5, 1.25][i % 3]} for i, pair in enumerate(pairs)]
    (OUT / "margins.jsonl").write_text("".join(json.dumps(r) + "\n" for r in margins))
    # Loaded again from dpo_curve/tokenizer, transformers would treat the space after <s> otherwise.
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    tokenizer.chat_template = (DPO / "tokenizer" / "chat_template.jinja").read_text()
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    torch.manual_seed(5)
    lora = LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules=TARGETS, task_type="SEQ_CLS")
    save(get_peft_model(base(tokenizer), lora), OUT / "initial")
    expected = {}
    for name, own, data in [
        ("plain", {}, pairs),
        ("centred", {"center_rewards_coefficient": 0.01}, pairs),
        ("margin", {}, margins),
    ]:
        model = PeftModel.from_pretrained(base(tokenizer), OUT / "initial", is_trainable=True)
        scratch = tempfile.mkdtemp()
        arguments = RewardConfig(
            output_dir=scratch, per_device_train_batch_size=2, gradient_accumulation_steps=1, max_steps=10,
            learning_rate=5e-3, lr_scheduler_type="linear", warmup_steps=0, weight_decay=0.0, max_grad_norm=1.0,
            logging_steps=1, save_strategy="no", report_to=[], use_cpu=True, seed=1, optim="adamw_torch",
            bf16=False, gradient_checkpointing=False, disable_dropout=True, **own,
        )
        trainer = InOrder(model=model, args=arguments, train_dataset=Dataset.from_list(data), processing_class=tokenizer)
        trainer.train()
        log = [r for r in trainer.state.log_history if "loss" in r]
        keys = ("loss", "grad_norm", "accuracy", "margin", "min_reward", "mean_reward", "max_reward")
        expected[name] = {k: [float(r[k]) for r in log] for k in keys}
        shutil.rmtree(scratch)
        print(name, expected[name]["loss"])
        if name == "plain":
            save(model, OUT / "final")
            model.eval()
            rewards = []
            for pair in pairs:
                both = []
                for side in ("chosen", "rejected"):
                    ids = tokenizer.apply_chat_template(pair["prompt"] + pair[side], return_tensors="pt", return_dict=True)
                    with torch.no_grad():
                        both.append(float(model(**ids).logits[0, 0]))
                rewards.append(both)
            write_json(OUT / "rewards.json", rewards)
    write_json(OUT / "expected.json", expected)


main()
