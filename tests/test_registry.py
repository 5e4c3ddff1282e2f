"""The registry of models: simultaneous writers, kills in the middle of a change, damage, and names that don't exist."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from llmguide.finetuning.registry import Registry

FIELDS = ("base", "method", "labels", "template", "template_hash", "precision")
CARD = dict.fromkeys(FIELDS, "of no matter to the registry")


@pytest.fixture
def artifact(tmp_path):
    folder = tmp_path / "artifact"
    (folder / "adapter").mkdir(parents=True)
    (folder / "artifact.json").write_text(json.dumps(CARD))
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(os.urandom(200_000))
    return folder


@pytest.fixture
def registry(tmp_path, artifact):
    found = Registry(tmp_path / "registry")
    for _ in range(3):
        found.add(artifact, "news")
    found.promote("news", 1)
    return found


def add_many(folder, artifact, count, who, start):
    from llmguide.finetuning import registry as module

    write = module.write_atomically

    def slowly(*content):  # as on a busy disk: the two surely meet
        time.sleep(0.02)
        return write(*content)

    module.write_atomically = slowly
    start.wait()
    for _ in range(count):
        Registry(folder).add(artifact, "news", who=who)


def test_two_processes_adding_at_once_lose_nothing(tmp_path, artifact):
    context = multiprocessing.get_context("spawn")
    task = (tmp_path / "registry", artifact, 8)
    start = context.Barrier(2, timeout=60)
    people = [context.Process(target=add_many, args=(*task, who, start)) for who in ("Ada", "Bo")]
    for person in people:
        person.start()
    for person in people:
        person.join(120)
        assert person.exitcode == 0
    registry = Registry(tmp_path / "registry")
    assert registry.versions("news") == list(range(1, 17))
    who = [event["who"] for event in registry.history("news")]
    assert who.count("Ada") == who.count("Bo") == 8
    for version in registry.versions("news"):
        registry.path("news", version)


WRITER = """
import sys
from llmguide.finetuning.registry import Registry
registry, artifact = Registry(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
while True:
    version = registry.add(artifact, "news", who="writer")
    registry.promote("news", version, who="writer")
    print(version, flush=True)
"""


@pytest.mark.soak
def test_a_killed_writer_loses_nothing_that_was_done(registry, artifact, repetitions):
    chance = random.Random(3)
    for _ in range(repetitions(6, 60)):
        before = registry.history("news")
        process = subprocess.Popen([sys.executable, "-c", WRITER, registry.folder, artifact], stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "ready\n"
        time.sleep(chance.random() * 0.15)
        process.send_signal(signal.SIGKILL)
        told = [int(line) for line in process.communicate()[0].split()]
        history = registry.history("news")
        assert history[: len(before)] == before
        assert set(told) <= {event["version"] for event in history if event["event"] == "promoted"}
        assert registry.versions("news") == list(range(1, len(registry.versions("news")) + 1))
        for version in registry.versions("news"):
            registry.path("news", version)  # whole, to the last byte
        registry.promote("news", registry.versions("news")[-1])  # the lock died with its holder
        assert not list((registry.folder / "news").glob(".*")), "what a killed writer left was not swept away"


@pytest.mark.parametrize("change", ["promote", "rollback", "add", "decide"])
def test_a_change_that_dies_before_its_commit_changes_nothing(registry, artifact, change, monkeypatch):
    from llmguide.finetuning import registry as module

    registry.promote("news", 2)
    before = registry.history("news")

    def dies(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "write_atomically", dies)
    decision = module.Decision(True, "better", module.Interval(9, 1, 17), module.Interval(0, -2, 2), 5.0, (100, 100))
    arguments = {"promote": ("news", 3), "rollback": ("news",), "add": (artifact, "news"), "decide": ("news", 3, decision)}
    with pytest.raises(KeyboardInterrupt):
        getattr(registry, change)(*arguments[change])
    monkeypatch.undo()
    assert registry.history("news") == before and registry.current("news") == 2
    assert registry.add(artifact, "news") == 4
    registry.path("news", 4)


def test_refused_decisions_are_kept_and_change_nothing(registry):
    from llmguide.finetuning.registry import Decision, Interval

    decision = Decision(False, "not better", Interval(1, -3, 5), Interval(0, -2, 2), 5.0, (100, 100))
    assert registry.decide("news", 2, decision) is False
    assert registry.current("news") == 1
    assert registry.history("news")[-1]["figures"]["gain"] == [1, -3, 5]


@pytest.mark.parametrize("damage, said", [
    (lambda folder: (folder / "adapter" / "adapter_model.safetensors").write_bytes(b"other"), "has changed"),
    (lambda folder: (folder / "adapter" / "adapter_model.safetensors").unlink(), "is missing"),
    (lambda folder: (folder / "adapter" / "extra.bin").write_bytes(b"x"), "has been added"),
])
def test_a_damaged_version_is_named_and_never_put_in_use(registry, damage, said):
    damage(registry.folder / "news" / "2")
    for use in (lambda: registry.promote("news", 2), lambda: registry.path("news", 2), lambda: registry.load("news", 2)):
        with pytest.raises(ValueError, match=f"version 2 of news is damaged.*{said}"):
            use()
    assert registry.current("news") == 1
    assert registry.path("news").name == "1"


def test_a_rollback_to_a_damaged_version_leaves_the_one_in_use(registry):
    registry.promote("news", 2)
    (registry.folder / "news" / "1" / "artifact.json").unlink()
    with pytest.raises(ValueError, match="version 1 of news is damaged"):
        registry.rollback("news")
    assert registry.current("news") == 2


@pytest.mark.parametrize("content", ["", "{", "[]{}", '[{"event": "sold", "version": 1}]', '[{"version": 1}]', "[1]"])
def test_a_damaged_history_stops_every_use(registry, artifact, content):
    file = registry.folder / "news" / "history.json"
    file.write_text(content)
    for use in (lambda: registry.current("news"), lambda: registry.promote("news", 1), lambda: registry.add(artifact, "news")):
        with pytest.raises(ValueError, match="history.json is damaged"):
            use()
    assert file.read_text() == content
    assert (registry.folder / "news" / "3" / "artifact.json").exists()


def test_unknown_names_and_versions(registry, artifact):
    with pytest.raises(ValueError, match="has news"):
        registry.promote("weather", 1)
    assert not (registry.folder / "weather").exists()
    for version in (0, 4, -1):
        with pytest.raises(ValueError, match=f"no version {version}: it has \\[1, 2, 3\\]"):
            registry.promote("news", version)
    for name in ("", ".", "../news", "a/b", "-x", "news\n", "新闻/x"):
        with pytest.raises(ValueError, match="can't be a model's name"):
            registry.add(artifact, name)
    assert registry.add(artifact, "新闻") == 1 and registry.names() == ["news", "新闻"]
    with pytest.raises(FileNotFoundError, match="is no artefact"):
        registry.add(registry.folder, "news")
    with pytest.raises(ValueError, match="no earlier version"):
        registry.rollback("news")


def test_a_busy_registry_says_so(registry):
    import filelock

    with filelock.FileLock(registry.folder / ".lock"):
        with pytest.raises(TimeoutError, match="was busy for 0 s"):
            Registry(registry.folder, wait=0.2).promote("news", 2)
    assert registry.promote("news", 2) == 2
