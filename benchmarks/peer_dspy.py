"""DSPy on one of our tasks: unoptimised, BootstrapFewShotWithRandomSearch or MIPROv2, every call of the model counted.

DSPy is no dependency of this project. Give it an environment of its own and name its Python to `llmguide evidence optimize`:

    python -m venv peer && peer/bin/pip install "dspy[optuna]==3.4.1"
    LLMGUIDE_DSPY_PYTHON=peer/bin/python llmguide evidence optimize

This script is started by `evidence_optimize.py` with that Python; it needs nothing else of this project. It reads a job as JSON from
standard input (address, key and model of an OpenAI-compatible server; instruction, labels, examples, rows; method, adapter, budget) and
writes the answers to the rows and the calls of the search as JSON to standard output.
"""

import contextlib
import json
import logging
import random
import sys
from typing import Literal

import dspy
from dspy.utils.callback import BaseCallback


class Local(dspy.LM):
    """A model whose server keeps to a JSON schema, which DSPy can't know of an address it has never heard of."""

    supports_response_schema = True

    @property
    def supported_params(self):
        """What DSPy may send."""
        return super().supported_params | {"response_format"}


class Calls(BaseCallback):
    """Counts what is asked of the model."""

    count = 0

    def on_lm_start(self, call_id, instance, inputs):
        """Called by DSPy before each call."""
        self.count += 1


def right(example, answer, trace=None):
    """Whether DSPy's answer is the row's label."""
    return str(getattr(answer, "label", "")).strip().casefold() == example.label.casefold()


def searched(program, job):
    """The program after the search; training and validation rows are chosen so that the worst case stays within the budget."""
    if job["method"] == "none": return program
    rows = [dspy.Example(text=row["text"], label=row["label"]).with_inputs("text") for row in job["examples"]]
    random.Random(job["seed"]).shuffle(rows)
    part = job["budget"] // 10  # the worst case asks ten times as many: six validations and four bootstraps
    train, validation = rows[:part], rows[part : 2 * part]
    if job["method"] == "random search":
        search = dspy.BootstrapFewShotWithRandomSearch(metric=right, max_bootstrapped_demos=4, max_labeled_demos=8,
                                                       num_candidate_programs=3, num_threads=1, max_errors=1000)
        return search.compile(program, trainset=train, valset=validation)
    search = dspy.MIPROv2(metric=right, auto=None, num_candidates=3, max_bootstrapped_demos=4, max_labeled_demos=8, num_threads=1,
                          max_errors=1000, seed=job["seed"])
    return search.compile(program, trainset=train, valset=validation, num_trials=4, minibatch=False)


def main():
    """One job from standard input, one result to standard output."""
    job, calls = json.load(sys.stdin), Calls()
    logging.disable(logging.WARNING)
    adapter = dspy.JSONAdapter() if job["adapter"] == "json" else dspy.ChatAdapter(use_json_adapter_fallback=False)
    lm = Local(f"openai/{job['model']}", api_base=job["base_url"], api_key=job["api_key"], cache=False, temperature=0.0, max_tokens=48)
    dspy.configure(lm=lm, adapter=adapter, callbacks=[calls])
    fields = {"text": (str, dspy.InputField()), "label": (Literal[tuple(job["labels"])], dspy.OutputField())}
    answers = []
    with contextlib.redirect_stdout(sys.stderr):
        program = searched(dspy.Predict(dspy.Signature(fields, job["instruction"])), job)
        spent, failed = calls.count, 0
        for row in job["rows"]:
            try: answers.append(program(text=row["text"]).label)
            except Exception as problem:  # whatever DSPy raises when an answer can't be read counts as a wrong answer
                failed += 1
                answers.append(None)
                print(f"{type(problem).__name__}: {str(problem)[:200]}", file=sys.stderr)
    json.dump({"answers": answers, "calls": spent, "unread": failed, "dspy": dspy.__version__}, sys.stdout)


if __name__ == "__main__":
    main()
