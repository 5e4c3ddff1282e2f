"""Answers a second, waiting times, failures and cost of the service; run by `llmguide evidence load`, about half an hour.

A stage alone: `LLMGUIDE_EVIDENCE=1 python benchmarks/evidence_load.py cached` (uncached, concurrency, rates, cost, failures,
soak). The service runs as a user starts it, with a key, limits and the audit log. Capacity is measured with wrk (closed loop,
Debian: apt install wrk), waiting times with the open loop of the lesson on load. Both share the two cores with the service:
what they take of them stands in every row.
"""

import contextlib
import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import psutil

from llmguide.enterprise.access import KeyStore
from llmguide.enterprise.database import open_database
from llmguide.enterprise.load_test import http_request, open_loop, summary
from llmguide.evidence import Measurement, bootstrap_interval, record, record_curve, wilson_interval

ROOT = Path(__file__).parent.parent
REPEATS, SECONDS, CALLERS, SHARE = 6, 8, 64, 0.6
SOURCE = "data folder of the project"
SCRIPT = """
local bodies, at = {}, 0
for line in io.lines(os.getenv("BODIES")) do bodies[#bodies + 1] = line end
local headers = {["content-type"] = "application/json", authorization = "Bearer " .. os.getenv("KEY")}
request = function()
  at = at + 1
  return wrk.format("POST", "/api/chat", headers, bodies[at % #bodies + 1])
end
done = function(all, latency)
  local bad = all.errors
  io.write(string.format('\\nJSON{"requests": %d, "seconds": %f, "failed": %d, "p50_ms": %f, "p99_ms": %f}\\n', all.requests,
    all.duration / 1e6, bad.status + bad.connect + bad.read + bad.write + bad.timeout, latency:percentile(50) / 1000,
    latency:percentile(99) / 1000))
end
"""


def questions(language="en"):
    """The questions on our handbook that need no earlier question."""
    with open(ROOT / "data" / "handbook_questions" / f"{language}.csv", encoding="utf-8", newline="") as file:
        return [row["question"] for row in csv.DictReader(file) if not row["previous"]]


def body(question):
    """A question as /api/chat takes it."""
    return {"user_id": "ann", "message": question}


class Service:
    """`llmguide serve` of our handbook, a key for it, and the processor time that it takes."""

    def __init__(self, folder, workers=2, command=None, **variables):
        self.folder = Path(folder)
        with socket.create_server(("127.0.0.1", 0)) as probe: port = probe.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        self.key = str(KeyStore(open_database(f"sqlite:///{self.folder / 'service.sqlite'}")).create("ann"))
        plain = {"SERVICE_DIR": self.folder, "HANDBOOKS": ROOT / "data" / "handbooks" / "en", "PORT": port, "RATE": 10**6, "BURST": 10**6,
                 "WORKERS": workers}  # limits are counted, and generous
        environment = os.environ | {f"LLMGUIDE_{name.upper()}": str(value) for name, value in (plain | variables).items()}
        command = command or [sys.executable, "-m", "llmguide.cli", "serve"]
        with open(self.folder / "log", "w") as log: self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def __enter__(self):
        end = time.monotonic() + 120
        while time.monotonic() < end and self.process.poll() is None:
            with contextlib.suppress(httpx.TransportError):
                if self.ask("How many days may I work from home?").status_code == 200: return self
            time.sleep(0.2)
        self.__exit__()
        raise RuntimeError((self.folder / "log").read_text()[-2000:])

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)

    def ask(self, question, client=httpx):
        """One answer, over a connection of its own."""
        return client.post(f"{self.address}/api/chat", json=body(question), headers={"authorization": f"Bearer {self.key}"}, timeout=120)

    def cpu(self):
        """Processor seconds of all processes of the service so far."""
        everyone = [self.process.pid, *(child.pid for child in psutil.Process(self.process.pid).children(recursive=True))]
        spent = [psutil.Process(pid).cpu_times() for pid in everyone]
        return sum(each.user + each.system for each in spent)

    def warm(self, asked):
        """Ask until every web process has every answer in its cache."""
        known = 0
        while known < 3:
            known = known + 1 if all("from the cache" in self.ask(question).json()["trace"] for question in asked) else 0
        print(f"    {len(asked)} questions are in every cache", flush=True)

    def wrk(self, asked, callers=CALLERS, seconds=SECONDS):
        """Closed loop: what wrk says, answers a second, and the cores that service and generator took."""
        (self.folder / "bodies").write_text("".join(json.dumps(body(each), ensure_ascii=True) + "\n" for each in asked))
        (self.folder / "load.lua").write_text(SCRIPT)
        command = ["wrk", "-t1", f"-c{callers}", f"-d{seconds}s", "--timeout", "30s", "-s", str(self.folder / "load.lua"), self.address]
        with spent(self) as used:
            done = subprocess.run(command, env=os.environ | {"BODIES": str(self.folder / "bodies"), "KEY": self.key}, capture_output=True,
                                  text=True, check=True)
        said = json.loads(done.stdout.split("JSON")[1])
        return {"callers": callers, **said, "answers_per_second": (said["requests"] - said["failed"]) / said["seconds"], **used}

    def at_rate(self, asked, rate, seconds=SECONDS, seed=0):
        """Open loop: waiting times and failures at a rate, and the cores that service and generator took."""
        requests = [http_request(self.address, "/api/chat", body(each), self.key) for each in asked]
        with spent(self) as used: found = summary(open_loop(self.address, requests, rate, seconds, seed))
        return {"rate": rate, **found, **used}


