"""Trains the reader of llmguide.enterprise.reader on training articles of SQuAD; run by itself: python benchmarks/build_reader.py

Works in slices: what is learned is kept in the cache folder after each, and the next call goes on. The last one writes
the adapter and its card to llmguide/assets/reader. Articles for calibration and for reports are never trained on.
"""

import argparse
import json
import random
import sys
import time
from datetime import UTC, datetime
from hashlib import sha256

import numpy as np
import torch
from safetensors.torch import save
from transformers import AutoModel

from llmguide.catalog import resolve
from llmguide.enterprise.reader import batch, kinds_of_four, point
from llmguide.enterprise.reader_input import load_tokenizer, make_window, part_spans
from llmguide.enterprise.support import corruptions
from llmguide.enterprise.facts import quotable_spans, stems
from llmguide.settings import assets, get_settings, write_atomically

MODEL, RANK, SCALE, SIZE = "all-minilm-l6-v2", 8, 2.0, 16
FOLDS, SEED = (13, 6), 0  # of the articles that have unanswerable questions: training, calibration; the rest is for reports


def load_squad():
    """Passages {title, text}, questions {question, passage, title, golds, impossible, second} and title -> part."""
    folder = resolve("squad").path
    first, second = (json.loads((folder / f"dev-v{version}.json").read_text(encoding="utf-8"))["data"] for version in ("1.1", "2.0"))
    both = sorted(article["title"] for article in second)
    random.Random(SEED).shuffle(both)
    parts = {article["title"]: "train" for article in first}
    parts |= {title: "calibrate" for title in both[FOLDS[0] : sum(FOLDS)]} | {title: "report" for title in both[sum(FOLDS) :]}
    passages, questions = {}, {}
    for articles in (first, second):
        for article, paragraph in ((each, paragraph) for each in articles for paragraph in each["paragraphs"]):
            place = passages.setdefault(paragraph["context"], len(passages))
            for asked in paragraph["qas"]:
                text, impossible = asked["question"].strip(), bool(asked.get("is_impossible"))
                row = questions.setdefault((text, place, impossible), {
                    "question": text, "passage": place, "title": article["title"], "impossible": impossible,
                    "golds": [answer["text"] for answer in asked["answers"]], "second": False})
                row["second"] |= articles is second
    titles = {question["passage"]: question["title"] for question in questions.values()}
    return [{"title": titles[n], "text": text} for text, n in passages.items()], list(questions.values()), parts


class Low(torch.nn.Module):
    """A frozen linear layer and its low-rank change."""

    def __init__(self, base):
        super().__init__()
        self.base = base
        self.down = torch.nn.Parameter(torch.randn(RANK, base.in_features) / base.in_features**0.5)
        self.up = torch.nn.Parameter(torch.zeros(base.out_features, RANK))

    def forward(self, x): return self.base(x) + SCALE * (x @ self.down.T) @ self.up.T


class Learner(torch.nn.Module):
    """The encoder with what is trained: an adapter on every linear layer, or every weight, and the two pointers."""

    def __init__(self, full=False):
        super().__init__()
        torch.manual_seed(SEED)
        self.network = AutoModel.from_pretrained(resolve(MODEL).path)
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad = full and not name.startswith(("pooler", "embeddings.word"))
        kinds_of_four(self.network)
        self.weight, self.bias = torch.nn.Parameter(torch.randn(2, 384) * 0.02), torch.nn.Parameter(torch.zeros(2))
        linear = [name for name, module in self.network.encoder.named_modules() if isinstance(module, torch.nn.Linear)]
        for name in linear if not full else []:
            parent, _, last = name.rpartition(".")
            setattr(self.network.encoder.get_submodule(parent), last, Low(self.network.encoder.get_submodule(name)))

    def forward(self, inputs): return point(self.network(**inputs).last_hidden_state, inputs, self.weight, self.bias)

    def learned(self):
        """What has to be kept, by name."""
        return {name: value.detach() for name, value in self.named_parameters() if value.requires_grad}


