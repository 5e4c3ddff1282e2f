"""Measure C1 to C6: an encoder and a language model in every form of chapter 1, on the same test rows.

Both are tuned on LABELLED training rows; the rest of the training rows serve without their labels, for the student.
Trained models are kept in the cache folder, so that a second run measures only. Each form is read in a process of
its own, all forms in turn, ROUNDS times. On two quiet cores: about 16 minutes, half of it with the models kept.
"""

import shutil
import sys

import numpy as np

from llmguide.evidence import Interval, Measurement, paired_difference, percent_lower, record, record_curve
from llmguide.finetuning import compress, distill, encoder, prune, quantize
from llmguide.finetuning.compress import Form
from llmguide.finetuning.gguf import gguf_source, write_gguf
from llmguide.finetuning.predict import Artifact, data_fingerprint, finetune, sentiment_rows
from llmguide.load import Rows, split_rows
from llmguide.settings import choose_runtime, get_settings

BASE, ENCODER = "smollm2-135m-instruct", "all-minilm-l6-v2"
ALLOWED = {"C3": 1, "C4": 3}  # points of accuracy that may be lost, as the claims say
LABELLED, TEST_ROWS, ROUNDS, EPOCHS, STUDENT_EPOCHS, TIMED = 2000, 1000, 3, 3, 3, 96


def say(line):
    print(f"    {line}", flush=True)


def teacher_folder(labelled, validation, folder):
    """The tuned language model, merged, in float32: trained once."""
    if not (folder / "artifact" / "artifact.json").exists():
        finetune(labelled, validation[:100], output=folder / "artifact", epochs=1, seed=0, report=say)
    if (folder / "merged" / "config.json").exists(): return folder / "merged"
    artifact, draft = Artifact.load(folder / "artifact"), folder / "merged.draft"
    model = artifact.model.float()
    model.save_pretrained(draft)
    artifact.tokenizer.save_pretrained(draft)
    try: write_gguf(model, gguf_source(BASE), folder / "tuned.gguf")
    except ValueError as problem: say(str(problem))
    draft.rename(folder / "merged")
    return folder / "merged"


def kept(folder, make):
    """A classifier that is trained once and read afterwards."""
    if not (folder / encoder.AROUND).exists():
        say(f"training {folder.name}")
        make().save(folder)
    return encoder.EncoderClassifier.load(folder)


def trained(classifier, texts, targets, epochs, learning_rate, temperature=1.0):
    """The classifier after `fit`."""
    encoder.fit(classifier, texts, targets, epochs=epochs, learning_rate=learning_rate, temperature=temperature, report=say)
    return classifier


def encoders(labelled, unlabelled, folder):
    """The tuned encoder and what is trained from it: aware, pruned, students of both teachers and one without."""
    tuned = encoder.tuned_encoder(labelled, epochs=EPOCHS, report=say)
    texts = [row["text"] for row in labelled]
    every = texts + [row["text"] for row in unlabelled]
    small = prune.prune_neurons(distill.keep_layers(distill.keep_vocabulary(tuned, every), [0, 2, 5]), 1152, texts[:200])

    def fresh(): return encoder.EncoderClassifier.load(small.save(folder / "student untaught"))

    def cut(): return distill.keep_layers(prune.prune_neurons(tuned, 768, texts[:200]), [0, 1, 3, 5])

    def own(): return distill.taught_targets(tuned, labelled)

    def student(teacher):
        return trained(fresh(), *distill.taught_targets(teacher, labelled, every[len(texts) :]), STUDENT_EPOCHS, 4e-4, 2.0)

    hard = encoder.one_hot(labelled, tuned.labels)
    longer = STUDENT_EPOCHS * len(every) // len(texts)  # as many steps as the taught one
    return {
        "tuned": tuned,
        "aware": kept(folder / "aware", lambda: quantize.train_aware(tuned, *own(), epochs=1, learning_rate=5e-5, report=say)),
        "zeros": prune.without_masks(prune.prune_weights(tuned, 0.5)),
        "pruned": kept(folder / "pruned", lambda: trained(cut(), *own(), 2, 2e-4)),
        "alone": kept(folder / "alone", lambda: trained(fresh(), texts, hard, longer, 4e-4)),
        "taught": kept(folder / "taught", lambda: student(Artifact.load(folder / "artifact"))),
        "taught by the encoder": kept(folder / "taught by the encoder", lambda: student(tuned)),
    }  # fmt: skip


