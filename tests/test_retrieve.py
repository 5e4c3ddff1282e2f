"""Splitting, retrieval, glossary and evaluation where the notebooks don't go: bad input, hostile names, threads, other stores."""

import random
import threading

import numpy as np
import pytest

from llmguide.enterprise.evaluate import abstention_curve, answer_f1, evaluate, is_right, read_questions, same_source
from llmguide.enterprise.glossary import Glossary, load_glossary
from llmguide.enterprise.retrieve import DEPTH, WEIGHTS, close_reading, cross_encoder, dense_weight, explain, retrieve
from llmguide.enterprise.split import rough_tokens, sentence_spans, split_document
from llmguide.passages import lexical_terms, make_chunk, may_see, searchable
from llmguide.store import Hit, LanceStore


class WordEncoder:
    """A vector of hashed words: similar words give similar vectors, and nothing is loaded."""

    name, dimension = "words", 64

    def encode(self, texts):
        vectors = np.full((len(texts), self.dimension), 1e-3, np.float32)
        for row, text in enumerate(texts):
            for word in lexical_terms(text): vectors[row, hash_of(word) % self.dimension] += 1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def hash_of(word): return sum(ord(character) * 31**place for place, character in enumerate(word))


class ListStore:
    """The Store contract over a list, as slow and as plain as can be: what `retrieve` must also work on."""

    manifest = {"encoder": "words", "dimension": 64}

    def __init__(self, chunks):
        self.chunks, self.vectors = chunks, WordEncoder().encode([searchable(chunk) for chunk in chunks])

    def sources(self):
        return {name: sum(c.source == name for c in self.chunks) for name in {c.source for c in self.chunks}}

    def search(self, vector=None, text=None, k=5, principal=None, where=None, weight=0.7):
        asked, hits = set(lexical_terms(text or "", question=True)), []
        for chunk, own in zip(self.chunks, self.vectors):
            if not may_see(chunk, principal, where): continue
            why = {} if vector is None else {"dense": float(own @ vector)}
            if text is not None: why["lexical"] = float(len(asked & set(lexical_terms(searchable(chunk)))))
            hits.append(Hit(chunk, weight * why.get("dense", 0) + (1 - weight) * why.get("lexical", 0), why))
        return sorted(hits, key=lambda hit: -hit.score)[:k]


CHUNKS = [make_chunk("leave.md", "Everyone has thirty days of leave a year.", headings=("Leave",)),
          make_chunk("pay.md", "Salaries arrive on the 25th.", headings=("Pay",)),
          make_chunk("board.md", "The merger is planned for May.", readers=("board",)),
          make_chunk("请假.md", "员工每年有十天年休假。")]


@pytest.fixture
def store(tmp_path):
    with LanceStore(tmp_path / "store", WordEncoder()) as opened:
        opened.upsert(CHUNKS, WordEncoder().encode([searchable(chunk) for chunk in CHUNKS]))
        yield opened


# Retrieval


ODD = ("days of leave", "??", "🙂", "x" * 50_000, "days\0of leave", "' OR 1=1 --", "年休假" * 5000, "half \ud800")


@pytest.mark.parametrize("question", ODD)
def test_any_question_is_answered_with_what_may_be_seen(store, question):
    hits = retrieve(store, WordEncoder(), question)
    assert {hit.chunk.source for hit in hits} <= {"leave.md", "pay.md", "请假.md"} and len(hits) <= 3


@pytest.mark.parametrize("question", ["", " \n\t "])
def test_an_empty_question_is_refused(store, question):
    with pytest.raises(ValueError, match="question is empty"): retrieve(store, WordEncoder(), question)


def test_an_empty_store_gives_nothing(tmp_path):
    with LanceStore(tmp_path / "empty", WordEncoder()) as empty:
        assert retrieve(empty, WordEncoder(), "anything") == []
        assert retrieve(empty, WordEncoder(), "anything", rerank=lambda question, texts: []) == []


def test_top_k_beyond_the_depth(tmp_path):
    many = [make_chunk(f"{n}.md", f"report {n} of the day") for n in range(DEPTH + 20)]
    with LanceStore(tmp_path / "many", WordEncoder()) as opened:
        opened.upsert(many, WordEncoder().encode([chunk.text for chunk in many]))
        assert len(retrieve(opened, WordEncoder(), "report", top_k=DEPTH + 10)) == DEPTH + 10
        assert retrieve(opened, WordEncoder(), "report 57 day")[0].chunk.source == "57.md"


