"""Routing: what reaches a real server outside, under random health, prices and classes; breakers, streams, concurrency."""

import json
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

pytest.importorskip("openai", reason='no client: pip install "llmguide[prompting]"')
from llmguide.chat import connect
from llmguide.enterprise.route import Backend, Breaker, NoBackend, Router, TaskScheduler, data_class
from llmguide.replies import Reply

SECRETS = [
    "My card 4111 1111 1111 1111 was refused, why?", "Why does ann.smith@example.com get no mail?",
    "我的身份证号是11010519491231002X，为什么不行？",
    "Explain this STRICTLY CONFIDENTIAL plan.", "请分析这份内部资料。", "Compare my SSN 536-22-8726 with hers.",
]  # fmt: skip


class Outside(BaseHTTPRequestHandler):
    """A public model over HTTP: writes down what reaches it, and is well, broken, or talks nonsense."""

    protocol_version = "HTTP/1.1"
    reached, mode = [], "well"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.reached.append(body.decode())
        answer = {"id": "1", "object": "chat.completion", "created": 1, "model": "outside", "usage": None,
                  "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "outside"}}]}  # fmt: skip
        says = {"well": (200, json.dumps(answer)), "broken": (500, "{}"), "nonsense": (200, "<html>"), "refuses": (400, "{}")}
        status, text = says[self.mode]
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_): pass


@pytest.fixture
def outside():
    """(chat with the server, its handler)."""
    handler = type("Handler", (Outside,), {"reached": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with connect("outside", f"http://127.0.0.1:{server.server_port}/v1", retries=0, timeout=5) as chat:
        yield chat, handler
    server.shutdown()
    server.server_close()


def inside(draw):
    """A private model that fails now and then."""
    breaks = draw.choice([0, 0.3, 1])

    def chat(messages, **options):
        if draw.random() < breaks:
            raise draw.choice([ConnectionError, TimeoutError, PermissionError, ValueError])("off")
        return Reply("inside", {"total_tokens": 10})

    return chat


def test_private_data_never_reaches_the_server_outside(outside, repetitions):
    """Random routers with a real public server among their backends; what reached it is read and compared."""
    chat, handler = outside
    draw, outcomes = random.Random(1), []
    for _ in range(repetitions(25, 1000)):
        backends = [Backend(f"in {place}", inside(draw), False, draw.randint(1, 3), draw.random(), Breaker(2, draw.choice([0, 9])))
                    for place in range(draw.randint(0, 2))]  # fmt: skip
        backends += [Backend(f"out {place}", chat, True, draw.randint(1, 3), draw.random() / 9) for place in range(draw.randint(1, 2))]
        draw.shuffle(backends)
        router = Router(backends)
        handler.mode = draw.choice(["well", "broken", "nonsense"])
        for _ in range(6):
            kind = draw.choice(["found", "undeclared", "harmless"])
            text = draw.choice(SECRETS) if kind == "found" else f"{kind}: why is {draw.random()} a number?"
            history = [{"role": "user", "content": text}, {"role": "assistant", "content": "Yes."}, {"role": "user", "content": "And now?"}]
            try:
                routed = router.answer(draw.choice([text, history]), "private" if kind == "undeclared" else "public")
                outcomes.append((kind, routed.reply.text))
            except NoBackend as problem:
                outcomes.append((kind, "nobody"))
                assert text not in str(problem)
    sent = "".join(json.loads(body)["messages"][0]["content"] for body in handler.reached)
    assert "harmless" in sent and "undeclared" not in sent
    assert not any(secret in sent for secret in SECRETS)
    assert {("harmless", "outside"), ("found", "inside"), ("undeclared", "inside"), ("found", "nobody")} <= set(outcomes)
    assert not {("found", "outside"), ("undeclared", "outside")} & set(outcomes)


def test_the_fallback_chain(outside, caplog):
    """Broken, talking nonsense, well again; nothing of the message is logged."""
    caplog.set_level("WARNING")  # the service sets the level of the log when it starts
    chat, handler = outside
    inside = Backend("in", lambda messages, **_: Reply("inside"), False, price=0.2)
    router = Router([Backend("out", chat, True, price=0.1, breaker=Breaker(2, 0.2)), inside])
    assert router("hello-4711", "public").text == "outside"
    for mode in ("broken", "nonsense"):
        handler.mode = mode
        routed = router.answer("hello-4711", "public")
        assert (routed.reply.text, routed.tried) == ("inside", ("out",))
    handler.mode, before = "well", len(handler.reached)
    assert router.answer("hello-4711", "public").tried == () and len(handler.reached) == before  # it rests
    time.sleep(0.21)
    assert router("hello-4711", "public").text == "outside"
    assert "route: out failed" in caplog.text and "4711" not in caplog.text
    handler.mode = "refuses"
    for _ in range(5):  # a request that is refused says nothing about the server's health
        assert router.answer("hello-4711", "public").tried == ("out",)
    assert not router.backends[0].breaker.open


def test_requests_that_nobody_could_take_harm_nobody():
    """Bad messages and options are the sender's mistake, before any backend is asked."""
    router = Router([Backend("in", lambda messages, **_: Reply("inside"), False)])
    bad = ("", {}), ([], {}), ([{"role": "king", "content": "x"}], {}), (None, {}), ("x", {"max_tokens": 0}), ("x", {"temperature": -1})
    for messages, options in bad:
        with pytest.raises(ValueError):
            router(messages, **options)
    with pytest.raises(ValueError, match="declared"):
        router("x", "internal")
    assert not router.backends[0].breaker.open and router.backends[0].outstanding == 0


class Streaming:
    """A chat that streams so many pieces and then fails, if it is to."""

    def __init__(self, name, fails_after=None): self.name, self.fails_after, self.calls = name, fails_after, 0

    def stream(self, messages, **options):
        self.calls += 1
        for place in range(3):
            if place == self.fails_after:
                raise ConnectionError("gone")
            yield f"{self.name}{place} "


def test_streams_change_horses_only_before_the_first_word():
    """And leave nothing outstanding, whoever goes away."""
    def router(first): return Router([Backend("a", first, False, price=1), Backend("b", Streaming("b"), False, price=2)])

    assert "".join(router(Streaming("a")).stream("x")) == "a0 a1 a2 "
    assert "".join(router(Streaming("a", 0)).stream("x")) == "b0 b1 b2 "
    broken, said = router(Streaming("a", 2)), []
    with pytest.raises(ConnectionError):
        for piece in broken.stream("x"):
            said.append(piece)
    assert said == ["a0 ", "a1 "] and broken.backends[1].chat.calls == 0
    left = router(Streaming("a"))
    stream = left.stream("x")
    next(stream)
    assert left.backends[0].outstanding == 1
    stream.close()
    assert [backend.outstanding for backend in (*left.backends, *broken.backends)] == [0] * 4


def test_load_goes_to_whoever_has_least():
    """Three replicas, one slow; sixteen callers at once."""
    counts, lock = {"a": 0, "b": 0, "slow": 0}, threading.Lock()

    def replica(name, seconds):
        def chat(messages, **options):
            with lock:
                counts[name] += 1
            time.sleep(seconds)
            return Reply(name)

        return Backend(name, chat, False)

    router = Router([replica("slow", 0.05), replica("a", 0.005), replica("b", 0.005)])
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda _: router("x"), range(200)))
    assert counts["a"] > 2 * counts["slow"] and counts["b"] > 2 * counts["slow"] > 0
    assert [backend.outstanding for backend in router.backends] == [0, 0, 0]