def encoder_forms(made, calibration, folder):
    """Every form of the encoder, written to folders."""
    def torch(name): return str(made[name].save(folder / "torch" / name))

    for name in ("tuned", "aware", "pruned", "alone", "taught", "taught by the encoder"):
        quantize.export_onnx(made[name], folder / "onnx" / name)
    dynamic = {name: quantize.quantize_dynamic(folder / "onnx" / name, folder / "dynamic" / name)
               for name in ("tuned", "pruned", "taught", "taught by the encoder")}
    static = {name: quantize.quantize_static(folder / "onnx" / name, folder / "static" / name, calibration)
              for name in ("tuned", "aware")}
    difference, same = quantize.parity(made["tuned"], quantize.OnnxClassifier.load(folder / "onnx" / "tuned"), calibration)
    say(f"ONNX parity: largest difference of a logit {difference:.1e}, same answer on {same:.1%} of {len(calibration)} texts")
    forms = [
        Form("float32, PyTorch", "encoder float32", torch("tuned")),
        Form("bfloat16, PyTorch", "encoder bfloat16", torch("tuned")),
        Form("float32", "onnx", str(folder / "onnx" / "tuned")), Form("dynamic INT8", "onnx", str(dynamic["tuned"])),
        Form("static INT8", "onnx", str(static["tuned"])), Form("aware INT8", "onnx", str(static["aware"])),
        Form("half zeros, PyTorch", "encoder float32", torch("zeros")), Form("pruned", "onnx", str(folder / "onnx" / "pruned")),
        Form("pruned, dynamic INT8", "onnx", str(dynamic["pruned"])),
        Form("student alone", "onnx", str(folder / "onnx" / "alone")),
        Form("student taught", "onnx", str(folder / "onnx" / "taught")),
        Form("student taught, dynamic INT8", "onnx", str(dynamic["taught"])),
        Form("student taught by the encoder", "onnx", str(folder / "onnx" / "taught by the encoder")),
        Form("student taught by the encoder, dynamic INT8", "onnx", str(dynamic["taught by the encoder"])),
    ]  # fmt: skip
    return forms, {"parity_difference": difference, "parity_same": same}


def causal_forms(merged, folder):
    """Every form of the tuned language model."""
    forms = [Form("LM float32", "causal float32", str(merged)), Form("LM bfloat16", "causal bfloat16", str(merged)),
             Form("LM NF4", "causal nf4", str(merged))]  # fmt: skip
    file = folder / "tuned.gguf"
    return forms + ([Form("LM GGUF Q4_1", "gguf", str(file), str(merged))] if file.exists() else [])


def exactly(value):
    return Interval(value, value, value)


class Recorder:
    """Writes the claims from the records of all forms."""

    def __init__(self, records, test, facts):
        self.records, self.test, self.facts = records, test, facts
        gold = [row["label"] for row in test]
        first = {record["form"]: record for record in reversed(records)}
        self.megabytes = {name: record["megabytes"] for name, record in first.items()}
        self.right = {name: np.array(record["answers"]) == np.array(gold) for name, record in first.items()}
        self.speed = {name: float(np.median([r["rows_a_second"] for r in records if r["form"] == name])) for name in first}

    def lost(self, small, large):
        """Points of accuracy that `small` loses against `large` on the same rows."""
        return paired_difference(self.right[small], self.right[large]).scale(100)

    def add(self, claim, method, small, large, interval, model=ENCODER, note="", **more):
        lost = self.lost(small, large)
        config = {"method": method, "points_lost": str(lost), "points_lost_value": round(lost.value, 2),
                  "points_lost_low": round(lost.low, 2), "points_lost_high": round(lost.high, 2),
                  "megabytes": round(self.megabytes[small], 2), "megabytes_before": round(self.megabytes[large], 2),
                  "accuracy": round(float(self.right[small].mean()), 4), **self.facts, **more}  # fmt: skip
        record(Measurement(claim, interval, self.test.name, self.test.source, model, len(self.test), config=config,
                           note=note))
        say(f"{claim} {method}: {interval}, points lost {lost}")

    def smaller(self, claim, method, small, large, **options):
        """How many times smaller; a form that loses more points than the claim allows counts as no compression."""
        ratio, lost, note = self.megabytes[large] / self.megabytes[small], self.lost(small, large).value, ""
        if lost > ALLOWED.get(claim, 100):
            note = f"{ratio:.1f} times smaller, but {lost:.1f} points lost where {ALLOWED[claim]} are allowed: counts as 1"
            ratio = 1.0
        self.add(claim, method, small, large, exactly(ratio), note=note, **options)

    def lower(self, claim, method, small, large, figure, **options):
        more = {"throughput_percent_higher": round(100 * (self.speed[small] / self.speed[large] - 1), 1)} if claim == "C5" else {}
        ratio = compress.times(self.records, small, large, figure)
        self.add(claim, method, small, large, percent_lower(ratio), **more, **options)


