"""Limits: the same promise in memory, in a file and in Redis; Redis killed, slow and talking nonsense; the gate under stress."""

import asyncio
import multiprocessing
import random
import shutil
import socket
import subprocess
import threading
import time

import pytest

from llmguide.enterprise.limits import Busy, Gate, Limiter, open_redis, step


def free_port():
    """A port that nobody has."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start_redis(folder, port):
    """A real Redis server; the test is skipped where there is none."""
    if not shutil.which("redis-server"):
        pytest.skip("no redis-server here: apt install redis-server")
    command = ["redis-server", "--port", str(port), "--save", "", "--dir", str(folder)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return server
        except OSError:
            time.sleep(0.05)
    raise RuntimeError("redis-server doesn't answer")


@pytest.fixture
def redis(tmp_path):
    """(server, address)."""
    port = free_port()
    server = start_redis(tmp_path, port)
    yield server, f"redis://127.0.0.1:{port}/0"
    server.kill()
    server.wait()


@pytest.fixture(params=["memory", "file", "redis"])
def options(request, tmp_path):
    """What makes a limiter of each kind."""
    if request.param == "redis":
        return {"redis_url": request.getfixturevalue("redis")[1]}
    return {"file": tmp_path / "limits.sqlite"} if request.param == "file" else {}


def test_the_bucket_never_gives_more_than_it_has():
    """Against a slow judge that refills a real bucket in small steps, on random requests."""
    draw = random.Random(1)
    for _ in range(200):
        rate, burst = draw.choice([0.5, 3, 10]), draw.choice([1, 4, 20])
        full, tokens, last, now = 0.0, float(burst), 0.0, 0.0
        for _ in range(50):
            now += draw.choice([0, 0.01, 0.3, 2])
            tokens, last = min(burst, tokens + rate * (now - last)), now
            cost = draw.choice([1, burst / 2, burst])
            full, wait = step(full, now, cost, rate, burst)
            assert (wait == 0) == (tokens >= cost - 1e-6)
            if wait:
                assert wait == pytest.approx((cost - tokens) / rate, abs=1e-6)
            else:
                tokens -= cost


def test_the_same_promise_for_each_kind(options):
    """Burst, wait, refill, separate names, refusals that take nothing."""
    limiter = Limiter(20, 4, **options)
    assert [limiter.take("密钥 a\n") for _ in range(4)] == [0] * 4
    wait = limiter.take("密钥 a\n")
    assert 0 < wait <= 0.05
    assert 0.1 < limiter.take("密钥 a\n", cost=4) <= 0.2  # refused ones took nothing
    assert limiter.take("b", cost=4) == 0
    time.sleep(wait + 0.01)
    assert limiter.take("密钥 a\n") == 0
    for cost in (0, -1, 5, float("nan")):
        with pytest.raises(ValueError):
            limiter.take("b", cost)
    limiter.close()


def hammer(options, results):
    """One worker that takes as much as it gets for half a second."""
    limiter, passed, end = Limiter(50, 20, **options), 0, time.monotonic() + 0.5
    while time.monotonic() < end:
        passed += limiter.take("ann") == 0
        time.sleep(0.001)
    assert limiter.healthy
    results.put((passed, limiter.healthy))


def test_workers_share_one_bucket(options):
    """Three processes together get what one would get, and no limiter fell back on itself."""
    if not options:
        pytest.skip("memory isn't shared between processes, and doesn't claim to be")
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    start = time.monotonic()
    workers = [context.Process(target=hammer, args=(options, results)) for _ in range(3)]
    for worker in workers:
        worker.start()
    outcomes = [results.get(timeout=20) for _ in workers]
    took = time.monotonic() - start
    for worker in workers:
        worker.join()
    assert all(healthy for _, healthy in outcomes)
    assert 20 <= sum(passed for passed, _ in outcomes) <= 21 + 50 * took


def test_redis_is_killed_and_comes_back(redis, tmp_path, caplog):
    """Nobody waits for it, each process limits by itself, and sharing resumes."""
    caplog.set_level("WARNING")  # the service sets the level of the log when it starts
    server, address = redis
    limiter, other = (Limiter(1, 3, redis_url=address, pause=0.3) for _ in range(2))
    assert [limiter.take("ann"), other.take("ann"), limiter.take("ann")] == [0, 0, 0] and other.take("ann") > 0
    server.kill()
    server.wait()
    start = time.monotonic()
    assert [each.take("ann") == 0 for each in (limiter, other) for _ in range(4)] == [True, True, True, False] * 2
    assert time.monotonic() - start < 0.25 and not limiter.healthy
    assert caplog.text.count("limits: Redis failed") == 2  # said once by each, not with every request
    again = start_redis(tmp_path, int(address.rsplit(":", 1)[1].split("/")[0]))
    try:
        time.sleep(0.31)
        assert [limiter.take("ann"), other.take("ann"), limiter.take("ann")] == [0, 0, 0] and other.take("ann") > 0
        assert limiter.healthy
    finally:
        again.kill()
        again.wait()


@pytest.mark.parametrize("says", [None, b"HTTP/1.1 200 OK\r\n\r\n", b"+OK\r\n" * 9, b"$-1\r\n" * 9, b"\xff\xfe" * 40, b""])
def test_a_redis_that_is_slow_or_talks_nonsense(says):
    """It costs a tenth of a second once; then the limiter is on its own. None: it never answers."""
    listening = socket.create_server(("127.0.0.1", 0))
    listening.settimeout(5)

    def serve():
        try:
            held = [listening.accept()[0] for _ in range(1)]
        except OSError:
            return
        if says is not None:
            held[0].sendall(says)
            held[0].close()
        time.sleep(0.3)

    thread = threading.Thread(target=serve)
    thread.start()
    limiter = Limiter(1, 2, redis_url=f"redis://127.0.0.1:{listening.getsockname()[1]}/0", pause=60)
    start = time.monotonic()
    assert [limiter.take("ann") == 0 for _ in range(3)] == [True, True, False] and not limiter.healthy
    assert time.monotonic() - start < 0.5
    listening.close()
    thread.join()


def test_a_file_that_is_no_database_or_is_lost(tmp_path):
    """At the start it's said; later the process limits by itself."""
    (tmp_path / "text").write_text("no database " * 100)
    with pytest.raises(ConnectionError, match="text"):
        Limiter(1, 1, file=tmp_path / "text")
    limiter = Limiter(1, 1, file=tmp_path / "limits.sqlite")
    limiter._shared._database.execute("drop table buckets")
    assert limiter.take("ann") == 0 and limiter.take("ann") > 0 and not limiter.healthy


