"""families/NAME.json: a tiny random model of every family, by transformers where it carries the family and
by the modules below, written from the published architectures, where it does not.

config      its config.json
tensors     name and shape of every weight; `values` below makes the numbers, here and in the test
rows        input_ids and labels
logits      of the last position of every row, LoRA off
loss        LoRA off
grads       of every weight, LoRA off: length of the gradient, and its first, middle and last value
lora        r 4, alpha 8 on all linear layers: loss, gradients as above, logits as above, and the losses of
            ten updates by AdamW (learning rate 5e-3, no weight decay) on all rows

Names of families as arguments make theirs alone.
"""

import math
import sys

import numpy as np
import torch
import transformers as hf
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from common import HERE, write_json

VOCAB = 64
GMASK, MASK, SOP = 60, 59, 61


def values(name, count):
    """Uniform in [-0.5, 0.5), exact in float32: the top 24 bits of splitmix64 of name and index."""
    state = 0xCBF29CE484222325
    for byte in name.encode():
        state = ((state ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    with np.errstate(over="ignore"):
        x = np.uint64(state) + (np.arange(count, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    return (x >> np.uint64(40)).astype(np.float32) / np.float32(1 << 24) - np.float32(0.5)


def fill(name, parameter, offset):
    """Matrices at 0.6, vectors at 0.4, and around `offset` the weights of norms."""
    u = torch.from_numpy(values(name, parameter.numel())).reshape(parameter.shape)
    vector = parameter.dim() == 1
    value = u * (np.float32(0.4) if vector else np.float32(0.6))
    if vector and name.endswith("weight"):
        value = value + np.float32(offset)
    with torch.no_grad():
        parameter.copy_(value)


# ---- Families that transformers does not carry.


def causal(n):
    return torch.full((n, n), float("-inf")).triu(1)


def attend(q, k, v, bias, scale):
    """[n, heads, dim] each; keys and values are repeated for their group."""
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    scores = torch.einsum("qhd,khd->hqk", q, k) * scale + bias
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), v).flatten(1)


def angles(positions, dim, theta=10000.0):
    return positions[:, None].float() / theta ** (torch.arange(0, dim, 2).float() / dim)


def rotate_halves(x, a):
    cos, sin = torch.cat([a, a], -1).cos()[:, None], torch.cat([a, a], -1).sin()[:, None]
    x0, x1 = x.chunk(2, -1)
    return x * cos + torch.cat([-x1, x0], -1) * sin


def rotate_neighbours(x, a):
    """The first values of each head, neighbours together; the others stay."""
    n = 2 * a.shape[1]
    pairs = x[..., :n].reshape(*x.shape[:-1], n // 2, 2)
    cos, sin = a.cos()[:, None], a.sin()[:, None]
    y = torch.stack([pairs[..., 0] * cos - pairs[..., 1] * sin, pairs[..., 1] * cos + pairs[..., 0] * sin], -1)
    return torch.cat([y.flatten(-2), x[..., n:]], -1)


def slopes(heads):
    power = 2 ** math.floor(math.log2(heads))
    base = lambda n: 2 ** (-8 / n)
    first = [base(power) ** (i + 1) for i in range(power)]
    return torch.tensor(first + [base(2 * power) ** (2 * i + 1) for i in range(heads - power)])


class Out:
    def __init__(self, logits):
        self.logits = logits


class Rms(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


def tree(**modules):
    module = nn.Module()
    for name, child in modules.items():
        setattr(module, name, child)
    return module


class ChatGlm(nn.Module):
    """ChatGLM-6B: two positions, context in both directions, residuals of the norms' outputs."""

    def __init__(self, c):
        super().__init__()
        self.c, h, norm = c, c["hidden_size"], lambda: nn.LayerNorm(c["hidden_size"], c["layernorm_epsilon"])
        layer = lambda: tree(
            input_layernorm=norm(), post_attention_layernorm=norm(),
            attention=tree(query_key_value=nn.Linear(h, 3 * h), dense=nn.Linear(h, h)),
            mlp=tree(dense_h_to_4h=nn.Linear(h, c["inner_hidden_size"]),
                     dense_4h_to_h=nn.Linear(c["inner_hidden_size"], h)))
        layers = nn.ModuleList(layer() for _ in range(c["num_layers"]))
        self.transformer = tree(word_embeddings=nn.Embedding(c["vocab_size"], h), layers=layers, final_layernorm=norm())
        self.lm_head = nn.Linear(h, c["vocab_size"], bias=False)

    def forward(self, input_ids):
        c, ids = self.c, input_ids[0].tolist()
        n, heads = len(ids), c["num_attention_heads"]
        context, mask_at = ids.index(c["bos_token_id"]), ids.index(GMASK if GMASK in ids else MASK)
        first, second = torch.arange(n), torch.zeros(n, dtype=torch.long)
        first[context:] = mask_at
        second[context:] = torch.arange(n - context) + 1
        bias = causal(n)
        bias[:, :context] = 0
        x, alpha = self.transformer.word_embeddings(input_ids[0]), math.sqrt(2 * c["num_layers"])
        dim = c["hidden_size"] // heads

        def turn(x):
            a, b = x.chunk(2, -1)
            return torch.cat([rotate_halves(a, angles(first, dim // 2)), rotate_halves(b, angles(second, dim // 2))], -1)

        for layer in self.transformer.layers:
            normed = layer.input_layernorm(x)
            q, k, v = layer.attention.query_key_value(normed).view(n, heads, 3 * dim).chunk(3, -1)
            out = attend(turn(q), turn(k), v, bias, dim**-0.5)
            h = normed * alpha + layer.attention.dense(out)
            normed = layer.post_attention_layernorm(h)
            act = nn.functional.gelu(layer.mlp.dense_h_to_4h(normed), approximate="tanh")
            x = normed * alpha + layer.mlp.dense_4h_to_h(act)
        return Out(self.lm_head(self.transformer.final_layernorm(x))[None])


class ChatGlm2(nn.Module):
    """ChatGLM2, ChatGLM3 and GLM-4 in their own files."""

    def __init__(self, c):
        super().__init__()
        h, ffn = c["hidden_size"], c["ffn_hidden_size"]
        self.c, self.dim = c, c["kv_channels"]
        width = c["num_attention_heads"] * self.dim
        norm = lambda: Rms(h, c["layernorm_epsilon"])
        layer = lambda: tree(
            input_layernorm=norm(), post_attention_layernorm=norm(),
            self_attention=tree(
                query_key_value=nn.Linear(h, width + 2 * c["multi_query_group_num"] * self.dim, bias=c["add_qkv_bias"]),
                dense=nn.Linear(width, h, bias=False)),
            mlp=tree(dense_h_to_4h=nn.Linear(h, 2 * ffn, bias=False), dense_4h_to_h=nn.Linear(ffn, h, bias=False)))
        layers = nn.ModuleList(layer() for _ in range(c["num_layers"]))
        self.transformer = tree(
            embedding=tree(word_embeddings=nn.Embedding(c["padded_vocab_size"], h)),
            encoder=tree(layers=layers, final_layernorm=norm()),
            output_layer=nn.Linear(h, c["padded_vocab_size"], bias=False))

    def forward(self, input_ids):
        c, n, dim, kv = self.c, input_ids.shape[1], self.dim, self.c["multi_query_group_num"]
        a = angles(torch.arange(n), dim // 2, 10000.0 * c["rope_ratio"])
        x = self.transformer.embedding.word_embeddings(input_ids[0])
        for layer in self.transformer.encoder.layers:
            made = layer.self_attention.query_key_value(layer.input_layernorm(x))
            q, k, v = made.split([c["num_attention_heads"] * dim, kv * dim, kv * dim], -1)
            q, k, v = (t.reshape(n, -1, dim) for t in (q, k, v))
            out = attend(rotate_neighbours(q, a), rotate_neighbours(k, a), v, causal(n), dim**-0.5)
            x = x + layer.self_attention.dense(out)
            gate, up = layer.mlp.dense_h_to_4h(layer.post_attention_layernorm(x)).chunk(2, -1)
            x = x + layer.mlp.dense_4h_to_h(nn.functional.silu(gate) * up)
        return Out(self.transformer.output_layer(self.transformer.encoder.final_layernorm(x))[None])


class UnitRows(nn.Module):
    def __init__(self, h, vocab):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(vocab, h))

    def forward(self, x):
        return x @ nn.functional.normalize(self.weight).T


class Baichuan(nn.Module):
    """Baichuan: rotations or ALiBi, a plain head or one with rows of length 1."""

    def __init__(self, c):
        super().__init__()
        h, i = c["hidden_size"], c["intermediate_size"]
        self.c, norm = c, lambda: Rms(c["hidden_size"], c["rms_norm_eps"])
        plain = lambda a, b: nn.Linear(a, b, bias=False)
        layer = lambda: tree(
            input_layernorm=norm(), post_attention_layernorm=norm(),
            self_attn=tree(W_pack=plain(h, 3 * h), o_proj=plain(h, h)),
            mlp=tree(gate_proj=plain(h, i), up_proj=plain(h, i), down_proj=plain(i, h)))
        layers = nn.ModuleList(layer() for _ in range(c["num_hidden_layers"]))
        self.model = tree(embed_tokens=nn.Embedding(c["vocab_size"], h), layers=layers, norm=norm())
        self.lm_head = UnitRows(h, c["vocab_size"]) if "z_loss_weight" in c else plain(h, c["vocab_size"])

    def forward(self, input_ids):
        c, n, heads = self.c, input_ids.shape[1], self.c["num_attention_heads"]
        dim, bias = c["hidden_size"] // heads, causal(n)
        turn = lambda x: rotate_halves(x, angles(torch.arange(n), dim))
        if "max_position_embeddings" not in c:
            turn = lambda x: x
            bias = bias + slopes(heads)[:, None, None] * torch.arange(n)
        x = self.model.embed_tokens(input_ids[0])
        for layer in self.model.layers:
            made = layer.self_attn.W_pack(layer.input_layernorm(x)).chunk(3, -1)
            q, k, v = (t.reshape(n, heads, dim) for t in made)
            x = x + layer.self_attn.o_proj(attend(turn(q), turn(k), v, bias, dim**-0.5))
            y, mlp = layer.post_attention_layernorm(x), layer.mlp
            x = x + mlp.down_proj(nn.functional.silu(mlp.gate_proj(y)) * mlp.up_proj(y))
        return Out(self.lm_head(self.model.norm(x))[None])


class InternLm2(nn.Module):
    """InternLM2: one layer makes, group by group, the queries, the key and the value."""

    def __init__(self, c):
        super().__init__()
        h, i, kv = c["hidden_size"], c["intermediate_size"], c["num_key_value_heads"]
        self.c, self.dim = c, h // c["num_attention_heads"]
        norm, plain = lambda: Rms(h, c["rms_norm_eps"]), lambda a, b: nn.Linear(a, b, bias=False)
        layer = lambda: tree(
            attention_norm=norm(), ffn_norm=norm(),
            attention=tree(wqkv=plain(h, h + 2 * kv * self.dim), wo=plain(h, h)),
            feed_forward=tree(w1=plain(h, i), w3=plain(h, i), w2=plain(i, h)))
        layers = nn.ModuleList(layer() for _ in range(c["num_hidden_layers"]))
        self.model = tree(tok_embeddings=nn.Embedding(c["vocab_size"], h), layers=layers, norm=norm())
        self.output = plain(h, c["vocab_size"])

    def forward(self, input_ids):
        c, n, dim = self.c, input_ids.shape[1], self.dim
        kv, group = c["num_key_value_heads"], c["num_attention_heads"] // c["num_key_value_heads"]
        turn = lambda x: rotate_halves(x, angles(torch.arange(n), dim, c["rope_theta"]))
        x = self.model.tok_embeddings(input_ids[0])
        for layer in self.model.layers:
            made = layer.attention.wqkv(layer.attention_norm(x)).view(n, kv, group + 2, dim)
            q = made[:, :, :group].reshape(n, -1, dim)
            x = x + layer.attention.wo(attend(turn(q), turn(made[:, :, -2]), made[:, :, -1], causal(n), dim**-0.5))
            y, ffn = layer.ffn_norm(x), layer.feed_forward
            x = x + ffn.w2(nn.functional.silu(ffn.w1(y)) * ffn.w3(y))
        return Out(self.output(self.model.norm(x))[None])


# ---- The table.

SMALL = dict(vocab_size=VOCAB, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=64, attn_implementation="eager", bos_token_id=1,
             eos_token_id=2, pad_token_id=0)
NEOX = {k: v for k, v in SMALL.items() if k != "num_key_value_heads"} | {"hidden_size": 32}
yarn = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16}
dynamic = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
longrope = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0, 1.5], "long_factor": [2.0, 5.0],
            "original_max_position_embeddings": 12}

FROM_TRANSFORMERS = {
    "llama-yarn": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**SMALL, rope_parameters=yarn)),
    "llama-dynamic": lambda: hf.LlamaForCausalLM(
        hf.LlamaConfig(**{**SMALL, "max_position_embeddings": 10}, rope_parameters=dynamic)),
    "bloom": lambda: hf.BloomForCausalLM(hf.BloomConfig(
        vocab_size=VOCAB, hidden_size=18, n_layer=2, n_head=3, hidden_dropout=0.0, attention_dropout=0.0,
        attn_implementation="eager")),
    "bloom-post-norm": lambda: hf.BloomForCausalLM(hf.BloomConfig(
        vocab_size=VOCAB, hidden_size=16, n_layer=2, n_head=4, hidden_dropout=0.0, attention_dropout=0.0,
        apply_residual_connection_post_layernorm=True, attn_implementation="eager")),
    "gpt2": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(
        vocab_size=VOCAB, n_embd=16, n_layer=2, n_head=4, n_positions=48, embd_pdrop=0.0, attn_pdrop=0.0,
        resid_pdrop=0.0, bos_token_id=1, eos_token_id=2, attn_implementation="eager")),
    "gpt-neox": lambda: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**NEOX)),
    "gpt-neox-sequential": lambda: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**NEOX, use_parallel_residual=False)),
    "phi3": lambda: hf.Phi3ForCausalLM(hf.Phi3Config(**SMALL, sliding_window=6)),
    "phi3-longrope": lambda: hf.Phi3ForCausalLM(hf.Phi3Config(
        **SMALL, original_max_position_embeddings=12, rope_parameters=longrope)),
    "gemma": lambda: hf.GemmaForCausalLM(hf.GemmaConfig(**SMALL, head_dim=6)),
    "gemma2": lambda: hf.Gemma2ForCausalLM(hf.Gemma2Config(
        **SMALL, head_dim=6, sliding_window=5, query_pre_attn_scalar=9, attn_logit_softcapping=1.5,
        final_logit_softcapping=3.0)),
    "gemma3": lambda: hf.Gemma3ForCausalLM(hf.Gemma3TextConfig(
        **SMALL, head_dim=6, sliding_window=5, sliding_window_pattern=2, query_pre_attn_scalar=9)),
    "glm": lambda: hf.GlmForCausalLM(hf.GlmConfig(**SMALL, head_dim=8, attention_bias=True)),
    "mixtral": lambda: hf.MixtralForCausalLM(hf.MixtralConfig(
        **SMALL, num_local_experts=4, sliding_window=None)),
    "mixtral-balanced": lambda: hf.MixtralForCausalLM(hf.MixtralConfig(
        **SMALL, num_local_experts=4, sliding_window=7, output_router_logits=True, router_aux_loss_coef=0.1)),
    "qwen3-moe": lambda: hf.Qwen3MoeForCausalLM(hf.Qwen3MoeConfig(
        **SMALL, head_dim=6, num_experts=5, num_experts_per_tok=3, moe_intermediate_size=12, decoder_sparse_step=2)),
    "glm4": lambda: hf.Glm4ForCausalLM(hf.Glm4Config(**SMALL, head_dim=8, attention_bias=True)),
}

