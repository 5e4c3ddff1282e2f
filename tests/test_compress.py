"""What the notebooks of compression can't show: no PyTorch beside the exported encoder, threads, a damaged folder."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from llmguide.finetuning import distill, encoder, quantize

TEXTS = ["Profit rose.", "利润下降。", "Nothing happened at all, said the company. " * 9] * 4


@pytest.fixture(scope="module")
def int8(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    small = distill.keep_layers(encoder.new_classifier(["a", "b"], seed=0), [0])
    return quantize.quantize_dynamic(quantize.export_onnx(small, folder / "float32"), folder / "int8")


def test_runs_without_the_training_libraries(int8):
    code = ("import sys; from llmguide.finetuning.quantize import OnnxClassifier;"
            f"print(OnnxClassifier.load({str(int8)!r}).predict(['fine'])[0].sum());"
            "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr


def test_threads_get_the_same_answers(int8):
    classifier = quantize.OnnxClassifier.load(int8, threads=1)
    alone = classifier.predict(TEXTS)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(classifier.predict, [TEXTS] * 8): np.testing.assert_allclose(found, alone, atol=1e-5)


@pytest.mark.parametrize("name", ["classifier.json", "tokenizer.json", "model.onnx"])
def test_a_folder_that_lacks_a_file_is_refused_by_its_name(int8, tmp_path, name):
    for file in int8.iterdir():
        if file.name != name: (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(FileNotFoundError, match=name): quantize.OnnxClassifier.load(tmp_path)


def test_an_unlabelled_or_unequal_training_set_is_refused():
    classifier = encoder.new_classifier(["a", "b"], seed=0)
    with pytest.raises(ValueError, match="1 texts and 2 targets"): encoder.fit(classifier, ["x"], np.eye(2))
    with pytest.raises(ValueError, match="two labels or more"): encoder.new_classifier(["a", "a"])