def test_scores_fall_and_say_why(store):
    hits = retrieve(store, WordEncoder(), "How many days of leave?")
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert set(hits[0].why) == {"dense", "lexical", "words"} and 0 <= hits[0].why["words"] <= 1


def test_a_person_sees_what_a_group_may_see_and_nobody_else(store):
    sources = lambda **who: {hit.chunk.source for hit in retrieve(store, WordEncoder(), "the merger in May", **who)}  # noqa: E731
    assert "board.md" in sources(principal={"ann", "board"}) and "board.md" not in sources(principal={"ann"})
    with pytest.raises(TypeError, match="not one string"): sources(principal="board")


def test_retrieve_works_on_any_store():
    assert retrieve(ListStore(CHUNKS), WordEncoder(), "年休假有几天")[0].chunk.source == "请假.md"
    assert explain(ListStore(CHUNKS), WordEncoder(), "merger", "board.md").stage == "not readable"


def test_many_threads_get_the_same_hits(store):
    wanted, got = retrieve(store, WordEncoder(), "days of leave"), []
    threads = [threading.Thread(target=lambda: got.append(retrieve(store, WordEncoder(), "days of leave"))) for _ in range(8)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert got == [wanted] * 8


def test_a_deleted_document_is_gone_at_once(store):
    store.delete("leave.md")
    assert "leave.md" not in {hit.chunk.source for hit in retrieve(store, WordEncoder(), "days of leave")}
    assert explain(store, WordEncoder(), "days of leave", "leave.md").stage == "not in the store"


def test_rerank_is_given_what_may_be_seen_and_decides(store):
    seen = []
    pay_first = lambda question, texts: seen.extend(texts) or [text.startswith("Pay") for text in texts]  # noqa: E731
    hits = retrieve(store, WordEncoder(), "merger", rerank=pay_first)
    assert hits[0].chunk.source == "pay.md" and not any("merger" in text for text in seen)


@pytest.mark.parametrize("scores", [[1.0], [[1.0]] * 3, [np.nan] * 3, None])
def test_a_broken_reranker_is_named(store, scores):
    with pytest.raises((ValueError, TypeError)): retrieve(store, WordEncoder(), "leave", rerank=lambda question, texts: scores)


@pytest.mark.parametrize("question, language", [("When?", "en"), ("年假几天？", "zh"), ("AB年假几天", "zh"), ("a 保理", "zh")])
def test_weight_by_language(question, language): assert dense_weight(question) == WEIGHTS[language]


def test_close_reading_prefers_words_that_stand_together():
    rest = " ".join(f"Sentence {n} is here." for n in range(5))
    near, far = make_chunk("a", f"{rest} The blue pump leaks oil."), make_chunk("b", f"The blue sky. {rest} A pump. It leaks. The oil.")
    assert (close_reading("Which blue pump leaks oil?", [far, near])[1] > close_reading("Which blue pump leaks oil?", [far, near])[0]).all()
    assert close_reading("anything", [make_chunk("c", "")]).tolist() == [[0, 0]]


def test_the_passage_whose_sentence_fits_comes_first():
    rest = "It was a day like others. Nothing else was said of it."
    store = ListStore([make_chunk("spread.md", f"The blue sky. {rest} A pump. It leaks. The oil."),
                       make_chunk("whole.md", f"{rest} The blue pump leaks oil. A sky."), make_chunk("other.md", "Bread is sold here.")])
    assert [hit.chunk.source for hit in retrieve(store, WordEncoder(), "blue pump leaks oil", weight=0.0)][:2] == ["whole.md", "spread.md"]


def test_explain_finds_every_stage(store):
    stage = lambda question, source, **more: explain(store, WordEncoder(), question, source, **more).stage  # noqa: E731
    assert stage("days of leave", "leave.md") == "found"
    assert stage("days of leave", "leaf.md") == "not in the store"
    assert stage("days of leave", "board.md") == "not readable"
    assert stage("days of leave", "pay.md", top_k=1) == "ranked too low"
    assert "did you mean leave.md" in str(explain(store, WordEncoder(), "days of leave", "leaf.md"))


# Splitting


def document(*blocks, source="a.md"):
    from llmguide.enterprise.documents import Document
    from llmguide.enterprise.text import Block
    return Document(source, tuple(Block(*block) for block in blocks), ("everyone",), "v1")


def test_chinese_sentences_stay_whole():
    text = "".join(f"第{n}条规定员工每年有{n}天年假；未休的可以结转。" for n in range(60))
    for chunk in split_document(document((text, "paragraph")), 60): assert chunk.text[-1] in "。；"


def test_a_long_chinese_sentence_is_cut_at_its_commas():
    text = "，".join("员工每年有十天年休假" for _ in range(40)) + "。"
    for chunk in split_document(document((text, "paragraph")), 50): assert chunk.text[-1] in "，。" and rough_tokens(chunk.text) <= 50


def test_a_list_is_cut_between_its_items():
    text = "\n".join(f"- item {n} of the list, with a comma. And a second sentence" for n in range(40))
    for chunk in split_document(document((text, "list")), 60): assert chunk.text.startswith("- ") and chunk.text.endswith("sentence")


def test_prose_is_not_cut_where_a_line_ends():
    text = "\n".join(["The first sentence goes on over", "two lines. The second one does", "the same. The third too, over"] * 20)
    for chunk in split_document(document((text, "paragraph")), 60)[:-1]: assert chunk.text.endswith((".", "over"))


def test_code_keeps_its_indentation():
    text = "\n".join(f"    if row[{n}]:\n        total += row[{n}]" for n in range(40))
    chunks = split_document(document((text, "code")), 60)
    assert all(chunk.text.startswith(("    if", "        total")) for chunk in chunks)
    assert "\n".join(chunk.text for chunk in chunks) == text


@pytest.mark.parametrize("table", ["| a |", "| a |\n| --- |", "| a |\n| --- |\n| " + "long cell, " * 300 + " |",
                                   "| " + " | ".join(f"column {n}" for n in range(80)) + " |\n| 1 |", "\n\n", "|" * 5000])
def test_odd_tables(table):
    odd = document((table, "table"), ("after", "paragraph"))
    chunks = split_document(odd, 40)
    assert chunks[-1].text == "after" and all(rough_tokens(chunk.text) <= 40 for chunk in chunks)
    assert len("".join("".join(chunk.text for chunk in chunks).split())) >= len("".join(table.split()))


def test_every_part_of_a_table_stands_under_its_header():
    table = "| 城市 | 每晚（元） |\n| --- | --- |\n" + "\n".join(f"| 城市{n} | {600 + n} |" for n in range(60))
    long = document(("before", "paragraph"), (table, "table"))
    parts = [chunk for chunk in split_document(long, 60) if chunk.metadata["kind"] == "table"]
    assert len(parts) > 3 and all(part.text.startswith("| 城市 | 每晚（元） |\n| --- | --- |\n| 城市") for part in parts)
    rows = [line for part in parts for line in part.text.split("\n")[2:]]
    assert rows == table.split("\n")[2:]
    assert all(part.text.endswith(long.text[part.start : part.end]) for part in parts)


def test_chunks_never_cross_a_heading_or_a_page():
    blocks = [(f"Short text {n}.", "paragraph", (f"H{n // 4}",), n // 2) for n in range(16)]
    chunks = split_document(document(*blocks))
    assert [(chunk.headings, chunk.page) for chunk in chunks] == [((f"H{n // 4}",), n // 2) for n in range(0, 16, 2)]


def test_a_tokenizer_of_ones_own_is_kept_to():
    words = lambda text: len(text.split())  # noqa: E731
    for chunk in split_document(document(("one two three. " * 100, "paragraph")), 16, count=words): assert words(chunk.text) <= 16


def test_no_chunk_is_too_long_and_none_is_a_crumb():
    draw = random.Random(1)
    for _ in range(50):
        text = " ".join(" ".join(["word"] * draw.randint(1, 50)).capitalize() + "." for _ in range(draw.randint(1, 40)))
        sizes = [rough_tokens(chunk.text) for chunk in split_document(document((text, "paragraph")), 60)]
        assert max(sizes) <= 60 and (len(sizes) == 1 or sum(sizes) / len(sizes) > 25)


def test_headings_longer_than_the_limit():
    chunks = split_document(document(("Some text. " * 50, "paragraph", ("A very long heading " * 40,))), 40)
    assert all(rough_tokens(chunk.text) <= 20 for chunk in chunks)


def test_sentences_hold_every_character():
    draw = random.Random(0)
    for _ in range(300):
        text = "".join(draw.choices(["a", "B", ". ", "。", "！”", "\n", "\n\n", " ", "Dr.", "3.5", "；", "…"], k=draw.randint(0, 60)))
        spans = sentence_spans(text)
        assert "".join(text[a:b] for a, b in spans).split() == "".join(text.split()).split() or \
            "".join("".join(text[a:b] for a, b in spans).split()) == "".join(text.split())
        assert all(a < b for a, b in spans) and spans == sorted(spans)


# Glossary


def test_glossary_rows_may_have_any_columns_and_encodings(tmp_path):
    file = tmp_path / "words.csv"
    file.write_text("en;zh;note\nfactoring;保理 | 保理融资;\n", encoding="utf-8-sig")
    assert load_glossary(file).expand("保理?") == "保理? (factoring; 保理融资)"
    file.write_bytes("en,zh\nfactoring,保理\n".encode("gb18030"))
    with pytest.raises(ValueError, match="words.csv is not UTF-8"): load_glossary(file)


def test_a_large_glossary_with_hostile_names():
    things = [[f"term {n} (special)", f"t{n}.*", f"词{n}号"] for n in range(2000)] + [["a+b", "sum"], ["[x", "bracket"]]
    large = Glossary(things)
    assert large.expand("What about T17.*?").endswith("(term 17 (special); 词17号)")
    assert large.expand("a+b and [x") == "a+b and [x (sum; bracket)"
    assert large.expand("t17x and at17.*") == "t17x and at17.*"


def test_retrieve_takes_a_glossary(store):
    words = Glossary([["wages", "salaries"], ["vacation", "leave", "年休假"]])
    assert retrieve(store, WordEncoder(), "wages?", weight=0.0, glossary=words)[0].chunk.source == "pay.md"
    assert retrieve(store, WordEncoder(), "vacation", where={"source": "请假.md"}, glossary=words)[0].why["lexical"] > 0


# Evaluation


def test_questions_with_faults(tmp_path):
    file = tmp_path / "q.csv"
    for text, fault in [("question,answer\n,yes\n", "row 1 has no question"),
                        ("question,answer,kind\nWhy?,,table\n", "row 1 is of kind 'table'"),
                        ("question\nWhy?\n", "no column answer"), ("", "is empty"), ("question,answer\n", "no rows")]:
        file.write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=fault): read_questions(file)


@pytest.mark.parametrize("answer, reference, right", [
    ("It is 3.5 %.", "3.5", True), ("It is 35 %.", "3.5", False), ("EUR 1,800 a year", "1800 EUR", True), ("not two", "2", False),
    ("共三十天", "三十天", True), ("三十", "三十天", True), ("The U.S.", "US", True), ("", "", False)])
def test_right_answers(answer, reference, right): assert is_right(answer, [reference]) is right


def test_f1_of_a_bag_with_repeats(): assert answer_f1("ten ten ten", ["ten days"]) == pytest.approx(2 / 5)


def test_paths_that_name_the_same_document():
    assert same_source("handbook\\en\\leave.md", "en/leave.md") and same_source("./leave.md", "leave.md")
    assert not same_source("a/leave.md", "b/leave.md") and not same_source("sick_leave.md", "leave.md")


def test_evaluation_of_a_system_that_knows_nothing(tmp_path):
    file = tmp_path / "q.csv"
    file.write_text("question,answer,source\nWhy?,because,a.md\nWho?,,\n", encoding="utf-8")
    nothing = {"answer": "", "sources": [], "refused": True, "confidence": 0.0}
    result = evaluate(lambda question: nothing, read_questions(file), search=lambda question: [])
    values = {figure.name: figure.interval.value for figure in result.figures}
    assert values["recall@1"] == values["right"] == values["answered"] == 0 and values["unanswerable refused"] == 1
    assert result.curve == [] and abstention_curve(result.rows) == []


# ---- a cross-encoder


def small_cross_encoder(folder):
    """A cross-encoder with drawn weights on disk, as a hub's folder looks: it judges, if badly."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    from llmguide.catalog import resolve

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(resolve("all-minilm-l6-v2").path)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "num_labels": 1}
    BertForSequenceClassification(BertConfig(vocab_size=len(tokenizer), **shape)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_cross_encoder_from_a_folder_orders_the_first_candidates(tmp_path):
    from sentence_transformers import CrossEncoder

    store, encoder = ListStore([make_chunk(f"{n}.md", f"leave rule number {n} of the house") for n in range(8)]), WordEncoder()
    folder, question = small_cross_encoder(tmp_path / "judge"), "Which leave rule?"
    found = retrieve(store, encoder, question, 8, rerank=cross_encoder(str(folder), texts=5))
    plain = retrieve(store, encoder, question, 8)
    pairs = [(question, hit.chunk.text) for hit in plain[:5]]
    scores = CrossEncoder(str(folder)).predict(pairs, show_progress_bar=False)
    wanted = [plain[n].chunk.source for n in np.argsort(-scores)]
    assert [hit.chunk.source for hit in found] == wanted + [hit.chunk.source for hit in plain[5:]]
    assert wanted != [hit.chunk.source for hit in plain[:5]]
