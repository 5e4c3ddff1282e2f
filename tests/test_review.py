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


@pytest.mark.parametrize("share", [0, -1, 1.1, float("nan")])
def test_a_share_is_a_share(share):
    with pytest.raises(ValueError, match="above 0"): Reviews(open_database(), share)
