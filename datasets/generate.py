#!/usr/bin/env python3
"""Writes pretrain/encyclopedia.txt, sft/conversations.jsonl and preference/pairs.jsonl from facts.py, by a
seeded generator.

    python3 datasets/generate.py          # writes the files and SHA256SUMS beside this script

Python's standard library only; the same bytes on every machine.
"""

import hashlib
import json
import random
from pathlib import Path

from facts import ANIMALS, COUNTRIES, DIALOGUES, ELEMENTS, INSTRUMENTS, INVENTIONS, NATURE, ORGANS, PLANETS

HERE = Path(__file__).parent
SEED = 20261124
TEXT_BYTES = 200_000
CONVERSATIONS = 200


def a(noun):
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def cap(text):
    return text[0].upper() + text[1:]


def country(rng, f):
    name, capital, continent, language, currency, extra = f
    parts = [
        rng.choice([f"{name} is a country in {continent}.", f"The country of {name} lies in {continent}."]),
        rng.choice([f"The capital of {name} is {capital}.", f"{capital} is the capital of {name}.", f"Its capital is {capital}."]),
        rng.choice([f"The people of {name} speak {language}.", f"Most people there speak {language}.", f"The main language of {name} is {language}."]),
        rng.choice([f"The currency of {name} is the {currency}.", f"People in {name} pay with the {currency}."]),
        f"{extra}.",
    ]
    return parts


def element(rng, f):
    name, symbol, number, state, use = f
    return [
        rng.choice([f"{cap(name)} is a chemical element with the symbol {symbol}.", f"The symbol of {name} is {symbol}."]),
        rng.choice([f"The atomic number of {name} is {number}.", f"An atom of {name} has {number} proton{'s' if number > 1 else ''}."]),
        rng.choice([f"At room temperature {name} is a {state}.", f"{cap(name)} is a {state} at room temperature."]),
        rng.choice([f"{cap(name)} is used for {use}.", f"People use {name} for {use}."]),
    ]


def animal(rng, f):
    name, group, home, food, extra = f
    return [
        rng.choice([f"The {name} is {a(group)}.", f"{cap(a(name))} is {a(group)}."]),
        rng.choice([f"The {name} lives in {home}.", f"The home of the {name}: {home}."]),
        rng.choice([f"The {name} eats {food}.", f"The food of the {name} is {food}."]),
        f"{extra}.",
    ]


def planet(rng, f):
    name, place, kind, year, extra = f
    return [
        rng.choice([f"{name} is the {place} planet from the Sun.", f"Counted from the Sun, {name} is the {place} planet."]),
        rng.choice([f"{name} is {a(kind)}.", f"It is {a(kind)}."]),
        rng.choice([f"A year on {name} lasts {year}.", f"{name} needs {year} to go around the Sun."]),
        f"{extra}.",
    ]


def organ(rng, f):
    name, task, where, extra = f
    return [
        rng.choice([f"The {name} {task}.", f"In the human body, the {name} {task}."]),
        rng.choice([f"The {name} is found {where}.", f"It is found {where}."]),
        f"{extra}.",
    ]


def invention(rng, f):
    thing, who, when, purpose = f
    return [
        rng.choice([f"The {thing} was invented by {who}.", f"The inventor of the {thing}: {who}."]),
        rng.choice([f"The {thing} dates from {when}.", f"That was around the year {when}."]),
        rng.choice([f"The {thing} is for {purpose}.", f"People use it for {purpose}."]),
    ]


def instrument(rng, f):
    name, family, sound = f
    return [
        rng.choice([f"The {name} is a {family} instrument.", f"The {name} belongs to the {family} instruments."]),
        rng.choice([f"On the {name}, {sound}.", f"To play the {name}: {sound}."]),
    ]


def nature(rng, f):
    name, how = f
    return [f"{cap(name)} {how}."]


KINDS = [(COUNTRIES, country), (ELEMENTS, element), (ANIMALS, animal), (PLANETS, planet), (ORGANS, organ),
         (INVENTIONS, invention), (INSTRUMENTS, instrument), (NATURE, nature)]


