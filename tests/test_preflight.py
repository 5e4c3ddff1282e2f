"""Preflight on what a notebook doesn't show: chat templates, empty and large data, gradients that break, a step that fails."""

import random
import time

import pytest

from llmguide.finetuning.checks import Report, check_examples, check_rows, learned_pieces
from llmguide.finetuning.prepare import IGNORED, encode_rows
from llmguide.templates import Template

ROWS = [{"text": f"{who} {what} in {where}.", "label": label} for who in ("Sales", "Orders", "利润", "Exports")
        for what, label in (("rose", "up"), ("fell", "down")) for where in ("Oslo", "Lyon", "北京")]


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    from llmguide.load import causal_source

    try: source = causal_source("smollm2-135m-instruct")
    except FileNotFoundError as missing: pytest.skip(str(missing))
    return AutoTokenizer.from_pretrained(source)


@pytest.fixture
def ready(tokenizer):
    from llmguide.finetuning.methods import apply, method
    from llmguide.finetuning.train import tiny_model

    return apply(tiny_model(tokenizer), method("lora"), seed=0)


def levels(findings): return {each.check: each.level for each in findings}


def test_a_chat_template_passes_and_its_turns_are_not_the_end(tokenizer):
    chat = Template("chat", "Label this: {text}")
    encoded = encode_rows(ROWS, tokenizer, chat)
    assert set(levels(check_examples(encoded, tokenizer)).values()) == {"ok"}
    without_end = [{name: tokens[:-1] for name, tokens in each.items()} for each in encoded]
    assert levels(check_examples(without_end, tokenizer))["end token"] == "error"


def test_every_example_is_shown_whole_in_any_script(tokenizer):
    for text in ("利润大幅增长。", "naïve café 🚀 ok", "ราคาหุ้น"):
        (example,) = encode_rows([{"text": text, "label": "up"}], tokenizer)
        pieces = learned_pieces(example, tokenizer)
        assert "".join(piece for piece, _ in pieces) == text + "\nLabel: up" + tokenizer.eos_token
        assert "".join(piece for piece, learned in pieces if learned) == " up" + tokenizer.eos_token


def test_no_rows_is_a_finding_and_not_a_crash(tokenizer):
    from llmguide.finetuning.preflight import preflight

    report = preflight([], model=(None, tokenizer))
    assert not report.ok and "classes" in {each.check for each in report.at("error")}


def test_large_data_is_checked_in_seconds():
    chance = random.Random(0)
    words = [chr(97 + i) * (2 + i % 5) for i in range(26)]
    rows = [{"text": " ".join(chance.choices(words, k=12)), "label": chance.choice("ab")} for _ in range(50_000)]
    start = time.perf_counter()
    found = levels(check_rows(rows, test=rows[:5] + [{"text": "quite another one", "label": "a"}]))
    assert found["test leak"] == "error"
    assert time.perf_counter() - start < 20  # a few seconds on an idle machine


def test_a_broken_gradient_is_found_and_spoils_nothing(ready, tokenizer):
    import torch

    from llmguide.finetuning.preflight import try_step

    before = {name: weight.clone() for name, weight in ready.named_parameters()}
    hook = ready.get_output_embeddings().register_forward_hook(lambda _, __, scores: scores * float("nan"))
    trial = try_step(ready, encode_rows(ROWS, tokenizer), tokenizer.pad_token_id, "float32")
    hook.remove()
    assert trial.loss != trial.loss and trial.silent
    assert all(torch.equal(weight, before[name]) for name, weight in ready.named_parameters())
    assert not any(weight.grad is not None for weight in ready.parameters())


def test_a_step_that_fails_is_a_finding(ready, tokenizer):
    from llmguide.finetuning.preflight import preflight

    def out_of_memory(*_): raise RuntimeError("not enough memory: you tried to allocate 70 GB")

    hook = ready.get_output_embeddings().register_forward_pre_hook(out_of_memory)
    report = preflight(ROWS, model=(ready, tokenizer))
    hook.remove()
    (step,) = [each for each in report.findings if each.check == "trial step"]
    assert step.level == "error" and "70 GB" in step.found and not report.ok


def test_labels_shifted_by_hand_are_caught_inside_a_real_report(ready, tokenizer):
    from llmguide.finetuning.preflight import preflight

    def shifted(rows, tokenizer, template):
        return [each | {"labels": [*each["labels"][1:], IGNORED]} for each in encode_rows(rows, tokenizer, template)]

    report = preflight(ROWS, model=(ready, tokenizer), encode=shifted)
    assert "alignment" in {each.check for each in report.at("error")}
    assert "training 1" in str(Report(report.at("error")))
