"""The service for many minutes under load: nothing fails, and memory stays as it is."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from statistics import mean

import httpx
import psutil
import pytest

from llmguide.enterprise.load_test import http_request, open_loop, summary


@pytest.fixture
def service(tmp_path):
    """Address of a service with one handbook, started as a user does, and its process."""
    (tmp_path / "handbooks").mkdir()
    (tmp_path / "handbooks" / "remote.md").write_text("# Remote work\n\nYou may work from home on two days a week.\n")
    with socket.create_server(("127.0.0.1", 0)) as probe: port = probe.getsockname()[1]
    variables = {"SERVICE_DIR": tmp_path, "HANDBOOKS": tmp_path / "handbooks", "PORT": port, "RATE": 10**6, "BURST": 10**6}
    environment = os.environ | {f"LLMGUIDE_{name}": str(value) for name, value in variables.items()}
    process = subprocess.Popen([sys.executable, "-m", "llmguide.cli", "serve"], env=environment, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"http://127.0.0.1:{port}/api/me").status_code == 200: break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}", psutil.Process(process.pid)
    finally:
        process.terminate()
        assert process.wait(30) in (0, -15)


@pytest.mark.soak
def test_memory_stays_and_nothing_fails(service, repetitions):
    address, process = service
    periods, memory, sent = repetitions(4, 240), [], []  # of half a second each, then of five
    ask = lambda question: http_request(address, "/api/chat", {"user_id": "local", "message": question})  # noqa: E731
    for period in range(periods):
        questions = [ask(f"May I work from home in week {period}?")] + [ask("How many days may I work from home?")] * 100
        sent += open_loop(address, questions, 50, repetitions(0.5, 5), period)
        memory.append(process.memory_info().rss / 2**20)
    found, third = summary(sent), len(memory) // 3
    assert found["failed"] == 0, found
    assert mean(memory[-third:]) < mean(memory[third:2 * third]) * repetitions(1.5, 1.05), memory
