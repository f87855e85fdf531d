"""tokenizers/NAME/: tokenizers without a tokenizer.json, and ids of hostile texts by their own libraries.

NAME/           a SentencePiece model, a tiktoken file, or vocab.json and merges.txt, with tokenizer_config.json
ids.json        ids of each text by sentencepiece or tiktoken, without added bos or eos
hostile.json    the texts
"""

import base64
import io
import json
import random
import shutil
import unicodedata

import sentencepiece
import tiktoken

from common import DATA, HERE

OUT = HERE / "tokenizers"
QWEN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+")
CL100K = QWEN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

TEXT = (DATA / "tinyshakespeare/data/tinyshakespeare/input.txt").read_text()
CODE = "def f(x):\n    if x < 3:\n        return 'é' + \"日本語\"\n\treturn [1, 22, 333]  # 🙂\n"


def write_json(path, value):
    path.write_text(json.dumps(value, separators=(",", ":")) + "\n")


def hostile():
    """Texts that tell implementations apart."""
    fixed = [
        "", " ", "  ", "\n", "\t", " \n ", "a", " a", "a ", "  a  b  ", "Hello, world!", "hello\nworld\n\n", CODE,
        "▁", "▁▁a", " ▁ ", "a▁b", "<0x41>", "<0x0A>x", "<s>x", "</s>", "<unk>", "<|im_start|>", "<n>", "<|blank_2|>",
        "'s 'S 'll don't DON'T we’re", "123 4567890 1,234.5", "ﬁ ﬂ ① Ａ ｂ ㌔", "e\u0301 é", "\u200bzero\u200dwidth", "🙂🙃👩‍👩‍👧‍👦🇩🇪",
        "日本語のテキスト", "中文文本，标点。", "العربية", "עברית", "हिन्दी", "ไทย", "한국어", "Ελληνικά", "Русский", "\ufeffbom", "\u0000nul",
        "\r\nwindows\r\n", "a\u00a0b", "a\u3000b", "tab\tin\tbetween", "x" * 50, "ab" * 30, " " * 20, "\n" * 9, "aaaaaaa aaaa aa a",
        "!!!??!!", "...", "a.b.c", "http://example.com/?q=1&r=2#f", "C:\\path\\file", "{\"json\": [1, null]}", "<div class='x'>",
        "\U0001F600\U00010348", "\ud7ff\ue000", "a\u0300\u0301\u0302", "İstanbul ﬀ ß ẞ", "  leading", "trailing  ", " \u2581 \u2581\u2581",
    ]
    rng = random.Random(5)
    words = TEXT.split()
    pools = [
        lambda: rng.choice(words), lambda: " ", lambda: "  ", lambda: "\n", lambda: "\t", lambda: str(rng.randint(0, 99999)),
        lambda: rng.choice("日本語中文한국é ñ ü ß 🙂 ∀ ∃ ▁ ’ “ ” — …".split()), lambda: rng.choice(".,;:!?'\"()[]{}<>|/\\@#$%^&*-_=+~`"),
        lambda: chr(rng.randint(0x21, 0x7E)), lambda: chr(rng.randint(0xA0, 0x24F)), lambda: rng.choice(["<n>", "<x>", "ab", "aa", "the"]),
    ]
    made = ["".join(rng.choice(pools)() for _ in range(rng.randint(1, 24))) for _ in range(180)]
    lines = [line for line in TEXT.splitlines() if line][:25]
    return [t for t in dict.fromkeys(fixed + made + lines) if all(unicodedata.category(c) != "Cs" for c in t)]


HOSTILE = hostile()


def save(name, encode, config):
    write_json(OUT / name / "ids.json", [encode(t) for t in HOSTILE])
    (OUT / name / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
    print(name)


def sentencepiece_model(name, config, file="tokenizer.model", **settings):
    (OUT / name).mkdir(parents=True, exist_ok=True)
    model = io.BytesIO()
    lines = TEXT.splitlines()[:3000] + CODE.splitlines() * 5 + ["日本語 中文 é ü ß"] * 5
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, num_threads=1, minloglevel=2, **settings)
    (OUT / name / file).write_bytes(model.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    save(name, lambda t: processor.encode(t), config)


def rules(path):
    """A small table of normalisation; that of NFKC takes a quarter of a megabyte."""
    table = {"Ａ": "A", "ｂ": "b", "ﬁ": "fi", "ﬂ": "fl", "①": "1", "\u3000": " ", "\u00a0": " ", "\t": " ", "\n": " ",
             "e\u0301": "é", "\u200b": "", "’": "'"}
    points = lambda text: " ".join(f"{ord(c):X}" for c in text)
    path.write_text("".join(f"{points(k)}\t{points(v)}\n" for k, v in table.items()))
    return str(path)


def byte_ranks(size):
    """Byte-pair ranks learned from the text, as tiktoken has them."""
    corpus = [bytes([b]) for b in (TEXT[:60000] + CODE * 40 + "日本語 é 🙂 " * 60).encode()]
    ranks = {bytes([b]): b for b in range(256)}
    while len(ranks) < size:
        counts = {}
        for pair in zip(corpus, corpus[1:]):
            counts[pair] = counts.get(pair, 0) + 1
        best = max((p for p in counts if p[0] + p[1] not in ranks), key=lambda p: (counts[p], p))
        ranks[best[0] + best[1]] = len(ranks)
        merged, i = [], 0
        while i < len(corpus):
            if i + 1 < len(corpus) and (corpus[i], corpus[i + 1]) == best:
                merged.append(best[0] + best[1])
                i += 2
            else:
                merged.append(corpus[i])
                i += 1
        corpus = merged
    return ranks


def tiktoken_file(name, file, pattern, ranks, special, config):
    (OUT / name).mkdir(parents=True, exist_ok=True)
    text = "".join(f"{base64.b64encode(t).decode()} {r}\n" for t, r in ranks.items())
    (OUT / name / file).write_text(text)
    encoding = tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)
    save(name, lambda t: encoding.encode(t, allowed_special="all"), config)


