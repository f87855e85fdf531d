"""gguf_exports.json: what the `gguf` package makes of stories260K/hf and of the adapter of lora_step/llama.

metadata    keys that an export must have, with their values
tensors     for each type: sha256 of the bytes of every tensor, quantised by gguf.quants, queries and keys
            in llama.cpp's order
lora        alpha and sha256 of the adapter's tensors, B of queries and keys in that order
tokens      number of tokens, and sha256 of the texts and kinds by sentencepiece, each on a line
order       the pieces that are made by merging, best score first, each on a line: sha256

With a folder, the files that `cargo test --release --test export` left there (EXPORT_OUT) are read by
the package's own reader: python gguf_exports.py DIR
"""

import hashlib
import json
import sys
from pathlib import Path

import gguf
import numpy as np
import sentencepiece
from gguf import GGMLQuantizationType as Type
from gguf import quants
from safetensors.numpy import load_file

from common import DATA, HERE, write_json

MODEL = DATA / "stories260K/hf"
config = json.loads((MODEL / "config.json").read_text())
HEADS, KV = config["num_attention_heads"], config["num_key_value_heads"]
sha = lambda data: hashlib.sha256(data).hexdigest()
NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
         "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
         "post_attention_layernorm": "ffn_norm"}


def permute(w, heads):
    """llama.cpp's order of the rows of queries and keys."""
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def renamed(name):
    if name == "model.embed_tokens.weight":
        return "token_embd.weight"
    if name == "model.norm.weight":
        return "output_norm.weight"
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{NAMES[rest.removesuffix('.weight')]}.weight"


def turned(name, w):
    if name.endswith("attn_q.weight"):
        return permute(w, HEADS)
    return permute(w, KV) if name.endswith("attn_k.weight") else w


weights = {renamed(k): v.astype(np.float32) for k, v in load_file(MODEL / "model.safetensors").items() if k != "lm_head.weight"}
weights = {k: np.ascontiguousarray(turned(k, v)) for k, v in weights.items()}


def stored(name, w, kind):
    if w.ndim == 1:
        return w.tobytes()
    if kind == Type.Q4_0 and name == "token_embd.weight":
        kind = Type.Q8_0
    if kind in (Type.Q8_0, Type.Q4_0) and w.shape[-1] % 32:
        kind = Type.F16
    return quants.quantize(w, kind).tobytes()


def lora():
    folder = HERE / "lora_step/llama/adapter"
    settings = json.loads((folder / "adapter_config.json").read_text())
    out = {}
    for key, w in load_file(folder / "adapter_model.safetensors").items():
        module, matrix, _ = key.removeprefix("base_model.model.").rsplit(".", 2)
        name = renamed(module + ".weight")
        w = turned(name, w) if matrix == "lora_B" else w
        out[f"{name}.{matrix.lower()}"] = sha(np.ascontiguousarray(w).tobytes())
    return {"alpha": settings["lora_alpha"], "tensors": out}


def tokens():
    sp = sentencepiece.SentencePieceProcessor(str(MODEL / "tokenizer.model"))
    ids = range(sp.vocab_size())
    kind = lambda i: 6 if sp.is_byte(i) else 2 if sp.is_unknown(i) else 3 if sp.is_control(i) else 1
    lines = "".join(f"{sp.id_to_piece(i)}\t{kind(i)}\n" for i in ids)
    made = [i for i in ids if kind(i) == 1 and len(sp.id_to_piece(i)) > 1]
    made.sort(key=lambda i: -sp.get_score(i))
    order = "".join(f"{sp.id_to_piece(i)}\n" for i in made)
    return {"count": len(ids), "sha256": sha(lines.encode())}, sha(order.encode())


def read(path):
    """Names, types and metadata by the package's reader; its own dequantisation must be near."""
    reader = gguf.GGUFReader(path)
    for tensor in reader.tensors:
        values = quants.dequantize(tensor.data, tensor.tensor_type)
        if tensor.name in weights:
            error = np.abs(values.reshape(weights[tensor.name].shape) - weights[tensor.name]).max()
            assert error <= 0.2 * np.abs(weights[tensor.name]).max(), (path, tensor.name, error)
    print(path.name, len(reader.tensors), "tensors;", reader.fields["general.architecture"].contents())


if len(sys.argv) > 1:
    for path in sorted(Path(sys.argv[1]).glob("*.gguf")):
        read(path)
    sys.exit()
vocabulary, order = tokens()
write_json(HERE / "gguf_exports.json", {
    "metadata": {
        "general.architecture": "llama", "llama.block_count": config["num_hidden_layers"],
        "llama.context_length": config["max_position_embeddings"], "llama.embedding_length": config["hidden_size"],
        "llama.feed_forward_length": config["intermediate_size"], "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": KV, "llama.rope.dimension_count": config["head_dim"],
        "tokenizer.ggml.model": "llama", "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0, "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False, "tokenizer.ggml.add_space_prefix": True,
    },
    "tensors": {
        name: {k: sha(stored(k, w, kind)) for k, w in weights.items()}
        for name, kind in [("f32", Type.F32), ("f16", Type.F16), ("bf16", Type.BF16), ("q8_0", Type.Q8_0), ("q4_0", Type.Q4_0)]
    },
    "lora": lora(),
    "tokens": vocabulary,
    "order": order,
})
