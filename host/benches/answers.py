"""Seeded answers to arithmetic with their references, for timing: answers.py ROWS FILE."""

import json
import random
import sys


def main():
    rng = random.Random(11)
    with open(sys.argv[2], "w", encoding="utf-8") as out:
        for row in range(int(sys.argv[1])):
            a, b, c = rng.randint(1, 999), rng.randint(1, 99), rng.randint(1, 9)
            answer = a * c + b + (rng.random() < 0.5)
            steps = " ".join(
                f"Step {i}: we take {rng.randint(1, 999)} and add {rng.randint(1, 99)} to it, which is fine."
                for i in range(rng.randint(1, 8))
            )
            ends = [f"#### {answer}", f"\\boxed{{{answer}}}", f"<answer>{answer}</answer>", f"So it is {answer:,}."]
            reference = f"{a} times {c} is <<{a}*{c}={a * c}>>{a * c}, and {b} more.\n#### {a * c + b}"
            completion = f"{steps}\n{rng.choice(ends)}"
            out.write(json.dumps({"completion": completion, "reference": reference}) + "\n")


if __name__ == "__main__":
    main()
