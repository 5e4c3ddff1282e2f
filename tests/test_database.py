"""Tables made by many at once and counts raised by many at once, in SQLite and in a real PostgreSQL; one that never answers."""

import socket
import threading
import time
from urllib.parse import parse_qs, urlsplit

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table, func, insert, select, text, update
from sqlalchemy.exc import OperationalError

from llmguide.enterprise import database
from llmguide.enterprise.database import create_tables, open_database
from llmguide.enterprise.faults import FaultyPort

notes = MetaData()
counter = Table("test_counter", notes, Column("name", String(20), primary_key=True), Column("value", Integer))


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    if request.param == "sqlite": return f"sqlite:///{tmp_path}/one/two.sqlite"
    return request.getfixturevalue("postgres").replace("postgresql://", "postgresql+psycopg://")


def together(count, work):
    """Run a function in threads and return what they raised."""
    raised = []

    def safe():
        try: work()
        except Exception as problem: raised.append(problem)

    threads = [threading.Thread(target=safe) for _ in range(count)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    return raised


def test_many_make_tables_and_count(url):
    engines = [open_database(url) for _ in range(4)]
    notes.drop_all(engines[0])
    waiting = iter(engines)
    assert together(4, lambda: create_tables(next(waiting), notes)) == []
    with engines[0].begin() as connection: connection.execute(insert(counter).values(name="visits", value=0))

    def count():
        for number in range(10):
            with engines[number % 4].begin() as connection: connection.execute(update(counter).values(value=counter.c.value + 1))

    assert together(8, count) == []
    with engines[0].connect() as connection: assert connection.execute(select(func.sum(counter.c.value))).scalar_one() == 80
    for engine in engines: engine.dispose()


def test_a_failure_takes_everything_back(url):
    engine = open_database(url)
    create_tables(engine, notes)
    with pytest.raises(RuntimeError), engine.begin() as connection:
        connection.execute(insert(counter).values(name="half", value=1))
        raise RuntimeError
    with engine.connect() as connection: assert not connection.execute(select(counter).where(counter.c.name == "half")).all()
    engine.dispose()


def test_a_server_that_takes_the_connection_and_never_answers():
    pytest.importorskip("psycopg", reason="the driver of PostgreSQL is missing: pip install psycopg[binary]")
    with socket.create_server(("127.0.0.1", 0)) as server:
        start = time.monotonic()
        with pytest.raises(ConnectionError, match="timeout"):
            open_database(f"postgresql+psycopg://ann:secret@127.0.0.1:{server.getsockname()[1]}/x?connect_timeout=2")
        assert time.monotonic() - start < 4


def test_a_server_that_falls_silent_is_given_up_and_found_again(postgres, monkeypatch):
    monkeypatch.setattr(database, "ANSWER", 0.5)
    monkeypatch.setattr(database, "CONNECT", 2)
    port = FaultyPort(f"{parse_qs(urlsplit(postgres).query)['host'][0]}/.s.PGSQL.5432")
    engine = open_database(f"postgresql+psycopg://postgres:@127.0.0.1:{port.port}/postgres")

    def one():
        with engine.connect() as connection: return connection.execute(text("SELECT 1")).scalar()

    with port.broken("slow"):
        start = time.monotonic()
        with pytest.raises(OperationalError): one()  # an old connection, then a new one
        assert time.monotonic() - start < 6
    assert one() == 1
    with pytest.raises(OperationalError, match="timeout"), engine.connect() as connection: connection.execute(text("SELECT pg_sleep(5)"))
    assert one() == 1
    engine.dispose()
    port.close()
