"""Rows of clean, sources and formats under input that no notebook shows: random text, odd records, many rows."""

import random
import time
import unicodedata

import pytest

from llmguide.finetuning.clean import deep_clean, near_groups, normalise_text, split_by_group
from llmguide.finetuning.formats import FORMATS, bad_records, detect_format, encode_conversations, from_messages, to_messages
from llmguide.finetuning.sources import annotate, as_number, learn_columns, log_rows, mend, sensor_rows

ODD = "aB1 ,.!?;:\n\r\t\u3000\u200b\ufeff\x00\x85，。！：ａ１％（）ﬁ⼈ｶﾞ中文字é\u0301½²👨‍👩‍👧\ud800\u2028"


def random_texts(count, seed=0):
    """Texts of the characters that go wrong most often."""
    chance = random.Random(seed)
    return ["".join(chance.choices(ODD, k=chance.randrange(30))) for _ in range(count)]


def test_normalising_twice_changes_nothing_and_leaves_writable_text():
    for text in random_texts(3000):
        once = normalise_text(text)
        assert normalise_text(once) == once, repr(text)
        once.encode("utf-8")
        assert not any(unicodedata.category(c) in ("Cc", "Cs") and c not in "\n" for c in once)


def test_normalising_keeps_letters_and_numbers():
    for text in random_texts(1000, seed=1):
        before, after = (unicodedata.normalize("NFKD", t) for t in (text, normalise_text(text)))
        assert [c for c in before if c.isalnum()] == [c for c in after if c.isalnum()], repr(text)


def test_cleaning_accounts_for_every_row_and_leaves_the_input_alone():
    chance = random.Random(0)
    rows = [{"text": text, "label": chance.choice(["a", "a-", "", None]), "id": n} for n, text in enumerate(random_texts(400))]
    before = [dict(row) for row in rows]
    kept, removed = deep_clean(rows)
    assert rows == before
    assert sorted([row["id"] + 1 for row in kept] + [entry.row for entry in removed]) == list(range(1, 401))
    assert {"no text", "no label"} <= {entry.reason for entry in removed}


def test_labels_that_differ_in_punctuation_only_do_not_mix():
    rows = [{"text": f"one two three four five six seven eight nine {word}", "label": label}
            for word, label in (("ten", "a"), ("tenth", "a-"))]  # fmt: skip
    assert len(deep_clean(rows, 0.5)[0]) == 2


def test_a_thousand_copies_are_grouped_quickly():
    texts = [f"the same long sentence about pumps and valves, number {n % 7}" for n in range(3000)]
    start = time.perf_counter()
    groups = near_groups(texts, 0.6)
    assert time.perf_counter() - start < 20
    assert len(set(groups)) == 1
    parts = split_by_group([{"text": text, "label": "a"} for text in texts], groups)
    assert [len(part) for part in parts] == [3000, 0, 0]  # what belongs together stays together, even if it is everything


def test_odd_records_are_named_and_never_crash():
    odd = [None, 7, [], {}, "text", {"messages": None}, {"messages": [None]}, {"messages": [{"role": "user"}]}, {"messages": []},
           {"conversations": [{"from": {}, "value": "x"}]}, {"conversations": ["x"]}, {"conversations": {"from": "human"}},
           {"instruction": 1, "output": 2}, {"instruction": "a", "input": ["b"], "output": "c"},
           {"instruction": "a", "output": "c", "history": [1]}, {"prompt": None, "completion": "x"},
           {"messages": [{"role": "assistant", "content": "first"}]}, {"prompt": "a", "completion": [{"role": "x"}]},
           {"messages": [{"role": role, "content": "a"} for role in ("user", "system", "assistant")]}]  # fmt: skip
    assert list(bad_records(odd)) == list(range(1, len(odd) + 1))
    with pytest.raises(ValueError, match="… and 14 more"):
        to_messages(odd)


def test_random_talks_survive_every_format_and_editing():
    chance = random.Random(0)
    for _ in range(300):
        turns = [{"role": "system", "content": "s"}] * chance.randrange(2)
        for _ in range(chance.randint(1, 3)):
            turns += [{"role": role, "content": chance.choice(["a", "a\n\nb", "你好", " x "])} for role in ("user", "assistant")]
        row = {"messages": turns, "id": 3}
        for first in FORMATS:
            record = from_messages([row], first)[0]
            assert detect_format(record) == first
            again = to_messages([record])[0]
            assert again["messages"] == turns and again["id"] == 3
            assert from_messages([again], first) == [record]
            again["messages"] = [t for t in turns if t["role"] != "system"][:2]  # edited: its origin no longer fits
            for second in FORMATS:
                assert to_messages(from_messages([again], second))[0]["messages"] == again["messages"]


class OtherTemplate:
    """A tokenizer whose template drops earlier answers, as some reasoning models' do."""

    chat_template, all_special_tokens, model_max_length = "x", [], 100

    def apply_chat_template(self, messages, tokenize, add_generation_prompt=False):
        return "".join(turn["content"] for turn in messages if turn["role"] == "user" or turn is messages[-1])


def test_a_template_that_rewrites_earlier_turns_is_refused():
    turns = [{"role": role, "content": content} for role, content in zip(("user", "assistant") * 2, "abcd")]
    with pytest.raises(ValueError, match="row 1: the chat template rewrites earlier turns"):
        encode_conversations([{"messages": turns}], OtherTemplate())


def test_a_tokenizer_without_a_template_is_refused():
    plain = OtherTemplate()
    plain.chat_template = None
    with pytest.raises(ValueError, match="no chat template"):
        encode_conversations([], plain)


def test_numbers_of_all_kinds():
    given = ["1,234,567.5", "1,23", "-1e3", "９９．５", "nan", True, "0", "12 bar", "−5"]
    assert [as_number(value) for value in given] == [1234567.5, None, -1000.0, 99.5, None, None, 0.0, None, -5.0]


def test_what_is_learned_from_training_rows_does_not_change_later():
    columns = learn_columns([{"x": str(n)} for n in range(20)], ["x"])
    assert mend({}, columns) == ({"x": 9.5}, ["x: missing, imputed 9.5"])
    assert mend({"x": "1e9"}, columns)[1] == ["x: 1e+09 is unusually high"]


def test_sources_that_are_empty_or_all_gaps():
    assert log_rows([]) == [] and log_rows(["", "  "]) == []
    with pytest.raises(ValueError, match="holds no number"):
        sensor_rows({"a": ["", "n/a"]}, 2)
    assert "left out" in sensor_rows({"a": [1, 2, 3, "", "", 4, "", ""]}, 4)[1]["notes"][0]


def test_entities_point_at_their_text_and_never_overlap():
    glossary = {"a": "x", "a b": "y", "b c": "z", "阀": "p", "溢流阀": "q", "C++": "r"}
    for text in ["a b c", "A  b; b c溢流阀阀", "C++ and c", "", "a" * 50]:
        found = annotate(text, glossary)
        assert all(text[entity["start"] : entity["end"]] == entity["text"] for entity in found)
        assert all(first["end"] <= second["start"] for first, second in zip(found, found[1:]))
