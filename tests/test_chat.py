"What a chat does when the server misbehaves, and when several ask at once."
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from llmguide import chat as module
from llmguide.chat import Options, Reply, ScriptedChat, connect, record, replay

GOOD = {
    "id": "1", "object": "chat.completion", "created": 0, "model": "fake",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "fine"}}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
}


def event(text=None, reason=None):
    choice = {"index": 0, "delta": {"content": text} if text else {}, "finish_reason": reason}
    body = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "fake", "choices": [choice]}
    return f"data: {json.dumps(body)}\n\n".encode()


class Server(ThreadingHTTPServer):
    "A fake model server: `answer(handler, body, number)` writes the reply to request `number`, from 1."
    daemon_threads = True

    def __init__(self, answer):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer, self.requests = answer, []
        self.url = f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, *_): "Clients that hang up are part of the test."


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.requests.append({"body": body, "headers": dict(self.headers)})
        self.server.answer(self, body, len(self.server.requests))

    def do_GET(self):
        self.server.answer(self, None, 0)

    def send(self, data, status=200, kind="application/json", **headers):
        data = data if isinstance(data, bytes) else json.dumps(data).encode()
        self.send_response(status)
        for name, value in {"content-type": kind, "content-length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_): "Say nothing."


@pytest.fixture
def serve():
    servers = []

    def start(answer, **options):
        servers.append(Server(answer))
        threading.Thread(target=servers[-1].serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return connect("fake", base_url=servers[-1].url, **options), servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_good_server(serve):
    chat, server = serve(lambda handler, body, number: handler.send(GOOD))
    assert chat("hi", max_tokens=5, schema={"type": "object"}) == Reply("fine", GOOD["usage"], "stop", None, "fake")
    body = server.requests[0]["body"]
    assert (body["temperature"], body["max_tokens"], body["seed"]) == (0, 5, 0)
    assert body["response_format"]["json_schema"]["strict"] is True


def test_a_slow_server_times_out(serve):
    chat, server = serve(lambda handler, body, number: time.sleep(3), timeout=0.3, retries=0)
    start = time.perf_counter()
    with pytest.raises(TimeoutError, match=r"did not answer in time.*raise timeout="):
        chat("hi")
    assert time.perf_counter() - start < 2 and len(server.requests) == 1


def test_too_busy_then_fine_is_retried_without_a_long_wait(serve, monkeypatch):
    monkeypatch.setattr(module, "_LONGEST_WAIT", 0.2)

    def answer(handler, body, number):
        waits = {1: "100", 2: "Wed, 21 Oct 2099 07:28:00 GMT"}
        if number in waits: handler.send({"error": {"message": "busy"}}, 429, **{"retry-after": waits[number]})
        else: handler.send(GOOD)

    chat, server = serve(answer)
    start = time.perf_counter()
    assert chat("hi").text == "fine"
    assert time.perf_counter() - start < 3 and len(server.requests) == 3


@pytest.mark.parametrize("status, kind, words", [
    (401, PermissionError, "refused the API key .HTTP 401.: no; pass a valid api_key="),
    (404, ValueError, "base_url ends in /v1"),
    (400, ValueError, "refused the request .HTTP 400.: no"),
])
def test_a_refusal_is_not_repeated(serve, status, kind, words):
    error = {"error": {"message": "no"}}
    chat, server = serve(lambda handler, body, number: handler.send(error, status), api_key="hush")
    with pytest.raises(kind, match=words) as caught:
        chat("hi")
    assert caught.value.status == status and len(server.requests) == 1
    assert "hush" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("status, words", [(500, "failed, 2 tries .HTTP 500."), (429, "too busy .HTTP 429.")])
def test_failing_for_ever_gives_up(serve, status, words):
    chat, server = serve(lambda handler, body, number: handler.send({"error": {"message": "x"}}, status), retries=1)
    with pytest.raises(ConnectionError, match=words) as caught:
        chat("hi")
    assert server.url in str(caught.value) and len(server.requests) == 2


@pytest.mark.parametrize("data, kind", [
    (b"<html>Welcome</html>", "text/html"), (b"<html>Welcome</html>", "application/json"), (b"{}", "application/json"),
    (b"[1, 2]", "application/json"), (b'{"choices": []}', "application/json"), (b"\xff\xfe\x00", "application/json"),
    (b'{"choices": [7]}', "application/json"), (b"null", "application/json"), (b"", "application/json"),
])
def test_rubbish_is_called_rubbish(serve, data, kind):
    chat, _ = serve(lambda handler, body, number: handler.send(data, kind=kind), retries=0)
    with pytest.raises(ValueError, match=r"is no chat reply.*/v1"):
        chat("hi")


def test_without_a_name_the_server_is_asked_for_its_only_model(serve):
    models = []
    _, server = serve(lambda handler, body, number: handler.send({"object": "list", "data": models}))
    with pytest.raises(ValueError, match="has 0 models .none.: pass model="): connect(base_url=server.url)
    models.append({"id": "tiny", "object": "model"})
    assert connect(base_url=server.url).model == "tiny"
    models.append({"id": "large", "object": "model"})
    with pytest.raises(ValueError, match="has 2 models .tiny, large."): connect(base_url=server.url)


@pytest.mark.parametrize("data, kind", [
    (b"<html>Welcome</html>", "text/html"), (b"{}", "application/json"), (b"[1]", "application/json"),
    (b"rubbish", "application/json"), (b'{"data": [7]}', "application/json"),
])
def test_a_server_that_is_no_model_server_is_refused(serve, data, kind):
    _, server = serve(lambda handler, body, number: handler.send(data, kind=kind))
    with pytest.raises(ValueError, match=r"is no chat reply|has 0 models"): connect(base_url=server.url)


@pytest.mark.parametrize("ending", ["in good order", "cut off", "rubbish"])
def test_half_a_stream_is_a_failure_that_keeps_the_text(serve, ending):
    def answer(handler, body, number):
        data = event("Once ") + event("upon") + (b"data: {rubbish\n\n" if ending == "rubbish" else b"")
        handler.send_response(200)
        handler.send_header("content-type", "text/event-stream")
        if ending == "cut off": handler.send_header("content-length", str(len(data) + 100))
        handler.end_headers()
        handler.wfile.write(data)

    chat, _ = serve(answer)
    received = []
    with pytest.raises((ConnectionError, ValueError), match=r"after 9 characters \(kept in .text\)") as caught:
        for piece in chat.stream("tell"): received.append(piece)
    assert received == ["Once ", "upon"] and caught.value.text == "Once upon"


def test_a_whole_stream_returns_its_reply(serve):
    def answer(handler, body, number):
        assert body["stream"] is True
        data = event("Once ") + event("upon") + event(reason="stop") + b"data: [DONE]\n\n"
        handler.send(data, kind="text/event-stream")

    def collect():
        reply = yield from serve(answer)[0].stream("tell")
        assert (reply.text, reply.finish_reason, reply.model) == ("Once upon", "stop", "fake")

    assert list(collect()) == ["Once ", "upon"]


def test_nobody_there():
    with connect("fake", base_url="http://127.0.0.1:9/v1", retries=0) as chat:
        with pytest.raises(ConnectionError, match=r"127.0.0.1:9/v1 .*is the server running"):
            chat("hi")


def test_a_key_for_openai_is_sent_to_openai_only(serve, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "hush")
    chat, server = serve(lambda handler, body, number: handler.send(GOOD))
    chat("hi")
    assert "hush" not in str(server.requests[0]["headers"])
    assert connect("gpt", base_url="https://api.openai.com/v1").client.api_key == "hush"


def test_wrong_messages_and_options_are_never_sent(serve):
    chat, server = serve(lambda handler, body, number: handler.send(GOOD))
    for messages in ("", " ", [], None, 7, [{}], ["hi"], [{"role": "robot", "content": "hi"}], [{"role": "user"}]):
        with pytest.raises(ValueError): chat(messages)
        with pytest.raises(ValueError): chat.stream(messages)
    with pytest.raises(TypeError, match="temprature"): chat("hi", temprature=1)
    with pytest.raises(ValueError, match="max_tokens"): Options(max_tokens=0)
    assert not server.requests


def test_recordings_keep_every_answer(tmp_path):
    chat = record(ScriptedChat(lambda messages: "né: " + messages[-1]["content"]), tmp_path / "new" / "r.jsonl")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(chat, [f"question {number}" for number in range(40)]))
    played = replay(chat.path)
    assert len(played) == 40 and played("question 7").text == "né: question 7"
    with pytest.raises(LookupError, match="'question 7' with options {'seed': 1}"): played("question 7", seed=1)


@pytest.fixture(scope="module")
def embedded():
    pytest.importorskip("xllamacpp")
    try:
        chat = connect(retries=0)
    except FileNotFoundError as missing:
        pytest.skip(str(missing))
    yield chat
    chat.close()
    module.close_engines()


def test_four_ask_the_embedded_engine_at_once(embedded):
    asked = ["What colour is the sky?", "Tell me about Rome.", "What is gravity?", "Who was Newton?"]
    alone = [embedded(question, max_tokens=24).text for question in asked]
    with ThreadPoolExecutor(4) as pool:
        together = [reply.text for reply in pool.map(lambda question: connect()(question, max_tokens=24), asked)]
    assert together == alone and all(together)
    assert len(module.running_engines) == 1


def test_an_abandoned_stream_does_not_block_the_next(embedded):
    story = embedded.stream("Tell me a long story.", max_tokens=4000)
    next(story)
    story.close()
    assert embedded("Say hello.", max_tokens=4).text


def test_the_embedded_engine_follows_a_schema_and_reports_a_long_prompt(embedded):
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    assert isinstance(embedded("Say ok.", schema=schema, max_tokens=24).json()["ok"], bool)
    with pytest.raises(ValueError, match="context size"): embedded("word " * 9000, max_tokens=4)
    with pytest.raises(ValueError, match="nonsense"): embedded("hi", schema={"type": "nonsense"})
