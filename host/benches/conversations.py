"""Seeded ShareGPT conversations for timing: conversations.py MEGABYTES FILE."""

import json
import random
import sys


def main():
    rng = random.Random(7)
    letters = "etaoinshrdlucmfwypvbgk"
    words = ["".join(rng.choice(letters) for _ in range(rng.randint(2, 9))) for _ in range(5000)]
    texts = [" ".join(rng.choice(words) for _ in range(rng.randint(20, 120))) for _ in range(3000)]
    left, row = int(sys.argv[1]) * 1_000_000, 0
    with open(sys.argv[2], "w", encoding="utf-8") as out:
        while left > 0:
            turns = []
            for _ in range(rng.randint(1, 4)):
                question = rng.choice(texts)[: rng.randint(30, 300)]
                turns.append({"from": "human", "value": question + (' "q"\n' if row % 7 == 0 else "")})
                turns.append({"from": "gpt", "value": rng.choice(texts) + (" é木" if row % 5 == 0 else "")})
            line = json.dumps({"id": f"row-{row}", "conversations": turns}, ensure_ascii=False) + "\n"
            out.write(line)
            left -= len(line.encode())
            row += 1


if __name__ == "__main__":
    main()