def test_a_clock_that_was_set_back_locks_nobody_out(options):
    """What is kept lies an hour ahead; then the bucket is full, no more than that."""
    if not options:
        pytest.skip("memory counts by a clock that nobody sets")
    limiter = Limiter(1, 2, **options)
    limiter.take("ann")
    if "file" in options:
        limiter._shared._database.execute("update buckets set full = full + 3600")
    else:
        limiter._shared.client.set("llmguide:limit:ann", str(time.time() + 3600))
    assert [limiter.take("ann") for _ in range(2)] == [0, 0] and 0 < limiter.take("ann") <= 1
    limiter.close()


def test_bad_settings():
    """Said at once, without the password."""
    for rate, burst in ((0, 1), (1, 0), (-1, 1), (float("nan"), 1), (1, float("inf"))):
        with pytest.raises(ValueError):
            Limiter(rate, burst)
    with pytest.raises(ValueError) as problem:
        open_redis("http://user:secret@host")
    assert "secret" not in str(problem.value)


def test_the_gate_under_random_arrivals_and_departures(repetitions):
    """Never more inside than allowed, nobody forgotten, and whole again at the end."""

    async def one(gate, draw, seen):
        try:
            async with gate.enter():
                seen["inside"] += 1
                seen["most"] = max(seen["most"], seen["inside"])
                try:
                    await asyncio.sleep(draw.random() / 100)
                    if draw.random() < 0.2:
                        raise KeyError("an error inside")
                finally:
                    seen["inside"] -= 1
                return "answered"
        except Busy as busy:
            assert 1 <= busy.retry_after <= 60
            return "busy"
        except KeyError:
            return "error"

    async def storm(seed):
        draw, seen = random.Random(seed), {"inside": 0, "most": 0}
        gate = Gate(running=3, waiting=5, patience=0.02)
        tasks = []
        for _ in range(60):
            tasks.append(asyncio.create_task(one(gate, draw, seen)))
            await asyncio.sleep(draw.choice([0, 0, 0.003]))
            if draw.random() < 0.3:
                draw.choice(tasks).cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert seen["most"] <= 3 and gate.present == 0
        async with asyncio.timeout(1):
            assert [await one(gate, random.Random(0), seen) for _ in range(4)].count("busy") == 0

    for seed in range(repetitions(5, 200)):
        asyncio.run(storm(seed))


def test_a_full_queue_sends_away_at_once():
    """The ones beyond inside and queue, without waiting, with a time to come back that grows with the queue."""

    async def crowd():
        gate, outcomes = Gate(running=2, waiting=3, patience=5), []

        async def one():
            start = time.monotonic()
            try:
                async with gate.enter():
                    await asyncio.sleep(0.05)
                outcomes.append("answered")
            except Busy as busy:
                outcomes.append(busy.retry_after)
                assert time.monotonic() - start < 0.04

        await asyncio.gather(*(one() for _ in range(9)))
        return outcomes

    outcomes = asyncio.run(crowd())
    assert outcomes.count("answered") == 5 and [each for each in outcomes if each != "answered"] == [2] * 4
