"""The cache: what its key holds, what it forgets, what Redis may do to it; and which questions are the same."""

import csv
import json
import random
import sqlite3
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("redis", reason='no client of Redis: pip install "llmguide[enterprise]"')
from test_limits import redis  # noqa: F401

from llmguide.enterprise.cache import AnswerCache, IndexVersion, cache_key
from llmguide.enterprise.ledger import DELETING, INDEXED, WRITING, Entry, Ledger
from llmguide.enterprise.same import canonical, same_question

PAIRS = Path(__file__).parent.parent / "data/reversed_pairs.csv"


def pairs(kind):
    """All rows of a kind, both halves."""
    with PAIRS.open(encoding="utf-8") as lines:
        return [row for row in csv.DictReader(lines) if row["pair"] == kind]


def test_no_reversed_pair_is_the_same_question():
    """At least 200 in each language, also when politeness is put around them."""
    rows = pairs("reversed")
    assert all(sum(row["language"] == language for row in rows) >= 200 for language in ("en", "zh"))
    for row in rows:
        first, second = row["first"], row["second"]
        assert not same_question(first, second), (first, second)
        assert not same_question(f"Hi, {first}" if row["language"] == "en" else f"请问{first}", second)


def test_a_word_added_left_out_or_exchanged_is_another_question():
    """Random changes of real words, in both languages: nothing but the listed differences passes."""
    draw = random.Random(1)
    for row in pairs("paraphrase"):
        text = row["first"]
        units = text.split() if row["language"] == "en" else list(text.rstrip("？?"))
        place = draw.randrange(len(units))
        extra = draw.choice(["not", "only", "never", "7", "Berlin"] if row["language"] == "en" else ["不", "只", "没", "七", "京"])
        join = (" " if row["language"] == "en" else "").join
        assert not same_question(text, join([*units[:place], extra, *units[place:]])), (text, place, extra)


def test_paraphrases_are_caught():
    """Enough to be of use; the figure is in results/enterprise_gateway.json."""
    for language in ("en", "zh"):
        rows = [row for row in pairs("paraphrase") if row["language"] == language]
        assert len(rows) >= 50 and sum(same_question(row["first"], row["second"]) for row in rows) >= 0.4 * len(rows)


def test_the_form_is_stable():
    """A form's form is itself, so it doesn't matter who makes it; and rubbish stays different rubbish."""
    for row in pairs("reversed") + pairs("paraphrase"):
        assert canonical(canonical(row["first"])) == canonical(row["first"])
    rubbish = ["", " ", "?", "!!", "please", "thanks", "您好", "谢谢", "\ud800", "\x00", "🙂", "🙁", "1", "１0", "¹"]
    rubbish += ["a" * 10**6, "a" * 10**6 + "b", "?" * 10**5]
    assert not any(same_question(first, second) for place, first in enumerate(rubbish) for second in rubbish[:place])


def test_long_questions_take_no_time():
    """Texts that make careless patterns slow."""
    start = time.perf_counter()
    texts = "a " * 250, "?" * 499 + "a", ",." * 250, "in " * 166, "hi, " * 124, "what the " * 55, "你" * 500, "请问" * 250, " " * 10**6
    for text in texts:
        canonical(text)
    assert time.perf_counter() - start < 2


def test_the_key_holds_everything():
    """Any part changed, or parts that run together: another key."""
    parts = ("q", {"a", "b"}, "v", "m", "p")
    others = [("q ", *parts[1:]), *(("q", readers, *parts[2:]) for readers in ({"a"}, {"ab"}, {"a", "b", "c"}, {"a,b"}, set()))]
    others += [(*parts[:2], *rest) for rest in (("w", "m", "p"), ("v", "n", "p"), ("v", "m", "q"), ("vm", "", "p"))]
    assert len({cache_key(*each) for each in [parts, *others]}) == len(others) + 1
    assert cache_key("q", ["b", "a", "a"], "v", "m", "p") == cache_key(*parts)
    assert cache_key("\ud800", ["财务"], "v", "m", "p")


def entry(source, version="1", readers=("everyone",), status=INDEXED):
    """A line of the ledger."""
    return Entry(source, "", version, readers, 1, status)