@contextlib.contextmanager
def spent(service):
    """Cores that the service, and this process with its children, take within the block."""
    used, mine = {}, lambda: sum(os.times()[:4])
    start, ours, theirs = time.perf_counter(), mine(), service.cpu()
    yield used
    passed = time.perf_counter() - start
    used |= {"service_cores": (service.cpu() - theirs) / passed, "generator_cores": (mine() - ours) / passed}


@contextlib.contextmanager
def running(**options):
    """A service in a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as folder, Service(folder, **options) as service: yield service


def put(claim, interval, method, note, rows, **config):
    """Record one figure and show it."""
    record(Measurement(claim, interval, dataset="handbook-questions", dataset_source=SOURCE, model="none", rows=rows,
                       config={"method": method, **config}, note=note))
    print(f"    {claim} {method}: {interval}", flush=True)


def mean(rows, name):
    """The mean of a column."""
    return sum(row[name] for row in rows) / len(rows)


def shares(rows):
    """Who took how much of the two cores, in words."""
    return f"service {mean(rows, 'service_cores'):.2f}, generator {mean(rows, 'generator_cores'):.2f} of 2 cores"


def cached():
    """E1: answers a second from the cache, with keys, limits, history and the audit log on disk; then E3 and E4."""
    asked = questions()[:60]
    with running() as service:
        service.warm(asked)
        service.wrk(asked)
        rows = [{"kind": "cached", "loop": "closed", **service.wrk(asked)} for _ in range(REPEATS)]
        capacity = bootstrap_interval([row["answers_per_second"] for row in rows])
        note = f"2 web processes, {CALLERS} callers, key, limit, audit and history on; {shares(rows)}"
        put("E1", capacity, "cached, closed loop", note, len(rows))
        rows += waiting(service, asked, "cached", SHARE * capacity.value)
    record_curve("enterprise_load_cached", rows, "repeats in turn", seconds=SECONDS, callers=CALLERS, share=SHARE)


def waiting(service, asked, kind, rate, seconds=SECONDS):
    """E3 and E4 at a rate."""
    rows = [{"kind": kind, "loop": "open", **service.at_rate(asked, rate, seconds, seed)} for seed in range(REPEATS)]
    sent, failed, where = sum(row["requests"] for row in rows), sum(row["failed"] for row in rows), f"{kind}, {rate:.0f} a second"
    note = f"open loop, {SHARE:.0%} of capacity, Poisson arrivals, from the moment a request was due; {shares(rows)}"
    put("E3", bootstrap_interval([row["p99_ms"] for row in rows]), kind, f"{where}; {note}", len(rows), rate=rate)
    put("E4", wilson_interval(failed, sent).scale(100), kind, f"{where}; {note}", sent, rate=rate)
    return rows


def uncached():
    """E9: the same without a cache, every question retrieved and answered by a quotation; then E3 and E4."""
    asked = questions()
    with running(cached_answers=0) as service:
        service.wrk(asked, 8)
        rows = [{"kind": "uncached", "loop": "closed", **service.wrk(asked, 8, 10)} for _ in range(REPEATS)]
        capacity = bootstrap_interval([row["answers_per_second"] for row in rows])
        put("E9", capacity, "uncached, quotations", f"2 web processes and a model process, 8 callers; {shares(rows)}", len(rows))
        rows += waiting(service, asked, "uncached", SHARE * capacity.value, 12)
    record_curve("enterprise_load_uncached", rows, "repeats in turn", callers=8, share=SHARE)


def concurrency():
    """Answers a second and waiting times for several numbers of callers (closed loop), then for several rates (open loop)."""
    rows = []
    for kind, options, callers, rates, seconds in (("cached", {}, (1, 4, 16, 64, 128, 256), (250, 500, 1000, 1500, 2000, 2500, 3000), 4),
                                                   ("uncached", {"cached_answers": 0}, (1, 2, 4, 8, 16), (4, 8, 12, 16, 20), 6)):
        asked = questions()[:60]
        with running(**options) as service:
            service.warm(asked) if kind == "cached" else service.wrk(asked, 4)
            rows += [{"kind": kind, "loop": "closed", **service.wrk(asked, count, seconds)} for count in callers]
            rows += [{"kind": kind, "loop": "open", **service.at_rate(asked, rate, seconds)} for rate in rates]
        for row in rows: print({name: round(value, 2) if isinstance(value, float) else value for name, value in row.items()}, flush=True)
    record_curve("enterprise_load_curve", rows, "one run for each point; wrk for the closed loop")


STAGES = {"cached": cached, "uncached": uncached, "concurrency": concurrency}


def main():
    """Measure and record the stages named, or all."""
    if not shutil.which("wrk"): sys.exit("evidence load: there is no wrk; apt install wrk, or build it from github.com/wg/wrk")
    for name in sys.argv[1:] or STAGES:
        print(f"  {name}", flush=True)
        STAGES[name]()


if __name__ == "__main__": sys.exit(main())
