"""The service as others use it: over a socket, with rubbish, with other people's ids, killed, stopped, and with several processes."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import uvicorn
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy.exc import OperationalError

from llmguide.chat import ScriptedChat
from llmguide.enterprise.configuration import ServiceSettings
from llmguide.enterprise.database import open_database
from llmguide.enterprise.jobs import JobRunner, add_job, get_job
from llmguide.enterprise.ledger import StoreBusy
from llmguide.enterprise.metrics import audit_broken, registry
from llmguide.enterprise.parts import LOCAL, Parts
from llmguide.enterprise.service import create_app
from llmguide.enterprise.tracing import open_logs

HANDBOOK = "# Remote work\n\nYou may work from home on two days a week.\n"
QUESTION = "How many days a week may I work from home?"


@contextlib.contextmanager
def serving(app):
    """Address of an application that is served from a thread; its server can be told to stop by `server.should_exit`."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=10))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started: time.sleep(0.02)
    app.state.server = server
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join()


def slow_words(messages):
    return " ".join(f"word{number}" for number in range(60))


class SlowChat(ScriptedChat):
    """A model that says a word every twentieth of a second, and remembers whether it was stopped."""

    stopped = False

    def stream(self, messages, **options):
        try:
            for word in super().stream(messages, **options):
                time.sleep(0.05)
                yield word
        except GeneratorExit:
            self.stopped = True
            raise
        return self._done

    from llmguide.chat import Reply

    _done = Reply("", {"prompt_tokens": 1, "completion_tokens": 60, "total_tokens": 61}, "stop")


@pytest.fixture
def home(tmp_path):
    """A folder for a service, with one handbook."""
    (tmp_path / "handbooks").mkdir()
    (tmp_path / "handbooks" / "remote.md").write_text(HANDBOOK)
    return tmp_path


@pytest.fixture(scope="module")
def company(tmp_path_factory):
    """A service with keys for Ann (may do everything) and Ben (a reader): clients by name, and the application."""
    home = tmp_path_factory.mktemp("company")
    (home / "handbooks").mkdir()
    (home / "handbooks" / "remote.md").write_text(HANDBOOK)
    open_logs(level="error")
    settings = ServiceSettings(service_dir=home, handbooks=home / "handbooks", rate=1e6, burst=10**6,
                               tools="llmguide.enterprise.orders:sample_tools")
    app = create_app(settings)
    keys = app.state.parts.keys
    made = {"ann": keys.create("ann", ["reader", "editor", "agent", "admin"]), "ben": keys.create("ben", ["reader", "editor"])}
    app.state.parts.forget_keys()
    with serving(app) as address:
        bearer = {name: {"authorization": f"Bearer {key}"} for name, key in made.items()}
        clients = {name: httpx.Client(base_url=address, headers=headers, timeout=60) for name, headers in bearer.items()}
        yield clients | {"app": app, "nobody": httpx.Client(base_url=address)}
        for client in clients.values(): client.close()


def chat(client, user, message=QUESTION, **more):
    return client.post("/api/chat", json={"user_id": user, "message": message, **more})


def wait_for(client, job):
    while (found := client.get(f"/api/jobs/{job}").json())["status"] in ("waiting", "running"): time.sleep(0.05)
    return found


