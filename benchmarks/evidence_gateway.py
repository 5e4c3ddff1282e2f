"""What the gateway costs a request, and how often a near cache would answer wrongly; run by `llmguide evidence gateway`.

Part one: key, limit, version of the index, canonical form, exact look-up and route, one after the other as a request meets
them, with the stores a laptop, one machine and several machines use. Part two: reversed pairs and paraphrases of
data/reversed_pairs.csv (the half that was held back) and questions of BANKING77, by our form and by cosines of MiniLM.
"""

import csv
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import quantiles

from llmguide.enterprise.access import KeyStore, allows
from llmguide.enterprise.cache import AnswerCache, IndexVersion, cache_key
from llmguide.enterprise.database import open_database
from llmguide.enterprise.encoder import open_encoder
from llmguide.enterprise.ledger import INDEXED, Entry, Ledger
from llmguide.enterprise.limits import Limiter
from llmguide.enterprise.route import Backend, Router, data_class, difficulty
from llmguide.enterprise.same import canonical, same_question
from llmguide.evidence import record_curve, wilson_interval
from llmguide.load import load_rows
from llmguide.replies import Reply

PAIRS, REQUESTS = Path(__file__).parent.parent / "data/reversed_pairs.csv", 5000
# more than `canonical` remembers
QUESTIONS = [f"Could you please tell me how many days of leave I get in year {number}?" for number in range(REQUESTS)]
SOURCE = {"source": "leave.md", "quote": "thirty days", "page": 3}
ANSWER = {"response": "Thirty days, five of them in the first quarter. " * 8, "sources": [SOURCE] * 3}


def redis_server(folder):
    """A Redis of our own, and its address; (None, None) where there is none."""
    if not shutil.which("redis-server"): return None, None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(["redis-server", "--port", str(port), "--save", "", "--dir", folder], stdout=subprocess.DEVNULL)
    time.sleep(1)
    return server, f"redis://127.0.0.1:{port}/0"


def gateway(folder, name, **shared):
    """The parts of a gateway, with a key and the answers to all questions in the cache."""
    keys = KeyStore(open_database(f"sqlite:///{folder}/{name}.sqlite"))
    book = Ledger(Path(folder) / name)
    book.put([Entry(f"{number}.md", "", "1", ("everyone",), 9, INDEXED) for number in range(1000)])
    limiter = Limiter(1e6, 1e6, shared.get("redis_url"), shared.get("file"))
    router = Router([Backend(place, lambda messages, **_: Reply(""), place == "public", skill) for place, skill in
                     (("small", 1), ("private", 3), ("public", 3))])  # fmt: skip
    cache, version = AnswerCache(redis_url=shared.get("redis_url")), IndexVersion(book.file.parent)
    return keys, keys.create("ann", groups=["sales"]), limiter, cache, version, router


def request(parts, number):
    """What a request meets, and the milliseconds of each step."""
    keys, key, limiter, cache, version, router = parts
    question, times = QUESTIONS[number % len(QUESTIONS)], [time.perf_counter()]
    tick = lambda: times.append(time.perf_counter())  # noqa: E731
    principal = keys.authenticate(key)
    assert allows(principal, "ask")
    tick()
    assert limiter.take(principal.user) == 0
    tick()
    state, names = version.look(principal.readers)
    found = cache_key(canonical(question), names, state, "model", "prompt")
    if cache.get(found) is None: cache.put(found, ANSWER)
    tick()
    assert router.candidates(data_class(question, "public"), difficulty(question))
    tick()
    return [1000 * (end - start) for start, end in pairwise(times)]


def overhead_rows(folder):
    """A line for each kind of store and step: middle, and the slowest in a hundred."""
    server, address = redis_server(folder)
    kinds = {"memory": {}, "file": {"file": f"{folder}/limits.sqlite"}} | ({"redis": {"redis_url": address}} if server else {})
    rows = []
    for name, shared in kinds.items():
        parts = gateway(folder, name, **shared)
        for number in range(len(QUESTIONS)): request(parts, number)  # afterwards all answers are there
        taken = [request(parts, number) for number in range(REQUESTS)]
        steps = {"key": 0, "limit": 1, "cache": 2, "route": 3}
        columns = {step: [each[place] for each in taken] for step, place in steps.items()} | {"all": [sum(each) for each in taken]}
        for step, values in columns.items():
            cuts = quantiles(values, n=100)
            rows.append({"part": "overhead", "store": name, "step": step, "requests": REQUESTS, "p50_ms": cuts[49], "p99_ms": cuts[98]})
    if server: server.kill()
    return rows


def near_rows():
    """False hits and caught paraphrases, for our form and for thresholds of a cosine."""
    with PAIRS.open(encoding="utf-8") as lines: held = [row for row in csv.DictReader(lines) if row["part"] == "held back"]
    encoder = open_encoder("all-minilm-l6-v2-int8")
    first, second = (encoder.encode([row[side] for row in held]) for side in ("first", "second"))
    rules = {"canonical form": [same_question(row["first"], row["second"]) for row in held]}
    rules |= {f"cosine {threshold}": list((first * second).sum(1) >= threshold) for threshold in (0.8, 0.85, 0.9, 0.95, 0.98)}
    rows = []
    for rule, said in rules.items():
        for language in ("en", "zh"):
            for pair in ("reversed", "paraphrase"):
                mine = [bool(yes) for yes, row in zip(said, held, strict=True) if (row["language"], row["pair"]) == (language, pair)]
                rows.append({"part": "near", "rule": rule, "language": language, "pair": pair, "pairs": len(mine), "called_same": sum(mine),
                             **wilson_interval(sum(mine), len(mine))._asdict()})  # fmt: skip
    return rows


def real_rows():
    """BANKING77: questions of one form in several spellings, and how many such groups have several labels."""
    forms = {}
    for row in load_rows("banking77"): forms.setdefault(canonical(row["text"]), set()).add((row["text"], row["label"]))
    merged = [group for group in forms.values() if len({text for text, _ in group}) > 1]
    several = [sorted(group) for group in merged if len({label for _, label in group}) > 1]
    return [{"part": "banking77", "forms": len(forms), "merged": len(merged), "several_labels": len(several), "which": several}]


def main():
    """Measure and record."""
    with tempfile.TemporaryDirectory() as folder: rows = overhead_rows(folder) + near_rows() + real_rows()
    for row in rows: print({name: value for name, value in row.items() if name not in ("which", "low", "high")})
    note = "overhead in milliseconds; near cache on the half of the pairs that was held back"
    record_curve("enterprise_gateway", rows, note, requests=REQUESTS)


if __name__ == "__main__": sys.exit(main())
