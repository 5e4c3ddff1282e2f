"""The audit log: several processes, kills, a full disk, cancelled waiters, odd events, and every forgery found."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from llmguide.enterprise.audit import AuditLog
from llmguide.enterprise.chain import Anchor
from llmguide.enterprise.encryption import DecryptionError, KeyRing
from llmguide.enterprise.log_files import older

WRITER = """
import sys
from llmguide.enterprise.audit import AuditLog
log, name = AuditLog(sys.argv[1], largest=float(sys.argv[4])), sys.argv[2]
for number in range(int(sys.argv[3])):
    safe = log.record("step", name, number=number)
    if number % 20 == 0:
        safe.result()
        print(number, flush=True)
log.close()
print("end", flush=True)
"""


@pytest.fixture
def ring(): return KeyRing.generate()


@pytest.fixture
def path(tmp_path): return tmp_path / "audit.jsonl"


def writer(path, ring, name, count, largest=1e8):
    """A process that writes events."""
    environment = os.environ | {"LLMGUIDE_SECRET_KEYS": ring.text()}
    command = [sys.executable, "-c", WRITER, str(path), name, str(count), str(largest)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def filled(path, ring, count=30):
    """A log of some events, closed."""
    with AuditLog(path, ring) as log:
        for number in range(count): log.record("step", "ann", number=number)
    return AuditLog(path, ring)


def test_processes_write_one_chain(path, ring):
    writers = [writer(path, ring, name, 400) for name in "abc"]
    said = [each.communicate(timeout=60)[0] for each in writers]
    assert all("end" in each for each in said)
    log = AuditLog(path, ring)
    assert log.verify() == (1200, None, "")
    for name in "abc": assert [event["number"] for event in log.events(1200) if event["who"] == name] == list(range(400))


@pytest.mark.soak
def test_killed_writers_lose_nothing_promised(path, ring, repetitions):
    chance = random.Random(0)
    for number in range(repetitions(4, 60)):
        each = writer(path, ring, f"w{number}", 10**6)
        last = each.stdout.readline()
        time.sleep(chance.random() * 0.15)
        os.kill(each.pid, signal.SIGKILL)
        promised = int((each.communicate()[0].split() or [last])[-1])
        log = filled(path, ring, 1)  # the next writer cuts half a line off
        assert log.verify(), log.verify()
        found = [event["number"] for event in log.events(10**6) if event["who"] == f"w{number}"]
        assert found == list(range(len(found))) and len(found) > promised


def test_every_small_forgery_is_found(path, ring):
    log = filled(path, ring, 5)
    whole, anchor = path.read_bytes(), log.anchor()
    assert log.verify(anchor) and anchor.count == 5
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 if place % 2 else 128)]) + whole[place + 1 :])
        try: found = log.verify(anchor)
        except DecryptionError: continue  # the id of the key was changed
        assert not found and found.line == whole[: place + 1].count(b"\n") + (whole[place] != 10), place
    for cut in range(0, len(whole), 7):
        path.write_bytes(whole[:cut])
        assert not log.verify(anchor), cut
    path.unlink()
    assert log.verify(anchor).line == 1 and log.verify() and log.events() == [] and log.anchor() == Anchor(0, "")


def test_half_a_line_of_a_killed_writer_is_cut_off(path, ring):
    log = filled(path, ring, 5)
    whole = path.read_bytes()
    for cut in (1, 20, len(whole.splitlines()[-1])):
        path.write_bytes(whole[:-cut])
        assert "part of a line" in log.verify().problem
        with AuditLog(path, ring) as other: other.record("next", "ann").result()
        assert other.verify().events == 5 and other.events(1)[0]["what"] == "next"


def test_lines_of_another_log_or_key(path, ring, tmp_path):
    log, other = filled(path, ring, 3), filled(tmp_path / "other.jsonl", ring, 3)
    mine, theirs = (each.path.read_bytes().splitlines(keepends=True) for each in (log, other))
    path.write_bytes(mine[0] + theirs[1] + mine[2])
    assert log.verify().line == 2
    path.write_bytes(b"".join(mine))
    newer = KeyRing.generate(older=ring)
    filled(path, newer, 2)
    assert AuditLog(path, newer).verify().events == 5
    with pytest.raises(DecryptionError, match="put the old key back"): AuditLog(path, KeyRing([newer.key(newer.newest)])).verify()


@pytest.mark.parametrize("details", [{"question": "x" * 201}, {"data": b"bytes"}, {"deep": {"a": ["x" * 300]}}, {"mac": "f" * 64},
                                     {"name": "\ud800"}])
def test_events_that_are_refused(path, ring, details):
    with AuditLog(path, ring) as log, pytest.raises(ValueError): log.record("step", "ann", **details)


def test_odd_names_come_back(path, ring):
    odd = ["财务", "a\nb", "\u2028", '","mac":"', "\x00", "🙂", "x" * 200, ""]
    with AuditLog(path, ring) as log:
        for name in odd: log.record("step", name)
    assert log.verify() and [event["who"] for event in log.events()] == odd
    assert len(path.read_bytes().splitlines()) == len(odd)


def test_a_disk_that_fails_is_told_and_recovers(path, ring, monkeypatch):
    log, fsync = AuditLog(path, ring), os.fsync
    log.record("first", "ann").result()

    def full(_): raise OSError("disk full")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk full"): log.record("lost", "ann").result()
    monkeypatch.setattr(os, "fsync", fsync)
    log.record("second", "ann").result()
    log.close()
    assert [event["what"] for event in log.events()] == ["first", "second"] and log.verify()
    with pytest.raises(RuntimeError, match="closed"): log.record("late", "ann")


def test_a_cancelled_waiter_harms_nobody(path, ring):
    async def main(log):
        tasks = [asyncio.ensure_future(asyncio.wrap_future(log.record("step", "ann", number=number))) for number in range(50)]
        for task in tasks[::2]: task.cancel()
        await asyncio.gather(*tasks[1::2])
    with AuditLog(path, ring) as log: asyncio.run(main(log))
    assert log.verify().events == 50


def test_threads_and_the_event_loop(path, ring):
    async def main(log):
        async def many():
            for _ in range(40): await asyncio.wrap_future(log.record("step", "ann"))
        await asyncio.gather(*[many() for _ in range(100)])
    with AuditLog(path, ring) as log:
        with ThreadPoolExecutor(4) as pool: list(pool.map(lambda number: log.record("step", "ben", number=number), range(1000)))
        start = time.process_time()
        asyncio.run(main(log))
        spent = time.process_time() - start
    assert log.verify().events == 5000
    assert spent < 4000 / 5000  # seconds of processor: 5,000 awaited events a second leave room on one core


def test_no_text_and_no_secret_reaches_the_file(path, ring):
    with AuditLog(path, ring) as log:
        log.record("question", "ann", question=log.fingerprint("Am I being fired?"))
        log.record_change("eva", {"url": "redis://:plum@host", "api_token": "abc123"}, {"url": "redis://:pear@host", "api_token": "xyz789"})
    text = path.read_text()
    assert not any(word in text for word in ("fired", "plum", "pear", "abc123", "xyz789"))
    assert len(set(map(str, json.loads(text.splitlines()[1])["changed"]["url"]))) == 2
    marks = [AuditLog(path, each).fingerprint("a") for each in (ring, ring, KeyRing.generate())]
    assert marks[0] == marks[1] != marks[2]


def test_full_files_are_put_aside_and_the_chain_goes_on(path, ring):
    with AuditLog(path, ring, largest=3_000) as log:
        for number in range(60): log.record("step", "ann", number=number).result()
        files = older(path)
        assert len(files) > 2 and max(file.stat().st_size for file in [*files, path]) < 3_500
        assert [event["number"] for event in log.events(200) if event["what"] == "step"] == list(range(60))
        assert log.verify(log.anchor()) == (60 + len(files), None, "") and len(log.events(5)) == 5
    assert all(file.stat().st_mode & 0o077 == 0 for file in files)
    middle = files[1].read_bytes()
    files[1].unlink()
    assert "events were removed" in log.verify().problem
    files[1].write_bytes(middle.replace(b'"ann"', b'"eva"', 1))
    assert "its sum is wrong" in log.verify().problem
    files[1].write_bytes(middle)
    assert log.verify()


def test_a_kill_while_a_file_is_put_aside_doubles_nothing(path, ring, monkeypatch):
    log = filled(path, ring)
    log.largest = 1_000

    def killed(*_): raise OSError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", killed)
        log.record("step", "ann", number=30).result()
        log.close()
    assert log.largest == float("inf") and log.verify() == (31, None, "")  # linked, and nothing more
    with AuditLog(path, ring, largest=1_000) as log: log.record("step", "ann", number=31).result()
    assert len(older(path)) == 1 and log.verify() == (33, None, "")


def test_processes_share_a_log_that_is_put_aside(path, ring):
    writers = [writer(path, ring, name, 300, 4_000) for name in "abc"]
    assert all("end" in each.communicate(timeout=60)[0] for each in writers)
    log = AuditLog(path, ring)
    events = [event for event in log.events(5_000) if event["what"] == "step"]
    assert len(older(path)) > 5 and log.verify() and len(events) == 900
    for name in "abc": assert [event["number"] for event in events if event["who"] == name] == list(range(300))