class Lessons:
    """Draws windows for an epoch: the one with the answer, and others that look as if they had it."""

    def __init__(self, tokenizer, passages, questions):
        from sklearn.feature_extraction.text import TfidfVectorizer

        self.tokenizer, self.passages, self.questions = tokenizer, passages, questions
        words = TfidfVectorizer(analyzer=stems, sublinear_tf=True)
        table = words.fit_transform([passage["text"] for passage in passages])
        close = (words.transform([question["question"] for question in questions]) @ table.T).toarray()
        self.near = np.argsort(-close, axis=1)[:, :6]
        self.parts = [part_spans(tokenizer, passage["text"]) for passage in passages]

    def _by_words(self, question, place):
        asked, text = set(stems(question)), self.passages[place]["text"]
        return sorted(self.parts[place], key=lambda span: -len(asked & set(stems(text[span[0] : span[1]]))))

    def _foreign(self, number, rng):
        """A part of a passage that was found for the question and doesn't answer it."""
        question = self.questions[number]
        others = [place for place in self.near[number] if place != question["passage"]
                  and not any(gold in self.passages[place]["text"] for gold in question["golds"])]
        if not others: return None
        place = others[0 if rng.random() < 0.5 else rng.randrange(len(others))]
        return place, self._by_words(question["question"], place)[0]

    def rows(self, number, rng):
        """(window, start, end) for one question: the true place, and one or two that hold no answer."""
        question, place = self.questions[number], self.questions[number]["passage"]
        text, ranked = self.passages[place]["text"], self._by_words(self.questions[number]["question"], place)
        found = [(at, gold, span) for span in ranked for gold in question["golds"]
                 if (at := text.find(gold, *span)) >= 0] if not question["impossible"] else []
        empty = [span for span in ranked if span not in [each[2] for each in found]]
        chosen = [(place, empty[0 if rng.random() < 0.75 else rng.randrange(len(empty))])] if empty and (
            question["impossible"] or rng.random() < 0.4) else []
        if not question["impossible"] and rng.random() < 0.5: chosen += [each for each in [self._foreign(number, rng)] if each]
        rows = [(make_window(self.tokenizer, question["question"], self.passages[p]["text"], *span), 0, 0) for p, span in chosen]
        if found:
            at, gold, span = found[0]
            window = make_window(self.tokenizer, question["question"], text, *span)
            inside = [n for n, (a, b) in enumerate(window.offsets) if a < at + len(gold) and b > at]
            if inside: rows.append((window, window.first + inside[0], window.first + inside[-1]))
            if rng.random() < 0.3: rows += self._altered(question["question"], text, span, rng)
        return rows

    def _altered(self, asked, text, span, rng):
        """A question about another name or number, or the opposite, which the same part doesn't answer."""
        others = [text[start:end] for start, end in quotable_spans(text)]
        made = corruptions(asked, rng.sample(others, len(others)))
        fit = [made[kind] for kind in ("number", "name", "opposite") if kind in made]
        return [(make_window(self.tokenizer, said, text, *span), 0, 0) for said in fit[:1]]

    def epoch(self, seed):
        """Batches of windows of about equal length, in random order."""
        rng = random.Random(seed)
        order = rng.sample(range(len(self.questions)), len(self.questions))
        for start in range(0, len(order), 240):  # a block at a time: nothing is prepared that isn't used
            rows = [row for number in order[start : start + 240] for row in self.rows(number, rng)]
            rows.sort(key=lambda row: len(row[0].tokens))
            batches = [rows[i : i + SIZE] for i in range(0, len(rows), SIZE)]
            rng.shuffle(batches)
            yield from batches


def train(learner, lessons, state, rate, total, minutes, path):
    """Train until the time or the steps are over, and keep what is learned."""
    parameters = [parameter for parameter in learner.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.01)
    if state: optimizer.load_state_dict(state["optimizer"])
    step, begun, losses = state["step"] if state else 0, time.perf_counter(), state["losses"] if state else []
    learner.train()
    for rows in lessons.epoch(step + 1):  # every slice draws its own rows
        if step >= total or time.perf_counter() - begun > 60 * minutes: break
        for group in optimizer.param_groups: group["lr"] = rate * min(1, (step + 1) / (0.05 * total)) * max(0.02, 1 - step / total)
        scores = learner({name: torch.from_numpy(values) for name, values in batch([row[0] for row in rows]).items()})
        goals = torch.tensor([row[1:] for row in rows])
        loss = sum(torch.nn.functional.cross_entropy(scores[..., side], goals[:, side]) for side in (0, 1)) / 2
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step, losses = step + 1, [*losses, float(loss.detach())]
        spent = time.perf_counter() - begun
        if step % 25 == 0: print(f"step {step} of {total}: loss {np.mean(losses[-50:]):.3f}, {spent:.0f} s", flush=True)
    kept = path.with_suffix(".new")
    torch.save({"step": step, "losses": losses, "learned": learner.learned(), "optimizer": optimizer.state_dict()}, kept)
    kept.replace(path)
    return step


def write_reader(learner, **about):
    """The adapter in half precision and its card, to the package's assets."""
    tensors = {"kinds": learner.network.embeddings.token_type_embeddings.weight, "head.weight": learner.weight, "head.bias": learner.bias}
    for name, module in learner.network.named_modules():
        if isinstance(module, Low): tensors |= {f"{name}.down": module.down, f"{name}.up": module.up}
    data = save({name: tensor.detach().half().contiguous() for name, tensor in tensors.items()})
    card = {"model": MODEL, "rank": RANK, "scale": SCALE, "task": "points at the answer to an English question in a passage, or at nothing",
            "data": "SQuAD 1.1 and 2.0, training articles of the development part", "licence": "CC BY-SA 4.0 (data and adapter)",
            "date": datetime.now(UTC).date().isoformat(), "made_with": "benchmarks/build_reader.py", **about,
            "sha256": sha256(data).hexdigest()}
    write_atomically(assets() / "reader/reader.safetensors", data)
    write_atomically(assets() / "reader/card.json", json.dumps(card, indent=1, ensure_ascii=False) + "\n")
    return len(data)


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--minutes", type=float, default=600.0, help="of this slice")
    options.add_argument("--steps", type=int, default=1500, help="of the whole training")
    options.add_argument("--rate", type=float, default=2e-3, help="learning rate")
    options.add_argument("--full", action="store_true", help="train every weight: a comparison, not written to the assets")
    options.add_argument("--name", default="reader", help="of the file in the cache folder")
    chosen = options.parse_args()
    if get_settings().threads: torch.set_num_threads(get_settings().threads)
    passages, questions, parts = load_squad()
    taught = [question for question in questions if parts[question["title"]] == "train"]
    lessons = Lessons(load_tokenizer(MODEL), passages, taught)
    path = get_settings().cache_dir / "training" / f"{chosen.name}.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    state = torch.load(path, weights_only=True) if path.exists() else None
    learner = Learner(chosen.full)
    if state: learner.load_state_dict(state["learned"], strict=False)
    step = train(learner, lessons, state, chosen.rate, chosen.steps, chosen.minutes, path)
    if step < chosen.steps: print(f"{step} of {chosen.steps} steps are done: call again to go on")
    if not chosen.full:
        titles = {part: sorted(title for title in parts if parts[title] == part) for part in ("train", "calibrate", "report")}
        size = write_reader(learner, steps=step, of=chosen.steps, rows=len(taught), articles=titles)
        print(f"llmguide/assets/reader: {size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