def claims(records, test, facts):
    """C1 to C6 from the records."""
    found = Recorder(records, test, facts)
    for kind in ("dynamic", "static", "aware"):
        found.lower("C1", f"memory, {kind} INT8", f"{kind} INT8", "float32", "memory_mib")
        found.lower("C1", f"file, {kind} INT8", f"{kind} INT8", "float32", "megabytes")
        found.lower("C5", f"{kind} INT8 against float32, both ONNX", f"{kind} INT8", "float32", "p50_ms")
    found.lower("C5", "dynamic INT8 (ONNX) against float32 (PyTorch)", "dynamic INT8", "float32, PyTorch", "p50_ms")
    found.smaller("C3", "dynamic INT8", "dynamic INT8", "float32")
    for kind in ("static", "aware"): found.smaller("C6", f"{kind} INT8", f"{kind} INT8", "float32")
    found.smaller("C2", "dynamic INT8 alone", "dynamic INT8", "float32")
    by_encoder = "student taught by the encoder"
    found.smaller("C2", "3 of 6 layers of 1152 neurons, vocabulary of the rows, taught, dynamic INT8",
                  f"{by_encoder}, dynamic INT8", "float32")
    gained = {"points_gained_by_the_teacher": str(found.lost("student alone", "student taught"))}
    found.smaller("C4", "encoder student of the language model, both float32", "student taught", "LM float32",
                  model=BASE, **gained)
    found.smaller("C4", "the same student in INT8, teacher in bfloat16", "student taught, dynamic INT8", "LM bfloat16",
                  model=BASE)
    found.smaller("C4", "student of the encoder, both float32", by_encoder, "float32")
    found.smaller("C4", "student of the encoder in INT8, teacher in float32", f"{by_encoder}, dynamic INT8", "float32")


def table(records, test):
    """The long table, both families."""
    gold, lines = [row["label"] for row in test], []
    for family in ("encoder", "language model"):
        mine = [one for one in records if one["form"].startswith("LM ") == (family == "language model")]
        lines += [{"family": family} | {key: list(x) if isinstance(x, Interval) else x for key, x in line.items()}
                  for line in compress.summary(mine, gold)]
    return lines


def main():
    rows = sentiment_rows()
    learning, validation, test = split_rows(rows)
    labelled = Rows(learning[:LABELLED], rows.name, rows.source)
    unlabelled, test = learning[LABELLED:], Rows(test[:TEST_ROWS], rows.name, rows.source)
    folder = get_settings().cache_dir / "artifacts" / f"compression-{data_fingerprint(labelled)}"
    folder.mkdir(parents=True, exist_ok=True)
    merged = teacher_folder(labelled, validation, folder)
    made = encoders(labelled, unlabelled, folder)
    work = folder / "forms"
    shutil.rmtree(work, ignore_errors=True)
    forms, parity = encoder_forms(made, [row["text"] for row in labelled[:100]], work)
    records = compress.measure_forms(forms + causal_forms(merged, folder), test, ROUNDS, TIMED, report=say)
    facts = {"labelled_rows": len(labelled), "rows_without_labels": len(unlabelled), "rounds": ROUNDS,
             "precision_of_training": choose_runtime().precision, **parity}  # fmt: skip
    note = "memory: of the process after single texts, less the libraries; latency: one text at a time, tokenising included; " \
           "llama.cpp leaves one core free and takes one text at a time"  # fmt: skip
    record_curve("compression_table", table(records, test), note=note, dataset=rows.name, source=rows.source, **facts)
    claims(records, test, facts)
    shutil.rmtree(work)
    return 0


if __name__ == "__main__":
    sys.exit(main())