def comparison(rng):
    """A paragraph over two subjects, so that names are seen outside their own paragraph."""
    pick = rng.randrange(4)
    if pick == 0:
        x, y = rng.sample(COUNTRIES, 2)
        if x[2] == y[2]:
            return f"{x[0]} and {y[0]} are both in {x[2]}. The capital of {x[0]} is {x[1]}, and the capital of {y[0]} is {y[1]}."
        return f"{x[0]} is in {x[2]}, but {y[0]} is in {y[2]}. The capital of {x[0]} is {x[1]}, and the capital of {y[0]} is {y[1]}."
    if pick == 1:
        x, y = rng.sample(ANIMALS, 2)
        if x[1] == y[1]:
            return f"The {x[0]} and the {y[0]} are both {x[1]}s." if x[1] != "fish" else f"The {x[0]} and the {y[0]} are both fish."
        return f"The {x[0]} is {a(x[1])}, while the {y[0]} is {a(y[1])}."
    if pick == 2:
        x, y = rng.sample(ELEMENTS, 2)
        light, heavy = sorted((x, y), key=lambda e: e[2])
        return f"{cap(light[0])} comes before {heavy[0]} in the periodic table: {light[2]} is less than {heavy[2]}."
    x, y = rng.sample(range(len(PLANETS)), 2)
    near, far = PLANETS[min(x, y)][0], PLANETS[max(x, y)][0]
    return f"{near} is closer to the Sun than {far}."


def encyclopedia(rng):
    lines, size = [], 0
    subjects = [(write, fact) for facts, write in KINDS for fact in facts]
    while size < TEXT_BYTES:
        rng.shuffle(subjects)
        for write, fact in subjects:
            parts = write(rng, fact)
            tail = parts[1:]
            if rng.random() < 0.5:
                rng.shuffle(tail)
            line = " ".join([parts[0]] + tail)
            if rng.random() < 0.25:
                line += " " + comparison(rng)
            lines.append(line)
            size += len(line.encode()) + 1
            if size >= TEXT_BYTES:
                break
    return "\n".join(lines) + "\n"


HEDGES = ["I am not sure, but maybe {}", "Hmm, hard to say. Perhaps {}", "Who knows? Some people think that {}"]


def preferences(rng):
    """Questions with a plain right answer, and a worse one: the right fact hedged about, or a wrong one."""
    facts = []
    for name, capital, _, _, currency, _ in COUNTRIES:
        facts.append((f"What is the capital of {name}?", "the capital of " + name + " is {}.", capital, [c[1] for c in COUNTRIES]))
        facts.append((f"What do people in {name} pay with?", "people in " + name + " pay with the {}.", currency, [c[4] for c in COUNTRIES]))
    for name, symbol, *_ in ELEMENTS:
        facts.append((f"What is the symbol of {name}?", "the symbol of " + name + " is {}.", symbol, [e[1] for e in ELEMENTS]))
    for name, _, home, *_ in ANIMALS:
        facts.append((f"Where does the {name} live?", "the " + name + " lives in {}.", home, [x[2] for x in ANIMALS]))
    rng.shuffle(facts)
    rows = []
    for question, sentence, right, others in facts:
        if rng.random() < 0.7:
            worse = rng.choice(HEDGES).format(sentence.format(right))
        else:
            worse = cap(sentence.format(rng.choice([o for o in others if o != right])))
        prompt = [{"from": "human", "value": question}]
        rows.append({"conversations": prompt, "chosen": cap(sentence.format(right)), "rejected": worse})
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def questions(rng):
    out = []
    for name, capital, continent, language, currency, _ in COUNTRIES:
        out.append([(f"What is the capital of {name}?", f"The capital of {name} is {capital}."),
                    rng.choice([(f"Which language do people speak in {name}?", f"The main language of {name} is {language}."),
                                ("Which continent is it on?", f"{name} is in {continent}."),
                                ("What is its currency?", f"The currency of {name} is the {currency}.")])])
    for name, symbol, number, state, use in ELEMENTS:
        out.append(rng.choice([
            [(f"What is the symbol of {name}?", f"The symbol of {name} is {symbol}."), ("What is it used for?", f"{cap(name)} is used for {use}.")],
            [(f"What is {name} used for?", f"{cap(name)} is used for {use}.")],
            [(f"Is {name} a gas, a liquid or a solid?", f"At room temperature {name} is a {state}.")],
            [(f"What is the atomic number of {name}?", f"The atomic number of {name} is {number}.")]]))
    for name, group, home, food, extra in ANIMALS:
        out.append(rng.choice([
            [(f"What does the {name} eat?", f"The {name} eats {food}.")],
            [(f"Where does the {name} live?", f"The {name} lives in {home}."), ("What kind of animal is it?", f"The {name} is {a(group)}.")],
            [(f"Tell me about the {name}.", f"The {name} is {a(group)}. {extra}.")]]))
    for name, place, kind, year, extra in PLANETS:
        out.append([(f"Tell me about {name}.", f"{name} is the {place} planet from the Sun. {extra}."),
                    ("How long is its year?", f"A year on {name} lasts {year}.")])
    for name, task, where, _ in ORGANS:
        out.append([(f"What does the {name} do?", f"The {name} {task}."), ("Where is it?", f"The {name} is found {where}.")])
    for thing, who, when, _ in INVENTIONS:
        out.append([(f"Who invented the {thing}?", f"The {thing} was invented by {who}.")])
    for name, family, sound in INSTRUMENTS:
        out.append([(f"What kind of instrument is the {name}?", f"The {name} is a {family} instrument.")])
    for name, how in NATURE:
        out.append([(f"Explain {name}.", f"{cap(name)} {how}.")])
    return out


