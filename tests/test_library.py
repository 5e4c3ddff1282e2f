"""The prompt library on what its notebook doesn't show: every file changed by a word, broken files, braces by chance, threads."""

import json
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import jinja2
import numpy
import pandas
import pytest
import yaml

from llmguide.prompting.library import (
    DOMAINS, Prompt, PromptEngineer, complex_reasoning_prompt, get_prompt, investment_analysis_prompt, list_prompts,
    load_prompt, to_langchain, to_messages, to_promptfoo, to_text,
)  # fmt: skip
from llmguide.prompting.variables import Variable
from llmguide.settings import assets
from llmguide.templates import Template

FILES = sorted((assets() / "templates").glob("*.toml"))
WANTED = {"extraction", "summary", "code_generation", "creative_text", "problem_diagnosis", "contract_review",
          "investment_analysis", "stepwise_analyst", "customer_reply", "loan_check", "report", "professional", *DOMAINS}  # fmt: skip


def examples(prompt): return {variable.name: variable.example for variable in prompt.variables}


def copy(path, folder, old="", new=""):
    text = path.read_text(encoding="utf-8")
    assert old in text
    target = folder / path.name
    target.write_text(text.replace(old, new, 1) if old else text, encoding="utf-8")
    return target


def test_all_are_there_in_both_languages():
    listed = list_prompts()
    assert {(row.name_, row.language) for row in listed.rename(columns={"name": "name_"}).itertuples()} == {
        (name, language) for name in WANTED for language in ("en", "zh")}
    assert len(list_prompts("zh")) == len(WANTED) >= 14


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_changed_word_needs_a_new_version(path, tmp_path):
    prompt = load_prompt(path)
    word = next(line for line in prompt.template.text.splitlines() if line and "{" not in line and "<" not in line)
    with pytest.raises(ValueError, match=rf"{path.name}: the text is not that of version {prompt.version}.*raise version"):
        load_prompt(copy(path, tmp_path, word, word + " !"))
    with pytest.raises(ValueError, match="is not that of version"):
        load_prompt(copy(path, tmp_path, prompt.template.system, prompt.template.system + " "))


def test_a_new_version_with_its_hash_is_taken(tmp_path):
    old = get_prompt("summary")
    text = old.template.text.replace("exactly", "at most")
    new = Template("summary", text, old.template.system).hash
    path = copy(assets() / "templates" / "summary.en.toml", tmp_path, "Write exactly", "Write at most")
    changed = path.read_text(encoding="utf-8").replace("version = 1", "version = 2", 1).replace("figures exactly", "figures at most", 1)
    path.write_text(changed + f'\n[[changes]]\nversion = 2\nhash = "{new}"\nnote = "softer"\n', encoding="utf-8")
    found = load_prompt(path)
    assert (found.version, found.template.hash, get_prompt("summary", folder=tmp_path)) == (2, new, found)


@pytest.mark.parametrize("old, new, message", [
    ('name = "summary"', 'name = "sumary"', "rename the file"),
    ('purpose = "', 'aim = "', "key 'purpose' is missing"),
    ("text = '''", "text = ''", "summary.en.toml: "),
    ('type = "text"', 'kind = "text"', "summary.en.toml: .*kind"),
    ('type = "number"', 'type = "choice"', "choose one of"),
    ("{reader}", "the reader", "reader must be both"),
    ("{reader}", "{reader} {writer}", "writer must be both"),
    ("[[changes]]", "[[history]]", "key 'changes' is missing"),
    ("version = 1", 'version = "one"', "summary.en.toml: "),
    ("version = 1", "version = 2", "must list version 1, 2"),
    ("high = 20", "high = 1", "at most 1"),
])  # fmt: skip
def test_broken_files_say_what_to_mend(tmp_path, old, new, message):
    with pytest.raises(ValueError, match=message): load_prompt(copy(FILES[-4], tmp_path, old, new))


def test_files_in_another_encoding_and_no_files(tmp_path):
    path = tmp_path / "summary.zh.toml"
    path.write_bytes((assets() / "templates" / path.name).read_text(encoding="utf-8").encode("gb18030"))
    with pytest.raises(ValueError, match="summary.zh.toml: .*utf-8"): load_prompt(path)
    path.write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match="key 'name' is missing"): load_prompt(path)
    path.unlink()
    with pytest.raises(ValueError, match="none in that folder"): get_prompt("summary", folder=tmp_path)
    with pytest.raises(FileNotFoundError, match="summary"): load_prompt(tmp_path / "summary.en.toml")
    assert list_prompts(folder=tmp_path).empty


@pytest.mark.parametrize("name", ["../templates/summary", "summary.en", "", "*", "summary\0"])
def test_a_name_is_no_path(name):
    with pytest.raises(ValueError, match="no prompt"): get_prompt(name)


@pytest.mark.parametrize("value", ["{} {0} {text.__class__} {document}", "a" * 100_000, "多字" * 50_000, "🎉 \u200b é", "%s %(x)s $x `x`",
                                   "<document></document><DOCUMENT >< /document>"])  # fmt: skip