def test_every_change_of_the_ledger_is_another_version(tmp_path):
    """New text, new readers, gone: at once, in every process; while somebody writes there is none; a damaged ledger is said."""
    ledger, version = Ledger(tmp_path), IndexVersion(tmp_path)
    seen = [version()]
    for change in ([entry("a")], [entry("b")], [entry("a", "2")], [entry("a", "2", ("ann",))], [entry("a", "2", ())]):
        ledger.put(change)
        seen.append(version())
        assert version() == seen[-1] == IndexVersion(tmp_path)()
    assert len(set(seen)) == 6 and None not in seen
    for status in (WRITING, DELETING):
        ledger.put([entry("b", status=status)])
        assert version() is None
    ledger.remove("b")
    assert version() not in (None, *seen)
    ledger.close()
    for each in (version._watch, version._ledger._database):
        each.close()
    with pytest.raises(sqlite3.ProgrammingError):
        version()


def test_names_that_no_document_has_are_left_out(tmp_path):
    """Users who see the same share an answer until a document tells them apart; where readers are unknown nobody shares."""
    ledger, version = Ledger(tmp_path), IndexVersion(tmp_path)
    ledger.put([entry("a"), entry("b", readers=("finance", "eva"))])
    state, names = version.look({"ann", "finance"})
    assert names == {"finance"} and version.look({"ben", "finance"}) == (state, names) and version.look({"ben"}) == (state, set())
    assert version.look({"eva"})[1] == {"eva"} and version.look({"everyone"})[1] == {"everyone"}
    ledger.put([entry("c", readers=("ann",))])
    assert version.look({"ann", "finance"})[1] == {"ann", "finance"} and version.look({"ann"})[0] != state
    ledger.put([entry("d", readers=None)])
    assert version.look({"ben", "sales"})[1] == {"ben", "sales"}
    version.close()
    ledger.close()


def test_memory_is_bounded_ends_and_gives_copies():
    """And many threads may use it."""
    cache = AnswerCache(size=50, seconds=0.3)
    wrong = []

    def work(seed):
        draw = random.Random(seed)
        for _ in range(300):
            name = str(draw.randrange(100))
            found = cache.get(name)
            if found and found.pop("n") != name:
                wrong.append(name)
            cache.put(name, {"n": name})

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and len(cache._answers) == 50
    time.sleep(0.31)
    assert not any(cache.get(str(number)) for number in range(100)) and len(cache._answers) == 0
    for size, seconds in ((0, 1), (1, 0), (1, -1), (1, 10**9)):
        with pytest.raises(ValueError):
            AnswerCache(size, seconds=seconds)
    with pytest.raises(TypeError):
        cache.put("k", {"set": {1}})


def test_redis_shares_bounds_and_forgets(redis):  # noqa: F811
    """Two workers; the oldest leaves Redis, an answer's end is its end for both, clear forgets."""
    one, other = (AnswerCache(3, redis[1], seconds=0.5) for _ in range(2))
    for number in range(5):
        one.put(str(number), {"答": number})
        time.sleep(0.002)
    assert [other.get(str(number)) for number in range(5)] == [None, None, {"答": 2}, {"答": 3}, {"答": 4}]
    time.sleep(0.5)
    assert other.get("4") is None and one.get("4") is None
    one.put("5", {"x": 1})
    one.clear()
    assert one.get("5") is None and other.get("5") is None
    one.clear()


def test_rubbish_in_redis_and_a_redis_that_dies(redis, caplog):  # noqa: F811
    """Is no answer; each process goes on with its own memory."""
    caplog.set_level("WARNING")  # the service sets the level of the log when it starts
    server, address = redis
    cache = AnswerCache(redis_url=address)
    for rubbish in (b"", b"x", b"\xff\xfe", b"9999999999 {", b"nan {}", b"1 {}"):
        cache._redis.set("llmguide:answer:k", rubbish)
        assert cache.get("k") is None
        cache._ask_again = 0.0
    cache._redis.delete("llmguide:answer:k")
    cache._redis.lpush("llmguide:answer:k", "a list")
    assert cache.get("k") is None
    cache._ask_again = 0.0
    cache.put("mine", {"x": 1})
    server.kill()
    server.wait()
    start = time.monotonic()
    assert cache.get("mine") == {"x": 1} and [cache.get(str(number)) for number in range(100)] == [None] * 100
    cache.put("later", {"x": 2})
    assert cache.get("later") == {"x": 2} and time.monotonic() - start < 0.5
    assert "cache: Redis failed" in caplog.text


def test_pairs_are_whole():
    """No pair twice, both halves, both languages."""
    rows = pairs("reversed") + pairs("paraphrase")
    assert len({json.dumps(sorted([row["first"], row["second"]])) for row in rows}) == len(rows) >= 500
    assert {(row["language"], row["part"]) for row in rows} == {(x, y) for x in ("en", "zh") for y in ("development", "held back")}
