"""Estimates for architectures of all kinds, from a configuration alone: nothing is loaded, nothing is downloaded."""

import json

import pytest

from llmguide.finetuning.choose import CARDS, Device, estimate, recommend
from llmguide.finetuning.sizes import sizes
from llmguide.finetuning.methods import METHODS, apply, method

KNOWN = {  # type -> (billions of parameters of the type's default configuration, to a tenth)
    "llama": 6.7, "mistral": 7.2, "qwen2": 12.0, "gemma2": 2.6, "phi3": 3.8, "gpt_neox": 20.6, "falcon": 6.9, "mixtral": 46.7,
    "gpt2": 0.1, "opt": 0.1, "starcoder2": 3.0, "olmo2": 6.9, "deepseek_v3": 671.0}


@pytest.mark.parametrize("kind", KNOWN)
def test_any_configuration_can_be_estimated(kind):
    config = {"model_type": kind}
    assert round(sizes(config, "full").parameters / 1e9, 1) == KNOWN[kind]
    lora, full = (estimate(config, name, 1, 64, CARDS["H200"]) for name in ("lora", "full"))
    assert 0 < lora.trained < full.trained and 0 < lora.memory < full.memory and 0 < lora.step_seconds < full.step_seconds


def test_experts_count_in_memory_but_not_all_of_them_in_time():
    found = sizes({"model_type": "mixtral"}, "lora")
    assert 0.2 < found.active / found.parameters < 0.3  # two of eight


def test_matrices_of_gpt2_are_found_though_they_are_no_linear_layers():
    found = sizes({"model_type": "gpt2"}, "lora")
    assert 80e6 < found.linear < 90e6


@pytest.mark.parametrize("name", METHODS)
def test_more_rows_and_longer_rows_take_more(name):
    small, wide, long = (estimate("smollm2-135m-instruct", name, *size) for size in ((4, 32), (8, 32), (4, 64)))
    assert small.memory < wide.memory < 1.5 * small.memory + 2 and small.memory < long.memory
    assert small.step_seconds < wide.step_seconds and small.step_seconds < long.step_seconds


def test_a_folder_counts_as_its_configuration(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2,
                                                      "num_attention_heads": 4, "intermediate_size": 128, "vocab_size": 100}))
    assert sizes(str(tmp_path), "lora").layers == 2


def test_an_empty_folder_and_an_unknown_type_are_named(tmp_path):
    with pytest.raises((FileNotFoundError, ValueError), match=tmp_path.name): sizes(str(tmp_path), "lora")
    with pytest.raises(ValueError, match="lama"): sizes({"model_type": "lama"}, "lora")
    with pytest.raises(ValueError, match="no method is called"): estimate("smollm2-135m-instruct", "lorra")


def test_a_method_without_a_place_is_left_out_of_the_recommendation():
    table = recommend({"model_type": "olmo2"}, rows=100, device=CARDS["H200"])
    assert "ia3" not in table.index and "lora" in table.index
    assert table["why"].str.len().min() > 0


def test_a_device_too_small_is_an_error_with_a_remedy():
    with pytest.raises(ValueError, match="smaller batch"): recommend({"model_type": "llama"}, device=Device("toy", 1.0, 10.0))


def test_too_few_layers_for_the_mixed_method():
    import transformers

    one = transformers.LlamaConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4, vocab_size=99)
    with pytest.raises(ValueError, match="has 1 layers"): apply(transformers.LlamaForCausalLM(one), method("mixed"))
