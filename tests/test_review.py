"""Answers that a person reads: the same for every process, each counted once, in SQLite and in PostgreSQL."""

import subprocess
import sys

import pytest
from sqlalchemy import delete

from llmguide.enterprise.database import open_database
from llmguide.enterprise.history import History, conversation_table, new_id
from llmguide.enterprise.review import Reviews, is_drawn


@pytest.fixture(params=["sqlite", "postgresql"])
def history(request, tmp_path):
    if request.param == "sqlite": url = f"sqlite:///{tmp_path}/service.sqlite"
    else: url = request.getfixturevalue("postgres").replace("postgresql://", "postgresql+psycopg://")
    history = History(open_database(url))
    with history.engine.begin() as database: database.execute(delete(conversation_table))  # of other tests
    yield history
    history.engine.dispose()


def test_another_process_draws_the_same():
    ids = [new_id() for _ in range(200)]
    code = f"from llmguide.enterprise.review import is_drawn; print([is_drawn(id, 0.3) for id in {ids}])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == str([is_drawn(id, 0.3) for id in ids]) and "True" in said and "False" in said


def test_each_drawn_answer_is_shown_with_its_question_and_counted_once(history):
    reviews, talk = Reviews(history.engine, share=0.4), history.start("review")
    for number in range(30):
        history.add(talk, "user", f"第{number}个问题？")
        history.add(talk, "assistant", f"答案 {number}", [{"source": "a.md"}])
        history.add(talk, "agent", "a person's word is not judged")
    shown = reviews.waiting(limit=100)
    assert 0 < len(shown) < 30 and all(is_drawn(row["id"], 0.4) for row in shown)
    assert all((row["question"], row["sources"]) == (f"第{row['answer'].split()[1]}个问题？", [{"source": "a.md"}]) for row in shown)
    for row in shown: reviews.judge(row["id"], "eva", right=False)
    for row in shown[:3]: reviews.judge(row["id"], "max", right=True)  # replaces the first
    found = reviews.quality()
    assert (found["read"], found["waiting"], round(found["right"].value * len(shown))) == (len(shown), 0, 3)
    assert found["right"].low < found["right"].value < found["right"].high
    assert reviews.quality(days=0) == {"right": None, "read": 0, "unclear": 0, "waiting": 0}
    with pytest.raises(KeyError): reviews.judge("nothing", "eva", right=True)
    mine = next(row["id"] for row in history.messages(talk, "review") if row["role"] == "user" and is_drawn(row["id"], 0.4))
    with pytest.raises(KeyError): reviews.judge(mine, "eva", right=True)  # a question is no answer


def test_reviewers_see_what_was_drawn_and_nobody_else(tmp_path, monkeypatch):
    from fastapi import FastAPI
    from fastapi.testclient import TestClient

    from llmguide.enterprise import administration
    from llmguide.enterprise.configuration import ServiceSettings
    from llmguide.enterprise.door import add_door
    from llmguide.enterprise.parts import Parts

    class Idle:
        started = True
        async def stop(self): pass

    monkeypatch.setattr(administration, "Reviews", lambda engine: Reviews(engine, share=1))
    app = FastAPI()
    app.state.parts = parts = Parts(ServiceSettings(service_dir=tmp_path), Idle())
    app.include_router(administration.router)
    add_door(app)
    keys = {"eve": parts.keys.create("eve", ["reader", "admin"]), "ann": parts.keys.create("ann", ["reader"])}
    parts.forget_keys()
    talk = parts.history.start("ann")
    parts.history.add(talk, "user", "奖金是多少？")
    answer = parts.history.add(talk, "assistant", "百分之四。")
    gone = parts.history.add(talk, "assistant", "A secret of a deleted file.", [{"source": "gone.md", "version": "1"}])
    with TestClient(app, base_url="http://127.0.0.1:8000") as client:
        def call(who, method, **body):
            reply = client.request(method, "/api/reviews", json=body or None, headers={"authorization": f"Bearer {keys[who]}"})
            return reply.status_code, reply.json()

        assert call("ann", "GET")[0] == call("ann", "POST", message_id=answer, right=True)[0] == 403
        shown = call("eve", "GET")[1]["answers"]
        assert [row["id"] for row in shown] == [answer, gone] and shown[0]["question"] == "奖金是多少？" and shown[1]["withdrawn"]
        assert "secret" not in str(shown)
        assert call("eve", "POST", message_id=answer, right=False) == (200, {"message_id": answer, "right": False})
        assert call("eve", "POST", message_id=gone, right=None)[0] == 200
        quality = call("eve", "GET")[1]["quality"]
        assert (quality["read"], quality["unclear"], quality["waiting"], quality["right"]["value"]) == (1, 1, 0, 0.0)
        assert call("eve", "POST", message_id="0" * 32, right=True)[0] == 404
        assert call("eve", "POST", message_id=answer, right="perhaps")[0] == call("eve", "POST", message_id=answer)[0] == 422


@pytest.mark.parametrize("share", [0, -1, 1.1, float("nan")])
def test_a_share_is_a_share(share):
    with pytest.raises(ValueError, match="above 0"): Reviews(open_database(), share)
