"""Questions over tables: rules that compute against models that read; run by `llmguide evidence tables`.

Asked are the questions of data/handbook_questions/tables.csv whose tables the rules were not written with, and those
over real tables where the data folder holds them. What a model has said is kept, so an interrupted run goes on.
"""

import json
import tempfile
from pathlib import Path

from llmguide.enterprise.documents import read_document
from llmguide.enterprise.grids import read_value
from llmguide.enterprise.retrieve import retrieve
from llmguide.enterprise.split import split_document
from llmguide.enterprise.tables import table_answer, whole_tables
from llmguide.evidence import record_curve, wilson_interval
from llmguide.load import read_table
from llmguide.passages import TextEncoder, searchable
from llmguide.settings import get_settings, write_atomically
from llmguide.store import Hit, LanceStore

ROOT = Path(__file__).parent.parent
QUESTIONS = ROOT / "data" / "handbook_questions"
RESULT, MODELS, TOP = "enterprise_tables", ("smollm2-135m-instruct", "qwen2.5-coder-0.5b-instruct"), 5
ASK = {"en": "Here is a table.\n\n{table}\n\nQuestion: {question}\nAnswer with the value or name only. "
             "If the table does not hold the answer, say: unknown.",
       "zh": "下面是一个表格。\n\n{table}\n\n问题：{question}\n只回答数值或名称。表格里没有答案时，回答：unknown。"}  # fmt: skip


def same(value, answer):
    """Whether a value is the wanted one: the same text, or the same number within half a per cent."""
    plain = lambda text: str(text).replace(" ", "").replace("，", ",").lower()  # noqa: E731
    if plain(value) == plain(answer): return True
    found, wanted = read_value(str(value)), read_value(answer)
    return bool(found and wanted) and all(abs(a - b) <= 0.005 * max(1, abs(b)) for a, b in zip(found[:2], wanted[:2]) if a != b)


def judge(value, question):
    """right, wrong or silent; a refusal is right where the table holds no answer."""
    if value is None: return "right" if question["operation"] == "none" else "silent"
    return "right" if question["operation"] != "none" and same(value, question["answer"]) else "wrong"


def verdicts_of(answers, questions):
    """Verdicts of the answers of the rules."""
    return [judge(found.value if found else None, row) for found, row in zip(answers, questions)]


def said(reply):
    """The value in a model's reply, the sentence around it taken off; None where it says that it doesn't know."""
    line = next(iter(reply.strip().splitlines()), "").strip(" *。.")
    if not line or "unknown" in line.lower() or "don't know" in line.lower(): return None
    return line.rpartition(": ")[2].rpartition("：")[2]


def charitable(reply, question):
    """A model is right as well when its reply holds the wanted answer among other words."""
    value, wanted = said(reply), question["answer"].replace(" ", "").lower()
    verdict = judge(value, question)
    return "right" if verdict == "wrong" and wanted and wanted in (value or "").replace(" ", "").lower() else verdict


def documents():
    """The questions to ask, and a folder for each of their sources; those without a file are left out."""
    own, folder = ROOT / "data" / "handbooks", get_settings().datasets_dir
    questions = [row for row in read_table(QUESTIONS / "tables.csv") if row["part"] == "test"]
    paths = {row["source"]: (Path(folder or "") if row["source"].startswith("documents/") else own) / row["source"] for row in questions}
    return [row for row in questions if paths[row["source"]].is_file()], paths


def whole_document(path, source):
    """All passages of a document as hits."""
    return [Hit(chunk, 1.0, {}) for chunk in split_document(read_document(path, source))]


def whole_rows(questions, paths):
    """Verdicts of the rules over the whole document."""
    found = [table_answer(row["question"], whole_document(paths[row["source"]], row["source"])) for row in questions]
    return {"rules, the whole document": verdicts_of(found, questions)}


