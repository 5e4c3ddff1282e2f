"""A compiled training learns the same, and leaves a plain model behind, also when it is ended."""

import pytest

from llmguide.finetuning.compile import compiled, compiler_at_hand, repeated_layers, worth_compiling
from llmguide.finetuning.methods import METHODS, apply, method


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    from llmguide.load import causal_source

    try: source = causal_source("smollm2-135m-instruct")
    except FileNotFoundError as missing: pytest.skip(str(missing))
    return AutoTokenizer.from_pretrained(source)


def trained(tokenizer, folder, compile):
    from llmguide.finetuning.prepare import encode_rows
    from llmguide.finetuning.train import tiny_model, train
    from llmguide.load import load_rows

    model = apply(tiny_model(tokenizer), method("lora", learning_rate=1e-2), 0)
    rows = encode_rows(load_rows("headlines")[:48], tokenizer)
    run = train(model, rows, method("lora", learning_rate=1e-2), folder, tokenizer.pad_token_id, batch=8, precision="float32",
                report=lambda line: None, compile=compile)
    return model, [each["loss"] for each in run.losses]


@pytest.mark.skipif(not compiler_at_hand(), reason="no C++ compiler")
def test_it_learns_the_same_and_is_taken_off(tokenizer, tmp_path):
    model, losses = trained(tokenizer, tmp_path / "fast", True)
    assert losses == pytest.approx(trained(tokenizer, tmp_path / "plain", False)[1], abs=1e-3)
    assert all(layer._compiled_call_impl is None for layer in repeated_layers(model))


def test_an_error_in_between_takes_it_off_too(tokenizer):
    from llmguide.finetuning.train import tiny_model

    model = tiny_model(tokenizer)
    with pytest.raises(RuntimeError, match="stop"), compiled(model): raise RuntimeError("stop")
    assert all(layer._compiled_call_impl is None for layer in repeated_layers(model))


def test_only_what_was_tried_is_compiled(monkeypatch):
    monkeypatch.setattr("llmguide.finetuning.compile.compiler_at_hand", lambda: True)
    assert worth_compiling(METHODS["lora"], 500) and worth_compiling(METHODS["full"], 500)
    assert not worth_compiling(METHODS["lora"], 50)
    assert not any(worth_compiling(METHODS[name], 500) for name in ("qlora", "prefix", "prompt"))
    assert not worth_compiling(METHODS["lora"], 500, checkpointing=True)
    assert not worth_compiling(METHODS["lora"], 500, processes=2)


def test_a_second_training_computes_in_half_precision_too(tokenizer, tmp_path):
    """accelerate marks a model it has prepared, and would leave its autocast off the second time."""
    import torch

    from llmguide.finetuning.prepare import encode_rows
    from llmguide.finetuning.train import tiny_model, train
    from llmguide.load import load_rows

    model, lora, seen = apply(tiny_model(tokenizer), METHODS["lora"], 0), METHODS["lora"], []
    model.get_base_model().model.register_forward_pre_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    rows = encode_rows(load_rows("headlines")[:8], tokenizer)
    for name in ("first", "second"):
        train(model, rows, lora, tmp_path / name, tokenizer.pad_token_id, batch=8, precision="bfloat16", report=lambda line: None)
    assert seen == [True, True]