def test_what_belongs_to_ann_is_not_there_for_ben(company):
    ann, ben = company["ann"], company["ben"]
    said = chat(ann, "ann").json()
    bonus = ("bonus.md", "# Bonus\n\nThe bonus of a manager is four percent of the salary.")
    job = ann.post("/api/documents", files=[("files", bonus)]).json()["job"]
    assert wait_for(ann, job)["status"] == "done"
    place = {"source": "@ann/bonus.md", "start": 9, "end": 20}
    assert ann.get("/api/passage", params=place).status_code == 200
    tries = {
        "conversation": ben.get(f"/api/conversations/{said['conversation']}"),
        "deletion of it": ben.delete(f"/api/conversations/{said['conversation']}"),
        "a question in it": chat(ben, "ben", conversation=said["conversation"]),
        "a person for it": ben.post("/api/handoff", json={"conversation": said["conversation"]}),
        "feedback": ben.post("/api/feedback", json={"message_id": said["message_id"], "rating": "up"}),
        "job": ben.get(f"/api/jobs/{job}"),
        "end of it": ben.delete(f"/api/jobs/{job}"),
        "passage": ben.get("/api/passage", params=place),
        "document": ben.delete("/api/documents", params={"source": "@ann/bonus.md"}),
    }
    assert {what: reply.status_code for what, reply in tries.items()} == dict.fromkeys(tries, 404)
    assert "@ann/bonus.md" not in ben.get("/api/documents").text
    assert "four percent" not in chat(ben, "ben", "What is the bonus of a manager?").text
    assert "four percent" in chat(ann, "ann", "What is the bonus of a manager?").text
    assert chat(ben, "ann").status_code == 403
    assert [ben.get(path).status_code for path in ("/api/keys", "/api/audit", "/api/feedback", "/api/handoffs")] == [403] * 4


@pytest.mark.parametrize("body, kind, status", [
    (b"hello", "application/json", 400), (b"[" * 50_000, "application/json", 400),
    (rb'{"message": "\ud800"}', "application/json", 400),
    (b'{"a":' * 3000 + b"1" + b"}" * 3000, "application/json", 400), (b"\x00\xff\xfe", "application/json", 400),
    (b'{"user_id": "ann", "message": 1e999}', "application/json", 422), (b"[]", "application/json", 422),
    (b"null", "application/json", 422),
    (b"", "application/json", 422), (b'{"user_id": "ann", "message": "hi"}', "text/plain", 415),
    (b"user_id=ann", "application/x-www-form-urlencoded", 415), (b'"' + b"x" * 2_000_000 + b'"', "application/json", 413),
    (json.dumps({"user_id": "ann", "message": "x" * 8001}).encode(), "application/json", 422),
    (b'{"user_id": "ann", "message": "  "}', "application/json", 422),
    (b'{"user_id": "ann", "message": "hi", "conversation": "../../etc"}', "application/json", 422),
])  # fmt: skip
def test_rubbish_is_answered_with_what_to_do(company, body, kind, status):
    for path in ("/api/chat", "/v1/chat/completions", "/v1/embeddings", "/api/feedback", "/api/keys", "/api/handoff"):
        reply = company["ann"].post(path, content=body, headers={"content-type": kind})
        assert reply.status_code in ((status,) if path == "/api/chat" else (400, 404, 413, 415, 422)), (path, reply.text)
        assert reply.json()["error"]["remedy"]


def test_unusual_questions_are_answered(company):
    for question in ("?", "🙂" * 2000, "SELECT * FROM users; --", "<script>alert(1)</script>", "多" * 8000, "a\u202eb", "\u00a0x"):
        assert chat(company["ann"], "ann", question).status_code == 200, question[:20]


def test_bad_keys_are_401(company):
    for sent in ("", "Bearer", "Bearer x", "Basic YWJj", "Bearer " + "x" * 5000, "Bearer llmg_000000000000_" + "A" * 43):
        reply = company["nobody"].get("/api/me", headers={"authorization": sent})
        assert (reply.status_code, reply.json()["error"]["type"]) == (401, "authentication")


def test_uploads_of_all_kinds(company):
    ann = company["ann"]
    files = [("files", (name, data)) for name, data in (
        ("../../../../tmp/evil.md", b"# Evil\n\nOutside."), ("empty.txt", b""), ("data.bin", os.urandom(5000)), ("CON", b"device"),
        ("\u8bf7\u5047.md", "# 请假\n\n请假要提前三天申请。".encode()), ("gbk.txt", "年假十五天。".encode("gb18030")))]  # fmt: skip
    reply = ann.post("/api/documents", files=files, data={"readers": ["everyone"]})
    assert reply.status_code == 202
    found = wait_for(ann, reply.json()["job"])
    assert found["status"] == "done" and found["done"] == 6
    print(found)
    states = {Path(each["source"]).name: each["status"] for each in found["files"]}
    assert states["evil.md"] == states["请假.md"] == "indexed" and states["empty.txt"] == states["data.bin"] == "not indexed"
    assert not Path("/tmp/evil.md").exists()
    assert ann.post("/api/documents", files=[("files", ("big.txt", b"x" * 51_000_000))]).status_code == 413
    assert ann.post("/api/documents", files=[]).status_code in (415, 422)
    assert ann.post("/api/documents", content=b"no form", headers={"content-type": "multipart/form-data"}).status_code == 400


