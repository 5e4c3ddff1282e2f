"""Write data/reasoning.jsonl: arithmetic and logic questions with exact answers, by difficulty.

The questions come from reasoning-gym 0.1.25 (Apache-2.0). It is needed for this script only, and one of the packages it
needs is compiled on installation, so it is no dependency of the project. Give it an environment of its own:

    python3 -m venv rg
    rg/bin/pip install reasoning-gym==0.1.25
    rg/bin/python benchmarks/make_reasoning.py data/reasoning.jsonl

Every seed is fixed: the file comes out the same, byte for byte. What is changed: the words about the form of the answer
are taken away, because that is what a prompt says, and a puzzle about several people asks about one of them, so that
yes or no answers it. What is left out: questions seen before, questions too long for a small model, arguments whose
answer doesn't hold when every case is tried, and answers beyond the half that each of Yes and No may have.
"""

import json
import re
import sys
from itertools import product
from pathlib import Path

EACH = 60  # rows of a data set and level
LONGEST = 330  # characters of a question
CHAIN, TERMS = "chain_sum", ((2, 1), (2, 2), (3, 2), (4, 3))  # numbers in a sum, digits of each; level 1 first
MIXED, OPERATIONS = "basic_arithmetic", ((2, 1), (3, 1), (3, 2), (4, 2))  # the same with brackets, products, minus signs
SYLLOGISM, FORMS = "syllogism", ({"allow_some": False, "allow_some_not": False, "inversion_probability": 0.0},
                                 {"allow_some_not": False, "inversion_probability": 0.0}, {"inversion_probability": 0.5})
KNIGHTS = "knights_knaves"


def holds(kind, first, second, world):
    """Is `All first are second` (or another form) true in a world: the set of kinds of things that exist?"""
    both = any(first in thing and second in thing for thing in world)
    only = any(first in thing and second not in thing for thing in world)
    return {"All": not only, "No": not both, "Some": both, "Some not": only}[kind]


def parse(sentence):
    """A sentence of a syllogism as its form and its two terms."""
    kind, first, no, second = re.fullmatch(r"(All|No|Some) (\w+) are (not )?(\w+)", sentence).groups()
    return kind + (" not" if no else ""), first, second


def follows(premises, conclusion):
    """Does the conclusion hold in every world where the premises do and every term names something?"""
    facts = [parse(sentence) for sentence in premises]
    terms = sorted({term for _, *pair in facts for term in pair})
    things = [frozenset(t for t, there in zip(terms, kept) if there) for kept in product((0, 1), repeat=len(terms))]
    for exists in product((0, 1), repeat=len(things)):
        world = [thing for thing, there in zip(things, exists) if there]
        if not all(any(term in thing for thing in world) for term in terms): continue
        if all(holds(*fact, world) for fact in facts) and not holds(*parse(conclusion), world): return False
    return True


def plain_sum(item):
    """A calculation without words about the form of the answer."""
    return f"Calculate {item['metadata']['expression']}.", item["answer"]


def plain_syllogism(item):
    """Premises and conclusion; None where trying every case gives another answer."""
    about = item["metadata"]
    right = follows((about["premise1"], about["premise2"]), about["conclusion"])
    if right != (item["answer"] == "Yes"): return None
    return item["question"].replace("\n(Answer Yes or No)", ""), item["answer"]


def plain_knights(item):
    """The puzzle, asking about one of the two people."""
    about = item["metadata"]
    person = item["metadata"]["source_index"] % 2
    puzzle = item["question"].split(" So who is ")[0]
    words = about["knight_knave_terms"]
    return f"{puzzle} Is {about['names'][person]} {words['a_knight']}?", "Yes" if about["solution"][person] else "No"


def levels():
    """(task, data set, level, how to make it plain, its configuration), in the order of the file."""
    for name, sizes in ((CHAIN, TERMS), (MIXED, OPERATIONS)):
        more = {"operators": ("+", "-", "*"), "allow_negation": False} if name == MIXED else {}
        for level, (terms, digits) in enumerate(sizes, 1):
            size = {"min_terms": terms, "max_terms": terms, "min_digits": digits, "max_digits": digits}
            yield "arithmetic", name, level, plain_sum, size | more
    for level, form in enumerate(FORMS, 1): yield "logic", SYLLOGISM, level, plain_syllogism, {"invalid_ratio": 0.5} | form
    yield "logic", KNIGHTS, 4, plain_knights, {"n_people": 2, "depth_constraint": 2, "width_constraint": 2}


def some_rows(task, name, level, plain, config, each, seen):
    """Rows of one data set and level: no question twice, Yes and No in equal shares."""
    import reasoning_gym

    first, kept, share = 100_000 * level, [], {"Yes": 0, "No": 0}
    for place, item in enumerate(reasoning_gym.create_dataset(name, size=3000, seed=first, **config)):
        made = plain(item)
        if made is None or made[0] in seen or len(made[0]) > LONGEST: continue
        question, answer = made
        if answer in share:
            if share[answer] == each // 2: continue
            share[answer] += 1
        seen.add(question)
        kept.append({"task": task, "name": name, "level": level, "question": question, "answer": answer, "seed": first + place})
        if len(kept) == each: return kept
    raise ValueError(f"{name} level {level}: only {len(kept)} of {each} rows; raise `size`")


def main(target):
    """Write the file."""
    rows, seen = [], set()
    for task, name, *rest in levels():
        rows += some_rows(task, name, *rest, EACH if task == "arithmetic" else 100, seen)
    Path(target).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    print(f"{len(rows)} rows")


if __name__ == "__main__":
    main(sys.argv[1])
