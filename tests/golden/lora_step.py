"""lora_step/{llama,qwen2,qwen3}: loss and gradients of one LoRA step by PEFT.

adapter/      PEFT adapter, r 4, alpha 8, on all seven linear layers, A and B random
batch.json    three rows of input_ids and labels
loss.json     sum of the cross entropies / number of trained tokens
grads.safetensors  gradient of every lora_A and lora_B, by PEFT's names
"""

import json

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from common import DATA, HERE, TARGETS, make_rows, summed_loss, write_json, write_tensors

for name, folder in [("llama", "hf"), ("qwen2", "hf-qwen2"), ("qwen3", "hf-qwen3")]:
    out = HERE / "lora_step" / name
    base = AutoModelForCausalLM.from_pretrained(DATA / "stories260K" / folder, dtype=torch.float32)
    config = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, target_modules=TARGETS, task_type="CAUSAL_LM")
    model = get_peft_model(base, config)
    generator = torch.Generator().manual_seed(7)
    trained = {k: p for k, p in model.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for parameter in trained.values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    model.save_pretrained(out / "adapter")
    (out / "adapter" / "README.md").unlink(missing_ok=True)
    path = out / "adapter" / "adapter_config.json"
    settings = json.loads(path.read_text())
    settings["base_model_name_or_path"] = f"stories260K/{folder}"
    path.write_text(json.dumps(settings, indent=2, sort_keys=True))
    rows = make_rows([7, 33, 20], 512, 11)
    total, count = summed_loss(model, rows)
    (total / count).backward()
    write_json(out / "batch.json", rows)
    write_json(out / "loss.json", {"loss": (total / count).item(), "num_targets": count})
    write_tensors(out / "grads.safetensors", {k.replace(".default", ""): p.grad for k, p in trained.items()})
    print(name, (total / count).item(), count)
