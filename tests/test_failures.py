"""The service while a part of it is dead, slow or talks rubbish: errors that say what to do, nothing lost, well again by itself."""

import asyncio
import contextlib
import shutil
import socket
import subprocess
import threading
import time
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
import uvicorn

from llmguide.enterprise import database
from llmguide.enterprise.backend import AnswerEngine
from llmguide.enterprise.configuration import ServiceSettings
from llmguide.enterprise.faults import FAULTS, FaultyPort
from llmguide.enterprise.remote import EngineClient, engine_app
from llmguide.enterprise.service import create_app
from llmguide.enterprise.tracing import open_logs

KNOWN = "How many days a week may I work from home?"


@contextlib.contextmanager
def served(app):
    """The port of an application that is served from a thread."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=3))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started: time.sleep(0.02)
    yield listener.getsockname()[1]
    server.should_exit = True
    thread.join()


@contextlib.contextmanager
def redis_server(folder):
    """The port of a Redis."""
    if not shutil.which("redis-server"): pytest.skip("no redis-server here: apt install redis-server")
    with socket.create_server(("127.0.0.1", 0)) as probe: port = probe.getsockname()[1]
    server = subprocess.Popen(["redis-server", "--port", str(port), "--save", "", "--dir", str(folder)], stdout=subprocess.DEVNULL)
    yield port
    server.kill()
    server.wait()


class Place:
    """A service whose model process, database, Redis and store each lie behind a proxy, and what it has acknowledged."""

    def __init__(self, folder, postgres, redis):
        (folder / "handbooks").mkdir()
        (folder / "handbooks" / "remote.md").write_text("# Remote work\n\nYou may work from home on two days a week.\n")
        where = f"{parse_qs(urlsplit(postgres).query)['host'][0]}/.s.PGSQL.5432"
        self.ports = {"database": FaultyPort(where), "store": FaultyPort(where), "cache": FaultyPort(("127.0.0.1", redis))}
        port = {name: each.port for name, each in self.ports.items()}
        self.settings = ServiceSettings(
            service_dir=folder, handbooks=folder / "handbooks", rate=1e6, burst=10**6, seconds=3,
            database_url=f"postgresql+psycopg://postgres:@127.0.0.1:{port['database']}/postgres",
            store=f"postgresql://postgres:@127.0.0.1:{port['store']}/postgres",
            redis_url=f"redis://127.0.0.1:{port['cache']}/0")  # fmt: skip
        self.engine, self.said, self.asked = AnswerEngine(self.settings), [], 0

    @contextlib.contextmanager
    def running(self):
        inner = engine_app(self.engine, "token")
        with served(inner) as port:
            self.ports["model process"] = FaultyPort(("127.0.0.1", port))
            client = EngineClient(self.settings, f"http://127.0.0.1:{self.ports['model process'].port}", "token")
            app = create_app(self.settings, client)
            app.state.parts.limiter.pause, self.audit = 0.3, app.state.parts.audit  # seconds until Redis is asked again
            with served(app) as outer:
                self.http = httpx.Client(base_url=f"http://127.0.0.1:{outer}", timeout=30)
                yield self
                self.http.close()
        asyncio.run(self.engine.stop())
        for each in self.ports.values(): each.close()

    def ask(self, question=None):
        """Ask something known, or something new; what was answered is remembered."""
        self.asked += 1
        reply = self.http.post("/api/chat", json={"user_id": "local", "message": question or f"May I work from home in week {self.asked}?"})
        if reply.status_code == 200: self.said.append(reply.json())
        return reply

    def until_well(self, seconds=15):
        """Ask until a new question is answered and the health is good; seconds that it took."""
        start = time.monotonic()
        while self.ask().status_code != 200 or self.http.get("/health").json()["status"] != "ok":
            assert time.monotonic() < start + seconds, (self.ask().text, self.http.get("/health").text)
            time.sleep(0.2)
        return time.monotonic() - start

    def lost(self):
        """Acknowledged answers that aren't in the history."""
        kept = lambda one: [each["id"] for each in self.http.get(f"/api/conversations/{one['conversation']}").json()["messages"]]  # noqa: E731
        return [one["message_id"] for one in self.said if one["message_id"] not in kept(one)]


@pytest.fixture(scope="module")
def place(tmp_path_factory, postgres):
    folder = tmp_path_factory.mktemp("place")
    open_logs(level="critical")
    with redis_server(folder) as redis:
        found = Place(folder, postgres, redis)
        asyncio.run(found.engine.start())
        with found.running(): yield found


SERVED = {  # what callers get while a part has a fault: (a question in the cache, a new question)
    "model process": ({200}, {503}), "database": ({503}, {503}), "cache": ({200}, {200}),
    "store": ({200}, {500, 502, 503}),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("part", ["model process", "database", "cache", "store"])
def test_a_part_fails_and_comes_back(place, part, fault):
    assert place.ask(KNOWN).status_code == 200
    wanted = ({200}, {200}) if fault == "slow" else SERVED[part]  # what is slow for a second is waited for
    port = place.ports[part]
    with port.broken(fault):
        if fault == "slow": threading.Timer(1.0, lambda: setattr(port, "fault", None)).start()
        for question, expected in zip((KNOWN, None), wanted, strict=True):
            reply = place.ask(question)
            assert reply.status_code in expected, (question, reply.text)
            assert reply.status_code == 200 or reply.json()["error"]["remedy"]
    place.until_well()
    assert place.lost() == []
    assert place.audit.verify()


def test_a_database_that_never_answers_costs_seconds_not_the_service(place, monkeypatch):
    monkeypatch.setattr(database, "ANSWER", 1.0)
    monkeypatch.setattr(database, "CONNECT", 2)
    assert place.ask(KNOWN).status_code == 200
    with place.ports["database"].broken("slow"):
        start = time.monotonic()
        reply = place.ask()
        assert reply.status_code in (503, 504) and reply.json()["error"]["remedy"] and time.monotonic() - start < 10
    place.until_well()
    assert place.lost() == []
