"""The sample handbooks: every answer stands in its quote, every quote in its document, and the two languages agree."""

import csv
import re
from collections import Counter
from pathlib import Path

import pytest

from llmguide.catalog import resolve

FOLDER = Path(__file__).parent.parent / "data" / "handbooks"
LANGUAGES = ("en", "zh")


def text_of(source):
    """A document's text; raises UnicodeDecodeError where it isn't UTF-8."""
    return (FOLDER / source).read_bytes().decode("utf-8")


def questions(name):
    """The rows of a file of questions."""
    with open(FOLDER.parent / "handbook_questions" / f"{name}.csv", encoding="utf-8", newline="") as file: return list(csv.DictReader(file))


def handbook(language):
    """All documents of a language in one text."""
    return "\n".join(text_of(f"{language}/{path.name}") for path in sorted((FOLDER / language).glob("*.md")))


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_quote_stands_in_its_source_and_every_answer_in_its_quote(language):
    for row in questions(language):
        if row["kind"] == "unanswerable": assert (row["answer"], row["quote"], row["source"]) == ("", "", ""), row["id"]
        else:
            assert row["source"].startswith(f"{language}/") and row["quote"] in text_of(row["source"]), row["id"]
            assert row["answer"] and row["answer"] in row["quote"], row["id"]
        if row["kind"] == "table": assert row["quote"].startswith("| ") and row["quote"].endswith(" |"), row["id"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_there_are_enough_questions_of_every_kind_and_none_twice(language):
    rows = questions(language)
    share = {kind: count / len(rows) for kind, count in Counter(row["kind"] for row in rows).items()}
    assert len(rows) >= 100 and share["answerable"] >= 0.5 and share["unanswerable"] >= 0.15
    assert share["table"] >= 0.08 and share["followup"] >= 0.08 and len(share) == 4
    assert len({row["id"] for row in rows}) == len(rows)
    plain = [re.sub(r"\W", "", row["question"] + row["previous"]).lower() for row in rows]
    assert len(set(plain)) == len(plain)


@pytest.mark.parametrize("language", LANGUAGES)
def test_follow_ups_name_the_question_before_them(language):
    asked = []
    for row in questions(language):
        assert (row["previous"] in asked) == (row["kind"] == "followup"), row["id"]
        if row["kind"] != "unanswerable": asked.append(row["question"])


def test_the_handbooks_are_long_enough_and_cover_many_subjects():
    english, chinese = handbook("en"), handbook("zh")
    assert len(re.findall(r"[A-Za-z]+", english)) >= 9000 and len(re.findall("[\u4e00-\u9fff]", chinese)) >= 15000
    for language in LANGUAGES: assert len(list((FOLDER / language).glob("*.md"))) >= 20
    for text in (english, chinese): assert text.count("\n# ") >= 19 and text.count("\n## ") >= 120 and text.count("| --- |") >= 20
    assert "应收账款保理" in chinese and "保理融资" in chinese and "保理" in english


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_table_has_as_many_cells_in_each_row_as_in_its_header(language):
    for path in (FOLDER / language).glob("*.md"):
        for table in re.findall(r"(?:^\|.*\n?)+", text_of(f"{language}/{path.name}"), re.MULTILINE):
            assert len({line.count("|") for line in table.strip().split("\n")}) == 1, f"{path.name}: {table[:80]}"


def numbers(source, row):
    """The figures of a table row, the row found by its first cell."""
    line = next(line for line in text_of(source).split("\n") if line.startswith(f"| {row} |"))
    return [float(each.replace(",", "")) for each in re.findall(r"\d[\d,]*(?:\.\d+)?", line.partition("|")[2].partition("|")[2])]


@pytest.mark.parametrize("file, english, chinese", [
    ("quality.md", "Spindle units", "主轴单元"), ("leave.md", "10 to 19", "10至19年"), ("factoring.md", "Silent factoring", "暗保理"),
    ("leasing.md", "36 months", "36个月"), ("machine_maintenance.md", "Lathe LX-52", "车床LX-52"), ("sustainability.md", "2023", "2023"),
    ("data_protection.md", "Personnel files", "人事档案"), ("safety.md", "Hardening oil", "淬火油")])  # fmt: skip
def test_both_languages_tell_the_same_figures(file, english, chinese):
    first, second = numbers(f"en/{file}", english), numbers(f"zh/{file}", chinese)
    assert Counter(first) == Counter(second) and first, (first, second)


def test_the_two_years_of_travel_rules_differ():
    for row in ("Shanghai", "London"): assert numbers("en/travel_2024.md", row) != numbers("en/travel_2025.md", row)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_catalog_knows_the_questions(language):
    assert resolve(f"handbooks-{language}").path.name == f"{language}.csv"


def test_table_questions_have_a_source_a_part_and_an_answer_that_fits():
    rows = questions("tables")
    assert len(rows) >= 60 and len({row["source"] for row in rows}) >= 10 and len({row["id"] for row in rows}) == len(rows)
    parts = {part: {row["source"] for row in rows if row["part"] == part} for part in ("dev", "test")}
    assert not parts["dev"] & parts["test"] and all(parts.values())
    for row in rows:
        assert (row["operation"] == "none") == (row["answer"] == ""), row["id"]
        own = not row["source"].startswith("documents/")
        if own and row["operation"] in ("lookup", "max", "min"): assert row["answer"] in text_of(row["source"]), row["id"]
