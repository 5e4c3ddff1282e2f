"""Tokens a second and latency against concurrency and slots of llama.cpp's server; run by `llmguide evidence batching`.

A server with one, two, four and eight slots answers callers who ask again as soon as they have their answer. What is
measured is continuous batching on this machine's processor; vLLM needs a GPU and was not measured here.
"""

import secrets
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from statistics import median

import xllamacpp

from llmguide.chat import DEFAULT_MODEL, connect
from llmguide.engine import _model_file
from llmguide.evidence import bootstrap_interval, record_curve

SLOTS, CALLERS, EACH, TOKENS, ROUNDS, THREADS = (1, 2, 4, 8), (1, 2, 4, 8), 2, 24, 3, 1
TOPICS = ("rain", "bread", "bridges", "cats", "steel", "music", "chess", "tea", "salt", "ships", "glass", "maps")


def start_server(slots, threads=THREADS):
    """A server of llama.cpp with so many slots; a context of 512 tokens each."""
    parameters, key = xllamacpp.CommonParams(), secrets.token_hex(16)
    parameters.model.path, parameters.model_alias = str(_model_file(DEFAULT_MODEL)), {DEFAULT_MODEL}
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
    parameters.n_ctx, parameters.n_parallel, parameters.cont_batching = 512 * slots, slots, True
    parameters.api_keys, parameters.ui, parameters.endpoint_slots = [key], False, False
    parameters.cache_ram_mib, parameters.verbosity = 0, -1
    return xllamacpp.Server(parameters), key


def drive(chat, callers, each=EACH, tokens=TOKENS):
    """Tokens a second of all together, and the seconds each request took."""
    def ask(number):
        prompt = f"Write a long story about {TOPICS[number % len(TOPICS)]}, number {number}."
        start = time.perf_counter()
        reply = chat(prompt, max_tokens=tokens, temperature=0.8, seed=number)
        return reply.usage["completion_tokens"], time.perf_counter() - start

    start = time.perf_counter()
    with ThreadPoolExecutor(callers) as pool: done = list(pool.map(ask, range(callers * each)))
    return sum(count for count, _ in done) / (time.perf_counter() - start), [seconds for _, seconds in done]


def one_server(slots):
    """A line for each number of callers: the middle of several rounds, with the spread between them."""
    server, key = start_server(slots)
    rows = []
    with connect(DEFAULT_MODEL, f"{server.listening_address}/v1", key, timeout=300, retries=0) as chat:
        drive(chat, 1, 1)  # the first request warms up
        for callers in CALLERS:
            rounds = [drive(chat, callers) for _ in range(ROUNDS)]
            speed = bootstrap_interval([speed for speed, _ in rounds])
            taken = sorted(seconds for _, each in rounds for seconds in each)
            rows.append({"slots": slots, "callers": callers, "requests": len(taken), **speed._asdict(),
                         "median_seconds": median(taken), "slowest_seconds": taken[-1]})  # fmt: skip
            print({name: round(value, 2) for name, value in rows[-1].items()}, flush=True)
    return rows


def main():
    """Measure and record."""
    rows = [row for slots in SLOTS for row in one_server(slots)]
    note = "value: completion tokens a second of all callers together, CPU only; vLLM needs a GPU and was not measured here"
    record_curve("enterprise_batching", rows, note, model=DEFAULT_MODEL, tokens=TOKENS, threads=THREADS, rounds=ROUNDS, requests_each=EACH)


if __name__ == "__main__": sys.exit(main())
