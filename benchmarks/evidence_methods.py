"""Compare every method of finetuning.methods; run by `llmguide evidence methods`.

Each method's learning rate is chosen on validation rows among three. Then each method is trained on the same
rows for the same number of steps with three seeds (three of the eleven with one), in a process of its own, and
measured: share trained, peak memory, size of the artefact, accuracy, macro-F1, calibration, and what it forgets (the loss on general text).
Seconds are measured apart, by `llmguide evidence choose`. A run that was ended goes on where it stopped: what
is done stands in results/finetuning_methods.json. F2, F4, F5 and F8 are recorded.
"""

import json
import os
import random
import sys
import tempfile
from pathlib import Path

from llmguide.evidence import Interval, Measurement, load_curve, record, record_curve, relative_gain
from llmguide.finetuning.classify import Classifier
from llmguide.finetuning.evaluate import evaluate_model
from llmguide.finetuning.methods import METHODS, apply, merge, method, parameter_counts, save_addition
from llmguide.finetuning.prepare import clean_rows, encode_rows
from llmguide.finetuning.train import in_own_process, peak_memory, train
from llmguide.load import load_causal, load_rows, split_rows
from llmguide.settings import choose_runtime, get_settings
from llmguide.templates import Template

MODEL, TRAINING, VALIDATION, TEST, EPOCHS, SEEDS = "smollm2-135m-instruct", 240, 150, 300, 2, (0, 1, 2)
ONCE = ("mixed", "rslora", "pfeiffer")  # relatives of others here: one seed, to save half an hour
RATES = {"full": (3e-5, 1e-4, 3e-4), "mixed": (2e-4, 5e-4, 1e-3), "ia3": (3e-3, 1e-2, 3e-2), "prefix": (3e-3, 1e-2, 3e-2),
         "prompt": (1e-2, 3e-2, 1e-1), "": (4e-4, 1e-3, 2.5e-3)}
TRIALS, RUNS = "finetuning_learning_rates", "finetuning_methods"


def quiet(line):
    """Progress of single steps is left out."""


def parts(name):
    training, validation, test = split_rows(load_rows(name))
    return clean_rows(training)[0][:TRAINING], validation[:VALIDATION], test[:TEST]


def general_texts(count=40):
    """Texts that have nothing to do with the task: Wikipedia passages, or our own tickets."""
    file = get_settings().datasets_dir / "squad" / "dev-v1.1.json"
    if file.exists():
        articles = json.loads(file.read_text(encoding="utf-8"))["data"]
        texts = [paragraph["context"] for article in articles for paragraph in article["paragraphs"]]
        return random.Random(0).sample(texts, count), "squad"
    return [row["text"] for row in load_rows("tickets")][:count], "tickets"


def general_loss(model, tokenizer, longest=128):
    """Mean loss a token on general text: what rises when a model forgets."""
    import torch

    texts, total, count = general_texts()[0], 0.0, 0
    for text in texts:
        batch = tokenizer(text, truncation=True, max_length=longest, return_tensors="pt")
        inside = torch.autocast("cpu", dtype=torch.bfloat16, enabled=choose_runtime().precision == "bfloat16")
        with torch.inference_mode(), inside:
            logits = model(**batch).logits[0].float()[-batch.input_ids.shape[1] :]  # virtual tokens come first
        losses = torch.nn.functional.cross_entropy(logits[:-1], batch.input_ids[0, 1:], reduction="sum")
        total, count = total + losses.item(), count + batch.input_ids.shape[1] - 1
    return total / count


def right(measured, test):
    """Which rows were answered rightly, as a string of 0 and 1: enough for paired tests, without the rows themselves."""
    return "".join(str(int(answer == row["label"])) for answer, row in zip(measured["answers"], test))


def size_of(folder):
    return sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())


def trained(name, chosen, seed, epochs, folder, training):
    """The base's loss on general text, and a model trained with a method."""
    precision = "float32" if chosen.whole else choose_runtime().precision
    base, tokenizer = load_causal(MODEL, precision, chosen.four_bit)
    total = parameter_counts(base)[1]
    adapted = apply(base, chosen, seed)
    rows = encode_rows(training, tokenizer)
    run = train(adapted, rows, chosen, folder, tokenizer.pad_token_id, epochs=epochs, seed=seed, report=quiet)
    return adapted, tokenizer, run, parameter_counts(adapted)[0], total