OWN = dict(vocab_size=VOCAB, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=24,
           rms_norm_eps=1e-6, hidden_act="silu")
FROM_HERE = {
    "chatglm": (ChatGlm, dict(
        model_type="chatglm", vocab_size=VOCAB, hidden_size=32, inner_hidden_size=40, num_layers=2,
        num_attention_heads=4, layernorm_epsilon=1e-5, max_sequence_length=64, position_encoding_2d=True,
        bos_token_id=SOP, eos_token_id=62, gmask_token_id=GMASK, mask_token_id=MASK, pad_token_id=3)),
    "chatglm2": (ChatGlm2, dict(
        model_type="chatglm", padded_vocab_size=VOCAB, hidden_size=16, ffn_hidden_size=24, kv_channels=8, num_layers=2,
        num_attention_heads=4, multi_query_attention=True, multi_query_group_num=2, seq_length=64,
        layernorm_epsilon=1e-5, rmsnorm=True, add_bias_linear=False, add_qkv_bias=True, post_layer_norm=True,
        apply_residual_connection_post_layernorm=False, rope_ratio=5, eos_token_id=2, pad_token_id=0)),
    "baichuan": (Baichuan, dict(OWN, model_type="baichuan", max_position_embeddings=64)),
    "baichuan2-13b": (Baichuan, dict(OWN, model_type="baichuan", model_max_length=64, z_loss_weight=0,
                                     hidden_size=18, num_attention_heads=3)),
    "internlm2": (InternLm2, dict(OWN, model_type="internlm2", num_key_value_heads=2, max_position_embeddings=64,
                                  rope_theta=1000000.0, bias=False)),
}


