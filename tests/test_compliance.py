"""The checklist: every proof is a test that pytest collects or a cell with a test, in both languages, from the right laws."""

from pathlib import Path

import pytest

from llmguide.enterprise.compliance import compliance_table, load_compliance, missing_proofs

ROOT = Path(__file__).parents[1]
ROWS = load_compliance()


def test_every_proof_exists_and_is_collected():
    assert missing_proofs(ROWS, ROOT) == []


def test_what_does_not_exist_is_noticed(tmp_path):
    tests = tmp_path / "tests"
    tests.mkdir()
    (tests / "test_one.py").write_text("def test_here(): pass\ndef helper(): pass\n", encoding="utf-8")
    (tests / "test_bad.py").write_text("import nothing_of_this_name\ndef test_x(): pass\n", encoding="utf-8")
    proofs = ["tests/test_one.py::test_here", "tests/test_one.py::test_gone", "tests/test_one.py::helper", "tests/test_bad.py::test_x"]
    proofs += ["tests/none.py::test_x", "nbs/none.ipynb::test_eq"]
    assert missing_proofs([{"proofs": proofs}, {"proofs": []}], tmp_path) == proofs[1:]


def test_lines_are_whole_and_different():
    assert [row["id"] for row in ROWS if row["list"] == "OWASP"] == [f"LLM{number:02d}" for number in range(1, 11)]
    assert {row["list"] for row in ROWS} == {"GDPR", "PIPL", "OWASP"}
    assert len({(row["list"], row["id"]) for row in ROWS}) == len(ROWS)
    for row in ROWS:
        assert all(row[key].strip() for key in ("en", "zh", "done_en", "done_zh")), row["id"]
        assert row["en"].isascii() and not row["zh"].isascii()


@pytest.mark.parametrize(("language", "word"), [("en", "**open**"), ("zh", "**未完成**")])
def test_open_lines_say_so(language, word):
    table = compliance_table(ROWS, language)
    assert table.count(word) == sum(not row["proofs"] for row in ROWS) > 0
    assert len(table.splitlines()) == len(ROWS) + 2
