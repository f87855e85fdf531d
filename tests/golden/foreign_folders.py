"""Folders as other programs write them, all with the same tiny LLaMA: `single` (one safetensors
file), `shards` (several, with an index), `bin` (a pickle), and one LoRA adapter as safetensors and
as a pickle (`adapter`, `adapter_bin`)."""

import shutil

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from common import HERE

OUT = HERE / "foreign_folders"


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=512, hidden_size=8, intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64,
        tie_word_embeddings=True, bos_token_id=1, eos_token_id=2,
    )
    model = LlamaForCausalLM(config).float()
    model.save_pretrained(OUT / "single")
    model.save_pretrained(OUT / "shards", max_shard_size="8KB")
    (OUT / "bin").mkdir()
    shutil.copy(OUT / "single" / "config.json", OUT / "bin")
    torch.save(model.state_dict(), OUT / "bin" / "pytorch_model.bin")

    lora = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    adapted = get_peft_model(model, lora)
    for name, value in adapted.named_parameters():
        if "lora_B" in name:
            value.data.normal_(std=0.1)
    adapted.save_pretrained(OUT / "adapter")
    adapted.save_pretrained(OUT / "adapter_bin", safe_serialization=False)
    for folder in ["adapter", "adapter_bin"]:
        (OUT / folder / "README.md").unlink(missing_ok=True)
    for folder in ["single", "shards"]:
        (OUT / folder / "generation_config.json").unlink(missing_ok=True)


main()