def rows(prefixed):
    generator = np.random.default_rng(3)
    out = []
    for n in (14, 9):
        ids = generator.integers(3, 58, n).tolist()
        if prefixed:
            ids[4], ids[5] = (GMASK, SOP) if n == 14 else (5, SOP)
            if n == 9:
                ids[2] = MASK
        out.append({"input_ids": ids, "labels": [-100] * 5 + ids[5:]})
    return out


def loss_of(model, data):
    total, count, routed = 0.0, 0, []
    for row in data:
        out = model(input_ids=torch.tensor([row["input_ids"]]))
        routed.append(getattr(out, "router_logits", None))
        logits = out.logits[0, :-1]
        labels = torch.tensor(row["labels"][1:])
        total = total + nn.functional.cross_entropy(logits, labels, ignore_index=-100, reduction="sum")
        count += int((labels != -100).sum())
    loss = total / count
    if routed[0]:
        # Over all rows at once, as transformers does for a batch.
        layers = tuple(torch.cat(layer) for layer in zip(*routed))
        config = model.config
        balance = load_balancing_loss_func(layers, config.num_local_experts, config.num_experts_per_tok)
        loss = loss + config.router_aux_loss_coef * balance
    return loss


def parameters(model):
    """Name in files → the parameter's values and a function that gives its gradient. Transformers keeps the
    experts of a layer in two tensors, and files do not."""
    out = {}
    for key, p in model.named_parameters():
        mixtral = model.config.model_type == "mixtral"
        if mixtral:
            key = key.replace(".mlp.", ".block_sparse_moe.")
        gate, up, down = ("w1", "w3", "w2") if mixtral else ("gate_proj", "up_proj", "down_proj")
        stem, _, last = key.rpartition(".")
        if not stem.endswith(".experts"):
            # Files call GPT-NeoX's head by its older name.
            key = key.replace("lm_head.", "embed_out.") if model.config.model_type == "gpt_neox" else key
            out[key] = (p, lambda p=p: p.grad)
            continue
        for e in range(p.shape[0]):
            parts = {down: slice(None)}
            if last == "gate_up_proj":
                half = p.shape[1] // 2
                parts = {gate: slice(0, half), up: slice(half, None)}
            for part, rows in parts.items():
                out[f"{stem}.{e}.{part}.weight"] = (p.data[e, rows], lambda p=p, e=e, rows=rows: p.grad[e, rows])
    return out


