"""The two heads of `detect_intent`, from data/intents.csv: letters and words in both languages, vectors in English.

Run `python benchmarks/build_intents.py`; it writes llmguide/assets/intents and prints what was right on the validation part.
"""

import numpy as np

from llmguide.enterprise.encoder import open_encoder
from llmguide.enterprise.intents import desk_scores, rule_intent
from llmguide.enterprise.linear import save_linear, train_linear
from llmguide.load import read_table
from llmguide.settings import assets
from llmguide.stories import project_folder


def parts():
    """The rows to train on, those to choose with, and the tickets that are only tested on."""
    rows = read_table(project_folder() / "data" / "intents.csv")
    return [[row for row in rows if row["part"] == part] for part in ("train", "validation")]


def build():
    """Train both heads and write them."""
    train = parts()[0]
    save_linear(train_linear(train, "words"), assets() / "intents" / "words")
    save_linear(train_linear([row for row in train if row["language"] == "en"], "meaning"), assets() / "intents" / "meaning")


def right(rows, language, answer):
    """Whether each row of a language got its desk."""
    return [answer(row["text"]) == row["label"] for row in rows if row["language"] == language]


if __name__ == "__main__":
    build()
    encoder, validation = open_encoder("all-minilm-l6-v2-int8"), parts()[1]
    best = lambda scores: max(scores, key=scores.get)  # noqa: E731
    for language in ("en", "zh"):
        print(language, "rules", round(np.mean(right(validation, language, rule_intent)), 3))
        for vote in (0, 0.25, 0.5, 0.75, 1, 1.5):
            for name, opened in (("words", None), ("meaning", encoder)):
                own = right(validation, language, lambda text, vote=vote, opened=opened: best(desk_scores(text, opened, vote)))
                print(language, name, vote, round(np.mean(own), 3))
