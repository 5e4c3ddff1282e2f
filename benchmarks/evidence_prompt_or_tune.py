"""The table of nbs/2_prompting/07_prompt_or_tune: prompts, examples and LoRA on one task; run by `llmguide evidence prompt_or_tune`.

Sentiment of financial news with the small model, on the same test rows for all: the plain prompt, the best of five prompts
chosen on 60 rows, few-shot with more and more examples, and LoRA on more and more rows. Prompts are scored by likelihood,
plain and calibrated. Seconds are those of this run. What is done stands in results/prompting_prompt_or_tune.json.
"""

import dataclasses
import sys
import tempfile
import time
from collections import Counter

from llmguide.evidence import load_curve, record_curve
from llmguide.finetuning.classify import Classifier
from llmguide.finetuning.methods import apply, merge, method
from llmguide.finetuning.prepare import clean_rows, encode_rows
from llmguide.finetuning.train import train
from llmguide.load import Rows, load_causal, load_rows, split_rows
from llmguide.prompting.scoring import Scorer, blank_prompts, calibrated
from llmguide.prompting.tasks import load_task
from llmguide.prompting.techniques import domain_terms, few_shot, format_constraint, guided_context, negative_exclusion, zero_shot
from llmguide.settings import choose_runtime

MODEL, RESULT, TEST, CHOOSING, EPOCHS = "smollm2-135m-instruct", "prompting_prompt_or_tune", 150, 60, 2
SHOTS, TUNED, MOST = (3, 12), (30, 120), 240  # examples shown; rows trained on here, and in `llmguide evidence methods`
PROMPTS = {"plain": zero_shot, "answer form": format_constraint, "context": guided_context, "terms": domain_terms,
           "exclusions": negative_exclusion}


def quiet(line):
    """Progress of single steps is left out."""


def the_task():
    """The sentiment task of this chapter with the rows of the fine-tuning chapter: some to learn from, others to ask."""
    task = load_task("sentiment", rows=1)
    training, _, test = split_rows(load_rows(task.rows.name))
    training = clean_rows(training)[0]
    by_label = [[row for row in training if row["label"] == label] for label in task.labels]
    in_turn = Rows([row for turn in zip(*by_label) for row in turn], test.name, test.source)
    return dataclasses.replace(task, examples=in_turn, rows=Rows(test[:TEST], test.name, test.source)), training


def asked(scorer, task, rows, technique):
    """Right or not for each row, without and with calibration, and milliseconds an answer."""
    prompts, labels = [technique(task, row["text"]) for row in rows], list(task.labels)
    start = time.perf_counter()
    scores = scorer.scores(prompts, labels)
    milliseconds = 1000 * (time.perf_counter() - start) / len(rows)
    found = {"": scores, ", calibrated": calibrated(scores, scorer.scores(blank_prompts(prompts), labels))}
    return {how: right([labels[place] for place in part.argmax(1)], rows) for how, part in found.items()}, milliseconds


def right(answers, rows):
    """A 0 or 1 for each row."""
    return "".join(str(int(answer == row["label"])) for answer, row in zip(answers, rows))


def best_prompt(scorer, task, rows):
    """The prompt and the calibration that do best on labelled rows, and the minutes of the choice."""
    start = time.perf_counter()
    tried = {(name, how): bits.count("1") for name, technique in PROMPTS.items()
             for how, bits in asked(scorer, task, rows, technique)[0].items()}
    print("    ", tried, flush=True)
    return *max(tried, key=tried.get), (time.perf_counter() - start) / 60


