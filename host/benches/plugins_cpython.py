"""What `sharegpt` and `accuracy` do, in CPython: plugins_cpython.py sharegpt|accuracy FILE OUT."""

import json
import re
import sys
import time

ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system",
    "function_call": "assistant", "observation": "tool", "tool": "tool",
}
NUMBER = re.compile(r"-?\$?\d[\d,]*(?:\.\d+)?%?")


def messages(row):
    out = []
    for turn in row["conversations"]:
        role = ROLES.get(turn["from"])
        if role is None:
            continue
        if out and out[-1]["role"] == role:
            out[-1]["content"] += "\n" + turn["value"]
        else:
            out.append({"role": role, "content": turn["value"]})
    while out and out[0]["role"] not in ("user", "system"):
        out.pop(0)
    while out and out[-1]["role"] != "assistant":
        out.pop()
    return {"messages": out}


def final(text):
    """The part of a text that is its answer: after ####, in a box, in answer tags, the last number."""
    for pattern in (r"<answer>(.*?)</answer>", r"\\boxed\{([^{}]*)\}", r"####\s*(.+)"):
        found = re.findall(pattern, text, re.DOTALL)
        if found:
            return found[-1].strip()
    found = NUMBER.findall(text)
    return found[-1] if found else text.strip()


def number(text):
    text = text.strip().rstrip(".").replace(",", "").replace("$", "")
    try:
        return float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def accuracy(row):
    if row.get("reference") is None:
        return None
    answer, reference = final(row["completion"]), final(row["reference"])
    a, b = number(answer), number(reference)
    if a is not None and b is not None:
        return float(abs(a - b) <= 1e-6 * max(1.0, abs(b)))
    return float(answer == reference)


def main():
    name, source, target = sys.argv[1:]
    work = {"sharegpt": messages, "accuracy": accuracy}[name]
    best, rows = float("inf"), 0
    for _ in range(3):
        start = time.process_time()
        with open(source, encoding="utf-8") as lines, open(target, "w", encoding="utf-8") as out:
            rows = 0
            for line in lines:
                out.write(json.dumps(work(json.loads(line)), ensure_ascii=False) + "\n")
                rows += 1
        best = min(best, time.process_time() - start)
    with open(source, encoding="utf-8") as lines:
        parsed = [json.loads(line) for line in lines]
    start = time.process_time()
    for row in parsed:
        work(row)
    call = time.process_time() - start
    print(f"{name}, CPython {sys.version.split()[0]}: whole {rows / best:.0f} rows/s, call {rows / call:.0f} rows/s")


if __name__ == "__main__":
    main()