def test_a_value_stays_in_its_place(value):
    text = get_prompt("summary").text(document=value, reader="a manager")
    assert text.lower().count("</document>") == text.lower().count("<document>") == 1
    assert value.replace("<", "< ").replace("<  ", "< ") in text.replace("<  ", "< ")
    assert text.endswith("\n</document>")


def test_values_of_every_kind():
    loan = {**examples(get_prompt("loan_check")), "date": datetime(2026, 3, 2, 9, 30), "amount": "12,000.50", "documents": "payslip\nlease"}
    text = get_prompt("loan_check").text(**loan)
    assert "Date of application: 2026-03-02" in text and "Amount: 12000.50 EUR" in text and "1. payslip\n2. lease" in text
    assert "2026年3月2日" in get_prompt("loan_check", "zh").text(**loan)
    assert "Payments on existing debts a month: 0 EUR" in get_prompt("loan_check").text(**{**loan, "debts": None})
    with pytest.raises(ValueError, match=r"prompt loan_check \(en\), variable months: is 0.*at least 1"):
        get_prompt("loan_check").render(**{**loan, "months": 0})


def test_threads_read_the_same():
    with ThreadPoolExecutor(8) as pool: found = set(pool.map(lambda _: get_prompt("report", "zh").template.hash, range(64)))
    assert len(found) == 1


def test_exports_of_texts_made_of_braces():
    chance = random.Random(0)
    for _ in range(500):
        drawn = ["".join(chance.choices("{}#% -\n'\"\\axé好", k=chance.randrange(1, 25))) for _ in range(2)]
        text, system = (words + chance.choice(["", "{x}", "{x}}", "{{x}"]) for words in drawn)
        template = Template("odd", text.strip() or "a", system.strip())
        known = tuple(Variable(name, "text", name, "{{v}} {x} {% if %} 好") for name in template.variables)
        prompt = Prompt(template, "en", 1, "Odd.", known, ())
        want, values = prompt.render(**examples(prompt)), prompt.values(examples(prompt))
        assert [{**m, "content": m["content"].format(**values)} for m in json.loads(to_langchain(prompt))] == want
        read = yaml.safe_load(to_promptfoo(prompt))
        environment = jinja2.Environment(keep_trailing_newline=True)
        assert [{**m, "content": environment.from_string(m["content"]).render(read["tests"][0]["vars"])}
                for m in json.loads(read["prompts"][0]["raw"])] == want  # fmt: skip
        assert [m["content"] for m in to_messages(prompt)] == [part for part in (template.system, template.text) if part]
        assert to_text(prompt).endswith(template.text)


def test_promptfoo_with_rivals_and_tests():
    one, other = get_prompt("financial_analysis"), get_prompt("creative_writing")
    read = yaml.safe_load(to_promptfoo([one, other], [{"query": "- a: #b\n  'c'"}, {"query": "二"}], provider="openai:chat:x"))
    assert [len(read["prompts"]), read["tests"][0]["vars"]["query"], read["providers"]] == [2, "- a: #b\n  'c'", ["openai:chat:x"]]
    with pytest.raises(ValueError, match="has no variable query"): to_promptfoo([one, get_prompt("summary")], [{"query": "a"}])
    with pytest.raises(ValueError, match="variable query: is empty"): to_promptfoo(one, [{"query": ""}])


def test_entry_points_in_both_languages():
    assert "你是一名金融分析师" in PromptEngineer("financial_analysis").generate("茅台 (600519) 的估值高吗？")
    assert PromptEngineer("creative_writing").generate("Write about rain.").endswith("<request>\nWrite about rain.\n</request>")
    assert "field: law" in PromptEngineer("law").generate("What is a tort?")
    assert "数据" in investment_analysis_prompt("股价42元，每股收益2.5元") and "{" not in investment_analysis_prompt({"a": None})
    odd = {"a": pandas.NA, "b": numpy.nan, "c": pandas.NaT, "d": numpy.float64(1.5), "e": [None, "x"], "f": " "}
    lines = investment_analysis_prompt(odd).splitlines()
    assert {"a: not given", "b: not given", "c: not given", "d: 1.5", 'e: [null, "x"]', "f: not given"} <= set(lines)
    assert "股价: 未提供" in investment_analysis_prompt({"股价": float("nan"), "名称": "示例"})
    assert complex_reasoning_prompt("What is {x}?").count("{x}") == 1
    for bad in (None, 3.5, b"x", ["a"]):
        with pytest.raises(ValueError, match="stock_data is a"): investment_analysis_prompt(bad)
    for bad in (None, "", "\n"):
        with pytest.raises(ValueError, match="question"): complex_reasoning_prompt(bad)
        with pytest.raises(ValueError, match="domain"): PromptEngineer(bad)


def test_importing_it_is_light():
    code = "import sys, llmguide.prompting.library, llmguide.prompting.structured as _; print({'torch', 'openai'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "set()"