def upload(client, name, text, **data):
    reply = client.post("/api/documents", files=[("files", (name, text))], data=data)
    assert wait_for(client, reply.json()["job"])["status"] == "done"


GARDEN = "The garden is watered by Mr Brook every third evening."


@pytest.mark.parametrize("way", ["service", "program", "new version", "reader taken away"])
def test_nothing_of_a_deleted_document_is_told_any_more(company, way):
    """Not in a conversation, a judgement, an export or a second answer; whoever deleted it, and however."""
    ann, ben, store = company["ann"], company["ben"], company["app"].state.parts.settings.store_address
    questions = "How often is the garden watered?", "How often is the garden watered ?"  # the same but for a space
    upload(ann, "garden.md", f"# Garden\n\n{GARDEN}", readers=["everyone"])
    said = [chat(ben, "ben", question).json() for question in questions]
    assert all("Brook" in each["response"] for each in said) and "from the cache" in said[1]["trace"]
    for each in said: assert ben.post("/api/feedback", json={"message_id": each["message_id"], "rating": "up"}).status_code == 200
    assert ann.post(f"/api/feedback/{said[0]['message_id']}/approve").status_code == 200
    places = ["/api/feedback", "/api/feedback/export"]
    assert all("Brook" in ann.get(place).text for place in places)
    if way == "service": assert ann.delete("/api/documents", params={"source": "@ann/garden.md"}).status_code == 200
    if way == "new version": upload(ann, "garden.md", "# Garden\n\nThere is no garden any more.", readers=["everyone"])
    if way == "reader taken away": upload(ann, "garden.md", f"# Garden\n\n{GARDEN}", readers=["ann"])
    if way == "program":
        path = company["app"].state.parts.settings.service_dir / "documents" / "@ann" / "garden.md"
        program = [sys.executable, "-m", "llmguide.cli", "kb", "delete", str(path), "--store", store]
        assert subprocess.run(program, capture_output=True).returncode == 0
    told = [ben.get(f"/api/conversations/{each['conversation']}").text for each in said]
    told += [chat(ben, "ben", question).text for question in questions]
    if way != "reader taken away": told += [ann.get(place).text for place in places]  # a reviewer may read all answers
    assert not [text for text in told if "Brook" in text] and "no longer shown" in told[0]
    if way == "service":
        files = [path.read_bytes() for path in company["app"].state.parts.settings.service_dir.glob("service.sqlite*")]
        assert b"Brook every third" not in b"".join(files)


def test_an_answer_is_kept_for_those_who_see_the_same_documents(company):
    parts, ann = company["app"].state.parts, company["ann"]
    client = lambda user: httpx.Client(base_url=ann.base_url, headers={"authorization": f"Bearer {parts.keys.create(user, ['reader'])}"})  # noqa: E731
    with client("carl") as carl, client("dora") as dora:
        question = "May I work from home, and on how many days a week?"
        cached = lambda one, user, text=question: "from the cache" in chat(one, user, text).json()["trace"]  # noqa: E731
        assert [cached(carl, "carl"), cached(dora, "dora"), cached(dora, "dora", f"  {question}")] == [False, True, True]
        assert not cached(carl, "carl", "canonical: may i work from home, and on how many days a week")
        upload(ann, "dora.md", "# Home\n\nDora may work from home on five days a week.", readers=["dora"])
        assert not cached(carl, "carl") and cached(carl, "carl") and not cached(dora, "dora")
        assert "five" not in chat(carl, "carl").text


