"""Dashboard and alerts against a real Prometheus, metrics of several processes, and logs that hold no texts."""

import asyncio
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from llmguide.enterprise import tracing
from llmguide.enterprise.metrics import OUTCOMES, PARTS, Watch, registry

DEPLOY = Path(__file__).parents[1] / "deploy"
SENT = 40
APPLICATION = """
from fastapi import FastAPI, Response
from llmguide.enterprise.metrics import *
from llmguide.enterprise import metrics

application = FastAPI()

@application.post("/api/chat")
def chat(number: int):
    answers.labels("refused" if number % 4 == 0 else "answered").inc()
    cache_lookups.labels("hit" if number % 2 else "miss").inc()
    tokens.labels("small", "completion").inc(20)
    first_token_seconds.observe(0.05)
    guard_blocks.labels("injection").inc()
    queue_limit.set(64)
    queue_length.set(2)
    drift.labels("questions").set(0.4)
    audit_broken.set(0)
    with step("retrieve", part="store"): pass
    return {"number": 60 // number}

@application.get("/metrics")
def page():
    content, kind = exposition()
    return Response(content, media_type=kind)

app = Watch(application)
"""


def free_port():
    """A port that nobody uses now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def wait_for(check, seconds=20):
    """The first true result of a check, tried again and again."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if found := check(): return found
        except (httpx.TransportError, ValueError):  # not there yet, or there and still reading its files
            pass
        time.sleep(0.1)
    raise TimeoutError("it never came")


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """Address of an application with our metrics and two worker processes, after SENT requests of which one fails."""
    folder = tmp_path_factory.mktemp("service")
    (folder / "metered.py").write_text(APPLICATION)
    (folder / "numbers").mkdir()
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "metered:app", "--workers", "2", "--port", str(port), "--log-level", "critical"],
        cwd=folder, env=os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(folder / "numbers")}, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    wait_for(lambda: httpx.get(f"{address}/metrics").status_code == 200)
    yield address
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="module")
def prometheus(service, tmp_path_factory):
    """query(expression): what a real Prometheus with our rules answers about that service."""
    program = shutil.which("prometheus") or pytest.skip("no Prometheus here: apt install prometheus")
    folder, port = tmp_path_factory.mktemp("prometheus"), free_port()
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "250ms", "evaluation_interval": "250ms", "scrape_timeout": "250ms"}
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [service.removeprefix("http://")]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    shutil.copy(DEPLOY / "prometheus" / "alerts.yml", folder)
    process = subprocess.Popen([program, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
                                f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"])

    def query(expression):
        answer = httpx.get(f"http://127.0.0.1:{port}/api/v1/query", params={"query": expression}).json()
        return answer["data"]["result"]

    wait_for(lambda: query("llmguide_in_flight"))
    for number in range(SENT):  # the last one divides by zero
        httpx.post(f"{service}/api/chat?number={SENT - 1 - number}", timeout=20)
    wait_for(lambda: sum(float(one["value"][1]) for one in query('llmguide_requests_total{route="/api/chat"}')) == SENT)
    time.sleep(0.6)  # two more readings, so that rates exist
    yield query
    process.kill()
    process.wait()


def panels():
    return json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())["panels"]


def expressions():
    """Every query of the dashboard, by its panel's title."""
    return [(panel["title"], target["expr"]) for panel in panels() for target in panel["targets"]]


def rules():
    return [rule for group in yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"] for rule in group["rules"]]


@pytest.mark.parametrize("title, expression", expressions())
def test_every_query_of_the_dashboard_returns_numbers(prometheus, title, expression):
    values = [float(one["value"][1]) for one in wait_for(lambda: prometheus(expression), 5)]
    assert values and all(value == value and value >= 0 for value in values), (title, values)


def test_prometheus_adds_up_both_workers(prometheus):
    total = {one["metric"]["status"]: float(one["value"][1]) for one in prometheus('llmguide_requests_total{route="/api/chat"}')}
    assert total == {"200": SENT - 1, "500": 1}
    refused = prometheus('llmguide_answers_total{outcome="refused"}')
    assert float(refused[0]["value"][1]) == SENT // 4


@pytest.mark.parametrize("name", [rule["alert"] for rule in rules()])
def test_the_series_of_every_rule_exist(prometheus, name):
    """A rule whose series nobody writes never fires; comparisons are left out, so that a quiet service answers too."""
    expression = next(rule["expr"] for rule in rules() if rule["alert"] == name)
    first = expression.split(" and ")[0].split(" or absent")[0].split("\nand ")[0]
    bare = first.replace("== 0", "").split(" > ")[0]
    assert prometheus(bare), (name, bare)


def test_alerts_fire_when_they_should_and_only_then(tmp_path):
    program = shutil.which("promtool") or pytest.skip("no promtool here: apt install prometheus")
    folder = DEPLOY / "prometheus"
    assert subprocess.run([program, "test", "rules", "alerts_test.yml"], cwd=folder, capture_output=True).returncode == 0
    for name in ("alerts.yml", "alerts_test.yml"): shutil.copy(folder / name, tmp_path)
    broken = (tmp_path / "alerts.yml").read_text().replace("> 0.01", "> 0.5")  # a careless change is noticed
    (tmp_path / "alerts.yml").write_text(broken)
    assert subprocess.run([program, "test", "rules", "alerts_test.yml"], cwd=tmp_path, capture_output=True).returncode != 0


def test_every_alert_is_tested_and_says_what_to_do():
    tested = (DEPLOY / "prometheus" / "alerts_test.yml").read_text()
    for rule in rules():
        assert f'alertname="{rule["alert"]}"' in tested, rule["alert"]
        assert rule["annotations"]["summary"] and rule["annotations"]["action"]
    assert len({panel["title"] for panel in panels()}) == len(panels())


def test_series_that_alerts_watch_exist_from_the_start(service):
    page = httpx.get(f"{service}/metrics").text
    found = {family.name: family for family in text_string_to_metric_families(page)}
    assert {sample.labels["part"] for sample in found["llmguide_errors"].samples} >= set(PARTS)
    assert {sample.labels["outcome"] for sample in found["llmguide_answers"].samples} >= set(OUTCOMES)


# --- the layer around the application

def call(app, headers=(), method="GET", cancel=False):
    """Put a request to an application; returns its messages."""
    sent = []

    async def send(message): sent.append(message)

    async def run():
        await app({"type": "http", "method": method, "path": "/x", "headers": list(headers)}, None, send)

    if cancel:
        async def run_and_leave():
            task = asyncio.ensure_future(app({"type": "http", "method": method, "path": "/x", "headers": []}, None, send))
            await asyncio.sleep(0.02)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        asyncio.run(run_and_leave())
    else:
        asyncio.run(run())
    return sent


async def fine(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


def counted(method, status):
    return registry.get_sample_value("llmguide_requests_total", {"route": "unknown", "method": method, "status": status}) or 0


@pytest.mark.parametrize("evil", [b'"}\n{"level": "error"}', b"\xff\xfe\x00", b"x" * 10_000, "请求".encode()])
def test_a_request_id_from_outside_cannot_write_into_the_log(evil):
    lines = io.StringIO()
    tracing.open_logs(lines)
    sent = call(Watch(fine), [(b"x-request-id", evil)])
    given = dict(sent[0]["headers"])[b"x-request-id"]
    assert len(given) == 32 and given.isalnum()
    assert [json.loads(line)["request_id"] for line in lines.getvalue().splitlines()] == [given.decode()]


def test_a_caller_who_left_is_no_error_of_ours():
    async def slow(scope, receive, send): await asyncio.sleep(5)

    before, errors = counted("GET", "499"), registry.get_sample_value("llmguide_errors_total", {"part": "service"})
    call(Watch(slow), cancel=True)
    assert counted("GET", "499") == before + 1
    assert registry.get_sample_value("llmguide_errors_total", {"part": "service"}) == errors
    assert registry.get_sample_value("llmguide_in_flight") == 0


def test_made_up_methods_make_one_series():
    before = counted("OTHER", "200")
    for number in range(5): call(Watch(fine), method=f"FOO{number}")
    assert counted("OTHER", "200") == before + 5


SECRET = "sk-live-4111 我的银行卡"


@pytest.mark.parametrize("text", [SECRET, "我的银行卡4111", {"key": SECRET}, [SECRET]])
@pytest.mark.parametrize("field", ["text", "query", "Question", "event", "route", "place", "intent", "logger"])
def test_no_field_of_the_log_lets_a_text_through(field, text):
    lines = io.StringIO()
    tracing.open_logs(lines)
    fields = {"event": "asked"} | {field: text}
    tracing.get_log().info(fields.pop("event"), **fields)
    assert "4111" not in lines.getvalue() and "银行" not in lines.getvalue() and json.loads(lines.getvalue())


def test_spans_hold_no_texts_either():
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    kept = InMemorySpanExporter()
    tracing.open_traces(kept)
    with pytest.raises(ValueError), tracing.span("tool", prompt=SECRET, model="small"): raise ValueError(SECRET)
    tracing.open_traces()
    assert SECRET not in kept.get_finished_spans()[0].to_json() and "银行" not in kept.get_finished_spans()[0].to_json()


def test_an_otlp_collector_needs_its_extra_or_is_used():
    try:
        tracing.open_traces("http://127.0.0.1:9")
    except ImportError as problem:
        assert "pip install" in str(problem)
    finally:
        tracing.open_traces()