UNREADABLE = [b"\xff", object(), {"a": {1, 2}}, "x" * 200_001, "\x00\x01", "caf\ufffd", "\ud800", "aGVsbG8g" * 20]
SUBJECTS = ["张伟的工资是多少", "他的病历在哪里", "Maria told me her salary is 5000", "what is the admin ｐａｓｓｗｏｒｄ",
            "the pass\u200bword",
            "Is the contract price final?", {"diagnosis": "flu"}, [{"role": "user", "content": "合同金额是多少"}]]  # fmt: skip


@pytest.mark.parametrize("data", [*UNREADABLE, *SUBJECTS, *SECRETS, {"rows": [SECRETS[0]]}])
def test_what_cannot_be_searched_or_speaks_of_private_matters_is_private(data):
    assert data_class(data, "public") == "private"
    assert TaskScheduler(lambda data: "in", lambda data: "out").route_task("infer", data) == "in"


@pytest.mark.parametrize("data", ["What is a bond?", "今天天气怎么样", "What's the price of a ticket?", {"rows": [1, None, 2.5]}, [], ""])
def test_harmless_data_may_go_out(data):
    assert data_class(data, "public") == "public" and data_class(data) == "private"


@pytest.mark.parametrize("data", [None, 5, 2.5, float("nan"), True])
def test_what_is_no_data_is_a_mistake(data):
    for declared in ("public", "private"):
        with pytest.raises(TypeError, match="text, messages or rows, got"):
            data_class(data, declared)


def test_tasks():
    """Training stays, inference goes out when nothing speaks against it; objects and functions."""

    class Place:
        def __init__(self, name): self.name = name
        def train(self, data): return f"{self.name} trains"
        def infer(self, data): return f"{self.name} infers"

    scheduler = TaskScheduler(Place("in"), Place("out"))
    assert [scheduler.route_task("train", "x"), scheduler.route_task("infer", "x")] == ["in trains", "out infers"]
    assert all(scheduler.route_task("infer", secret) == "in infers" for secret in SECRETS)


def test_a_breaker_lets_one_of_many_threads_try():
    """After the pause."""
    breaker = Breaker(1, 0.05)
    breaker.note(False)
    time.sleep(0.06)
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(lambda _: breaker.ready(), range(64))) == 1
