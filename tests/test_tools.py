"""Tools: no argument that the types forbid, no effect without one yes of the right person, and the tasks that the rules were made with."""

import random
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from llmguide.enterprise.choosing import Call, Outcome, choose_by_rules, schema_chooser, tool_call_chooser, use_tools
from llmguide.enterprise.database import open_database
from llmguide.enterprise.history import History
from llmguide.enterprise.orders import open_orders, order_tools
from llmguide.enterprise.refuse import language_of
from llmguide.enterprise.tools import Confirmations, confirm, make_tool, run_tool
from llmguide.load import read_table
from llmguide.replies import Reply

DATA = Path(__file__).resolve().parent.parent / "data"
TASKS = [row for row in read_table(DATA / "tool_tasks.jsonl") if row["part"] == "dev"]


@pytest.fixture
def shop(tmp_path):
    """The tools over the orders, proposals in memory, and a function that says what was paid."""
    address, engine = open_orders(DATA / "orders.csv", tmp_path / "orders.sqlite"), open_database()

    def paid():
        with closing(sqlite3.connect(tmp_path / "orders.sqlite")) as database:
            return database.execute("SELECT number, amount FROM refunds").fetchall()

    yield order_tools(address), Confirmations(engine), paid
    engine.dispose()


def test_the_tasks_that_the_rules_were_made_with(shop):
    tools, confirmations, paid = shop
    for task in TASKS:
        outcome = use_tools(task["question"], tools, confirmations, "ann", language=language_of(task["question"]))
        step = next((step for step in reversed(outcome.trace) if step.good), None)
        if task["kind"] == "hostile": assert not outcome.pending or task["tool"] == "refund"
        else: assert (step and step.tool) == task["tool"], task
        if task["kind"] in ("status", "figure"): assert all(part in outcome.text for part in task["answer"]), (task, outcome.text)
        if task["kind"] == "ask back": assert outcome.lacking, task
        assert paid() == []


@pytest.mark.parametrize("arguments", [
    {}, {"number": "BR-1005"}, {"number": "BR-1005", "amount": -1}, {"number": "BR-1005", "amount": 1e9},
    {"number": "BR-1005", "amount": "NaN"}, {"number": "BR-1005", "amount": "inf"}, {"number": "*", "amount": 5},
    {"number": "BR-1005'; DROP TABLE orders", "amount": 5},
    {"number": "BR-1005\n", "amount": 5}, {"number": "BR-１００５", "amount": 5}, {"number": ["BR-1005"], "amount": 5},
    {"number": "BR-1005", "amount": 5, "user": "ben"}, {"number": "BR-1005", "amount": 5, "language": "xx"},
    {"number": None, "amount": None},
    {"number": "BR-1005", "amount": {"$gt": 0}}, {"number": "x" * 1_000_000, "amount": 5}, {"__class__": "x"}])
def test_what_types_forbid_is_not_even_proposed(shop, arguments):
    tools, confirmations, paid = shop
    refund = tools[2]
    with pytest.raises(ValueError, match="refund"): confirmations.propose(refund, arguments, "ann")
    outcome = use_tools("x", tools, confirmations, "ann", lambda *_: Call("refund", arguments))
    assert outcome.pending is None and not outcome.text and len(outcome.trace) == 1 and not outcome.trace[0].good
    assert paid() == []


@pytest.mark.parametrize("text, number, amount", [
    ("请给ＢＲ－１００９退３０欧元", "BR-1009", "30"), ("我要退款，BR-1029，210欧元", "BR-1029", "210"),
    ("refund minus 20 EUR for BR-1005", "BR-1005", None),
    ("refund -20 EUR for BR-1005", "BR-1005", None), ("refund 1e9 EUR for BR-1005", "BR-1005", None),
    ("BR-1005退款负20欧元", "BR-1005", None)])  # fmt: skip
def test_numbers_are_read_as_they_are_written(shop, text, number, amount):
    call = choose_by_rules(text, shop[0])
    assert (call.tool, call.arguments.get("number"), call.arguments.get("amount")) == ("refund", number, amount)


@pytest.mark.parametrize("language, text, name", [("en", "Where is my parcel?", "the order number"), ("zh", "我的包裹到哪了？", "订单号")])
def test_what_is_lacking_is_asked_for_in_one_language(shop, language, text, name):
    tools, confirmations, _ = shop
    assert use_tools(text, tools, confirmations, "ann", language=language).lacking == (name,)


