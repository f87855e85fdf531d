"""full_step/{mistral,llama}: tiny random models, their logits, and gradients of all weights.

model/        Hugging Face folder: Mistral with a sliding window of 8 and a head of its own;
              LLaMA with llama3 rope scaling, biases everywhere, tied
batch.json    rows of input_ids and labels
expected.json loss, and the logits of the first row
grads.safetensors  gradient of every weight
"""

import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from common import HERE, make_rows, summed_loss, write_json, write_tensors

small = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=128, initializer_range=0.2)
scaling = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
           "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
MODELS = {
    "mistral": lambda: MistralForCausalLM(MistralConfig(**small, sliding_window=8, tie_word_embeddings=False,
                                                        attn_implementation="eager")),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**small, attention_bias=True, mlp_bias=True,
                                                  tie_word_embeddings=True, rope_parameters=scaling)),
}

for name, make in MODELS.items():
    out = HERE / "full_step" / name
    torch.manual_seed(3)
    model = make().float()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith("bias") or "norm" in key:
                parameter.add_(torch.randn(parameter.shape) * 0.1)
    model.save_pretrained(out / "model")
    (out / "model" / "generation_config.json").unlink(missing_ok=True)
    rows = make_rows([40, 13, 25], 64, 5)
    total, count = summed_loss(model, rows)
    (total / count).backward()
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([rows[0]["input_ids"]])).logits[0]
    write_json(out / "batch.json", rows)
    write_json(out / "expected.json", {"loss": (total / count).item(), "logits": logits.tolist()})
    write_tensors(out / "grads.safetensors", {k: p.grad for k, p in model.named_parameters()})
    print(name, (total / count).item(), count)
