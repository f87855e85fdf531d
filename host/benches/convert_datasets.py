"""What `trainer convert --plugin sharegpt` does, by Hugging Face datasets: convert_datasets.py IN OUT."""

import sys
import time

import datasets

ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system",
    "function_call": "assistant", "observation": "tool", "tool": "tool",
}


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


def main():
    datasets.disable_progress_bars()
    start = time.time()
    rows = datasets.load_dataset("json", data_files=sys.argv[1], split="train", cache_dir=sys.argv[2] + ".cache")
    loaded = time.time()
    rows = rows.map(messages, remove_columns=rows.column_names)
    mapped = time.time()
    rows.to_parquet(sys.argv[2])
    print(f"load {loaded - start:.2f} s, map {mapped - loaded:.2f} s, write {time.time() - mapped:.2f} s")


if __name__ == "__main__":
    main()
