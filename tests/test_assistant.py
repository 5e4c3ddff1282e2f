"""Who speaks when: random sequences in SQLite and in a real PostgreSQL, and a bot that races with people."""

import random
import threading

import pytest

from llmguide.enterprise.database import open_database
from llmguide.enterprise.handoff import MOVES, NOTICES, Desk, HandOff
from llmguide.enterprise.history import History


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request, tmp_path):
    if request.param == "sqlite": url = f"sqlite:///{tmp_path}/service.sqlite"
    else: url = request.getfixturevalue("postgres").replace("postgresql://", "postgresql+psycopg://")
    engine = open_database(url)
    yield engine
    engine.dispose()


def play(draw, history, handoff, desk, steps):
    """A random sequence; returns (speaker, state when it was written) of every message, and checks each move against the table."""
    talk, seen = history.start("ann"), []
    for _ in range(steps):
        state, action = handoff.state(talk), draw.choice(["user", "say", "request", "take", "close", "reply"])
        agent = draw.choice(["eva", "max"])
        before = {message["id"] for message in history.messages(talk, "ann", limit=1000)}
        if action == "user": history.add(talk, "user", "你好" if draw.random() < 0.5 else "hello", user="ann")
        elif action == "say": assert (handoff.say(talk, "bot") is not None) == (state == "bot")
        elif action == "request": handoff.request(talk)
        elif action == "take": desk.take(talk, agent)
        elif action == "close": desk.close(talk, agent)
        else:
            try: desk.reply(talk, agent, "person")
            except PermissionError: assert (state, agent) != ("person", desk.waiting()[0]["agent"] if desk.waiting() else None)
        after = handoff.state(talk)
        assert after in (state, MOVES.get((state, action)))
        if action == "request": assert after != "bot"
        new = [message for message in history.messages(talk, "ann", limit=1000) if message["id"] not in before]
        seen += [(message["role"], message["text"], state, after) for message in new]
    history.delete(talk, "ann")
    return seen


@pytest.mark.soak
def test_the_bot_speaks_only_when_it_may(engine, repetitions):
    draw, history, handoff, desk = random.Random(3), History(engine), HandOff(engine), Desk(engine)
    for _ in range(repetitions(4, 200)):
        for role, text, before, after in play(draw, history, handoff, desk, 40):
            notice = text in NOTICES.values()
            if role == "assistant": assert before == "bot" and (after == "waiting") == notice
            if role == "agent": assert before == after == "person"


def test_a_bot_that_thinks_while_a_person_takes_over(engine):
    history, handoff, desk = History(engine), HandOff(engine), Desk(engine)
    talk, stop = history.start("ann"), threading.Event()

    def bot():
        while not stop.is_set(): handoff.say(talk, "bot")

    bots = [threading.Thread(target=bot) for _ in range(3)]
    for each in bots: each.start()
    notice = handoff.request(talk)
    taken = []
    people = [threading.Thread(target=lambda name=name: taken.append(desk.take(talk, name))) for name in ("eva", "max", "zoe")]
    for each in people: each.start()
    for each in people: each.join()
    stop.set()
    for each in bots: each.join()
    said = [message["id"] for message in history.messages(talk, "ann", limit=1000) if message["role"] == "assistant"]
    assert sum(taken) == 1 and said[-1] == notice  # nothing after it