def one_run(name, data, rate, seed, report=quiet):
    """Everything measured on one training run."""
    training, _, test = parts(data)
    chosen = method(name, learning_rate=rate)
    with tempfile.TemporaryDirectory() as folder:
        adapted, tokenizer, run, count, total = trained(name, chosen, seed, EPOCHS, folder, training)
        save_addition(adapted, chosen, Path(folder) / "saved")
        size = size_of(Path(folder) / "saved")
    peak, model = peak_memory(), merge(adapted, chosen).eval()
    measured = evaluate_model(Classifier(model, tokenizer, sorted({row["label"] for row in test})), test)
    keep = ("accuracy", "macro_f1", "calibration_error")
    return {"method": name, "seed": seed, "learning_rate": rate, "trained": count, "share": count / total,
            "peak_memory_mib": peak, "bytes": size, "tokens": run.tokens, "steps": run.steps,
            "final_loss": run.losses[-1]["loss"], "general_loss": general_loss(model, tokenizer),
            **{key: measured[key] for key in keep}, "right": right(measured, test)}


def base_run(data, report=quiet):
    """The untrained model on the same rows."""
    _, _, test = parts(data)
    model, tokenizer = load_causal(MODEL, choose_runtime().precision)
    measured = evaluate_model(Classifier(model, tokenizer, sorted({row["label"] for row in test})), test)
    keep = ("accuracy", "macro_f1", "calibration_error")
    return {"method": "none", "seed": 0, "general_loss": general_loss(model, tokenizer), **{k: measured[k] for k in keep},
            "right": right(measured, test)}


def trial(name, data, rate):
    """One epoch with one learning rate, measured on validation rows."""
    training, validation, _ = parts(data)
    chosen = method(name, learning_rate=rate)
    with tempfile.TemporaryDirectory() as folder:
        try:
            adapted, tokenizer, run, _, _ = trained(name, chosen, 0, 1, folder, training)
        except RuntimeError:  # the loss broke: this rate is too high
            return {"method": name, "learning_rate": rate, "accuracy": 0.0, "macro_f1": 0.0}
    labels = sorted({row["label"] for row in validation})
    measured = evaluate_model(Classifier(merge(adapted, chosen).eval(), tokenizer, labels), validation)
    return {"method": name, "learning_rate": rate, "accuracy": measured["accuracy"], "macro_f1": measured["macro_f1"]}


def so_far(name):
    try:
        return load_curve(name)
    except FileNotFoundError:
        return []


def about(data):
    return {"data": data, "model": MODEL, "training_rows": TRAINING, "validation_rows": VALIDATION, "test_rows": TEST,
            "epochs": EPOCHS, "batch": 16, "precision": choose_runtime().precision, "general_text": general_texts()[1]}


def add(name, rows, row, data, note):
    rows.append(row)
    record_curve(name, rows, note=note, **about(data))
    print("   ", {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items() if k != "right"}, flush=True)


def choose_rates(data):
    rows = so_far(TRIALS)
    for name in METHODS:
        for rate in RATES.get(name, RATES[""]):
            if not any((row["method"], row["learning_rate"]) == (name, rate) for row in rows):
                add(TRIALS, rows, trial(name, data, rate), data, "one epoch each, measured on validation rows; seed 0")
    return {name: max((row for row in rows if row["method"] == name), key=lambda row: row["macro_f1"])["learning_rate"]
            for name in METHODS}


def matrix(data, rates):
    rows, note = so_far(RUNS), "the same rows, batch and number of steps for every method; the learning rate chosen before"
    if not rows: add(RUNS, rows, base_run(data), data, note)
    for seed in SEEDS:
        for name in METHODS:
            if seed and name in ONCE or any((row["method"], row["seed"]) == (name, seed) for row in rows): continue
            run, _ = in_own_process(one_run, report=quiet, name=name, data=data, rate=rates[name], seed=seed)
            add(RUNS, rows, run, data, note)
    return rows


