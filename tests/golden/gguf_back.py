"""Exports MODEL as GGUF, and ADAPTER (of MODEL) as a GGUF adapter, and compares what llama.cpp makes of them with the
program, transformers and PEFT: ids of texts, the next token's log-probabilities, the likeliest continuations. Run by hand, with a folder for
what is written:

    python gguf_back.py write DIR TRAINER MODEL [ADAPTER]    (PEFT, and the package gguf)
    python gguf_back.py llama DIR                            (`pip install xllamacpp`)

The continuations of f32 and f16 must be the same; beside q8_0 llama.cpp rounds activations to 8 bits, so that there only
the log-probabilities must be near.
"""

import json
import subprocess
import sys
from pathlib import Path

OUT = Path(sys.argv[2])
KINDS = ["f32", "f16", "q8_0"]
PROMPTS = ["Once upon a time", "The capital of Norway is", "Tom and Lily"]
TEXTS = [*PROMPTS, "It was 3 o'clock; \"12 + 7\" is 19.\n\n  Two  spaces, é, 日本 and 🙂.", "", " leading", "a\tb\r\nc", "I'LL say we'd don't"]


def generate(trainer, *more):
    out = OUT / "generated.jsonl"
    out.unlink(missing_ok=True)
    (OUT / "prompts.txt").write_text("".join(p + "\n" for p in PROMPTS))
    subprocess.run([trainer, "generate", *more, "--raw", "True", "--max_new_tokens", "48", "--data_file", OUT / "prompts.txt",
                    "--output_file", out], check=True, stdout=subprocess.DEVNULL)
    return [json.loads(line)["Output"] for line in out.read_text().splitlines()]


def write(trainer, model, adapter=None):
    import gguf
    import numpy as np
    from safetensors import safe_open
    import torch
    from peft import PeftModel
    from tokenizers import Tokenizer
    from transformers import AutoConfig, AutoModelForCausalLM

    OUT.mkdir(parents=True, exist_ok=True)
    config = AutoConfig.from_pretrained(model)
    whole = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()

    def likely():
        with torch.no_grad():
            return [whole(torch.tensor([ids(p).ids])).logits[0, -1].log_softmax(-1).tolist() for p in PROMPTS]

    # As the file says; transformers 5 makes a tokenizer of its own for LLaMA, which drops a leading blank.
    ids = Tokenizer.from_file(str(Path(model) / "tokenizer.json")).encode
    wanted = {"ids": [[t, ids(t).ids] for t in TEXTS], "texts": {}, "logprobs": {"whole": likely()}}
    with safe_open(Path(model) / "model.safetensors", "np") as source:
        names = sorted(source.keys())
        embedding, count = source.get_tensor("model.embed_tokens.weight").astype(np.float32), len(names)
    for kind in KINDS:
        path = OUT / f"{kind}.gguf"
        path.unlink(missing_ok=True)
        subprocess.run([trainer, "export", "--model", model, "--format", "gguf", "--outtype", kind, "--output", path],
                       check=True, stdout=subprocess.DEVNULL)
        reader = gguf.GGUFReader(path)
        value = lambda key: reader.fields[f"{config.model_type}.{key}"].contents()
        assert reader.fields["general.architecture"].contents() == config.model_type
        assert (value("block_count"), value("embedding_length")) == (config.num_hidden_layers, config.hidden_size)
        assert value("attention.head_count") == config.num_attention_heads
        assert abs(value("rope.freq_base") - config.rope_parameters["rope_theta"]) < 1e-3
        assert len(reader.fields["tokenizer.ggml.tokens"].contents()) == config.vocab_size
        tensors = {t.name: t for t in reader.tensors}
        got = gguf.quants.dequantize(tensors["token_embd.weight"].data, tensors["token_embd.weight"].tensor_type)
        error = np.abs(got - embedding).max() / np.abs(embedding).max()
        print(f"{kind:5} {len(tensors)} tensors of {count}; embedding off by {error:.1e} of its largest value")
        assert error < {"f32": 1e-9, "f16": 1e-3, "q8_0": 1e-2}[kind]
        # The program reads no GGUF file with a SentencePiece tokenizer; then the model itself is asked.
        own = reader.fields["tokenizer.ggml.model"].contents() == "gpt2"
        wanted["texts"][kind] = generate(trainer, "--model", path if own else model)
    if adapter:
        path = OUT / "lora.gguf"
        path.unlink(missing_ok=True)
        subprocess.run([trainer, "export", "--model", model, "--format", "gguf-lora", "--adapter", adapter, "--output", path],
                       check=True, stdout=subprocess.DEVNULL)
        wanted["texts"]["lora"] = generate(trainer, "--model", model, "--adapter", adapter)
        whole = PeftModel.from_pretrained(whole, adapter).eval()
        wanted["logprobs"]["lora"] = likely()
    (OUT / "wanted.json").write_text(json.dumps(wanted))


def llama():
    from urllib.request import Request, urlopen

    import xllamacpp

    wanted, wrong = json.loads((OUT / "wanted.json").read_text()), []
    for kind, texts in wanted["texts"].items():
        params = xllamacpp.CommonParams()
        params.model.path = str(OUT / ("f32.gguf" if kind == "lora" else f"{kind}.gguf"))
        params.n_ctx, params.warmup, params.verbosity = 512, False, -1
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        if kind == "lora":
            params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(OUT / "lora.gguf"), 1.0)]
        server = xllamacpp.Server(params)

        def ask(path, **body):
            request = Request(server.listening_address + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
            return json.loads(urlopen(request).read())

        for text, ids in wanted["ids"]:
            if (got := ask("/tokenize", content=text, add_special=True)["tokens"]) != ids:
                wrong.append((kind, text, got, ids))
        greedy = {"temperature": 0.0, "repeat_penalty": 1.0, "cache_prompt": False}
        for prompt, want, likely in zip(PROMPTS, texts, wanted["logprobs"]["lora" if kind == "lora" else "whole"]):
            first = ask("/completion", prompt=prompt, n_predict=1, n_probs=8, **greedy)["completion_probabilities"][0]
            off = max(abs(t["logprob"] - likely[t["id"]]) for t in first["top_logprobs"])
            got = ask("/completion", prompt=prompt, n_predict=48, **greedy)["content"].strip()
            want = want.strip()
            same = next((i for i, (a, b) in enumerate(zip(got, want)) if a != b), min(len(got), len(want)))
            print(f"{kind:5} {prompt!r}: {same} of {len(want)} characters are the same; log-probabilities off by {off:.1e}")
            if got != want and kind != "q8_0" or off > {"f32": 1e-3, "lora": 1e-3, "f16": 0.03, "q8_0": 0.5}[kind]:
                wrong.append((kind, prompt, got, want))
    assert not wrong, "\n".join(map(str, wrong))


{"write": write, "llama": llama}[sys.argv[1]](*sys.argv[3:])
