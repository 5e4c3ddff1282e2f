"""The service as in a company, by environment variables alone: PostgreSQL, Redis, two workers, keys, and nginx with TLS in front."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from test_failures import redis_server
from test_service import HANDBOOK, QUESTION, chat, free_port, measured, until_it_answers, upload

from llmguide.enterprise.access import KeyStore
from llmguide.enterprise.database import open_database
from llmguide.settings import get_settings

CONFIGURATION = Path(__file__).parents[1] / "deploy" / "nginx" / "nginx.conf"


@pytest.fixture(scope="module")
def nginx(tmp_path_factory):
    """A real nginx with the configuration of deploy/, for a service at a port; gives that port and nginx's address."""
    program = shutil.which("nginx") or shutil.which("/usr/sbin/nginx") or pytest.skip("no nginx here: apt install nginx")
    openssl = shutil.which("openssl") or pytest.skip("no openssl here")
    folder, port, plain, secure = tmp_path_factory.mktemp("nginx"), free_port(), free_port(), free_port()
    subprocess.run([openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1",
                    "-subj", "/CN=localhost", "-keyout", folder / "tls.key", "-out", folder / "tls.crt"], check=True, capture_output=True)
    text = CONFIGURATION.read_text()
    for old, new in {"service:8000": f"127.0.0.1:{port}", "listen 80;": f"listen 127.0.0.1:{plain};",
                     "listen 443 ssl;": f"listen 127.0.0.1:{secure} ssl;", "/etc/nginx/tls": str(folder), "/dev/stdout": f"{folder}/log",
                     "/dev/stderr": f"{folder}/errors", "/tmp/nginx.pid": f"{folder}/pid"}.items():
        text = text.replace(old, new)
    (folder / "nginx.conf").write_text(text)
    process = subprocess.Popen([program, "-c", folder / "nginx.conf", "-g", "daemon off;"], stderr=subprocess.DEVNULL)
    yield port, f"https://127.0.0.1:{secure}"
    process.terminate()
    process.wait()


@pytest.fixture(scope="module")
def company(tmp_path_factory, postgres, nginx):
    """Clients of Ann (may do everything) and Ben (a reader) through nginx, one of the service itself, and its process."""
    home, (port, address) = tmp_path_factory.mktemp("company"), nginx
    (home / "handbooks").mkdir()
    (home / "handbooks" / "remote.md").write_text(HANDBOOK)
    psycopg = pytest.importorskip("psycopg", reason="no PostgreSQL: pip install psycopg")
    with psycopg.connect(postgres, autocommit=True) as admin: admin.execute("CREATE DATABASE company")  # other tests have none with keys
    store = postgres.replace("/postgres?", "/company?")
    database = store.replace("postgresql://", "postgresql+psycopg://")
    keys = KeyStore(open_database(database))
    made = {"ann": keys.create("ann", ["reader", "editor", "agent", "admin"]), "ben": keys.create("ben", ["reader"])}
    with redis_server(home) as redis:
        variables = {"SERVICE_DIR": str(home), "HANDBOOKS": str(home / "handbooks"), "PORT": str(port), "WORKERS": "2", "GRACE": "3",
                     "DATABASE_URL": database, "STORE": store, "REDIS_URL": f"redis://127.0.0.1:{redis}/0",
                     "CACHE_DIR": str(home / "cache"), "MODELS_DIR": str(get_settings().models_dir)}
        service = subprocess.Popen([sys.executable, "-m", "llmguide.cli", "serve"], stdout=subprocess.DEVNULL,
                                   stderr=(home / "log").open("w"),
                                   env=os.environ | {f"LLMGUIDE_{name}": value for name, value in variables.items()})
        try:
            until_it_answers(f"http://127.0.0.1:{port}", "/health")
            while httpx.get(f"http://127.0.0.1:{port}/health").json()["status"] != "ok": time.sleep(0.1)
            clients = {name: httpx.Client(base_url=address, headers={"authorization": f"Bearer {key}"}, timeout=30, verify=False)
                       for name, key in made.items()}
            yield clients | {"inside": httpx.Client(base_url=f"http://127.0.0.1:{port}"), "service": service, "database": database}
        finally:
            service.send_signal(signal.SIGTERM)
            assert service.wait(20) in (0, -signal.SIGTERM), (home / "log").read_text()[-2000:]


def test_answers_come_through_nginx_word_by_word_and_from_one_cache(company):
    ann, ben = company["ann"], company["ben"]
    with ann.stream("POST", "/api/chat", json={"user_id": "ann", "message": QUESTION, "stream": True}) as reply:
        lines = [line for line in reply.iter_lines() if line.startswith("event: ")]
        assert reply.http_version == "HTTP/1.1" and reply.headers["x-request-id"]
    assert lines[0] == "event: sources" and lines[-1] == "event: done"
    said = [chat(ben, "ben").json() for _ in range(6)]  # of either worker
    assert all("two days" in each["response"] and "from the cache" in each["trace"] for each in said)
    assert chat(ben, "ann").status_code == 403 and ann.get("/metrics").status_code == 404
    assert ben.get(f"/api/conversations/{said[0]['conversation']}").json()["messages"][1]["text"] == said[0]["response"]


def test_a_deleted_document_is_gone_for_both_workers(company):
    ann, ben = company["ann"], company["ben"]
    upload(ann, "garden.md", "# Garden\n\nThe garden is watered by Mr Brook every third evening.", readers=["everyone"])
    said = chat(ben, "ben", "How often is the garden watered?").json()
    assert "Brook" in said["response"]
    assert ann.delete("/api/documents", params={"source": "@ann/garden.md"}).status_code == 200
    told = [ben.get(f"/api/conversations/{said['conversation']}").text for _ in range(4)]
    told += [chat(ben, "ben", "How often is the garden watered?").text for _ in range(4)]
    assert "Brook" not in "".join(told) and company["inside"].get("/health").json()["status"] == "ok"


def test_the_page_of_metrics_adds_up_all_processes(company):
    before = measured(company["inside"], "cache_lookups_total", result="hit")
    for _ in range(4): chat(company["ben"], "ben")
    assert measured(company["inside"], "cache_lookups_total", result="hit") == before + 4
    assert measured(company["inside"], "step_seconds_count", step="retrieve") > 0  # of the model process