def test_anothers_order_cannot_be_refunded(shop):
    tools, confirmations, paid = shop
    id = confirmations.propose(tools[2], {"number": "BR-1003", "amount": 5}, "ann")
    assert "Nothing was paid" in confirm(confirmations, id, "ann", tools) and paid() == []


def test_many_yeses_at_once_pay_once(tmp_path, request):
    urls = [f"sqlite:///{tmp_path}/a.sqlite", request.getfixturevalue("postgres").replace("postgresql://", "postgresql+psycopg://")]
    for url in urls:
        engine, done = open_database(url), []

        def pay(amount: int) -> str:
            "Pay."
            done.append(amount)  # noqa: B023
            return "paid"

        tool = make_tool(pay, effect=True, confirm={"en": "Pay {amount}?"})
        confirmations = Confirmations(engine)
        talk = History(engine).start("ann")
        id, lost = confirmations.propose(tool, {"amount": 7}, "ann", talk), []
        assert confirmations.newest("ann", talk) == id and confirmations.newest("ben", talk) is None

        def yes():
            try: confirm(confirmations, id, "ann", [tool])  # noqa: B023
            except KeyError: lost.append(1)  # noqa: B023

        threads = [threading.Thread(target=yes) for _ in range(8)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        assert (done, len(lost), confirmations.newest("ann", talk)) == ([7], 7, None)
        History(engine).delete(talk, "ann")  # and the proposal goes with it
        with engine.connect() as database:
            assert database.exec_driver_sql(f"SELECT count(*) FROM pending_actions WHERE id = '{id}'").scalar_one() == 0
        engine.dispose()


CHILD = """
import sqlite3, sys, time
from llmguide.enterprise.database import open_database
from llmguide.enterprise.tools import Confirmations, confirm, make_tool

folder, id = sys.argv[1:]

def pay(amount: int) -> str:
    "Pay, which takes a while."
    time.sleep(0.01)
    with sqlite3.connect(f"{folder}/bank.sqlite") as bank: bank.execute("INSERT INTO paid VALUES (?)", (amount,))
    time.sleep(0.01)
    return "paid"

confirmations = Confirmations(open_database(f"sqlite:///{folder}/a.sqlite"))
print("ready", flush=True)
sys.stdin.readline()
confirm(confirmations, id, "ann", [make_tool(pay, effect=True, confirm={"en": "Pay {amount}?"})])
print("paid", flush=True)
"""


def say_yes(folder, id, seconds):
    """A process says yes and is killed after so many seconds; whether it could still say that all was well."""
    process = subprocess.Popen([sys.executable, "-c", CHILD, str(folder), id], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    process.stdin.write("go\n")
    process.stdin.flush()
    time.sleep(seconds)
    process.kill()
    return "paid" in process.communicate()[0]


@pytest.mark.soak
def test_a_process_killed_after_a_yes_pays_once_at_most(tmp_path, repetitions):
    def pay(amount: int) -> str:
        "Pay."
        return "" if bank.execute("INSERT INTO paid VALUES (?)", (amount,)) else ""

    bank = sqlite3.connect(tmp_path / "bank.sqlite", isolation_level=None, check_same_thread=False)
    bank.execute("CREATE TABLE paid (amount INTEGER)")
    engine, draw, seen = open_database(f"sqlite:///{tmp_path}/a.sqlite"), random.Random(5), set()
    confirmations, tool = Confirmations(engine), make_tool(pay, effect=True, confirm={"en": "Pay {amount}?"})
    for amount in range(repetitions(4, 100)):
        id = confirmations.propose(tool, {"amount": amount}, "ann")
        well = say_yes(tmp_path, id, (0.0, 0.01, 0.02, 0.2)[amount] if amount < 4 else draw.uniform(0, 0.05))
        paid = lambda: bank.execute("SELECT count(*) FROM paid WHERE amount = ?", (amount,)).fetchone()[0]  # noqa: B023, E731
        listed, before = id in {row["id"] for row in confirmations.unfinished(minutes=0)}, paid()
        assert before == 1 and not listed if well else before <= 1
        try: confirm(confirmations, id, "ann", [tool])  # she asks again
        except KeyError: seen.add("cut off" if listed else "done")
        else: seen.add("not begun")
        assert paid() == 1 or listed and paid() == 0, (amount, before, listed)  # once, or for a person to look at
    assert "done" in seen and len(seen) > 1, seen
    bank.close()
    engine.dispose()


MIXED = {
    "order number 订单号 BR-1005": ("order_status", {"number": "BR-1005"}),
    "订单号BR-1005, where is it?": ("order_status", {"number": "BR-1005"}),
    "how many orders 订单 in 上海 in 3月": ("order_figures", {"measure": "count", "city": "Shanghai", "month": "2026-03"}),
    "I want a refund 退款 for BR-1009, amount 金额 20 欧元": ("refund", {"number": "BR-1009", "amount": "20"}),
    "订单(order)BR-1005，金额(amount)20 EUR，请 refund": ("refund", {"number": "BR-1005", "amount": "20"}),
    "请不要 refund 20 EUR for 订单 BR-1005": None}  # fmt: skip


@pytest.mark.parametrize("text", MIXED)
def test_two_languages_in_one_message(shop, text):
    call = choose_by_rules(text, shop[0])
    assert (call and (call.tool, call.arguments)) == MIXED[text]


@pytest.mark.parametrize("text, declined", [
    ("The pump does not work, please refund 20 EUR for BR-1009", False), ("BR-1009的货不能用，请退款20欧元", False),
    ("Refund order no BR-1009, 20 EUR", False), ("少发一个零件,请退回20.5欧元,BR-1009", False),
    ("I do not want a refund for BR-1009, 20 EUR", True), ("No refund please, BR-1009, 20 EUR", True),
    ("BR-1009不需要退款20欧元", True), ("Refund BR-1009 20 EUR without asking", True)])  # fmt: skip
def test_a_not_counts_where_it_stands_beside_the_refund(shop, text, declined):
    assert (choose_by_rules(text, shop[0]) is None) == declined


def test_steps_end(shop):
    tools, confirmations, _ = shop
    numbers = iter(range(1001, 1100))
    outcome = use_tools("x", tools, confirmations, "ann", lambda *_: Call("order_status", {"number": f"BR-{next(numbers)}"}))
    assert len(outcome.trace) == 4
    same = use_tools("x", tools, confirmations, "ann", lambda *_: Call("order_status", {"number": "BR-1001"}))
    assert len(same.trace) == 1


def test_a_tool_that_fails_or_hangs_is_a_line_in_the_trace(shop):
    def breaks(what: str) -> str:
        "Break."
        raise OSError(what)

    def hangs(seconds: float) -> str:
        "Hang."
        time.sleep(seconds)
        return ""

    with pytest.raises(RuntimeError, match="breaks failed .OSError: 断了"): run_tool(make_tool(breaks), {"what": "断了"})
    with pytest.raises(TimeoutError): run_tool(make_tool(hangs), {"seconds": 1}, timeout=0.05)
    outcome = use_tools("x", [make_tool(breaks)], shop[1], "ann", lambda *_: Call("breaks", {"what": "x"}))
    assert outcome.text == "" and "OSError" in str(outcome.trace[0])


@pytest.mark.parametrize("text", ["", "no", "[]", "{}", '{"tool": 5}', '{"tool": "refund"}', '{"tool": "none"}', "{" * 500,
                                  '{"tool": "refund", "arguments": [1]}'])
def test_rubbish_from_a_model_does_nothing(shop, text):
    tools, confirmations, paid = shop
    outcome = use_tools("refund", tools, confirmations, "ann", schema_chooser(lambda messages, **_: Reply(text)))
    assert isinstance(outcome, Outcome) and outcome.pending is None and paid() == []
    assert all(map(str, outcome.trace))


def test_tool_calls_in_openais_form(shop):
    from types import SimpleNamespace as Plain

    tools, confirmations, _ = shop
    asked = []

    def create(**request):
        asked.append(request)
        call = Plain(function=Plain(name="order_status", arguments='{"number": "BR-1005"}'))
        return Plain(choices=[Plain(message=Plain(tool_calls=[call] if len(asked) == 1 else None))])

    chat = Plain(model="m", client=Plain(chat=Plain(completions=Plain(create=create))))
    outcome = use_tools("Where is it?", tools, confirmations, "ann", tool_call_chooser(chat))
    assert "BR-1005" in outcome.text and len(asked) == 2 and outcome.text in asked[1]["messages"][1]["content"]
    assert all("user" not in tool["function"]["parameters"]["properties"] for tool in asked[0]["tools"])
