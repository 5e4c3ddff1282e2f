"""Industry cases: places that hold, payments, records in which nothing is invented, advice that is quoted."""

import random

import pytest

from llmguide.enterprise.cases_finance import broken_lines, compliance_report, made_payments, read_terms, risk_flags, usual_amounts, watch
from llmguide.enterprise.cases_health import deidentify, draft_record, link_conditions, record_fields, write_record
from llmguide.enterprise.cases_health import xray_report
from llmguide.enterprise.cases_manufacturing import learn_limits, quantities, reasons
from llmguide.load import read_table
from llmguide.multimodal.pairs import made_readings
from llmguide.stories import project_folder

CASES = project_folder() / "data" / "cases"
CONTRACTS = {path.name: path.read_text(encoding="utf-8") for path in (CASES / "contracts").glob("*.txt")}
NOTES = read_table(CASES / "notes.jsonl")
ODD = ["", " \n", "\x00", "🙂" * 100, "İstanbul 30 days payment İ", "12" * 5000, "付款" * 5000, "Pay within 30 days. " * 500]


@pytest.mark.parametrize("text", [*CONTRACTS.values(), *ODD])
def test_the_place_of_a_term_is_where_the_quote_stands(text):
    for term in read_terms(text): assert text[term.start : term.end] == term.quote and term.value


def test_both_languages_give_the_same_terms():
    by = lambda file: {term.kind: term.value for term in read_terms(CONTRACTS[file])}  # noqa: E731
    english, chinese = by("licence_en.txt"), by("licence_zh.txt")
    assert {kind: english[kind] for kind in ("payment_days", "notice_days", "renewal", "liability", "law")} == \
        {kind: chinese[kind] for kind in ("payment_days", "notice_days", "renewal", "liability", "law")}


def test_flags_follow_the_terms():
    risks = lambda text: [flag.risk for flag in risk_flags(read_terms(text))]  # noqa: E731
    assert "payment later than 60 days" in risks("Invoices are payable within 61 days.")
    assert "payment later than 60 days" not in risks("Invoices are payable within 60 days.")
    assert "liability without limit" in risks("双方的赔偿责任均不设上限。")
    assert len(risks("")) == 5 and all(risk.startswith("no ") for risk in risks(""))


def test_every_line_of_a_report_holds_and_a_changed_contract_breaks_it():
    payments = made_payments(1500, 10)
    alerts = watch([row for row in payments if row["day"] >= 100], [row for row in payments if row["day"] < 100])
    report = compliance_report(CONTRACTS, alerts)
    assert len(report) > len(alerts) > 5 and not broken_lines(report, CONTRACTS, payments)
    changed = CONTRACTS | {"hosting_en.txt": CONTRACTS["hosting_en.txt"].replace("75 days", "30 days")}
    assert [line.source for line in broken_lines(report, changed, payments)] == ["hosting_en.txt"]


def test_frauds_among_the_earlier_payments_hardly_move_what_is_usual():
    own = [{"customer": 1, "amount": 100.0 + number} for number in range(50)]
    before, after = usual_amounts(own)[1], usual_amounts(own + [{"customer": 1, "amount": 1e6}] * 5)[1]
    assert abs(before[0] - after[0]) < 0.1


def test_a_customer_without_a_past_raises_no_alarm_for_its_first_payment():
    row = {"id": 1, "customer": 7, "day": 1, "hour": 12, "amount": 500.0, "country": "DE"}
    assert watch([row], []) == {} and watch([], []) == {}


@pytest.mark.parametrize("note", [each["text"] for each in NOTES] + ODD)
def test_a_record_holds_nothing_that_the_note_does_not_state(note):
    draft = draft_record(note)
    assert list(draft) == list(record_fields())
    for found in filter(None, draft.values()): assert note[found.start : found.end] == found.quote
    empty = sum(found is None for found in draft.values())
    assert write_record(draft).count("not stated") == empty and write_record(draft, "zh").count("未记录") == empty
    for row in link_conditions(note): assert note[row["start"] : row["end"]] == row["quote"]


@pytest.mark.parametrize("note,present", [
    ("No fever, but cough.", {"fever": False, "cough": True}), ("否认发热，有咳嗽。", {"fever": False, "cough": True}),
    ("FEBRILE", {"fever": True}), ("Nobody knows", {})])
def test_a_denial_reaches_to_the_end_of_its_clause(note, present):
    assert {row["name"]: row["present"] for row in link_conditions(note)} == present


def test_an_x_ray_needs_a_model_that_is_named():
    with pytest.raises(FileNotFoundError, match="radiologist"): xray_report("chest.png")


def test_limits_are_those_of_the_rules_that_made_the_readings():
    readings = made_readings(4000, 3)
    limits = learn_limits(readings)
    assert abs(limits["power"] - 2.75) < 0.05 and abs(limits["heat"] + 8.6) < 0.2
    random.Random(0).shuffle(readings)
    assert learn_limits(readings) == limits
    fine = {"Air_temperature": 300.0, "Process_temperature": 310.0, "Rotational_speed": 1500.0, "Torque": 40.0, "Tool_wear": 10.0,
            "Type": "M"}
    assert reasons(fine, limits) == [] and reasons(fine | {"Torque": 70.0}, limits) == ["power"]
    assert set(quantities(fine)) == set(limits)


def test_nothing_is_learnt_where_nothing_fails():
    readings = [row | {"Machine.failure": 0} for row in made_readings(200, 1)]
    assert all(limit == float("inf") for limit in learn_limits(readings).values())


@pytest.mark.parametrize("part,least", [("known", 1.0), ("new", 0.8)])
def test_names_and_numbers_of_people_go_and_what_was_measured_stays(part, least):
    notes = [note for note in NOTES if note["part"] == part]
    gone = [piece not in deidentify(note["text"]) for note in notes for piece in note["private"]]
    assert sum(gone) / len(gone) >= least
    value = lambda text: (draft_record(text)["pressure"] or [None])[0]  # noqa: E731
    assert [value(deidentify(note["text"])) for note in notes] == [value(note["text"]) for note in notes]