def record_claims(data, rows):
    """F2, F4 and F5 are counts; they hold for this model and these widths."""
    source = load_rows(data).source
    for claim, names in (("F2", ("lora",)), ("F4", ("houlsby", "pfeiffer")), ("F5", ("prefix",))):
        for name in names:
            share = 100 * next(row["share"] for row in rows if row["method"] == name)
            width = METHODS[name].rank or METHODS[name].tokens
            record(Measurement(claim, Interval(share, share, share), dataset=data, dataset_source=source, model=MODEL,
                               rows=TRAINING, config={"method": name, "width": width},
                               note="a count: it depends on the model's and the method's width"))


# F8: a choice task like a recommendation: which help article answers a customer's question?
ARTICLES = ("card_arrival", "lost_or_stolen_card", "exchange_rate", "top_up_failed", "request_refund", "pin_blocked",
            "transfer_timing", "age_limit", "verify_my_identity", "atm_support")


def choice_rows(file):
    rows = load_rows(get_settings().datasets_dir / "banking77" / file, label="category")
    return [row | {"label": row["label"].replace("_", " ")} for row in rows if row["label"] in ARTICLES]


def recommendation(report=quiet):
    """The best help article for a question: zero-shot, and after the smallest LoRA."""
    training = random.Random(0).sample(choice_rows("train.csv"), 400)
    test = random.Random(1).sample(choice_rows("test.csv"), 200)
    labels = sorted({row["label"] for row in test})
    prompts = [Template("article", "Question: {text}\nHelp article:", plain=True),
               Template("list", f"Help articles: {', '.join(labels)}.\nQuestion: {{text}}\nBest help article:", plain=True)]
    base, tokenizer = load_causal(MODEL, choose_runtime().precision)
    zero = {prompt: evaluate_model(Classifier(base, tokenizer, labels, prompt), training[:150]) for prompt in prompts}
    prompt = max(prompts, key=lambda p: zero[p]["accuracy"])
    before = evaluate_model(Classifier(base, tokenizer, labels, prompt), test)
    chosen = method("lora", rank=1, alpha=2, targets=("q_proj", "v_proj"), learning_rate=5e-3)
    adapted = apply(base, chosen, 0)
    count, total = parameter_counts(adapted)
    with tempfile.TemporaryDirectory() as folder:
        examples = encode_rows(training, tokenizer, prompts[0])
        train(adapted, examples, chosen, folder, tokenizer.pad_token_id, epochs=2, report=quiet)
    after = evaluate_model(Classifier(merge(adapted, chosen).eval(), tokenizer, labels, prompts[0]), test)
    gold = [row["label"] for row in test]
    return {"share": 100 * count / (total - count), "prompt": prompt.name, "rows": len(test), "before": before["accuracy"],
            "after": after["accuracy"], "right": [[a == g for a, g in zip(m["answers"], gold)] for m in (before, after)]}


def record_recommendation():
    if not (get_settings().datasets_dir / "banking77").exists():
        return print("  banking77 isn't here: F8 is left out", flush=True)
    run, _ = in_own_process(recommendation, report=quiet)
    gain = relative_gain(*run["right"])
    print("    F8", gain, run["share"], run["before"], run["after"], flush=True)
    config = {"method": "lora rank 1, queries and values", "share_trained_percent": round(run["share"], 4),
              "before": run["before"], "after": run["after"], "prompt_before": run["prompt"], "training_rows": 400}
    record(Measurement("F8", gain, dataset="banking77, ten help articles", dataset_source="datasets folder", model=MODEL,
                       rows=run["rows"], config=config,
                       note=f"{run['share']:.3f} % of the parameters trained; zero-shot with the better of two prompts"))


def main():
    os.environ["LLMGUIDE_PRECISION"], os.environ["LLMGUIDE_DEVICE"] = choose_runtime().precision, choose_runtime().device
    data = "financial-phrasebank"
    try:
        load_rows(data)
    except FileNotFoundError:
        data = "news-sentiment"
    rows = matrix(data, choose_rates(data))
    record_claims(data, rows)
    record_recommendation()
    return 0


if __name__ == "__main__":
    sys.exit(main())
