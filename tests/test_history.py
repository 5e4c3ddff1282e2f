"""Conversations of many users at once, in SQLite and in a real PostgreSQL."""

import random
import threading
from contextlib import suppress

import pytest

from llmguide.enterprise.database import open_database
from llmguide.enterprise.history import History


@pytest.fixture(params=["sqlite", "postgresql"])
def history(request, tmp_path):
    if request.param == "sqlite": url = f"sqlite:///{tmp_path}/history.sqlite"
    else: url = request.getfixturevalue("postgres").replace("postgresql://", "postgresql+psycopg://")
    history = History(open_database(url))
    yield history
    history.engine.dispose()


def test_nobody_reads_anothers(history):
    draw, users = random.Random(1), ["ann", "Ann", "ann ", "ａｎｎ", "安", "x' OR '1'='1", "%", "o'neil"]
    owned = {history.start(user): user for user in users for _ in range(2)}
    for number in range(80):
        talk, user = draw.choice([*owned]), draw.choice(users)
        if owned[talk] == user:
            history.add(talk, "user", f"{user} {number} 你好", user=user)
            continue
        with pytest.raises(KeyError): history.add(talk, "user", f"{user} {number}", user=user)
        with pytest.raises(KeyError): history.messages(talk, user)
    for talk, user in owned.items():
        assert all(message["text"].startswith(f"{user} ") for message in history.messages(talk, user))
        assert talk in [row["id"] for row in history.conversations(user)]
        with pytest.raises(KeyError): history.delete(talk, user + "x")
        history.delete(talk, user)
        with pytest.raises(KeyError): history.messages(talk, None)


def test_writers_and_a_deleter_at_once(history):
    talk = history.start("zoe")

    def write():
        with suppress(KeyError):  # deleted under the writer's hands: said so, nothing half written
            for number in range(20): history.add(talk, "user", str(number), user="zoe")

    threads = [threading.Thread(target=write) for _ in range(6)]
    for thread in threads: thread.start()
    history.delete(talk, "zoe")
    for thread in threads: thread.join()
    with history.engine.connect() as database:
        left = database.exec_driver_sql(f"SELECT count(*) FROM messages WHERE conversation = '{talk}'").scalar_one()
    assert (left, history.conversations("zoe")) == (0, [])


def test_texts_are_sealed_where_there_are_keys(tmp_path, monkeypatch):
    from llmguide.enterprise.encryption import KeyRing

    monkeypatch.setenv("LLMGUIDE_SECRET_KEYS", KeyRing.generate().text())
    history = History(open_database(f"sqlite:///{tmp_path}/sealed.sqlite"))
    talk = history.start("ann")
    history.add(talk, "user", "我的工资是多少 salary", [{"quote": "salary"}], user="ann")
    assert history.messages(talk, "ann")[0]["text"] == "我的工资是多少 salary"
    assert history.conversations("ann")[0]["title"] == "我的工资是多少 salary"
    history.engine.dispose()
    raw = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"salary" not in raw and "工资".encode() not in raw
