"""adapters/NAME.json: what PEFT makes of a tiny random model with each kind of adapter.

config      the model's config.json; its weights are those that `fill` of families.py makes
tensors     name and shape of every weight
rows        input_ids and labels
settings    adapter_config.json as PEFT writes it
base_logits of the last position of every row, without the adapter
fresh_logits the same with the adapter as PEFT initialises it
logits      the same with the adapter's parameters made by `fill`
loss, grads of the same: length of each gradient, and its first, middle and last value
curve       losses of ten updates from there by AdamW on all rows (learning rate 5e-3; weight decay and
            LoRA+'s ratio as named)
merged      logits after the ten updates, adapter merged by PEFT

pissa.json   the same of pairs that begin as singular vectors: fresh_logits, curve, merged
combined.json  two adapters `one` and `two`, parameters filled by NAME.KEY, as one by `add_weighted_adapter`
             (weights 0.7 and -0.3): logits by combination type
"""

import json
import tempfile
from pathlib import Path

import torch
import transformers as hf
from peft import LoraConfig, get_peft_model
from peft.optimizers import create_loraplus_optimizer

from common import HERE, write_json
from families import fill, last_logits, loss_of, rows, sample

SMALL = dict(vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=48, rms_norm_eps=1e-5)
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CONV = ["c_attn", "c_proj", "c_fc"]


def llama(tied):
    return hf.LlamaForCausalLM(hf.LlamaConfig(**SMALL, tie_word_embeddings=tied))


def gpt2():
    return hf.GPT2LMHeadModel(hf.GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=4, n_positions=48,
                                            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0))


def case(model, optimizer=None, **settings):
    return model, optimizer or {}, settings


CASES = {
    "rslora-patterns": lambda: case(
        llama(True), r=4, lora_alpha=8, use_rslora=True, target_modules=LINEAR,
        rank_pattern={"q_proj": 2, r"layers\.1\.mlp\.up_proj": 6}, alpha_pattern={"v_proj": 3, "down_proj": 2.5}),
    "some-layers": lambda: case(llama(False), r=4, lora_alpha=8, target_modules=LINEAR, layers_to_transform=[1, 2]),
    "loraplus": lambda: case(llama(True), {"loraplus_lr_ratio": 16.0, "loraplus_weight_decay": 0.1},
                             r=4, lora_alpha=8, target_modules=LINEAR),
    "saved-untied": lambda: case(llama(False), r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"],
                                 layers_to_transform=[2], modules_to_save=["embed_tokens", "lm_head"]),
    "saved-tied": lambda: case(llama(True), r=4, lora_alpha=8, target_modules=LINEAR,
                               modules_to_save=["embed_tokens", "lm_head", "norm", "input_layernorm"]),
    "saved-tied-embedding": lambda: case(llama(True), r=4, lora_alpha=8, target_modules=["down_proj"],
                                         modules_to_save=["embed_tokens"]),
    "saved-tied-head": lambda: case(llama(True), r=4, lora_alpha=8, target_modules=["down_proj"],
                                    modules_to_save=["lm_head"]),
    "dora": lambda: case(llama(False), r=4, lora_alpha=8, target_modules=LINEAR, use_dora=True),
    "dora-loraplus": lambda: case(llama(True), {"loraplus_lr_ratio": 4.0, "loraplus_weight_decay": 0.1},
                                  r=3, lora_alpha=8, use_rslora=True, target_modules=["q_proj", "up_proj"],
                                  use_dora=True, modules_to_save=["embed_tokens"]),
    "dora-gpt2": lambda: case(gpt2(), r=4, lora_alpha=8, target_modules=CONV, use_dora=True, fan_in_fan_out=True),
    "tokens-tied": lambda: case(llama(True), r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"],
                                trainable_token_indices=[12, 47, 60]),
    "tokens-untied": lambda: case(llama(False), r=4, lora_alpha=8, target_modules=["q_proj"], use_dora=True,
                                  trainable_token_indices={"embed_tokens": [5, 47], "lm_head": [5, 9, 47]}),
    "tokens-of-embedding": lambda: case(llama(False), r=4, lora_alpha=8, target_modules=["v_proj"],
                                        trainable_token_indices=[8, 50]),
    "saved-gpt2": lambda: case(gpt2(), r=4, lora_alpha=8, target_modules=CONV, fan_in_fan_out=True,
                               modules_to_save=["wte", "wpe", "ln_f"]),
}