def short(x):
    """Seven digits hold a float32."""
    return float(f"{x:.7g}")


def sample(grad):
    flat = grad.flatten()
    return [short(x) for x in (grad.norm().item(), flat[0].item(), flat[len(flat) // 2].item(), flat[-1].item())]


def last_logits(model, data):
    with torch.no_grad():
        last = lambda r: model(input_ids=torch.tensor([r["input_ids"]])).logits[0, -1].tolist()
        return [[short(x) for x in last(r)] for r in data]


def golden(name, model, config):
    offset = 0.0 if "gemma" in name else 1.0
    model = model.float().eval()
    named = parameters(model)
    for key, (parameter, _) in named.items():
        fill(key, parameter, offset)
    data = rows(name == "chatglm")
    loss = loss_of(model, data)
    loss.backward()
    record = {
        "config": config,
        "tensors": [[k, list(p.shape)] for k, (p, _) in named.items()],
        "rows": data,
        "logits": last_logits(model, data),
        "loss": loss.item(),
        "grads": {k: sample(grad()) for k, (_, grad) in named.items()},
    }
    heads = ("lm_head", "embed_out", "output_layer", "output")
    linears = (nn.Linear, hf.pytorch_utils.Conv1D)
    targets = sorted({k.rsplit(".", 1)[-1] for k, m in model.named_modules()
                      if isinstance(m, linears) and not k.endswith(heads)})
    if hasattr(model.config, "num_experts_per_tok"):
        # PEFT takes the names of an MLP for those of experts.
        targets = [t for t in targets if t.endswith(("q_proj", "k_proj", "v_proj", "o_proj"))]
    conv = any(isinstance(m, hf.pytorch_utils.Conv1D) for m in model.modules())
    lora = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, target_modules=targets,
                                            fan_in_fan_out=conv))
    trained = {k.replace(".default", ""): p for k, p in lora.named_parameters() if p.requires_grad}
    for key, parameter in trained.items():
        fill(key, parameter, 0.0)
    loss = loss_of(lora, data)
    loss.backward()
    record["lora"] = {
        "targets": targets,
        "fan_in_fan_out": conv,
        "loss": loss.item(),
        "logits": last_logits(lora, data),
        "grads": {k: sample(p.grad) for k, p in trained.items()},
    }
    optimizer, curve = torch.optim.AdamW(trained.values(), lr=5e-3, weight_decay=0.0), []
    for _ in range(10):
        optimizer.zero_grad()
        loss = loss_of(lora, data)
        loss.backward()
        optimizer.step()
        curve.append(loss.item())
    record["lora"]["curve"] = curve
    write_json(HERE / "families" / f"{name}.json", record)
    print(name, record["loss"], curve[0], curve[-1])


def main():
    wanted = lambda name: not sys.argv[1:] or name in sys.argv[1:]
    for name, make in filter(lambda item: wanted(item[0]), FROM_TRANSFORMERS.items()):
        torch.manual_seed(0)
        model = make()
        config = {k: v for k, v in model.config.to_diff_dict().items() if k != "transformers_version"}
        config["architectures"] = [type(model).__name__]
        config["tie_word_embeddings"] = model.config.tie_word_embeddings
        golden(name, model, config)
    for name, (make, config) in filter(lambda item: wanted(item[0]), FROM_HERE.items()):
        golden(name, make(config), config)


if __name__ == "__main__":
    main()