def measured(client, name, **labels):
    """A number of /metrics, 0 where there is none."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    return sum(one.value for family in families for one in family.samples if one.name == f"llmguide_{name}" and one.labels == labels)


def test_steps_and_failures_are_measured(company):
    ann, parts = company["ann"], company["app"].state.parts
    before = measured(ann, "step_seconds_count", step="retrieve"), measured(ann, "first_token_seconds_count")
    assert chat(ann, "ann", "A question of nobody about the steps of an answer?").status_code == 200
    assert measured(ann, "step_seconds_count", step="retrieve") > before[0]
    assert measured(ann, "first_token_seconds_count") == before[1] + 1
    failed, database = measured(ann, "errors_total", part="database"), parts.database
    with pytest.raises(OperationalError), database.connect() as connection: connection.exec_driver_sql("SELECT 1 FROM nowhere")
    assert measured(ann, "errors_total", part="database") == failed + 1


@pytest.mark.skipif(os.name == "nt", reason="rights are other things on Windows")
def test_nobody_else_of_the_machine_looks_into_the_folder(tmp_path):
    """Questions, uploads and titles lie there."""
    class Idle:
        async def stop(self): pass

    asyncio.run(Parts(ServiceSettings(service_dir=tmp_path / "new" / "service"), Idle()).close())
    assert (tmp_path / "new" / "service").stat().st_mode & 0o777 == 0o700


def test_a_changed_audit_log_is_seen_in_the_metrics(home):
    class Idle:
        started = True
        async def stop(self): pass

    async def watch():
        parts = Parts(ServiceSettings(service_dir=home), Idle())
        await parts.note("tried", LOCAL, number=1)
        numbers = []
        for _ in range(2):
            watching = asyncio.create_task(parts.watch_audit())
            await asyncio.sleep(0.3)
            watching.cancel()
            numbers.append(registry.get_sample_value("llmguide_audit_broken"))
            log = home / "audit.jsonl"
            log.write_bytes(log.read_bytes().replace(b'"number":1', b'"number":2').replace(b'"number": 1', b'"number": 2'))
        await parts.close()
        return numbers

    assert asyncio.run(watch()) == [0, 1]
    audit_broken.set(0)


def test_a_refund_is_paid_once_and_only_after_its_users_yes(company):
    ann, ben = company["ann"], company["ben"]
    paid = lambda: [*sqlite3.connect(company["app"].state.parts.settings.service_dir / "orders.sqlite").execute("SELECT * FROM refunds")]  # noqa: E731
    assert "cancelled" in chat(ann, "ann", "Where is BR-1001?").json()["response"]
    said = chat(ann, "ann", "Please refund 50 EUR for BR-1001").json()
    assert said["confirm"]["text"] == said["response"] and "confirm" in said["response"] and paid() == []
    decide = lambda client, accept: client.post(f"/api/confirm/{said['pending']}", json={"accept": accept})  # noqa: E731
    assert decide(ben, True).status_code == decide(ben, False).status_code == 404 and paid() == []
    with ThreadPoolExecutor(8) as threads: replies = [*threads.map(lambda _: decide(ann, True).status_code, range(8))]
    assert sorted(replies) == [200] + [404] * 7 and paid() == [("BR-1001", 50, "ann")]
    again = chat(ann, "ann", "Please refund 50 EUR for BR-1001").json()
    assert "from the cache" not in again["trace"] and decide(ann, True).status_code == 404
    chat(ann, "ann", "no", conversation=again["conversation"])
    assert ann.post(f"/api/confirm/{again['pending']}", json={"accept": True}).status_code == 404


def test_an_empty_message_is_called_empty(company):
    error = chat(company["ann"], "ann", " \n").json()["error"]
    assert (error["code"], error["message"]) == (422, "message: it is empty")


def test_a_button_is_answered_in_the_language_of_the_conversation_and_kept(company):
    ann = company["ann"]
    for question, accept, words in (("请给BR-1009退30欧元", False, "没有做任何更改"), ("请给BR-1009退30欧元", True, "退"),
                                    ("Please refund 30 EUR for BR-1009", False, "nothing was changed")):
        said = chat(ann, "ann", question).json()
        done = ann.post(f"/api/confirm/{said['pending']}", json={"accept": accept}).json()
        last = ann.get(f"/api/conversations/{said['conversation']}").json()["messages"][-1]
        assert words in done["response"] and (last["id"], last["text"]) == (done["message_id"], done["response"])


def test_everything_of_a_user_can_be_erased(company):
    ann, parts = company["ann"], company["app"].state.parts
    key = parts.keys.create("eve", ["reader", "editor"])
    eve = httpx.Client(base_url=ann.base_url, headers={"authorization": f"Bearer {key}"}, timeout=30)
    upload(eve, "diary.md", "# Diary\n\nEve hid the silver key under the third stone.", readers=["everyone"])
    said = chat(eve, "eve", "Where did Eve hide the silver key?").json()
    assert "third stone" in said["response"]
    assert eve.post("/api/feedback", json={"message_id": said["message_id"], "rating": "up"}).status_code == 200
    assert "third stone" in chat(ann, "ann", "Where did Eve hide the silver key?").text
    assert company["ben"].delete("/api/users/eve").status_code == 403
    rows = ann.delete("/api/users/eve").json()["rows"]
    assert (rows["documents"], rows["messages"], rows["conversations"], rows["feedback"], rows["jobs"]) == (1, 2, 1, 1, 1)
    assert eve.get("/api/me").status_code == 401 and not list(parts.settings.service_dir.glob("documents/@eve/*"))
    assert "third stone" not in chat(ann, "ann", "Where did Eve hide the silver key?").text + ann.get("/api/feedback").text
    assert "user erased" in ann.get("/api/audit").text
    assert set(ann.delete("/api/users/nobody%2Fat%20all").json()["rows"].values()) == {0}


def test_a_conversation_that_waits_for_a_person(company):
    ben, ann = company["ben"], company["ann"]
    there = chat(ben, "ben", "Can I talk to a person?").json()["conversation"]
    reply = chat(ben, "ben", conversation=there)
    assert (reply.status_code, reply.json()["response"], reply.json()["state"]) == (200, "", "waiting")
    close = lambda client, conversation=there: client.post(f"/api/handoff/{conversation}/close")  # noqa: E731
    assert close(company["nobody"]).status_code == 401 and close(ben).json()["state"] == "bot" and close(ben).status_code == 409
    assert "two days" in chat(ben, "ben", conversation=there).json()["response"]
    hers = chat(ann, "ann", "Can I talk to a person?").json()["conversation"]
    assert close(ben, hers).status_code == 404
    ben.post("/api/handoff", json={"conversation": there})
    assert ann.post(f"/api/handoff/{there}/take").status_code == 200 and close(ben).status_code == 409  # a person has come
    assert close(ann).status_code == 200 and close(ann, hers).status_code == 200


def test_a_refusal_shows_the_nearest_passages_also_from_the_cache(company):
    ann = company["ann"]
    for fresh in (True, False):
        said = chat(ann, "ann", "Who won the football world cup in 1974?").json()
        assert said["refused"] and ("from the cache" in said["trace"]) != fresh
        first = said["nearest"][0]
        passage = ann.get(first["passage"]).json()
        assert 0 < len(first["text"]) <= 300 and passage["text"].startswith(first["text"]) and first["source"] == passage["source"]
    assert chat(ann, "ann").json()["nearest"] == []


def test_the_short_way_of_a_cached_answer_says_what_the_long_way_says(company):
    """Without the cache, by the layer before the framework, and as a stream, which goes the long way with the cache."""
    ann, question = company["ann"], "How many days may somebody work from home on, each week?"
    replies = [chat(ann, "ann", question).json() for _ in range(2)]
    lines = chat(ann, "ann", question, stream=True).text.strip().splitlines()
    assert lines[-2] == "event: done"
    replies.append(json.loads(lines[-1].removeprefix("data: ")))
    assert ["from the cache" in reply["trace"] for reply in replies] == [False, True, True]
    once = ("message_id", "conversation", "timestamp", "trace")
    assert len({json.dumps({k: v for k, v in reply.items() if k not in once}, sort_keys=True) for reply in replies}) == 1
    assert len({reply["message_id"] for reply in replies}) == len({reply["conversation"] for reply in replies}) == 3


def test_a_refusal_is_known_as_one_later_and_a_changed_judgement_is_not_approved(company):
    ann = company["ann"]
    said = chat(ann, "ann", "Who won the football world cup in 1974?").json()
    kept = ann.get(f"/api/conversations/{said['conversation']}").json()["messages"]
    assert said["refused"] and [each["refused"] for each in kept] == [False, True]
    judge = lambda rating: ann.post("/api/feedback", json={"message_id": said["message_id"], "rating": rating})  # noqa: E731
    judge("up")
    seen = next(each for each in ann.get("/api/feedback").json()["feedback"] if each["id"] == said["message_id"])["time"]
    judge("down")
    approve = lambda body: ann.post(f"/api/feedback/{said['message_id']}/approve", json=body).status_code  # noqa: E731
    assert [approve({"seen": seen}), approve({})] == [404, 200]


def test_a_job_waits_for_another_writer_and_fails_for_other_reasons(home):
    engine, tries = open_database(f"sqlite:///{home}/jobs.sqlite"), []

    def add(paths, readers, user):
        tries.append(user)
        if user == "ann": raise RuntimeError("no writer, something else")
        if len(tries) < 3: raise StoreBusy("another process writes")
        return {}

    runner = JobRunner(engine, add, pause=0.02)
    jobs = {user: add_job(engine, user, [Path("a.md")]) for user in ("ben", "ann")}
    runner.start()
    ended = lambda user: get_job(engine, jobs[user], user)["status"]  # noqa: E731
    while ended("ann") in ("waiting", "running"): time.sleep(0.02)
    runner.stop()
    assert (ended("ben"), ended("ann"), tries) == ("done", "failed", ["ben", "ben", "ben", "ann"])


def test_a_line_that_is_full_says_when_to_come_back(company):
    app, ann = company["app"], company["ann"]
    engine = app.state.parts.engine
    most, engine.line.most = engine.line.most, 0
    try: reply = chat(ann, "ann", "A question that nobody has asked before?")
    finally: engine.line.most = most
    assert reply.status_code == 503 and int(reply.headers["retry-after"]) >= 1


def test_whoever_leaves_is_not_worked_for(company):
    app, ann = company["app"], company["ann"]
    engine = app.state.parts.engine
    engine.chat = slow = SlowChat(slow_words)
    try:
        body = {"model": "scripted", "messages": [{"role": "user", "content": "Talk!"}], "stream": True}
        with ann.stream("POST", "/v1/chat/completions", json=body) as reply: next(reply.iter_lines())
        end = time.monotonic() + 5
        while engine.line.busy and time.monotonic() < end: time.sleep(0.02)
        assert slow.stopped and engine.line.busy == 0
    finally: engine.chat = None


def test_the_audit_log_has_no_texts_and_is_whole(company):
    ann = company["ann"]
    chat(ann, "ann", "A very private question about my salary?")
    key = ann.post("/api/keys", json={"user": "eve"}).json()
    assert ann.delete(f"/api/keys/{key['id']}").status_code == 200
    events = ann.get("/api/audit").json()["events"]
    assert "salary" not in json.dumps(events) and key["key"] not in json.dumps(events)
    assert company["app"].state.parts.audit.verify()


def test_a_running_answer_is_finished_at_the_end(home):
    app = create_app(ServiceSettings(service_dir=home, handbooks=home / "handbooks"))
    with serving(app) as address:
        httpx.get(f"{address}/api/me")
        app.state.parts.engine.chat = SlowChat(slow_words)
        body = {"model": "scripted", "messages": [{"role": "user", "content": "Talk!"}], "stream": True}
        with httpx.stream("POST", f"{address}/v1/chat/completions", json=body, timeout=30) as reply:
            lines = reply.iter_lines()
            next(lines)
            app.state.server.should_exit = True
            assert [line for line in lines if line][-1] == "data: [DONE]"


def start(home, port, *options):
    """The program as a user starts it."""
    variables = {"LLMGUIDE_SERVICE_DIR": str(home), "LLMGUIDE_HANDBOOKS": str(home / "handbooks"), "LLMGUIDE_PORT": str(port)}
    return subprocess.Popen([sys.executable, "-m", "llmguide.cli", "serve", *options], env=os.environ | variables,
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def until_it_answers(address, path="/api/me"):
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with contextlib.suppress(httpx.TransportError):
            if (reply := httpx.get(address + path)).status_code == 200: return reply.json()
        time.sleep(0.1)
    raise TimeoutError(address)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe: return probe.getsockname()[1]


def test_a_killed_service_finishes_the_job_after_its_restart(home):
    port = free_port()
    address, service = f"http://127.0.0.1:{port}", start(home, port)
    try:
        until_it_answers(address)
        texts = [f"# Rule {number}\n\nRule number {number} is about room {number + 100}." for number in range(16)]
        files = [("files", (f"{number}.md", text)) for number, text in enumerate(texts)]
        job = httpx.post(f"{address}/api/documents", files=files).json()["job"]
        while httpx.get(f"{address}/api/jobs/{job}").json()["done"] < 2: time.sleep(0.01)
    finally: service.kill()
    service.wait()
    service = start(home, port)
    try:
        until_it_answers(address)
        with httpx.Client(base_url=address) as client:
            found = wait_for(client, job)
            assert (found["status"], found["done"], {each["status"] for each in found["files"]}) == ("done", 16, {"indexed"})
            assert len(client.get("/api/documents").json()["documents"]) == 17
    finally:
        service.send_signal(signal.SIGTERM)
        assert service.wait(20) in (0, -signal.SIGTERM)


@pytest.mark.parametrize("options", [(), ("--workers", "2")])
def test_a_taken_port_is_said_at_once(home, options):
    with socket.create_server(("127.0.0.1", 0)) as other:
        service = start(home, other.getsockname()[1], *options)
        _, said = service.communicate(timeout=60)
    assert service.returncode == 2 and "--port" in said and said.count("\n") == 1
    assert not (home / "knowledge_base").exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs Unix")
def test_with_two_workers_health_waits_for_the_models_and_a_killed_parent_takes_all_along(home):
    import psutil

    port = free_port()
    address, service, seen = f"http://127.0.0.1:{port}", start(home, port, "--workers", "2"), set()
    end = time.monotonic() + 90
    while (200, "ok") not in seen and time.monotonic() < end:
        with contextlib.suppress(httpx.TransportError):
            reply = httpx.get(f"{address}/health")
            seen.add((reply.status_code, reply.json()["status"]))
        time.sleep(0.05)
    children = psutil.Process(service.pid).children(recursive=True)
    service.kill()
    service.wait()
    _, alive = psutil.wait_procs(children, 20)
    for each in alive: each.kill()
    assert seen <= {(503, "starting"), (200, "ok")} and (200, "ok") in seen and len(children) >= 3 and alive == []
    socket.create_server(("127.0.0.1", port)).close()


def test_the_first_key_is_an_administrators(tmp_path):
    environment = os.environ | {"LLMGUIDE_SERVICE_DIR": str(tmp_path)}
    create = lambda *words: subprocess.run([sys.executable, "-m", "llmguide.cli", "keys", "create", *words], env=environment,  # noqa: E731
                                           capture_output=True, text=True)  # fmt: skip
    refused = create("bob", "--roles", "reader")
    assert refused.returncode == 2 and "--roles admin" in refused.stderr and refused.stderr.count("\n") == 1
    assert create("ann", "--roles", "admin").returncode == 0 and create("bob").returncode == 0


def test_it_does_not_start_open_where_others_can_reach_it(home):
    service = start(home, free_port(), "--host", "0.0.0.0")
    _, said = service.communicate(timeout=60)
    assert service.returncode == 2 and "llmguide keys create" in said and said.count("\n") == 1