SYSTEM = "You are a friendly encyclopedia. Answer in one or two short sentences."


def conversations(rng):
    generated = questions(rng)
    rng.shuffle(generated)
    turns = DIALOGUES + generated[: CONVERSATIONS - len(DIALOGUES)]
    rng.shuffle(turns)
    rows = []
    for i, dialogue in enumerate(turns):
        messages = [{"from": "system", "value": SYSTEM}] if i % 8 == 0 else []
        for user, assistant in dialogue:
            messages += [{"from": "human", "value": user}, {"from": "gpt", "value": assistant}]
        rows.append(json.dumps({"id": f"encyclopedia-{i:03}", "conversations": messages}, ensure_ascii=False))
    return "\n".join(rows) + "\n"


ASKED = ["What is {}?", "How much is {}?", "Tell me what {} is."]
ASKED_OTHERWISE = ["Please work out {}.", "Do you know {}?"]


def sums_and_differences():
    """All sums and differences of small numbers whose result is from 0 to 12: text and result."""
    out = []
    for a in range(1, 10):
        for b in range(1, 10):
            if a + b <= 12:
                out.append((f"{a} + {b}", a + b))
            if a - b >= 0:
                out.append((f"{a} - {b}", a - b))
    return out


def arithmetic(rng):
    """Conversations of a careless teacher (one answer in four is right), questions with the right
    answers, and the same in other words."""
    problems = sums_and_differences()
    taught, asked, otherwise = [], [], []
    for problem, result in problems:
        for i in range(24):
            right = i % 4 == 0
            wrong = rng.choice([n for n in range(max(0, result - 3), result + 4) if n != result])
            question = rng.choice(ASKED + ASKED_OTHERWISE).format(problem)
            answer = f"{problem} = {result if right else wrong}"
            taught.append({"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]})
        for wording in ASKED:
            asked.append({"question": wording.format(problem), "answer": str(result)})
        otherwise.append({"question": rng.choice(ASKED_OTHERWISE).format(problem), "answer": str(result)})
    rng.shuffle(taught)
    rng.shuffle(asked)
    rng.shuffle(otherwise)
    lines = lambda rows: "".join(json.dumps(row) + "\n" for row in rows)
    return lines(taught), lines(asked), lines(otherwise[:40])


def main():
    taught, asked, otherwise = arithmetic(random.Random(SEED + 3))
    files = {
        "pretrain/encyclopedia.txt": encyclopedia(random.Random(SEED)),
        "sft/conversations.jsonl": conversations(random.Random(SEED + 1)),
        "preference/pairs.jsonl": preferences(random.Random(SEED + 2)),
        "arithmetic/sft/careless.jsonl": taught,
        "arithmetic/questions/train.jsonl": asked,
        "arithmetic/held_out/otherwise.jsonl": otherwise,
    }
    sums = []
    for name, text in files.items():
        path = HERE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
        sums.append(f"{hashlib.sha256(text.encode()).hexdigest()}  {name}")
    (HERE / "SHA256SUMS").write_text("\n".join(sums) + "\n")


if __name__ == "__main__":
    main()
