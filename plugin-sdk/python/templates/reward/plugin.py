"""A reward: 1 where the final answer of a completion is that of the reference."""

import re

from trainer_plugin import Reward, Row, Score, text

NUMBER = re.compile(r"[0-9]+(?:,[0-9]{3}(?![0-9]))*(?:\.[0-9]+)?")


class Plugin(Reward):
    name = "my-plugin"
    version = "0.1.0"
    summary = "1 where the final answer is that of the reference, else 0."
    reads = [text("completion"), text("reference", optional=True)]
    options = {
        "unmarked": {"type": "number", "default": 1, "minimum": 0, "maximum": 1,
                     "description": "score of a right answer that no #### marks"},
    }

    def __init__(self, options, seed):
        self.unmarked = float(options.get("unmarked", 1.0))

    def score(self, row: Row):
        reference = answer(row["reference"] or "")
        if reference is None:
            return None
        completion = row["completion"] or ""
        marked = "####" in completion
        right = answer(completion) == reference
        value = (1.0 if marked else self.unmarked) if right else 0.0
        return Score(value, {"marked": float(marked)})


def answer(said: str):
    """The first number after the last `####`, else the last number; in canonical form."""
    _, marker, rest = said.rpartition("####")
    found = None
    for found in NUMBER.finditer(rest):
        if marker:
            break
    if found is None:
        return None
    at = found.start()
    before = rest[max(at - 2, 0):at]
    negative = before.endswith("-") and not NUMBER.match(before)
    return canonical("-" if negative else "", found[0])


def canonical(sign: str, number: str) -> str:
    """Without separators and zeros that say nothing."""
    whole, _, fraction = number.replace(",", "").partition(".")
    whole, fraction = whole.lstrip("0") or "0", fraction.rstrip("0")
    digits = f"{whole}.{fraction}" if fraction else whole
    return digits if digits == "0" else sign + digits