def tuned(task, training, count):
    """LoRA on so many rows: right or not, milliseconds an answer, minutes of training, tokens."""
    rates = [t for t in load_curve("finetuning_learning_rates") if t["method"] == "lora"]
    chosen = method("lora", learning_rate=max(rates, key=lambda t: t["macro_f1"])["learning_rate"])
    model, tokenizer = load_causal(MODEL, choose_runtime().precision)
    with tempfile.TemporaryDirectory() as folder:
        examples = encode_rows(training[:count], tokenizer)
        run = train(adapted := apply(model, chosen, 0), examples, chosen, folder, tokenizer.pad_token_id, epochs=EPOCHS, report=quiet)
    classifier = Classifier(merge(adapted, chosen).eval(), tokenizer, list(task.labels))
    start = time.perf_counter()
    answers = classifier.predict([row["text"] for row in task.rows]).argmax(1)
    milliseconds = 1000 * (time.perf_counter() - start) / len(task.rows)
    return right([task.labels[place] for place in answers], task.rows), milliseconds, run.seconds / 60, run.tokens


def option(name, kind, rows, minutes, milliseconds, right, **more):
    """A line of the table."""
    return {"name": name, "kind": kind, "rows": rows, "minutes": minutes, "milliseconds": milliseconds, "right": right, **more}


def prompts_and_examples(task, training, done):
    """Options without training, those that are done left out."""
    scorer = Scorer(MODEL)
    if "no model" not in done:
        usual = Counter(row["label"] for row in training).most_common(1)[0][0]
        yield option("no model", "guess", 0, 0.0, 0.0, right([usual] * TEST, task.rows), chosen=f"always {usual}")
    if "plain prompt" not in done:
        found, milliseconds = asked(scorer, task, task.rows, zero_shot)
        for how, bits in found.items(): yield option(f"plain prompt{how}", "prompt", 0, 0.0, milliseconds, bits)
    if "best of five prompts" not in done:
        name, how, minutes = best_prompt(scorer, task, training[-CHOOSING:])
        found, milliseconds = asked(scorer, task, task.rows, PROMPTS[name])
        yield option("best of five prompts", "prompt", CHOOSING, minutes, milliseconds, found[how], chosen=f"{name}{how}")
    for count in SHOTS:
        if f"{count} examples" in done: continue
        shown = task.examples[:count]
        found, milliseconds = asked(scorer, task, task.rows, lambda task, text: few_shot(task, text, shown))  # noqa: B023
        for how, bits in found.items(): yield option(f"{count} examples{how}", "examples", count, 0.0, milliseconds, bits)


def with_training(task, training, done):
    """Options with training, those that are done left out."""
    for count in TUNED:
        if f"LoRA, {count} rows" in done: continue
        bits, milliseconds, minutes, tokens = tuned(task, training, count)
        yield option(f"LoRA, {count} rows", "tuned", count, minutes, milliseconds, bits, tokens=tokens)


def most_training(task, table):
    """The run with most rows is that of `llmguide evidence methods` on the same test rows; its minutes are those of this speed."""
    if any(row["name"] == f"LoRA, {MOST} rows" for row in table) or task.rows.name != "financial-phrasebank": return []
    run = next(run for run in load_curve("finetuning_methods") if run["method"] == "lora" and not run["seed"])
    here = next(row for row in table if row["name"] == f"LoRA, {TUNED[-1]} rows")
    minutes = here["minutes"] * run["tokens"] / here["tokens"]
    return [option(f"LoRA, {MOST} rows", "tuned", MOST, minutes, here["milliseconds"], run["right"][:TEST], tokens=run["tokens"])]


def main():
    try: table = load_curve(RESULT)
    except FileNotFoundError: table = []
    task, training = the_task()
    for make in (lambda done: prompts_and_examples(task, training, done), lambda done: with_training(task, training, done),
                 lambda done: most_training(task, table)):
        for row in make({row["name"] for row in table}):
            table.append(row)
            print("   ", {key: value for key, value in row.items() if key != "right"}, row["right"].count("1") / TEST, flush=True)
            record_curve(RESULT, table, "one seed; the same test rows for all; seconds of one core that was not alone",
                         model=MODEL, data=task.rows.name, source=task.rows.source, test_rows=TEST, epochs=EPOCHS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
