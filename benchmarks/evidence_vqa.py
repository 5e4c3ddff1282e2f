"""M3 and the figures of visual question answering; run by `llmguide evidence vqa`.

Builds the model where that isn't done yet (resumable), answers the official easy-VQA test part, compares with what
half of the input is worth and with numbers pasted into the prompt, and times single requests. What is done is kept.
"""

import json
import random
import sys
import time

import numpy as np

from llmguide.evidence import Interval, Measurement, bootstrap_interval, record, record_curve
from llmguide.finetuning.classify import score_labels
from llmguide.load import load_causal
from llmguide.multimodal.projector import answer_scores, image_tokens, kept_vectors
from llmguide.multimodal.questions import (
    ANSWERS, QuestionOnly, accuracy_by_type, drawn_quiz, easy_vqa, image_only, load_questions,
)
from llmguide.multimodal.vqa import CARD, VisualQuestionAnswering, build_vqa, pasted_prompt, vqa_folder
from llmguide.settings import choose_runtime, get_settings, write_atomically

MODEL, PART, PASTED, REQUESTS = "smollm2-135m-instruct", 100, 80, 200


def pieces_folder(card):
    """Where answers of this very model are kept between parts of a run."""
    name = f"vqa-{card['date']}-{card['seconds']}"
    return get_settings().cache_dir / "evidence" / name


def parts_of(quiz):
    """The test questions in parts of a hundred pictures, drawn by chance, so that any number of parts is a fair sample."""
    order = random.Random(0).sample(range(len(quiz.pictures)), len(quiz.pictures))
    for number, start in enumerate(range(0, len(order), PART)):
        chosen = set(order[start : start + PART])
        yield number, [q for q in quiz.questions if q.picture in chosen]


def kept_answers(file, ask):
    """Answers from the disk, or asked for and kept there."""
    if not file.exists(): write_atomically(file, json.dumps(ask()))
    return json.loads(file.read_text(encoding="utf-8"))


def model_answers(seer, vectors, questions):
    """The trained model's choice for each question."""
    scores = answer_scores(seer.trained.visual, [q.text for q in questions], vectors[[q.picture for q in questions]], ANSWERS)
    return [ANSWERS[best] for best in scores.argmax(1)]


def pasted_answers(vectors, chosen):
    """Answers of the untrained language model to prompts with a picture's numbers in them, by likelihood."""
    model, tokenizer = load_causal(MODEL, precision=choose_runtime().precision)
    first = [tokenizer(f" {answer}").input_ids[:1] for answer in ANSWERS]
    prompts = [tokenizer(pasted_prompt(vectors[q.picture], q.text)).input_ids for q in chosen]
    return [ANSWERS[best] for best in score_labels(model, tokenizer, prompts, first).argmax(1)]


def record_rows(found, source, card, asked):
    """The table of all methods so far."""
    rows = [{"method": name, **row} for name, each in found.items() for row in each]
    note = "official test part; intervals count pictures; numbers in the prompt on a sample of it"
    record_curve("vqa_test", rows, note=note, data=source, model=MODEL, training_seconds=card["seconds"], asked=asked, pasted=PASTED)
    for row in rows:
        if row["type"] == "all": print("   ", row, flush=True)


def record_test(seer, train, test, folder):
    """Accuracy by type: the model, half of the input, and numbers in the prompt; written again after every part."""
    vectors, card, asked, answers = kept_vectors(test.pictures), seer.trained.card, [], []
    record_curve("vqa_training", card["history"], note="accuracy on questions about training pictures held back",
                 data=train.source, model=MODEL, stages=card["stages"], seconds=card["seconds"])
    per_picture = image_only(kept_vectors(train.pictures), train.questions, vectors)
    halves = {"question only": accuracy_by_type(test.questions, QuestionOnly(train.questions).answer(test.questions)),
              "picture only": accuracy_by_type(test.questions, [per_picture[q.picture] for q in test.questions])}
    for number, part in parts_of(test):
        answers += kept_answers(folder / f"{number}.json", lambda: model_answers(seer, vectors, part))  # noqa: B023
        asked += part
        record_rows({"picture and question": accuracy_by_type(asked, answers)} | halves, test.source, card, len(asked))
    chosen = random.Random(0).sample(test.questions, min(PASTED, len(test.questions)))
    pasted = kept_answers(folder / "pasted.json", lambda: pasted_answers(vectors, chosen))
    found = {"picture and question": accuracy_by_type(asked, answers), **halves, "numbers in the prompt": accuracy_by_type(chosen, pasted)}
    record_rows(found, test.source, card, len(asked))


def record_delays(seer, quiz):
    """M3: from a picture file and a question to the answer, one request after another."""
    chosen, delays = random.Random(1).sample(quiz.questions, min(REQUESTS + 10, len(quiz.questions))), []
    for q in chosen:
        start = time.perf_counter()
        seer.generate_answer(quiz.pictures[q.picture], q.text)
        delays.append(1000 * (time.perf_counter() - start))
    delays = delays[10:]  # the first requests pay for memory and caches
    found = bootstrap_interval(delays, statistic=lambda values: float(np.percentile(values, 95)))
    record_curve("vqa_latency", [{"milliseconds": round(delay, 2)} for delay in delays], note="one request at a time",
                 data=quiz.source, model=MODEL, precision=choose_runtime().precision)
    record(Measurement("M3", Interval(*found), dataset="easy-vqa", dataset_source=quiz.source, model=MODEL, rows=len(delays),
                       config={"method": "projector and LoRA", "image_tokens": image_tokens(seer.trained.visual.projector)},
                       note="picture file and question to answer, one request after another"))
    print(f"    p95 {found} ms", flush=True)


def main():
    if not (vqa_folder() / CARD).exists(): build_vqa()
    seer = VisualQuestionAnswering()
    try: train, test = easy_vqa("train"), easy_vqa("test")
    except FileNotFoundError: train, test = load_questions("train"), drawn_quiz(200, seed=1)
    record_delays(seer, test)
    record_test(seer, train, test, pieces_folder(seer.trained.card))
    return 0


if __name__ == "__main__":
    sys.exit(main())