def saved_name(name):
    """As PEFT's files have it."""
    name = name.replace(".modules_to_save.default.", ".")
    if "trainable_tokens_delta" in name:
        return name.replace(".default", "")
    return name.replace(".lora_magnitude_vector.default.weight", ".lora_magnitude_vector").replace(".default", "")


def filled(model):
    """The record of a model whose weights are filled."""
    model = model.float().eval()
    config = {k: v for k, v in model.config.to_diff_dict().items() if k != "transformers_version"}
    config["architectures"] = [type(model).__name__]
    config["tie_word_embeddings"] = model.config.tie_word_embeddings
    named = dict(model.named_parameters())
    for key, parameter in named.items():
        fill(key, parameter, 1.0)
    data = rows(False)
    record = {"config": config, "tensors": [[k, list(p.shape)] for k, p in named.items()], "rows": data}
    return model, record | {"base_logits": last_logits(model, data)}


def train(lora, adamw, data):
    curve = []
    for _ in range(10):
        adamw.zero_grad()
        loss = loss_of(lora, data)
        loss.backward()
        adamw.step()
        curve.append(loss.item())
    return curve


def make(name):
    torch.manual_seed(0)
    model, optimizer, settings = CASES[name]()
    model, record = filled(model)
    data = record["rows"]
    record["optimizer"] = optimizer
    lora = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.0, **settings))
    record["fresh_logits"] = last_logits(lora, data)
    trained = {saved_name(k): p for k, p in lora.named_parameters() if p.requires_grad}
    for key, parameter in trained.items():
        vector = key.endswith("lora_magnitude_vector")
        fill(key + ".weight" if vector else key, parameter, 1.0)
    record["logits"] = last_logits(lora, data)
    loss = loss_of(lora, data)
    loss.backward()
    record["loss"] = loss.item()
    record["grads"] = {k: sample(p.grad) for k, p in trained.items()}
    with tempfile.TemporaryDirectory() as folder:
        lora.save_pretrained(folder)
        record["settings"] = json.loads((Path(folder) / "adapter_config.json").read_text())
    record["settings"]["base_model_name_or_path"] = "base"
    record["settings"]["target_modules"].sort()
    record["settings"].pop("peft_version", None)
    if optimizer:
        adamw = create_loraplus_optimizer(lora, torch.optim.AdamW, lr=5e-3, **optimizer)
    else:
        adamw = torch.optim.AdamW(trained.values(), lr=5e-3, weight_decay=0.0)
    record["curve"] = train(lora, adamw, data)
    record["merged"] = last_logits(lora.merge_and_unload(), data)
    write_json(HERE / "adapters" / f"{name}.json", record)
    print(name, record["loss"], record["curve"][-1])


def pissa():
    torch.manual_seed(0)
    model, record = filled(llama(False))
    lora = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=6, lora_dropout=0.0, use_rslora=True,
                                            target_modules=LINEAR, init_lora_weights="pissa"))
    record["fresh_logits"] = last_logits(lora, record["rows"])
    adamw = torch.optim.AdamW([p for p in lora.parameters() if p.requires_grad], lr=5e-3, weight_decay=0.0)
    record["curve"] = train(lora, adamw, record["rows"])
    record["merged"] = last_logits(lora.merge_and_unload(), record["rows"])
    write_json(HERE / "pissa.json", record)


def combined():
    model, record = filled(llama(False))
    targets = {"one": ["q_proj", "v_proj", "down_proj"], "two": ["q_proj", "down_proj", "up_proj"]}
    config = lambda name: LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8 if name == "one" else 2, target_modules=targets[name])
    lora = get_peft_model(model, config("one"), adapter_name="one").eval()
    lora.add_adapter("two", config("two"))
    for key, parameter in lora.named_parameters():
        for name in targets:
            if f".{name}." in key:
                fill(f"{name}.{key.replace(f'.{name}', '')}", parameter, 0.0)
    record["targets"] = targets
    record["logits"] = {}
    for kind, more in [("cat", {}), ("linear", {}), ("svd", {"svd_rank": 3})]:
        lora.add_weighted_adapter(["one", "two"], [0.7, -0.3], kind, combination_type=kind, **more)
        lora.set_adapter(kind)
        record["logits"][kind] = last_logits(lora, record["rows"])
    write_json(HERE / "combined.json", record)


if __name__ == "__main__":
    for name in CASES:
        make(name)
    pissa()
    combined()