def search_rows(questions):
    """Verdicts of the rules over what the search finds, with the rest of the tables fetched, and over questions of prose."""
    verdicts, encoder = {}, TextEncoder()
    with tempfile.TemporaryDirectory() as folder:
        stores = {language: handbook_store(encoder, Path(folder) / language, language) for language in ("en", "zh")}
        inside = [row for row in questions if not row["source"].startswith("documents/")]
        for name, complete in ((f"rules, the {TOP} best passages", False), (f"rules, the {TOP} best, tables completed", True)):
            found = [searched(stores[row["language"]], encoder, row, complete) for row in inside]
            verdicts[name] = verdicts_of(found, inside)
        verdicts["rules, questions of prose left alone"] = [left_alone(stores[row["id"][:2]], encoder, row) for row in prose_questions()]
    return verdicts


def prose_questions():
    """The handbook questions that no table answers."""
    rows = [row for language in ("en", "zh") for row in read_table(QUESTIONS / f"{language}.csv")]
    return [row for row in rows if row["kind"] in ("answerable", "unanswerable")]


def left_alone(store, encoder, row):
    """right where the tables stay silent, or happen to hold the answer."""
    found = searched(store, encoder, row, True)
    return "right" if found is None or row["answer"] and row["answer"] in found.text else "wrong"


def handbook_store(encoder, folder, language):
    """The sample handbook of one language, ready to be searched."""
    pages = sorted((ROOT / "data" / "handbooks" / language).glob("*.md"))
    chunks = [chunk for page in pages for chunk in split_document(read_document(page, f"{language}/{page.name}"))]
    store = LanceStore(folder, encoder)
    store.upsert(chunks, encoder.encode([searchable(chunk) for chunk in chunks]))
    return store


def searched(store, encoder, row, complete):
    """The answer of the rules over what the search finds in the whole handbook."""
    hits = retrieve(store, encoder, row["question"], top_k=TOP)
    return table_answer(row["question"], whole_tables(hits, store) if complete else hits)


def model_replies(name, questions, paths, kept):
    """What a model says when it is handed the passages that hold the document's tables; kept one by one."""
    from llmguide.chat import connect

    chat = None
    for row in questions:
        key = f"{name} {row['id']}"
        if key in kept: continue
        chat = chat or connect(name)
        tables = [hit.chunk.text for hit in whole_document(paths[row["source"]], row["source"]) if hit.chunk.metadata["kind"] == "table"]
        asked = ASK[row["language"]].format(table="\n\n".join(tables)[:2500], question=row["question"])
        kept[key] = chat([{"role": "user", "content": asked}], max_tokens=40, temperature=0).text
        keep(kept)
    return [kept[f"{name} {row['id']}"] for row in questions]


def memory():
    """Where replies are kept until the run is complete."""
    return get_settings().cache_dir / "evidence" / "tables.json"


def keep(kept):
    """Write what was said so far."""
    write_atomically(memory(), json.dumps(kept, ensure_ascii=False).encode())


def as_row(way, verdicts):
    """A row of the curve."""
    interval = wilson_interval(verdicts.count("right"), len(verdicts))
    counts = {kind: verdicts.count(kind) for kind in ("right", "wrong", "silent")}
    return {"way": way, "questions": len(verdicts), **counts, "value": interval.value, "low": interval.low, "high": interval.high}


def write(verdicts):
    """Record the ways measured so far."""
    rows = [as_row(way, found) for way, found in verdicts.items()]
    read = [name for name in MODELS if f"{name.split('-')[0]} reads the table" in verdicts]
    record_curve(RESULT, rows, data="handbook_questions/tables.csv, part test", models=read, passages=TOP)
    print(*rows, sep="\n", flush=True)


def main():
    questions, paths = documents()
    verdicts = whole_rows(questions, paths)
    write(verdicts)
    verdicts |= search_rows(questions)
    write(verdicts)
    kept = json.loads(memory().read_text(encoding="utf-8")) if memory().exists() else {}
    for name in MODELS:
        try: replies = model_replies(name, questions, paths, kept)
        except FileNotFoundError as missing:
            print(f"{name} is left out: {missing}")
            continue
        verdicts[f"{name.split('-')[0]} reads the table"] = [charitable(reply, row) for reply, row in zip(replies, questions)]
        write(verdicts)


if __name__ == "__main__":
    main()
