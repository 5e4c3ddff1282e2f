"""Inspection: bad folders, odd pictures, other exposures, interrupted training, saved files, the stream."""
import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from llmguide.multimodal.crops import Crops, Example, read_examples
from llmguide.multimodal.inspection import FORMAT, QualityInspector, build_inspection
from llmguide.multimodal.line import alert_system, frames, generate_quality_report, inspect_stream, production_line_inspection
from llmguide.multimodal.network import defect_network
from llmguide.multimodal.threshold import DriftAlarm, choose_threshold
from llmguide.multimodal.tiles import draw_tiles, read_tiles, tile_folds, tile_interval


def quiet(line):
    """Progress is left out."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory): return draw_tiles(tmp_path_factory.mktemp("inspection") / "绘制 tiles", parts=8, exposures=2)


@pytest.fixture(scope="module")
def inspector(folder): return QualityInspector.train(folder, steps=2, report=quiet)


@pytest.fixture
def copy(folder, tmp_path): return shutil.copytree(folder, tmp_path / "copy")


def change(folder, edit):
    """Rewrite labels.csv with each row changed by `edit`; rows it returns None for go."""
    with open(folder / "labels.csv", encoding="utf-8", newline="") as file: rows = list(csv.DictReader(file))
    rows = [row for row in map(edit, rows) if row]
    with open(folder / "labels.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return folder


BROKEN = {
    "a label nobody knows": (lambda row: row | {"label": "ok"}, "'ok' in row 1"),
    "only good parts": (lambda row: row if row["label"] == "good" else None, "0 different parts are defect"),
    "only bad parts": (lambda row: row if row["label"] == "defect" else None, "0 different parts are good"),
    "one part only": (lambda row: row | {"tile_group": "1"}, "only 1 different parts"),
    "a picture that isn't there": (lambda row: row | {"file": "images/不在.png"}, "more than once|aren't there"),
    "a mask that isn't there": (lambda row: row | {"mask": "masks/no.png"}, "aren't there"),
    "a column too few": (lambda row: {"file": row["file"], "kind": row["label"]}, "lacks the column label"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_table_is_named_before_training(copy, name):
    edit, words = BROKEN[name]
    with pytest.raises((ValueError, OSError), match=words): QualityInspector.train(change(copy, edit), steps=1, report=quiet)


def test_missing_and_damaged_files_are_named(copy, tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"): QualityInspector.train(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="no labels.csv"): QualityInspector.train(copy / "images")
    (copy / "images" / "part3_0.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match="part3_0.png"): QualityInspector.train(copy, steps=1, report=quiet)
    (copy / "labels.csv").write_bytes("file,label\n零件图片.png,good\n".encode("gb18030"))
    with pytest.raises(ValueError, match="GB18030"): QualityInspector.train(copy, steps=1, report=quiet)


def test_a_mask_of_another_size_is_named(copy):
    Image.new("L", (10, 10), 255).save(copy / "masks" / "part1_0.png")
    with pytest.raises(ValueError, match="part1_0.png has 10 × 10"): QualityInspector.train(copy, steps=1, report=quiet)


def test_masks_types_groups_are_optional_and_names_may_be_chinese(copy):
    (copy / "images" / "part1_0.png").rename(copy / "images" / "零件 一.png")
    change(copy, lambda row: {"file": row["file"].replace("part1_0", "零件 一"), "label": row["label"]})
    trained = QualityInspector.train(copy, steps=1, report=quiet)
    assert trained.kinds == ["defect"]
    assert trained.detect_defect(copy / "images" / "零件 一.png")["heat_map"].max() <= 1


def test_parts_never_stand_on_two_sides(folder):
    tiles = read_tiles(folder)
    numbers = tile_folds(tiles, 4)
    for group in {tile.group for tile in tiles}: assert len({n for n, tile in zip(numbers, tiles) if tile.group == group}) == 1


def test_answers_have_the_agreed_shape(inspector, folder):
    found = inspector.detect_defect(str(folder / "images" / "part1_0.png"))
    assert list(found) == ["caption", "defect_prob", "is_defect", "defect_type", "heat_map"]
    assert isinstance(found["caption"], str) and isinstance(found["is_defect"], bool)
    assert found["heat_map"].shape == Image.open(folder / "images" / "part1_0.png").size[::-1]
    assert (found["defect_type"] in inspector.kinds) == found["is_defect"]


ODD = [("L", (40, 700)), ("RGB", (333, 17)), ("RGBA", (64, 64)), ("CMYK", (50, 90)), ("I;16", (99, 60)), ("1", (64, 65))]


@pytest.mark.parametrize("mode,size", ODD)
def test_any_picture_is_looked_at(inspector, mode, size):
    found = inspector.detect_defect(Image.new(mode, size))
    assert np.isfinite(found["defect_prob"]) and found["heat_map"].shape == size[::-1]


def test_other_light_hardly_changes_the_answer(inspector, folder):
    grey = np.asarray(Image.open(folder / "images" / "part1_0.png"), float)
    values = [inspector.detect_defect(Image.fromarray((grey * light).clip(0, 255).astype(np.uint8)))["defect_prob"] for light in (0.7, 1.0)]
    assert values[0] == pytest.approx(values[1], abs=0.05)


def test_the_same_seed_gives_the_same_inspector(folder, inspector):
    again = QualityInspector.train(folder, steps=2, report=quiet)
    assert again.threshold == inspector.threshold and again.judged == inspector.judged


def test_interrupted_training_goes_on_to_the_same_end(folder, inspector, tmp_path, monkeypatch):
    monkeypatch.setenv("LLMGUIDE_MODELS_DIR", str(_models()))
    monkeypatch.setenv("LLMGUIDE_CACHE_DIR", str(tmp_path))
    from llmguide.multimodal import judges

    whole, calls = judges.train_network, []

    def dies(*given, **options):
        if len(calls) == 2: raise KeyboardInterrupt
        calls.append(1)
        return whole(*given, **options)

    monkeypatch.setattr(judges, "train_network", dies)
    with pytest.raises(KeyboardInterrupt): QualityInspector.train(folder, steps=2, report=quiet)
    monkeypatch.setattr(judges, "train_network", whole)
    lines = []
    assert QualityInspector.train(folder, steps=2, report=lines.append).judged == inspector.judged
    assert sum("kept from an earlier run" in line for line in lines) == 2
    assert not list((tmp_path / "inspection").glob("*/*"))  # nothing is left behind


def _models():
    from llmguide.settings import get_settings

    return get_settings().models_dir


def test_a_torn_piece_of_an_interrupted_training_is_made_again(folder, tmp_path, monkeypatch):
    models = _models()
    monkeypatch.setenv("LLMGUIDE_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("LLMGUIDE_MODELS_DIR", str(models))
    from llmguide.multimodal import judges

    monkeypatch.setattr(judges.shutil, "rmtree", lambda *given, **options: None)
    QualityInspector.train(folder, steps=1, report=quiet)
    piece = next((tmp_path / "inspection").glob("*/1.safetensors"))
    piece.write_bytes(piece.read_bytes()[:1000])
    QualityInspector.train(folder, steps=1, report=quiet)
    assert len(piece.read_bytes()) > 1000


def test_saved_files_come_back_or_say_why(inspector, folder, tmp_path):
    path = inspector.save(tmp_path / "车间.safetensors")
    picture = folder / "images" / "part3_1.png"
    loaded = QualityInspector.load(path)
    assert loaded.detect_defect(picture)["defect_prob"] == inspector.detect_defect(picture)["defect_prob"]
    assert loaded.judged == inspector.judged and loaded.threshold == inspector.threshold
    for name, content in {"empty": b"", "text": b"hello", "cut": path.read_bytes()[: path.stat().st_size // 2]}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} is no inspector"): QualityInspector.load(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="there is no inspector"): QualityInspector.load(tmp_path / "none")


def test_a_file_of_another_version_is_refused(inspector, tmp_path, monkeypatch):
    path = inspector.save(tmp_path / "old.safetensors")
    monkeypatch.setattr("llmguide.multimodal.inspection.FORMAT", FORMAT + 1)
    with pytest.raises(ValueError, match="another version"): QualityInspector.load(path)


def test_without_photographs_build_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("LLMGUIDE_DATASETS_DIR", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="LLMGUIDE_DATASETS_DIR"): build_inspection(report=quiet)


def test_crops_are_half_bad_whatever_the_folder_holds(folder):
    examples = read_examples(read_tiles(folder), ["pit", "scratch"])
    many = [each for each in examples if each.kind == 0] * 20 + [each for each in examples if each.kind]
    kinds = [kind for *_, kind in (Crops(many, 64, seed=seed).draw() for seed in range(300))]
    assert 0.35 < np.mean(np.array(kinds) > 0) < 0.6


def test_small_pictures_and_specks_make_crops():
    speck = np.zeros((32, 32), bool)
    speck[0, 0] = True
    grey = np.full((32, 32), 9, np.uint8)
    examples = [Example(grey, speck, 1, "a"), Example(grey, np.zeros((32, 32), bool), 0, "b")]
    pictures, masks, known, kinds = Crops(examples, 64).batch(16)
    assert pictures.shape == masks.shape == (16, 1, 64, 64) and pictures.isfinite().all() and known.all()


def test_the_network_takes_any_multiple_of_sixteen():
    import torch

    network = defect_network(3, weights=None).eval()
    for height, width in ((32, 32), (48, 176)): assert network(torch.zeros(1, 1, height, width)).shape == (1, 4, height // 8, width // 8)


def test_the_promised_rate_holds_on_average():
    random, kept = np.random.default_rng(0), []
    for _ in range(40):
        scores, bad = random.normal(size=120), np.arange(120) < 20
        value = choose_threshold(bad, scores, np.arange(120), 0.05).value
        kept.append((random.normal(size=2000) > value).mean())
    assert np.mean(kept) < 0.06


def test_copies_of_a_part_do_not_narrow_an_interval():
    bad, scores = np.arange(60) % 2 == 0, np.random.default_rng(1).normal(size=60)
    single = tile_interval(np.arange(60), bad, scores, draws=300)
    copies = tile_interval(np.repeat(np.arange(60), 8), np.repeat(bad, 8), np.repeat(scores, 8), draws=300)
    assert copies.high - copies.low == pytest.approx(single.high - single.low, rel=0.05)


@pytest.mark.soak
def test_a_quiet_line_rarely_alarms(repetitions):
    random, runs = np.random.default_rng(0), repetitions(100, 2000)
    alarms = 0
    for _ in range(runs):
        alarm = DriftAlarm(random.normal(size=500))
        alarms += any(alarm.see(score) for score in random.normal(size=300))
    assert alarms / runs < 0.04


def test_drift_is_noticed_both_ways():
    random = np.random.default_rng(0)
    for shift in (-1.5, 1.5):
        alarm = DriftAlarm(random.normal(size=200))
        assert any([alarm.see(score) for score in random.normal(shift, 1, 150)])


class Says:
    """An inspector that finds a defect in everything bright."""

    def detect_defect(self, image):
        bright = float(np.asarray(image.convert("L")).mean() / 255)
        return {"caption": "bright <b>", "defect_prob": bright, "is_defect": bright > 0.5, "defect_type": "bright" if bright > 0.5 else "",
                "heat_map": np.full(image.size[::-1], bright)}


def test_a_stream_outlives_bad_pictures(tmp_path):
    Image.new("L", (40, 40), 255).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"")
    (tmp_path / "c.jpg").write_bytes(b"\xff\xd8 torn")
    Image.new("L", (40, 40), 0).save(tmp_path / "d.png")
    (tmp_path / "notes.txt").write_text("no picture")
    found = list(production_line_inspection(tmp_path, Says()))
    assert [(each["picture"], "error" in each) for each in found] == [("a.png", False), ("b.png", True), ("c.jpg", True), ("d.png", False)]


def test_alerts_are_kept_even_when_nobody_hears(tmp_path):
    def deaf(line): raise TimeoutError("no answer")

    stream = production_line_inspection([Image.new("L", (40, 40), 255)] * 3, Says())
    assert len(alert_system(stream, send=deaf, log=tmp_path / "log.jsonl")) == 3
    assert len([json.loads(line) for line in (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()]) == 3


def test_the_page_escapes_names_and_needs_no_network(tmp_path):
    found = [each | {"picture": "<script>x</script>"} for each in production_line_inspection([Image.new("L", (40, 40), 255)], Says())]
    text = generate_quality_report(found, tmp_path / "page.html", title="<i>").read_text(encoding="utf-8")
    assert "<script>" not in text and "<i>" not in text and "<b>" not in text and "src=\"http" not in text and "data:image/png" in text


def test_one_call_for_the_command_line(tmp_path, folder):
    found = inspect_stream(folder / "images", Says(), page=tmp_path / "page.html", send=quiet)
    assert found["pictures"] == 16 and json.loads(json.dumps(found)) == found and (tmp_path / "page.html").exists()


def test_a_camera_or_video_that_is_not_there_is_named(tmp_path):
    (tmp_path / "film.mp4").write_bytes(b"no film")
    for source in (tmp_path / "film.mp4", 91):
        with pytest.raises(ValueError, match="can't be opened"): list(frames(source))


def test_the_edge_gives_the_same_verdicts(inspector, folder, tmp_path):
    from llmguide.multimodal.edge import EdgeInspector, export_onnx, parity, quantize_onnx

    pictures = sorted((folder / "images").iterdir())[:6]
    whole = export_onnx(inspector, tmp_path / "模型.onnx")
    assert parity(inspector, EdgeInspector(whole), pictures)["largest"] < 1e-3
    small = quantize_onnx(whole, tmp_path / "int8.onnx", pictures)
    assert small.stat().st_size < 10_000_000 and EdgeInspector(small).detect_defect(pictures[0])["heat_map"].ndim == 2
    (tmp_path / "cut.onnx").write_bytes(whole.read_bytes()[:9999])
    with pytest.raises(ValueError, match="no exported inspector"): EdgeInspector(tmp_path / "cut.onnx")