shutil.rmtree(OUT, ignore_errors=True)
OUT.mkdir()
common = dict(vocab_size=700, character_coverage=0.999)
sentencepiece_model("llama", {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
                    model_type="bpe", byte_fallback=True, normalization_rule_name="identity", split_digits=True,
                    remove_extra_whitespaces=False, allow_whitespace_only_pieces=True, **common)
table = rules(OUT / "rules.tsv")
sentencepiece_model("unigram", {"tokenizer_class": "T5Tokenizer", "eos_token": "</s>", "add_eos_token": True}, file="spiece.model",
                    model_type="unigram", normalization_rule_tsv=table, user_defined_symbols=["<x>", "<n>"], **common)
sentencepiece_model("unigram-bytes", {"tokenizer_class": "LlamaTokenizer", "add_bos_token": False}, model_type="unigram",
                    byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
                    user_defined_symbols=["<x>"], allow_whitespace_only_pieces=True, **common)
sentencepiece_model("gemma", {"tokenizer_class": "GemmaTokenizer", "bos_token": "<bos>", "eos_token": "<eos>"}, model_type="bpe",
                    byte_fallback=True, normalization_rule_name="identity", add_dummy_prefix=False, bos_piece="<bos>",
                    eos_piece="<eos>", pad_id=3, pad_piece="<pad>", remove_extra_whitespaces=False,
                    user_defined_symbols=["<x>", "\n\n", "▁▁▁▁"], **common)
(OUT / "rules.tsv").unlink()
ranks = byte_ranks(500)
extra = lambda first, names: {n: first + i for i, n in enumerate(names)}
tiktoken_file("qwen", "qwen.tiktoken", QWEN, ranks,
              extra(500, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"] + [f"<|extra_{i}|>" for i in range(205)]),
              {"tokenizer_class": "QWenTokenizer", "auto_map": {"AutoTokenizer": ["tokenization_qwen.QWenTokenizer", None]}})
glm = ["<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|system|>", "<|user|>", "<|assistant|>"]
tiktoken_file("glm4", "tokenizer.model", CL100K, ranks, extra(500, glm), {
    "tokenizer_class": "ChatGLM4Tokenizer", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>",
    "added_tokens_decoder": {str(500 + i): {"content": n, "special": True, "lstrip": False, "rstrip": False,
                                            "normalized": False, "single_word": False} for i, n in enumerate(glm)}})
reserved = [f"<|reserved_special_token_{i}|>" for i in range(251)]
llama3 = (["<|begin_of_text|>", "<|end_of_text|>"] + reserved[:4] + ["<|start_header_id|>", "<|end_header_id|>", reserved[4], "<|eot_id|>"]
          + reserved[5:])
tiktoken_file("llama3", "tokenizer.model", CL100K, ranks, extra(500, llama3), {})
(OUT / "hostile.json").write_text(json.dumps(HOSTILE) + "\n")


def gpt2():
    """Ids of the shared GPT-2 files by tiktoken's own implementation; the files are not copied."""
    vocab = json.loads((DATA / "cs336-a1/tests/fixtures/gpt2_vocab.json").read_text())
    printable = [b for b in range(256) if 0x21 <= b <= 0x7E or 0xA1 <= b <= 0xAC or 0xAE <= b <= 0xFF]
    others = [b for b in range(256) if b not in printable]
    of_char = {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}
    ranks = {bytes(of_char[c] for c in t): i for t, i in vocab.items() if t != "<|endoftext|>"}
    encoding = tiktoken.Encoding("gpt2", pat_str=GPT2, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": vocab["<|endoftext|>"]})
    write_json(OUT / "gpt2.json", [encoding.encode(t, allowed_special="all") for t in HOSTILE])


def stories():
    """Ids of the shared LLaMA model by sentencepiece."""
    processor = sentencepiece.SentencePieceProcessor(str(DATA / "stories260K/hf/tokenizer.model"))
    write_json(OUT / "stories260K.json", [processor.encode(t) for t in HOSTILE])


gpt2()
stories()
